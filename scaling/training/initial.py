"""Initial weights of a run: random, a pretrained encoder, or a whole parent checkpoint."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.runs.checkpoints import WEIGHTS, file_sha256
from scaling.spec import RunSpec
from xvla.config import ModelConfig

if TYPE_CHECKING:
    from xvla.model import XVLA

SHIPPED_ENCODER = Path(__file__).resolve().parents[2] / "xvla" / "data" / "encoder"


def check_initial(spec: RunSpec) -> None:
    """Raise ValueError for weights that are missing, altered or of another architecture."""
    from xvla.pretrained import read_config

    if spec.init.checkpoint_sha256:
        folder = Path(spec.init.checkpoint)
        _check_sha(folder / WEIGHTS, spec.init.checkpoint_sha256)
        _check_architecture(read_config(folder), spec)
    elif spec.init.encoder == "simulated":
        _check_sha(SHIPPED_ENCODER / "encoder.safetensors", spec.init.encoder_sha256)


def build_model(spec: RunSpec) -> "XVLA":
    """Return the model with its starting weights, run as `spec.engine` says.

    Call `check_initial` first.
    """
    model = _with_weights(spec)
    model.set_activation_checkpointing(spec.engine.activation_checkpointing)
    if spec.engine.compile:
        model.compile_blocks()
    return model


def _with_weights(spec: RunSpec) -> "XVLA":
    from xvla.model import XVLA
    from xvla.pretrained import load_encoder, load_florence, load_pretrained

    if spec.init.checkpoint_sha256:
        return load_pretrained(
            spec.init.checkpoint, config=spec.model, attention=spec.engine.attention
        )
    model = XVLA(spec.model, attention=spec.engine.attention)
    if spec.init.encoder == "simulated":
        load_encoder(model, SHIPPED_ENCODER)
    elif spec.init.encoder != "none":
        load_florence(model, spec.init.encoder)
    return model


def _check_sha(path: Path, expected: str) -> None:
    if not path.exists():
        raise ValueError(f"no weights at {path}; name a checkpoint folder or `best:STUDY`")
    if expected and file_sha256(path) != expected:
        raise ValueError(f"{path} is not the file the run was declared with (sha256 differs)")


def _check_architecture(found: ModelConfig, spec: RunSpec) -> None:
    if found.num_domains < spec.model.num_domains:  # the rows that are there are kept
        found = replace(found, num_domains=spec.model.num_domains)
    if found != spec.model:
        differing = [
            name
            for name in type(found).__dataclass_fields__
            if getattr(found, name) != getattr(spec.model, name)
        ]
        raise ValueError(
            f"checkpoint {spec.init.checkpoint} has another architecture: {', '.join(differing)} "
            "differ; start from a checkpoint of this size or change the run's model"
        )
