"""The documents of other rooms that a page shows, as they are on disk: a search, a ledger."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from analysis.document import Scalar


class Candidate(TypedDict):
    """One point of a search, run again with new seeds; `delta` is minus the default's score."""

    params: dict[str, Scalar]
    search_value: float | None
    mean: float | None
    repeats: list[float]
    delta: float | None
    low: float | None
    high: float | None
    verdict: str
    run_id: str | None


class SearchResult(TypedDict):
    """result.json of `scaling search`."""

    score: str
    counts: dict[str, int]
    default: Candidate
    candidates: list[Candidate]
    best: Candidate
    answer: str
    stopped: NotRequired[str | None]
    importance: NotRequired[dict[str, float] | None]
    figures: NotRequired[dict[str, list[str]]]


class Ledger(TypedDict):
    """What became of the hours: one line `text`, hours by account in `unit`, rows by run."""

    text: str
    unit: str
    useful: float
    replayed: float
    failed: float
    queued: float
    total: float
    runs: list[dict[str, Scalar]]
