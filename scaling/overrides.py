"""Applies `key=value` overrides to many configs: parsed and checked once, then copied."""

from collections.abc import Callable, Iterable
from dataclasses import is_dataclass, replace
from typing import Any, TypeVar, cast

from omegaconf import OmegaConf

from scaling.config import with_overrides

T = TypeVar("T")
Leaf = bool | int | float | str | list[Any] | None
Parsed = dict[str, "Leaf | Parsed"]  # a tree of keys, as OmegaConf reads them


def overrider(overrides: Iterable[str]) -> Callable[[T], T]:
    """Return a function that gives a config with the overrides applied, types checked.

    The first config goes through OmegaConf (tens of milliseconds), which checks and converts the
    values; the others of its kind get those values copied, and share what they shared before. An
    override that reads other keys of its config (`${...}`), or adds to a dict, goes through
    OmegaConf each time. The function raises the ValueErrors of `with_overrides`.
    """
    items = list(overrides)
    reference: Any = None
    parsed: Parsed = {}
    memo: dict[tuple[int, int], tuple[Any, Any]] = {}

    def apply(config: T) -> T:
        nonlocal reference, parsed
        if not items:
            return config
        if type(reference) is not type(config):
            checked = with_overrides(config, items)
            if not _copyable(config, items):
                return checked
            reference, parsed = checked, _parse(items)
        return _copied(config, reference, parsed, memo)

    return apply


def _parse(items: list[str]) -> Parsed:
    return cast(Parsed, OmegaConf.to_container(OmegaConf.from_dotlist(items)))


def _copyable(config: Any, items: list[str]) -> bool:
    """Return whether every value is the same for any config of this type."""
    return not any("${" in item for item in items) and _plain_leaves(config, _parse(items))


def _plain_leaves(node: Any, parsed: Parsed) -> bool:
    pairs = [(getattr(node, key), value) for key, value in parsed.items()]
    return all(
        _plain_leaves(old, value) if is_dataclass(old) and isinstance(value, dict)
        else not isinstance(old, dict)
        for old, value in pairs
    )  # fmt: skip


def _copied(
    node: Any, reference: Any, parsed: Parsed, memo: dict[tuple[int, int], tuple[Any, Any]]
) -> Any:
    """Return `node` with the values of `reference` at the keys of `parsed`."""
    changes = {}
    for key, value in parsed.items():
        old, new = getattr(node, key), getattr(reference, key)
        if is_dataclass(old) and isinstance(value, dict):
            place = (id(value), id(old))
            if place not in memo:  # parts that configs share stay shared; `old` keeps its id
                memo[place] = old, _copied(old, new, value, memo)
            new = memo[place][1]
        changes[key] = new
    return replace(node, **changes)
