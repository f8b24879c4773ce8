"""Starts the local executor in the background, where closing the terminal does not reach it."""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from jobs.executor import Detached
from jobs.handover import choose_runs, prepare
from jobs.local.launch import start_command
from jobs.local.loop import submit
from jobs.local.queue import forget_dead, local_folder, queue_path, write_queue
from jobs.queue import submission_lock
from scaling.messages import print_messages
from scaling.runs.folder import Run
from scaling.runs.process import this_host
from scaling.spec import RunSpec

USAGE = "usage: python -m jobs.local.detach REQUEST.json"


def submit_detached(
    specs: Sequence[RunSpec],
    runs_dir: str | Path,
    *,
    parallel: int = 2,
    retry_failed: bool = True,
    command: Sequence[str] | None = None,
) -> Detached:
    """Start `submit` for these runs in the background and return at once.

    `command` replaces the background program (by default `python -m jobs.local.detach`); it has to
    call `jobs.local.loop.submit` on the same runs, in the process started here, and keep
    running until it has. Runs that wait show as queued from now on, and can be cancelled.
    """
    specs = list(specs)
    runs_dir = Path(runs_dir).absolute()
    prepare(specs, runs_dir)
    study = specs[0].study if specs else ""
    log = local_folder(runs_dir) / f"{study or 'runs'}.log"
    with submission_lock(runs_dir):
        forget_dead(runs_dir)
        ours = choose_runs(specs, runs_dir, retry_failed=retry_failed)
        todo = [spec.run_id for spec in ours.todo]
        pid = None
        if todo:
            command = command or _program(runs_dir, parallel, todo, log)
            pid = start_command(command, log, {}).pid
            write_queue(queue_path(runs_dir, pid), todo, pid=pid)
    return Detached(
        study=study,
        submitted=len(todo),
        **ours.skipped(),
        pid=pid,
        host=this_host(),
        log=str(log),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the executor over the run ids of a request file; return 1 unless all runs are done."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if len(arguments) != 1:
        print(USAGE, file=sys.stderr)
        return 2
    print_messages()
    path = Path(arguments[0])
    request = json.loads(path.read_text())
    path.unlink()
    runs_dir = Path(request["runs_dir"])
    specs = [Run.of(runs_dir, run_id).spec() for run_id in request["run_ids"]]
    worked = submit(specs, runs_dir, parallel=request["parallel"])
    return int(worked.done < worked.submitted)


def _program(runs_dir: Path, parallel: int, run_ids: list[str], log: Path) -> list[str]:
    """Write the request of a background process of ours and return its command."""
    request = {"runs_dir": str(runs_dir), "parallel": parallel, "run_ids": run_ids}
    path = log.with_name(f"request-{os.getpid()}-{time.time_ns()}.json")
    path.write_text(json.dumps(request))
    return [sys.executable, "-m", "jobs.local.detach", str(path)]


if __name__ == "__main__":
    sys.exit(main())
