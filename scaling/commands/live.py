"""Publishes a study while it runs, in a process of its own that training never waits for."""

import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from scaling.commands.common import expand, tracking_uri
from scaling.describe import describe
from scaling.tracking import publish

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
    command = [sys.executable, "-m", "scaling.commands.live", str(os.getpid())]
    try:
        process = subprocess.Popen(
            [*command, str(runs_dir), study, *overrides],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the program that it serves
        )
    except OSError as error:
        print(f"warning: not published while it runs: {error}", file=sys.stderr)
        yield
        return
    try:
        yield
    finally:
        process.kill()
        process.wait()


def follow(arguments: Namespace, runs_dir: Path, *, parent: int) -> None:
    """Publish every 30 s until every run has ended or `parent` is gone; warn once."""
    uri, warned, pause_s = tracking_uri(runs_dir), False, FIRST_S
    specs = expand(arguments)
    while _parent_lives(pause_s, parent):
        pause_s = EVERY_S
        try:
            total = publish(specs, runs_dir, tracking_uri=uri, describe=describe)
        except (RuntimeError, OSError, ValueError) as error:
            if not warned:
                text = f"warning: not published while it runs: {error}; trying again"
                print(text, file=sys.stderr, flush=True)
            warned = True
            continue
        if not total["unfinished"] + total["planned"]:
            return


def main(words: Sequence[str]) -> None:
    """Follow a study: the number of the process served, the folder of runs, STUDY, overrides."""
    parent, runs_dir, study, *overrides = words
    os.nice(NICE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    arguments = Namespace(study=study, overrides=overrides, runs=runs_dir)
    follow(arguments, Path(runs_dir), parent=int(parent))


def _parent_lives(wait_s: float, parent: int) -> bool:
    """Wait; return at once, with False, when the parent has gone."""
    until = time.monotonic() + wait_s
    while os.getppid() == parent and time.monotonic() < until:
        time.sleep(AWAY_S)
    return os.getppid() == parent


if __name__ == "__main__":
    main(sys.argv[1:])
