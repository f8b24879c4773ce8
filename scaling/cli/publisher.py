"""Publishes a study while it runs, in a process of its own that training never waits for."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path

from scaling.cli.arguments import print_news, store_of, study_runs
from scaling.tracking.publish import publish_while

FIRST_S = 5.0  # to let the first runs start
EVERY_S = 30.0
NICE = 10  # a tenth of what training gets on a busy machine
AWAY_S = 0.5  # how soon it leaves when the program that it serves has gone


@contextmanager
def published_live(study: str, overrides: Sequence[str], runs_dir: Path) -> Iterator[None]:
    """Publish a study every 30 s while the block runs; the block publishes the rest itself.

    Whatever goes wrong with MLflow is one warning. The process ends with this one, however that
    ends; as publishing can be repeated, it is simply killed.
    """
    command = [sys.executable, "-m", "scaling.cli.publisher", str(os.getpid())]
    try:
        process = subprocess.Popen(
            [*command, str(runs_dir), study, *overrides],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the program that it serves
        )
    except OSError as error:
        print_news(f"warning: not published while it runs: {error}")
        yield
        return
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main(given: Sequence[str]) -> None:
    """Publish a study until every run has ended or the process served, this one's parent, has gone.

    `given`: its number, the folder of runs, STUDY, overrides.
    """
    parent, runs_dir, study, *overrides = given
    os.nice(NICE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    folder = Path(runs_dir)
    pauses_s = chain([FIRST_S], repeat(EVERY_S))
    publish_while(
        lambda: _parent_lives(next(pauses_s), int(parent)),
        study_runs(study, overrides, folder),
        folder,
        tracking_uri=store_of(folder),
        say=print_news,
    )


def _parent_lives(wait_s: float, parent: int) -> bool:
    """Wait; return at once, with False, when the parent has gone."""
    until = time.monotonic() + wait_s
    while os.getppid() == parent and time.monotonic() < until:
        time.sleep(AWAY_S)
    return os.getppid() == parent


if __name__ == "__main__":
    main(sys.argv[1:])
