"""The status of a study as a table, and what of it fits into a line."""

from collections.abc import Sequence

from rich.table import Table

from jobs.executor import Link
from jobs.status import StudyStatus
from scaling.runs.folder import Heartbeat
from scaling.runs.state import STATES, State

URGENT: tuple[State, ...] = (
    "running",
    "failed",
    "unknown",
    "preempted",
    "queued",
    "cancelled",
    "planned",
    "done",
)
COLOURS = {
    "running": "cyan",
    "done": "green",
    "failed": "red",
    "preempted": "yellow",
    "unknown": "magenta",
}


def render_status(status: StudyStatus, *, max_rows: int | None = None) -> Table:
    """Return the table that `scaling status` prints.

    Above `max_rows` those that need a look stay: running first, then what failed or stopped.
    """
    counts, rows = status.counts, status.runs
    parts = [f"{counts[state]} {state}" for state in STATES if counts.get(state)]
    if max_rows is not None and len(rows) > max_rows:
        parts.append(f"{len(rows) - max_rows} not shown")
        rows = sorted(rows, key=lambda row: URGENT.index(row.state))[:max_rows]
    table = Table(title=status.study or None, caption=", ".join(parts) or "no runs")
    for name in ("run", "axes", "state"):
        table.add_column(name, no_wrap=name != "axes")
    for name in ("step", "samples/s", "left", "val l1", "tries"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("reason", overflow="fold")
    for row in rows:
        state = row.state
        colour = COLOURS.get(state)
        table.add_row(
            row.run_id,
            _escaped(" ".join(f"{key}={value}" for key, value in row.axes.items())),
            f"[{colour}]{state}[/]" if colour else state,
            _progress(row.step or 0, row.num_steps),
            _number(row.samples_per_s, ".1f"),
            clock(row.eta_s),
            _number(row.val_l1, ".4f"),
            str(row.attempts),
            _escaped(row.reason),
        )
    return table


def render_links(links: Sequence[Link]) -> list[str]:
    """Return a line for each link, as `scaling status` prints them."""
    return [
        f"then {link.command}: {link.state}"
        + (f" ({link.reason})" if link.reason else "")
        + f", job {link.job_id}"
        for link in links
    ]


def clock(seconds: float | None) -> str:
    """Return a duration as h:mm:ss or m:ss, "" for None."""
    if seconds is None:
        return ""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def beat_words(beat: Heartbeat) -> str:
    """Return a heartbeat (with num_steps) in words: steps, phase, speed, val l1, time left."""
    parts = [f"{beat.step or 0}/{beat.num_steps}"]
    if beat.phase and beat.phase != "train":
        parts.append(beat.phase)
    if beat.samples_per_s:
        parts.append(f"{beat.samples_per_s:.0f} samples/s")
    if beat.val_l1 is not None:
        parts.append(f"val l1 {beat.val_l1:.4f}")
    if beat.eta_s is not None:
        parts.append(f"left {clock(beat.eta_s)}")
    return " ".join(parts)


def _progress(step: int, num_steps: int) -> str:
    return f"{step}/{num_steps} {100 * step // num_steps:>3}%"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _escaped(text: str | None) -> str:
    return (text or "").replace("[", "\\[")
