"""Shows how a study advances: bars on a terminal, now and then one line elsewhere; on stderr."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from jobs.executor import Progress as Shown
from scaling.cli.status_table import COLOURS, beat_words, clock
from scaling.runs.folder import Heartbeat
from xvla.progress import Advance

LINE_EVERY_S = 30.0

Beats = Mapping[str, Heartbeat]


@contextmanager
def open_progress(num_runs: int, num_before: int) -> Iterator[Shown]:
    """Yield what shows `num_runs` runs of which `num_before` need nothing (any more)."""
    if not sys.stderr.isatty():
        yield _Lines(num_runs, num_before)
    else:
        with _bars() as progress:
            yield _Bars(progress, num_runs, num_before)


@contextmanager
def open_bar(label: str, total: int) -> Iterator[Advance]:
    """Yield what counts up to `total` on a bar."""
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total)
        yield lambda count: bar.advance(task, count)


class _Lines:
    """One line for each end, and one every half minute."""

    def __init__(self, num_runs: int, num_before: int) -> None:
        self._num_runs, self._ended = num_runs, num_before
        self._meter = _Meter(num_runs, num_before)
        self._shown = time.monotonic()
        self._say(f"{num_runs} runs, {num_before} of them done or in other hands")

    def finished(self, run_id: str, state: str, reason: str | None) -> None:
        self._ended += 1
        why = f" ({reason})" if reason else ""
        self._say(f"{self._ended}/{self._num_runs} run {run_id} {state}{why}")

    def update(self, beats: Beats) -> None:
        if time.monotonic() - self._shown < LINE_EVERY_S:
            return
        self._shown = time.monotonic()
        left = clock(self._meter.seconds_left(self._ended, beats))
        runs = "; ".join(f"{run_id} {beat_words(beat)}" for run_id, beat in beats.items())
        self._say(f"{self._ended}/{self._num_runs}, left {left or '?'}: {runs}")

    def _say(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)


class _Bars:
    """One bar for the study, one for each run under way; a line above them for each end."""

    def __init__(self, progress: Progress, num_runs: int, num_before: int) -> None:
        self._progress, self._num_runs, self._ended = progress, num_runs, num_before
        self._meter = _Meter(num_runs, num_before)
        self._overall = progress.add_task("study", total=num_runs, completed=num_before, words="")
        self._tasks: dict[str, TaskID] = {}

    def finished(self, run_id: str, state: str, reason: str | None) -> None:
        self._ended += 1
        why = f" ({escape(reason)})" if reason else ""
        self._progress.console.print(
            f"run {run_id} [{COLOURS.get(state, 'white')}]{state}[/]{why}", highlight=False
        )
        task = self._tasks.pop(run_id, None)
        if task is not None:
            self._progress.remove_task(task)

    def update(self, beats: Beats) -> None:
        for run_id, beat in beats.items():
            if run_id not in self._tasks:
                self._tasks[run_id] = self._progress.add_task(run_id, total=1.0, words="starts")
            self._progress.update(
                self._tasks[run_id], completed=_fraction(beat), words=beat_words(beat)
            )
        under_way = sum(_fraction(beat) for beat in beats.values())
        left = clock(self._meter.seconds_left(self._ended, beats))
        words = f"{self._ended}/{self._num_runs} runs" + (f", left {left}" if left else "")
        self._progress.update(self._overall, completed=self._ended + under_way, words=words)


class _Meter:
    """Estimates the time left from the share of runs got through since the start."""

    def __init__(self, num_runs: int, num_before: int) -> None:
        self._num_runs, self._num_before = num_runs, num_before
        self._began = time.monotonic()

    def seconds_left(self, ended: int, beats: Beats) -> float | None:
        now = ended + sum(_fraction(beat) for beat in beats.values())
        through = now - self._num_before
        if through < 0.05:
            return None
        return (time.monotonic() - self._began) * (self._num_runs - now) / through


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[words]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        refresh_per_second=4,
    )


def _fraction(beat: Heartbeat) -> float:
    return min(1.0, (beat.step or 0) / max(1, beat.num_steps or 1))
