"""Reading, writing and overriding typed configs; every error is one line that names the key."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

T = TypeVar("T")


def to_yaml(config: Any) -> str:
    """Return the whole config as YAML, defaults written out."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def from_yaml(path: str | Path, schema: type[T]) -> T:
    """Read a YAML file into `schema`.

    Raises ValueError for a missing file, broken YAML, an unknown key or a wrong type.
    """
    try:
        loaded = OmegaConf.load(str(path))
    except FileNotFoundError:
        raise ValueError(f"no config file at {path}; give the path of a run.yaml") from None
    except Exception as error:
        raise ValueError(f"{path} is not readable YAML: {_first_line(error)}") from None
    return _merge(schema, loaded, source=str(path))


def with_overrides(config: T, overrides: Iterable[str]) -> T:
    """Return `config` with dotted `key=value` overrides applied, types checked."""
    items = list(overrides)
    if not items:
        return config
    for item in items:
        if "=" not in item:
            raise ValueError(f"override {item!r} is not of the form key=value, e.g. optim.lr=3e-4")
    try:
        parsed = OmegaConf.from_dotlist(items)
    except Exception as error:
        raise ValueError(f"cannot parse overrides {items}: {_first_line(error)}") from None
    return _merge(config, parsed, source="override")


def write_atomic(path: str | Path, text: str) -> None:
    """Write `text` so that a reader sees the old file or the new one, never a half."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _merge(base: Any, update: Any, *, source: str) -> Any:
    structured = OmegaConf.structured(base)
    OmegaConf.set_readonly(structured, False)
    try:
        merged = OmegaConf.merge(structured, update)
        return OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        at = f" at key {key!r}" if key else ""
        raise ValueError(f"{source}: {_first_line(error)}{at}") from None
    except TypeError as error:  # OmegaConf's own, e.g. an index into a list
        raise ValueError(
            f"{source}: {_first_line(error)}; give a list whole, e.g. optim.betas=[0.9,0.95]"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
