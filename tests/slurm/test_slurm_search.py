"""`scaling search` on a real Slurm: its controller is killed, nothing is lost or done again."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from preloaded import preloaded_python
from slurm_helpers import attempts, log_of, wait_until

from jobs.slurm.submissions import slurm_folder
from scaling.search.runs import search_specs

pytestmark = pytest.mark.slurm
STUDY, TRIALS = "sweeps.prompt_and_window", 4
SHORT = [
    "num_steps=6", "schedule.warmup_steps=1", "engine.eval_every=0", "engine.save_every=6",
    "global_batch_size=2", "data.eval_starts_other=1", "data.eval_starts_per_episode=1",
    "data.start_stride=40", "engine.log_every=3", "data.blind=true", "init.encoder=none",
    "init.encoder_sha256=''",
]  # fmt: skip


class Controller:
    """The command as a user starts it."""

    def __init__(self, folder: Path, *, python: str) -> None:
        self.runs, self.log = folder / "runs", folder / "controller.log"
        words = ["--on", "dev", "--trials", str(TRIALS), "--parallel", "2", "--top", "1",
                 "--repeats", "1", "--score", "val_l1", "--json", "--runs",
                 str(self.runs)]  # fmt: skip
        # Its jobs start with `python`, itself it is the real one.
        code = f"import sys; sys.executable = {python!r}; import scaling.cli as cli"
        code += "; sys.exit(cli.main())"
        self.command = [sys.executable, "-c", code, "search", STUDY, *words, *SHORT]

    def start(self) -> subprocess.Popen:
        with open(self.log, "ab") as log:
            return subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=log)

    def killed_when(self, condition) -> None:
        """Start it and kill it, as `kill -9` does, once the condition holds."""
        process = self.start()
        assert process.stdout is not None
        wait_until(lambda: condition() or process.poll() is not None, every_s=0.05)
        assert process.poll() is None, self.log.read_text()[-3000:]
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()

    def journal(self) -> list[dict]:
        path = self.runs / "_search" / STUDY / "journal.log"
        if not path.exists():
            return []
        whole = [line for line in path.read_text().splitlines(keepends=True) if line[-1] == "\n"]
        return [json.loads(line) for line in whole]

    def tasks(self) -> list[tuple[str, str]]:
        """Return (task, run) of everything ever handed to Slurm."""
        records = sorted(slurm_folder(self.runs).glob("*/submission.json"))
        arrays = [item for path in records for item in json.loads(path.read_text())["arrays"]]
        return [
            (f"{array['job_id']}_{task}", run_id)
            for array in arrays
            for task, run_id in enumerate(array["runs"])
        ]


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    """Return the command, its trainers forked from one preloaded process."""
    with preloaded_python(tmp_path) as python:
        yield Controller(tmp_path, python=python)


def test_a_killed_controller_goes_on_with_its_jobs(slurm, controller: Controller) -> None:
    # First between ask and submit: the journal knows a trial with all its parameters.
    controller.killed_when(lambda: any("run_id" in str(line) for line in controller.journal()))
    # Then between submit and tell, as early as can be: the jobs are in the queue, and it may be
    # that no record of the submission knows them yet.
    controller.killed_when(lambda: len(slurm.jobs()) == 2)
    left_alone = set(slurm.jobs())
    process = controller.start()
    said, _ = process.communicate(timeout=600)
    runs = search_specs(STUDY, controller.runs)
    logs = "\n".join(log_of(controller.runs / spec.run_id)[-1500:] for spec in runs)
    assert process.returncode == 0, controller.log.read_text()[-3000:] + logs
    document = json.loads(said)
    assert document["counts"]["trials"] == document["counts"]["complete"] == TRIALS
    assert len(document["best"]["repeats"]) == 1
    assert len(runs) == TRIALS + 2
    # Every run was handed over once and trained once, those of the dead controllers too.
    tasks = controller.tasks()
    assert sorted(run_id for _, run_id in tasks) == sorted(spec.run_id for spec in runs)
    assert left_alone < {task for task, _ in tasks}
    assert all(len(attempts(controller.runs / spec.run_id)) == 1 for spec in runs)
    assert not slurm.jobs()
