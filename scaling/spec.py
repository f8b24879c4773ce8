"""RunSpec: everything that determines one training run, and its identity."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml

from scaling.config import from_yaml, write_atomic
from scaling.document import plain
from xvla.config import DataConfig, ModelConfig
from xvla.domains import DOMAIN_IDS, check_anchor, check_mixture, domain_rows
from xvla.limits import Config, limited

Value = bool | int | float | str  # a level of an axis

# Fields of DataConfig that choose or make samples. The others only change speed and place.
SCIENTIFIC_DATA_FIELDS = (
    "mixture",
    "anchor_domain",
    "domain_ids",
    "split",
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
    "data.domain_ids": {},
    "data.split": {"val": "", "test": ""},
    "data.random_crop": False,
    "data.pixels": "video",
    "optim.ema_decay": 0.0,
    "init.trunk": "",
    "init.trunk_step": 0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig(Config):
    """AdamW with four parameter groups (paper, Table 9; released train.py)."""

    section: ClassVar[str] = "optim"

    lr: float = limited(1e-4, above=0)
    betas: list[float] = limited([0.9, 0.95], least=0, below=1)
    eps: float = limited(1e-8, above=0)
    weight_decay: float = limited(0.01, least=0)
    grad_clip: float = limited(1.0, least=0)
    vlm_lr_coef: float = limited(0.1, least=0)
    prompt_lr_coef: float = limited(0.1, least=0)
    freeze_vlm: bool = False
    freeze_steps: int = limited(0, least=0)
    # > 0: evaluate and publish a running mean of the weights
    ema_decay: float = limited(0.0, least=0, below=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig(Config):
    """Learning rate over steps; steps before `optim.freeze_steps` train prompts and heads only."""

    section: ClassVar[str] = "schedule"

    kind: Literal["constant", "cosine", "wsd"] = "constant"
    warmup_steps: int = limited(0, least=0)
    decay_fraction: float = limited(0.2, least=0, most=1)
    min_lr_ratio: float = limited(0.1, least=0, most=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedConfig(Config):
    """Separate seeds for initialisation, data order with noise, and evaluation noise."""

    section: ClassVar[str] = "seeds"

    init: int = limited(0, least=0)
    data: int = limited(0, least=0)
    eval: int = limited(0, least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class InitConfig(Config):
    """Where weights start from: a pretrained encoder and, for finetuning, a whole checkpoint.

    `encoder`: "none", "simulated" (the shipped stand-in) or a Florence-2 folder or hub name.
    `trunk`: the run id whose state at `trunk_step` this run goes on from (scaling.branch).
    """

    section: ClassVar[str] = "init"

    encoder: str = "none"
    encoder_sha256: str = ""
    checkpoint: str = ""
    checkpoint_sha256: str = ""
    trunk: str = ""
    trunk_step: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig(Config):
    """How fast and where: never part of the run's identity. 0 means: choose for the machine."""

    section: ClassVar[str] = "engine"

    zero_stage: int = limited(2, least=0, most=2)
    micro_batch_size: int = limited(0, least=0)
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    activation_checkpointing: bool = False
    compile: bool = False
    threads: int = limited(1, least=1)
    num_workers: int = limited(0, least=0)
    cache_features: bool = True
    log_every: int = limited(20, least=0)
    eval_every: int = limited(0, least=0)
    save_every: int = limited(0, least=0)
    keep_last: int = limited(2, least=0)
    keep_every: int = limited(0, least=0)
    keep_best: bool = False  # the one with the lowest val/l1 among steps saved and evaluated
    keep_steps: list[int] = limited([], least=1)  # saved and kept: where branches start
    async_save: bool = False  # train on while a checkpoint is written, for its size in memory
    eval_batch_size: int = limited(64, least=1)
    # Without a step so long: stacks of all ranks, then exit 1; 0: off.
    hang_timeout_s: int = limited(1800, least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceConfig(Config):
    """What a run asks of a machine; `gpus_per_node: 0` means `processes_per_node` CPU ranks."""

    section: ClassVar[str] = "resources"

    nodes: int = limited(1, least=1)
    gpus_per_node: int = limited(0, least=0)
    processes_per_node: int = limited(1, least=1)

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.nodes * (self.gpus_per_node or self.processes_per_node)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec(Config):
    """One training run. `scientific()` is hashed into `run_id`; the rest are labels and speed."""

    study: str = ""
    scale: str = "cpu"
    stage: Literal["pretrain", "finetune"] = "pretrain"
    size: str = "tiny"
    axes: dict[str, Value | None] = field(default_factory=dict)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    global_batch_size: int = limited(16, least=1)
    num_steps: int = limited(100, least=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    seeds: SeedConfig = field(default_factory=SeedConfig)
    init: InitConfig = field(default_factory=InitConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    resources: ResourceConfig = field(default_factory=ResourceConfig)

    def scientific(self) -> dict[str, Any]:
        """Return the fields that determine the result, as plain JSON types."""
        data = plain(self.data)
        # Released rows went without saying when ids were published.
        data["domain_ids"] = {
            name: row for name, row in self.data.domain_ids.items() if DOMAIN_IDS.get(name) != row
        }
        for entry in data["mixture"]:
            if entry["mapping"] is None:  # as when ids were published
                del entry["mapping"]
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
        """Return the run with its domains' rows written down.

        Raises ValueError naming the fields that do not go together.
        """
        self.model.validate()
        check_mixture(self.data)
        check_anchor(self.data)
        _check_together(self)
        return _with_rows(self)

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


def _without_later_defaults(science: dict[str, Any]) -> dict[str, Any]:
    for path, default in ADDED_LATER.items():
        *parents, leaf = path.split(".")
        node = science
        for name in parents:
            node = node[name]
        if node.get(leaf) == default:
            node.pop(leaf)
    return science


def _with_rows(spec: RunSpec) -> RunSpec:
    """Return the run with the rows of new names in `data.domain_ids`, and tables that hold all."""
    rows, known = domain_rows(spec.data), spec.data.domain_ids
    ids = {n: row for n, row in rows.items() if n in known or DOMAIN_IDS.get(n) != row}
    size = max(spec.model.num_domains, 1 + max(rows.values()))
    if ids == known and size == spec.model.num_domains:
        return spec
    model = replace(spec.model, num_domains=size)
    return replace(spec, model=model, data=replace(spec.data, domain_ids=ids))


def _check_together(spec: RunSpec) -> None:
    if len(spec.optim.betas) != 2:
        raise ValueError(f"optim.betas={list(spec.optim.betas)}; allowed: two numbers")
    if bool(spec.init.trunk) != (0 < spec.init.trunk_step < spec.num_steps):
        raise ValueError(
            f"init.trunk={spec.init.trunk!r} with init.trunk_step={spec.init.trunk_step} of "
            f"{spec.num_steps} steps; a branch names both, and starts before its end"
        )
    if spec.data.num_anchors != spec.model.num_anchors:
        raise ValueError(
            f"data.num_anchors={spec.data.num_anchors} differs from "
            f"model.num_anchors={spec.model.num_anchors}; set both"
        )
    per_rank, rest = divmod(spec.global_batch_size, spec.resources.world_size)
    if rest or per_rank % (spec.engine.micro_batch_size or 1):
        raise ValueError(
            f"global_batch_size={spec.global_batch_size} is not a multiple of "
            f"{spec.resources.world_size} ranks x micro-batch {spec.engine.micro_batch_size or 1}"
        )
