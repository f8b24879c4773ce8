"""Typed remarks on a fit: what cannot be trusted, by how much, and the cure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from analysis.document import Document
from analysis.law import MAX_EXPONENT, Law

MIN_LEVELS = 3  # two levels show a slope and no bend: every law of three parameters fits them
# Of J'J, whose condition is the square of J's: half of a double's sixteen digits are then gone.
MAX_CONDITION = 1e10
MAX_CORRELATION = 0.995  # one parameter then explains 99 % of the other's variance
SPARE_CELLS = 3  # beyond the parameters: fewer cells leave the residuals nothing to say


@dataclass(frozen=True, slots=True, kw_only=True)
class Note(Document):
    """One remark: a stable code, a sentence, and the number behind it."""

    code: str
    message: str
    value: float | int | str | None = None

    def __str__(self) -> str:
        return f"[{self.code}] {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Document):
    """A law that the data cannot carry, and why."""

    status: Literal["refused"] = field(default="refused", init=False)
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped(Document):
    """An analysis beside a law that the data cannot carry, and why."""

    refused: str


class NotIdentifiedError(ValueError):
    """The table cannot determine the law: too few cells or levels."""


def count_cells(logx: dict[str, np.ndarray]) -> int:
    """Count distinct combinations of axis values."""
    return len(np.unique(np.column_stack(list(logx.values())), axis=0))


def require_identified(law: Law, logx: dict[str, np.ndarray], num_free: int) -> None:
    """Refuse a table with fewer distinct cells than free parameters.

    Raises:
        NotIdentifiedError: with both counts and what to do.
    """
    cells = count_cells(logx)
    if cells < num_free:
        raise NotIdentifiedError(
            f"not identified: {cells} cells, {num_free} parameters ({law.name} over "
            f"{', '.join(law.axes) or 'nothing'}); add levels or choose a smaller law"
        )


def design_notes(law: Law, logx: dict[str, np.ndarray], num_free: int) -> list[Note]:
    """Remark on the table before anything is fitted."""
    notes = []
    for axis in law.axes:
        levels = len(np.unique(logx[axis]))
        if levels < MIN_LEVELS:
            notes.append(
                Note(
                    code="few_levels",
                    message=f"axis {axis} has {levels} levels; a curve needs {MIN_LEVELS} or more",
                    value=levels,
                )
            )
    cells = count_cells(logx)
    if len(law.axes) > 1 and cells < num_free + SPARE_CELLS:
        notes.append(
            Note(
                code="not_identified",
                message=f"not identified: {cells} cells, {num_free} parameters; "
                f"{num_free + SPARE_CELLS} distinct cells are needed",
                value=cells,
            )
        )
    elif cells == num_free:
        notes.append(
            Note(
                code="saturated_fit",
                message=f"{cells} cells and {num_free} parameters: the curve can pass through "
                "every mean, its agreement with them is no evidence",
                value=cells,
            )
        )
    return notes


def fit_notes(
    law: Law, params: dict[str, float], *, held: set[str], starts: tuple[int, int], converged: bool
) -> list[Note]:
    """Remark on where the optimum lies and how surely it was found."""
    notes = []
    if not converged:
        notes.append(Note(code="not_converged", message="the optimiser stopped before its end"))
    for name, value in params.items():
        if name in held:
            continue
        if name in law.positive and value == 0:
            notes.append(Note(code="at_bound", message=f"{name} is at its bound 0", value=name))
        elif name not in law.positive and abs(value) >= MAX_EXPONENT * (1 - 1e-9):
            message = f"{name} is at its bound {value:.3g}: a step, not a power law"
            notes.append(Note(code="at_bound", message=message, value=name))
    for term in law.terms:
        if term.exponent and params[term.amplitude] == 0 and term.exponent not in held:
            message = f"{term.exponent} means nothing while {term.amplitude} is 0"
            notes.append(Note(code="unidentified", message=message, value=term.exponent))
        elif term.exponent and params[term.exponent] < -1e-9 and term.exponent not in held:
            message = f"{term.exponent} is negative: the fitted error rises with {term.axis}"
            notes.append(Note(code="rising", message=message, value=params[term.exponent]))
    reached, tried = starts
    if reached == 1 and tried > 2:
        message = f"only 1 of {tried} starts reached the optimum: others may be better still"
        notes.append(Note(code="few_starts", message=message, value=reached))
    return notes


def curvature_notes(law: Law, condition: float, correlation: np.ndarray) -> list[Note]:
    """Remark on directions that the table does not determine.

    Args:
        law: the form.
        condition: of J'J in internal parameters, centred.
        correlation: of the free parameters [p, p], NaN where a parameter did not move.
    """
    notes = []
    if not np.isfinite(condition) or condition > MAX_CONDITION:
        message = f"condition number {condition:.2g}: a direction of the parameters is undetermined"
        notes.append(Note(code="ill_conditioned", message=message, value=float(condition)))
    names = law.param_names
    with np.errstate(invalid="ignore"):
        close = np.argwhere(np.triu(np.abs(correlation) > MAX_CORRELATION, 1))
    for i, j in close:
        message = f"{names[i]} and {names[j]} are correlated at {correlation[i, j]:.4f}: "
        message += "read them together, never one alone"
        value = float(correlation[i, j])
        notes.append(Note(code="correlated", message=message, value=value))
    return notes
