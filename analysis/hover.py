"""What a page says over a figure: texts at its marks, and curves to read off under the pointer."""

from __future__ import annotations

from dataclasses import dataclass, field

from analysis.document import ABSENT, FLAT, Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark(Document):
    """The text over one point, and the run that a click on it brings to the top."""

    run: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bands(Document):
    """Both bands of a curve; each value belongs to one of its x."""

    lower: list[float]
    upper: list[float]
    run_lower: list[float]
    run_upper: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel(Document):
    """A curve between `low` and `high` of its x axis, extrapolated beyond `last`."""

    id: str
    label: str
    low: float
    high: float
    last: float
    x: list[float]
    mean: list[float]
    bands: Bands | None = field(metadata=FLAT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hover(Document):
    """Marks by SVG id, in drawing order, and panels."""

    marks: dict[str, list[Mark]]
    panels: list[Panel] | None = field(default=None, metadata=ABSENT)
