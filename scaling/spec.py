"""RunSpec: everything that determines one training run, and its identity."""

import hashlib
import json
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from scaling.config import from_yaml, write_atomic
from scaling.limits import check_limits
from xvla.config import DataConfig, ModelConfig
from xvla.domains import check_anchor, check_mixture

# Fields of DataConfig that choose or make samples. The others only change speed and place.
SCIENTIFIC_DATA_FIELDS = (
    "mixture",
    "anchor_domain",
    "image_size",
    "num_views",
    "text_length",
    "tokenizer",
    "prediction_window_s",
    "num_anchors",
    "target",
    "proprio_norm",
    "augmentation",
    "blind",
    "subset_seed",
    "start_stride",
    "eval_starts_per_episode",
    "eval_starts_other",
    "rotation",
    "start_tail_s",
    "random_crop",
    "pixels",
)
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
# A field added after ids were published is left out of the digest at this (its old) value.
ADDED_LATER: dict[str, Any] = {
    "data.random_crop": False,
    "data.pixels": "video",
    "optim.ema_decay": 0.0,
    "init.trunk": "",
    "init.trunk_step": 0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """AdamW with four parameter groups (paper, Table 9; released train.py)."""

    lr: float = 1e-4
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    eps: float = 1e-8
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    vlm_lr_coef: float = 0.1
    prompt_lr_coef: float = 0.1
    freeze_vlm: bool = False
    freeze_steps: int = 0
    ema_decay: float = 0.0  # > 0: evaluate and publish a running mean of the weights


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """Learning rate over steps; steps before `optim.freeze_steps` train prompts and heads only."""

    kind: Literal["constant", "cosine", "wsd"] = "constant"
    warmup_steps: int = 0
    decay_fraction: float = 0.2
    min_lr_ratio: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedConfig:
    """Separate seeds for initialisation, data order with noise, and evaluation noise."""

    init: int = 0
    data: int = 0
    eval: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InitConfig:
    """Where weights start from: a pretrained encoder and, for finetuning, a whole checkpoint.

    `encoder`: "none", "simulated" (the shipped stand-in) or a Florence-2 folder or hub name.
    `trunk`: the run id whose state at `trunk_step` this run goes on from (scaling.branch).
    """

    encoder: str = "none"
    encoder_sha256: str = ""
    checkpoint: str = ""
    checkpoint_sha256: str = ""
    trunk: str = ""
    trunk_step: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How fast and where: never part of the run's identity. 0 means: choose for the machine."""

    zero_stage: int = 2
    micro_batch_size: int = 0
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    activation_checkpointing: bool = False
    compile: bool = False
    threads: int = 1
    num_workers: int = 0
    cache_features: bool = True
    log_every: int = 20
    eval_every: int = 0
    save_every: int = 0
    keep_last: int = 2
    keep_every: int = 0
    keep_best: bool = False  # the one with the lowest val/l1 among steps saved and evaluated
    keep_steps: list[int] = field(default_factory=list)  # saved and kept: where branches start
    async_save: bool = False  # train on while a checkpoint is written, for its size in memory
    eval_batch_size: int = 64
    hang_timeout_s: int = 1800  # without a step: stacks of all ranks, then exit 1; 0: off


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceConfig:
    """What a run asks of a machine; `gpus_per_node: 0` means `processes_per_node` CPU ranks."""

    nodes: int = 1
    gpus_per_node: int = 0
    processes_per_node: int = 1

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.nodes * (self.gpus_per_node or self.processes_per_node)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """One training run. `scientific()` is hashed into `run_id`; the rest are labels and speed."""

    study: str = ""
    scale: str = "cpu"
    stage: Literal["pretrain", "finetune"] = "pretrain"
    size: str = "tiny"
    axes: dict[str, Any] = field(default_factory=dict)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    global_batch_size: int = 16
    num_steps: int = 100
    precision: Literal["fp32", "bf16"] = "fp32"
    seeds: SeedConfig = field(default_factory=SeedConfig)
    init: InitConfig = field(default_factory=InitConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    resources: ResourceConfig = field(default_factory=ResourceConfig)

    def scientific(self) -> dict[str, Any]:
        """Return the fields that determine the result, as plain JSON types."""
        data = plain(self.data)
        init = plain(self.init)
        del init["checkpoint"]  # a path; its sha256 is what counts
        science = {
            "model": plain(self.model),
            "data": {name: data[name] for name in SCIENTIFIC_DATA_FIELDS},
            "optim": plain(self.optim),
            "schedule": plain(self.schedule),
            "global_batch_size": self.global_batch_size,
            "num_steps": self.num_steps,
            "precision": self.precision,
            "seeds": plain(self.seeds),
            "init": init,
        }
        return _without_later_defaults(science)

    @property
    def run_id(self) -> str:
        """First 12 hex digits of sha256 over the canonical JSON of `scientific()`."""
        return hashlib.sha256(canonical_json(self.scientific()).encode()).hexdigest()[:12]

    @property
    def num_samples_seen(self) -> int:
        """Training samples over the whole run."""
        return self.global_batch_size * self.num_steps

    @property
    def num_unique_episodes(self) -> int:
        """Different training episodes in the mixture."""
        return sum(entry.num_episodes for entry in self.data.mixture)

    def validate(self) -> "RunSpec":
        """Return self, or raise ValueError naming the field, its value and what is allowed."""
        check_limits(self)
        check_mixture(self.data)
        check_anchor(self.data)
        _check_numbers(self)
        return self

    def to_yaml(self) -> str:
        """Return run.yaml's text, every default written out (24 times as fast as OmegaConf's)."""
        return yaml.dump(plain(self), Dumper=_Dumper, sort_keys=False, allow_unicode=True)

    def save(self, path: str | Path) -> None:
        """Write run.yaml."""
        write_atomic(path, self.to_yaml())


def load_spec(path: str | Path) -> RunSpec:
    """Read and validate a run.yaml."""
    return from_yaml(path, RunSpec).validate()


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys, no spaces and floats by repr (json's own rule)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def plain(value: Any) -> Any:
    """Return dataclasses, lists and dicts as new dicts and lists (three times asdict's speed)."""
    if isinstance(value, str | int | float | None):
        return value
    if is_dataclass(value):
        kind: Any = type(value)
        return {name: plain(getattr(value, name)) for name in _field_names(kind)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


@cache
def _field_names(kind: Any) -> tuple[str, ...]:
    return tuple(item.name for item in fields(kind))


def _without_later_defaults(science: dict[str, Any]) -> dict[str, Any]:
    for path, default in ADDED_LATER.items():
        *parents, leaf = path.split(".")
        node = science
        for name in parents:
            node = node[name]
        if node.get(leaf) == default:
            node.pop(leaf)
    return science


def _check_numbers(spec: RunSpec) -> None:
    if not 0 <= spec.optim.ema_decay < 1:
        raise ValueError(f"optim.ema_decay={spec.optim.ema_decay}; allowed: 0 (off) up to below 1")
    if bool(spec.init.trunk) != (0 < spec.init.trunk_step < spec.num_steps):
        raise ValueError(
            f"init.trunk={spec.init.trunk!r} with init.trunk_step={spec.init.trunk_step} of "
            f"{spec.num_steps} steps; a branch names both, and starts before its end"
        )
    if spec.engine.zero_stage not in (0, 1, 2):
        raise ValueError(f"engine.zero_stage={spec.engine.zero_stage}; allowed: 0, 1, 2")
    if spec.data.num_anchors != spec.model.num_anchors:
        raise ValueError(
            f"data.num_anchors={spec.data.num_anchors} differs from "
            f"model.num_anchors={spec.model.num_anchors}; set both"
        )
    if spec.model.hidden_size % spec.model.num_heads:
        raise ValueError(
            f"model.hidden_size={spec.model.hidden_size} is not a multiple of "
            f"model.num_heads={spec.model.num_heads}"
        )
    per_rank, rest = divmod(spec.global_batch_size, spec.resources.world_size)
    if rest or per_rank % (spec.engine.micro_batch_size or 1):
        raise ValueError(
            f"global_batch_size={spec.global_batch_size} is not a multiple of "
            f"{spec.resources.world_size} ranks x micro-batch {spec.engine.micro_batch_size or 1}"
        )
