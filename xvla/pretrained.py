"""Reading and writing checkpoints: safetensors and JSON only, nothing is ever unpickled."""

import json
import logging
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xvla import lerobot
from xvla.config import ModelConfig
from xvla.layouts import (
    Layout,
    check_layout,
    config_from_json,
    config_to_json,
    microsoft_name,
    native_name,
    uses_microsoft_names,
)
from xvla.model import XVLA, build_on_meta

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
ENCODER_FILE = "encoder.safetensors"
PREFIX = "model."  # LeRobot's
TIED = ("vlm.language_model.shared.weight", "vlm.language_model.encoder.embed_tokens.weight")
PROJECTION = "vlm.multi_modal_projector.image_projection.weight"
UNUSED = "vlm.language_model.final_logits_bias"  # Microsoft's buffer; always zero, never read
POSITIONS = "language_model.encoder.embed_positions.weight"
TOKENS = "language_model.encoder.embed_tokens.weight"
# These tables depend on domains, action space and prompt length: finetuning may change them.
REPLACEABLE = (
    "transformer.action_encoder",
    "transformer.action_decoder",
    "transformer.soft_prompt_hub",
)

log = logging.getLogger(__name__)
Tensors = dict[str, Tensor]


def load_pretrained(
    path: str | os.PathLike[str],
    *,
    config: ModelConfig | None = None,
    attention: str = "auto",
) -> XVLA:
    """Build the model of a checkpoint folder (official, LeRobot or ours) in evaluation mode.

    config replaces the folder's own, e.g. for another action space: prompts and action layers
    whose shape then differs are newly initialised and logged, as the authors' later loader does.
    Raises ValueError, naming the file or the tensors, for a missing or damaged file, another
    architecture, missing or surplus tensors, other shapes, or values that are not finite.
    """
    folder = Path(path)
    config = read_config(folder) if config is None else config
    tensors = canonical(_read_weights(folder), source=str(folder))
    model = build_on_meta(config, attention=attention)
    _fill(model, tensors, source=str(folder))
    return model.eval()


def save_pretrained(
    model: XVLA,
    path: str | os.PathLike[str],
    layout: Layout = "ours",
    *,
    parent: str | os.PathLike[str] | None = None,
) -> Path:
    """Write config.json and model.safetensors into a folder; each is renamed into place whole.

    A LeRobot folder also gets its two processor files. parent is the LeRobot folder that the model
    came from: its features, normalisation, tokenizer and processors (with statistics) are kept.
    Raises ValueError if the layout is unknown or cannot express the model.
    """
    check_layout(layout)
    folder = Path(path)
    config = config_to_json(model.config, layout)
    if parent is not None:
        if not layout.startswith("lerobot"):
            raise ValueError(f"parent is for layout 'lerobot' and 'lerobot-old', not {layout!r}")
        config = lerobot.inherit(config, read_json(Path(parent)))
    tensors = in_layout(dict(model.state_dict()), layout)
    folder.mkdir(parents=True, exist_ok=True)
    files = {CONFIG_FILE: json.dumps(config, indent=2) + "\n"}
    if layout.startswith("lerobot") and not (
        parent is not None and lerobot.copy_processors(Path(parent), folder)
    ):
        files |= lerobot.processors(config)
    for name, text in files.items():
        _write_aside(folder / name, partial(_write_text, text=text))
    write_tensors(folder / WEIGHTS_FILE, tensors)
    return folder


def read_config(path: str | os.PathLike[str]) -> ModelConfig:
    """Read the model configuration of a checkpoint folder; ValueError if it is not X-VLA's."""
    file, raw = Path(path) / CONFIG_FILE, read_json(Path(path))
    try:
        config = config_from_json(raw)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{file} is not a complete X-VLA configuration ({error})") from error
    lerobot.warn_of_normalisation(raw, str(path))
    return config


def read_json(path: Path) -> dict[str, Any]:
    """Read the config.json of a folder as it is; ValueError if there is none or it is damaged."""
    file = path / CONFIG_FILE
    try:
        return json.loads(file.read_text())
    except OSError as error:
        raise ValueError(
            f"{path} has no readable {CONFIG_FILE} ({error.strerror}); give a folder with "
            f"{CONFIG_FILE} and {WEIGHTS_FILE}"
        ) from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not valid JSON ({error}); download it again") from error


def canonical(tensors: Tensors, *, source: str) -> Tensors:
    """Rename tensors of any layout to ours, transpose the projection, merge the tied embedding."""
    if any(name.startswith(f"{PREFIX}transformer.") for name in tensors):
        tensors = {name.removeprefix(PREFIX): value for name, value in tensors.items()}
    microsoft = uses_microsoft_names(list(tensors))
    if microsoft:
        tensors = {native_name(name): value for name, value in tensors.items()}
        if PROJECTION in tensors:
            tensors[PROJECTION] = tensors[PROJECTION].t().contiguous()
        tensors.pop(UNUSED, None)
    shared = tensors.pop(TIED[0], None)
    if shared is not None and not torch.equal(tensors.setdefault(TIED[1], shared), shared):
        raise ValueError(f"{source}: {TIED[0]} and {TIED[1]} differ although they are one tensor")
    return {name: value for name, value in tensors.items() if value.numel() > 0}


def in_layout(tensors: Tensors, layout: Layout) -> Tensors:
    """Rename our tensors to a layout's names; foreign layouts repeat the tied embedding."""
    if layout == "ours":
        return tensors
    named = dict(tensors)
    named[TIED[0]] = tensors[TIED[1]].clone()
    if layout in ("xvla", "lerobot-old"):
        vocabulary = tensors[TIED[1]].shape[0]
        named[PROJECTION] = tensors[PROJECTION].t().contiguous()
        named = {microsoft_name(name): value for name, value in named.items()}
        named[UNUSED] = torch.zeros(1, vocabulary)
    prefix = "" if layout == "xvla" else PREFIX
    return {prefix + name: value for name, value in named.items()}


def load_encoder(model: XVLA, path: str | os.PathLike[str]) -> None:
    """Fill the encoder from `encoder.safetensors` (a file, or the folder that holds it).

    Raises ValueError as `load_pretrained` does.
    """
    file = Path(path) / ENCODER_FILE if Path(path).is_dir() else Path(path)
    tensors = canonical(_read_file(file), source=str(file))
    surplus = [name for name in tensors if not name.startswith("vlm.")]
    if surplus:
        raise ValueError(f"{file} holds more than an encoder: {surplus[:5]}")
    own = {name.removeprefix("vlm."): value for name, value in tensors.items()}
    _copy_into(model.vlm, own, source=str(file))


def load_florence(model: XVLA, name_or_path: str) -> None:
    """Fill the encoder with Florence-2's own weights through transformers.

    name_or_path: a folder or hub id in transformers' native format with safetensors (for example
    florence-community/Florence-2-large). The token and position tables may have other lengths
    than ours: the common rows are copied. Raises ValueError for other differences of shape.
    """
    from transformers import Florence2Model

    try:
        source = Florence2Model.from_pretrained(
            name_or_path, use_safetensors=True, dtype=torch.float32
        )
    except OSError as error:
        raise ValueError(
            f"no Florence-2 weights at {name_or_path!r} ({str(error).splitlines()[0]}); give a "
            "folder or hub id in transformers' native format, e.g. "
            "florence-community/Florence-2-large"
        ) from error
    parts = ("vision_tower.", "multi_modal_projector.", "language_model.encoder.")
    tensors = {n: t for n, t in source.state_dict().items() if n.startswith(parts)}
    tensors[TOKENS] = cast(
        nn.Embedding, source.get_input_embeddings()
    ).weight.detach()  # tied, may be stored once
    own = model.vlm.state_dict()
    for name in (TOKENS, POSITIONS):
        tensors[name] = _common_rows(own[name], tensors[name], name)
    _copy_into(model.vlm, tensors, source=name_or_path)


def write_tensors(file: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file aside and rename it into place."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    details = {"format": "pt", **(metadata or {})}
    _write_aside(file, lambda aside: save_file(plain, aside, metadata=details))


def _write_aside(file: Path, write: Callable[[Path], Any]) -> None:
    """Write to a temporary neighbour, then rename; nothing half-written is ever seen."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    os.close(handle)
    aside = Path(name)
    try:
        write(aside)
        aside.chmod(0o644)
        os.replace(aside, file)
    except SafetensorError as error:
        raise OSError(f"cannot write {file}: {error}") from error
    finally:
        aside.unlink(missing_ok=True)


def _write_text(file: Path, text: str) -> None:
    file.write_text(text)


def _read_weights(folder: Path) -> Tensors:
    """Read model.safetensors, or the files that an index names."""
    index = folder / INDEX_FILE
    if not index.exists():
        return _read_file(folder / WEIGHTS_FILE)
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (json.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{index} is damaged ({error!r}); copy or download it again") from error
    tensors: Tensors = {}
    for name in names:
        tensors |= _read_file(folder / Path(name).name)
    return tensors


def _read_file(file: Path) -> Tensors:
    if not file.is_file():
        raise ValueError(f"{file} does not exist; give a folder that holds {file.name}")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(
            f"{file} is damaged or cut off ({error}); copy or download it again"
        ) from error


def _fill(model: XVLA, tensors: Tensors, *, source: str) -> None:
    """Give the meta-device model its tensors; checks names, shapes and values first."""
    expected = model.state_dict()
    for name, want in expected.items():
        given = tensors.get(name)
        if given is not None and given.shape != want.shape and name.startswith(REPLACEABLE):
            log.warning(
                "%s: %s has shape %s, the model %s; newly initialised",
                *(source, name, list(given.shape), list(want.shape)),
            )
            tensors[name] = _fresh(name, want)
    tensors = _checked(expected, tensors, source)
    model.load_state_dict(tensors, assign=True)


def _copy_into(module: nn.Module, tensors: Tensors, *, source: str) -> None:
    module.load_state_dict(_checked(module.state_dict(), tensors, source))


def _checked(expected: Tensors, tensors: Tensors, source: str) -> Tensors:
    """Return tensors as float32, or raise ValueError with the names of what is wrong."""
    missing, surplus = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or surplus:
        raise ValueError(
            f"{source} does not fit the model: {_names('missing', missing)}; "
            f"{_names('surplus', surplus)}; check that {CONFIG_FILE} belongs to these weights"
        )
    for name, value in tensors.items():
        if value.shape != expected[name].shape:
            raise ValueError(
                f"{source}: {name} has shape {list(value.shape)}, the model needs "
                f"{list(expected[name].shape)}; check that {CONFIG_FILE} belongs to these weights"
            )
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{source}: {name} holds NaN or infinite values; use another file")
    return {name: value.float() for name, value in tensors.items()}


def _names(kind: str, names: list[str]) -> str:
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"{len(names)} {kind}" + (f" ({shown})" if names else "")


def _fresh(name: str, like: Tensor) -> Tensor:
    """Initialise a tensor as the authors' later loader does: Xavier matrices, zero biases."""
    value = torch.zeros(like.shape)
    if "bias" not in name and value.ndim >= 2:
        nn.init.xavier_uniform_(value)
    return value


def _common_rows(own: Tensor, theirs: Tensor, name: str) -> Tensor:
    rows = min(len(own), len(theirs))
    if len(own) != len(theirs):
        log.warning("%s: %d rows given, %d wanted; %d copied", name, len(theirs), len(own), rows)
    merged = own.clone()
    merged[:rows] = theirs[:rows]
    return merged
