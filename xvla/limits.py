"""What a config's fields may hold: said beside each field, checked when a config is made."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, get_args, get_origin

NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The numbers that a field, or each entry of its list, may hold; infinity is never one."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def hold(self, value: float) -> bool:
        """Return whether `value` is allowed."""
        return self.least <= value <= self.most and self.above < value < self.below

    def __str__(self) -> str:
        """Say in words what is allowed."""
        if self.least > -math.inf and self.most < math.inf:
            return f"{self.least} to {self.most}"
        low = f"{self.least} or more" if self.least > -math.inf else ""
        low = low or (f"above {self.above}" if self.above > -math.inf else "")
        high = f"{self.most} or less" if self.most < math.inf else ""
        high = high or (f"below {self.below}" if self.below < math.inf else "")
        return ", ".join(filter(None, [low, high]))


ANY = Limits()


class FieldError(ValueError):
    """A field holds what it may not.

    section, field: where the field stands in a run's config; `allowed` says what it may hold.
    """

    def __init__(self, section: str, field: str, value: object, allowed: str) -> None:
        """Keep the parts, for a reader whose file calls the field otherwise."""
        key = f"{section}.{field}" if section else field
        super().__init__(f"{key}={value!r}; allowed: {allowed}")
        self.section, self.field, self.value, self.allowed = section, field, value, allowed


class Config:
    """A frozen dataclass whose values are checked when it is made.

    `section` is its place in a RunSpec, as in `optim.lr`; errors begin with it. Rules that join
    several fields are not checked here, as overrides set one field after another: `validate`.
    """

    __slots__ = ()
    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Raise FieldError for the first field of another type, or outside its limits."""
        kind: Any = type(self)
        for name, allows, allowed in _rules(kind):
            value = getattr(self, name)
            if not allows(value):
                raise FieldError(self.section, name, value, allowed)


def limited(
    default: Any,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> Any:
    """Return a dataclass field with limits; those of a list or dict hold for each of its values."""
    limits = Limits(least=least, most=most, above=above, below=below)
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata={"limits": limits})
    return field(default=default, metadata={"limits": limits})


Rule = tuple[str, Callable[[Any], bool], str]


@cache
def _rules(kind: Any) -> tuple[Rule, ...]:
    """Return, for each field of a config, its name, the test of a value, and what is allowed."""
    return tuple(
        (item.name, *_rule(item.type, item.metadata.get("limits", ANY))) for item in fields(kind)
    )


def _rule(kind: Any, limits: Limits) -> tuple[Callable[[Any], bool], str]:
    if get_origin(kind) is Literal:
        allowed = get_args(kind)
        return allowed.__contains__, ", ".join(map(str, allowed))
    if get_origin(kind) is list:
        allows, said = _rule(get_args(kind)[0], limits)
        return (
            lambda value: isinstance(value, list | tuple) and all(map(allows, value)),
            f"a list, each entry {said}",
        )
    if get_origin(kind) is dict:
        allows, said = _rule(get_args(kind)[1], limits)
        return (
            lambda value: isinstance(value, dict) and all(map(allows, value.values())),
            f"names, each with {said}",
        )
    if isinstance(kind, UnionType):
        rules = [_rule(one, limits) for one in get_args(kind)]
        return (
            lambda value: any(allows(value) for allows, _ in rules),
            ", or ".join(said for _, said in rules),
        )
    if kind is NoneType:
        return lambda value: value is None, "null"
    if kind in (int, float):
        number = Integral if kind is int else Real
        said = NAMES[kind] if limits is ANY else f"{NAMES[kind]}, {limits}"
        return lambda value: _is_number(value, number) and limits.hold(value), said
    if is_dataclass(kind) and isinstance(kind, type):
        return lambda value: isinstance(value, kind), f"the fields of {kind.__name__}"
    if kind in (bool, str):
        return lambda value: isinstance(value, kind), NAMES[kind]
    return lambda value: True, "anything"


def _is_number(value: Any, number: type) -> bool:
    # `bool` is an int to Python, and true is no learning rate.
    return isinstance(value, number) and not isinstance(value, bool) and math.isfinite(value)  # type: ignore[arg-type]
