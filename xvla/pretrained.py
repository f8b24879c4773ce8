"""Reading and writing checkpoints: safetensors and JSON only, nothing is ever unpickled."""

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xvla.config import ModelConfig
from xvla.layouts import lerobot
from xvla.layouts.config import config_from_json, config_to_json
from xvla.layouts.names import (
    Layout,
    check_layout,
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
PROMPTS = "transformer.soft_prompt_hub.weight"
# These tables depend on domains, action space and prompt length: finetuning may change them.
REPLACEABLE = (
    "transformer.action_encoder",
    "transformer.action_decoder",
    "transformer.soft_prompt_hub",
    # Tables only with `use_hetero_proj`.
    *("transformer.vlm_proj.fc.", "transformer.vlm_proj.bias."),
    *("transformer.aux_visual_proj.fc.", "transformer.aux_visual_proj.bias."),
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
    whose shape then differs are newly initialised and logged, as the authors' later loader does;
    where only rows are added (more domains), those that are there are kept.
    Raises ValueError, naming the file or the tensors, for a missing or damaged file, another
    architecture, missing or surplus tensors, other shapes, or values that are not finite.
    """
    folder = Path(path)
    config = read_config(folder) if config is None else config
    source, given = str(folder), _read_weights(folder)
    names = _Names.of(given)
    model = build_on_meta(config, attention=attention)
    _fill(model, _canonical(given, names, source), names, source)
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
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder for {CONFIG_FILE} and {WEIGHTS_FILE}")
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
        raw = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(
            f"{path} has no readable {CONFIG_FILE} ({error.strerror}); give a folder with "
            f"{CONFIG_FILE} and {WEIGHTS_FILE}"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not valid JSON ({error}); download it again") from error
    if not isinstance(raw, dict):
        raise ValueError(
            f"{file} holds {str(raw)[:40]!r}; allowed is a JSON object with the fields of a "
            "model: download it again"
        )
    return raw


class _Names(NamedTuple):
    """How a file spells the names of tensors: LeRobot's prefix or none, whose Florence-2."""

    prefix: str
    microsoft: bool
    given: dict[str, str]

    @classmethod
    def of(cls, tensors: Tensors) -> "_Names":
        """Recognise the scheme by content."""
        lerobot_prefix = any(name.startswith(f"{PREFIX}transformer.") for name in tensors)
        prefix = PREFIX if lerobot_prefix else ""
        plain = {name.removeprefix(prefix): name for name in tensors}
        microsoft = uses_microsoft_names(list(plain))
        rename = native_name if microsoft else str
        return cls(prefix, microsoft, {rename(name): full for name, full in plain.items()})

    def in_file(self, name: str) -> str:
        """Return the name in the file, or the one it would have, of a tensor by our name."""
        absent = self.prefix + (microsoft_name(name) if self.microsoft else name)
        return self.given.get(name, absent)


def _canonical(given: Tensors, names: _Names, source: str) -> Tensors:
    """Give tensors of any layout our names, transpose the projection, merge the tied embedding."""
    tensors = {name: given[full] for name, full in names.given.items()}
    if twice := sorted(set(given) - set(names.given.values())):
        raise ValueError(f"{source} holds tensors under two names each; surplus: {twice[:5]}")
    if names.microsoft:
        if PROJECTION in tensors and tensors[PROJECTION].ndim == 2:
            tensors[PROJECTION] = tensors[PROJECTION].t()
        tensors.pop(UNUSED, None)
    shared = tensors.pop(TIED[0], None)
    if shared is not None and not torch.equal(tensors.setdefault(TIED[1], shared), shared):
        first, second = map(names.in_file, TIED)
        raise ValueError(f"{source}: {first} and {second} differ although they are one tensor")
    # A table of no prompts may be there, empty; the model then has none.
    return {n: t for n, t in tensors.items() if n != PROMPTS or t.numel() > 0}


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
    source, given = str(file), _read_file(file)
    names = _Names.of(given)
    tensors = _canonical(given, names, source)
    if surplus := [names.in_file(name) for name in tensors if not name.startswith("vlm.")]:
        raise ValueError(f"{file} holds more than an encoder: {surplus[:5]}")
    expected = {f"vlm.{name}": value for name, value in model.vlm.state_dict().items()}
    _check(expected, tensors, source=source, in_file=names.in_file)
    model.vlm.load_state_dict({n.removeprefix("vlm."): t for n, t in tensors.items()})


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
    _check(own, tensors, source=name_or_path)
    model.vlm.load_state_dict(tensors)


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
    """Read model.safetensors, or else the files that an index names, as transformers does."""
    index = folder / INDEX_FILE
    if (folder / WEIGHTS_FILE).exists() or not index.exists():
        return _read_file(folder / WEIGHTS_FILE)
    try:
        named = json.loads(index.read_text())["weight_map"].values()
        names = sorted({Path(name).name for name in named})
    except (json.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{index} is damaged ({error!r}); copy or download it again") from error
    tensors: Tensors = {}
    for name in names:
        tensors |= _read_file(folder / name)
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


def _fill(model: XVLA, tensors: Tensors, names: _Names, source: str) -> None:
    """Give the meta-device model its tensors; checks names, shapes and values first."""
    expected = model.state_dict()
    for name, want in expected.items():
        given = tensors.get(name)
        if given is not None and given.shape != want.shape and name.startswith(REPLACEABLE):
            kept = _kept_rows(given, want)
            log.warning(
                "%s: %s has shape %s, the model %s; newly initialised%s",
                *(source, names.in_file(name), list(given.shape), list(want.shape)),
                f" but for the first {kept} rows" if kept else "",
            )
            tensors[name] = _fresh(name, want)
            if kept:
                tensors[name][:kept] = given
    _check(expected, tensors, source=source, in_file=names.in_file)
    # Copied: a file's own bytes are mapped, lie unaligned, and then other kernels round otherwise.
    copies = {
        name: torch.empty(value.shape, dtype=torch.float32).copy_(value)
        for name, value in tensors.items()
    }
    model.load_state_dict(copies, assign=True)


def _check(
    expected: Tensors, tensors: Tensors, *, source: str, in_file: Callable[[str], str] = str
) -> None:
    """Raise ValueError with the names, as the file spells them, of what is wrong."""
    missing, surplus = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or surplus:
        raise ValueError(
            f"{source} does not fit the model: {_listed('missing', map(in_file, missing))}; "
            f"{_listed('surplus', map(in_file, surplus))}; "
            f"check that {CONFIG_FILE} belongs to these weights"
        )
    for name, value in tensors.items():
        if value.shape != expected[name].shape:
            raise ValueError(
                f"{source}: {in_file(name)} has shape {list(value.shape)}, the model needs "
                f"{list(expected[name].shape)}; "
                f"check that {CONFIG_FILE} belongs to these weights"
            )
        if not value.is_floating_point():
            raise ValueError(
                f"{source}: {in_file(name)} is of {value.dtype}; weights are floating point"
            )
        if not bool(torch.isfinite(value).all()):
            raise ValueError(
                f"{source}: {in_file(name)} holds NaN or infinite values; use another file"
            )


def _listed(kind: str, found: Iterable[str]) -> str:
    names = list(found)
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"{len(names)} {kind}" + (f" ({shown})" if names else "")


def _kept_rows(given: Tensor, want: Tensor) -> int:
    """Return how many rows of a table stay, one a domain: all where it only gets longer."""
    longer = given.shape[1:] == want.shape[1:] and len(given) < len(want)
    return len(given) if longer else 0


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
