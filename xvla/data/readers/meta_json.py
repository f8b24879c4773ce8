"""Meta files of a dataset, and the fields of X-VLA's own, with errors that name file and field."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from xvla.data.readers.base import fail, one_line
from xvla.data.readers.sources import ROTATION_WIDTH, SOURCES, UNKNOWN_ROTATION, SourceRule


def read_meta(root: Path, file: Path) -> dict[str, Any]:
    """Read a JSON object; raises DatasetError when the file is none."""
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        message = "missing; a dataset has it, so this folder is not one or is incomplete"
        fail(root, file, None, message)
    except (OSError, ValueError, RecursionError) as error:
        message = f"not readable as JSON ({one_line(error)}); copy the dataset again"
        fail(root, file, None, message)
    if not isinstance(meta, dict):
        message = f"holds a JSON {type(meta).__name__}, must be an object; copy the dataset again"
        fail(root, file, None, message)
    return meta


def source_rule(root: Path, file: str, meta: dict[str, Any]) -> SourceRule:
    """Return the source's row with the numbers that the meta file replaces."""
    name = meta.get("robot_type", meta.get("dataset_name"))
    rule = SOURCES.get(name) if isinstance(name, str) else None
    if rule is None:
        known = ", ".join(key for key, row in SOURCES.items() if not row.refusal)
        fail(root, file, "dataset_name", f"{name!r} is no known source; allowed: {known}")
    if rule.refusal:
        fail(root, file, "dataset_name", f"{name} cannot be read: {rule.refusal}")
    rule = _with_numbers(root, file, meta, rule)
    stated = meta.get("rotation")
    six = [key for key, width in ROTATION_WIDTH.items() if width == 6 and key != "unknown"]
    if stated is not None and ROTATION_WIDTH[rule.rotation] != 6:
        message = f"{stated!r}, but {name} has {rule.rotation} by its layout; leave the field out"
        fail(root, file, "rotation", message)
    if stated is not None and stated not in six:
        fail(root, file, "rotation", f"{stated!r}; allowed: {', '.join(six)}")
    if stated is not None:
        rule = replace(rule, rotation=stated)
    if rule.rotation == "unknown":
        message = f'{UNKNOWN_ROTATION}; once you know it, set "rotation" to one of {", ".join(six)}'
        fail(root, file, "rotation", f"{name} is refused: {message}")
    return rule


def _with_numbers(root: Path, file: str, meta: dict[str, Any], rule: SourceRule) -> SourceRule:
    """Return the row with rate, window and tail as the meta file has them, like the handlers."""
    given = {
        key: float(meta[key]) if _is_number(meta[key]) else -1.0
        for key in ("freq", "qdur", "tail_margin")
        if key in meta
    }
    for key, value in given.items():
        if not 0 <= value < 1e6 or (value == 0 and key != "tail_margin"):
            fail(root, file, key, f"{meta[key]!r}, must be a number above 0")
    return replace(
        rule,
        rate_hz=given.get("freq", rule.rate_hz),
        window_s=given.get("qdur", rule.window_s),
        tail=int(given.get("tail_margin", rule.tail)),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def list_field(root: Path, file: str, meta: dict[str, Any], key: str) -> list[Any]:
    value = meta.get(key)
    if not isinstance(value, list):
        fail(root, file, key, f"{type(value).__name__}, must be a list")
    return value


def instruction_variants(root: Path, file: str, meta: dict[str, Any]) -> dict[str, list[str]]:
    """Return other wordings by instruction (`lang_aug_map`)."""
    variants = meta.get("lang_aug_map") or {}
    good = isinstance(variants, dict) and all(
        isinstance(texts, list) and all(isinstance(text, str) for text in texts)
        for texts in variants.values()
    )
    if not good:
        fail(root, file, "lang_aug_map", "must map an instruction to a list of texts")
    return {text.strip(): texts for text, texts in variants.items()}
