"""What the Slurm tests share: a private cluster, runs of seconds, readers of run folders."""

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.slurm.commands import Job, parse_squeue
from scaling.config import with_overrides
from scaling.spec import RunSpec

SCRIPT = Path(__file__).resolve().parents[2] / "jobs" / "slurm" / "dev_cluster.sh"
# What a run says about itself rather than about its result.
OWN = ("time", "compute/gpu_hours")


def wait_until(condition: Callable[[], Any], *, timeout_s: float = 300.0, every_s: float = 0.25):
    """Return the first true value of a condition; fail when it does not come."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{condition} did not come true in {timeout_s} s"
        time.sleep(every_s)
    return value


def free_base_port() -> int:
    """Return a base whose ports nobody uses: another cluster may be up on this machine."""
    for base in random.sample(range(16000, 30000, 50), 200):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for offset in (17, 19, 21, 22):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", base + offset))
            return base
    raise RuntimeError("no free ports between 16000 and 30000 for an emulated Slurm")


class Slurm:
    """The emulated cluster and its commands."""

    def __init__(self, root: Path, **knobs: str) -> None:
        self.root = root
        ports = {"SLURM_DEV_BASEPORT": str(free_base_port())}
        self.environment = {"SLURM_DEV_ROOT": str(root)} | ports | knobs

    def do(self, *words: str, timeout_s: float = 120) -> str:
        """Run a verb of the cluster script, e.g. ("kill-node", "node2")."""
        done = subprocess.run(
            ["bash", str(SCRIPT), *words], env=os.environ | self.environment,
            capture_output=True, text=True, timeout=timeout_s,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def call(self, *words: str) -> str:
        """Run a Slurm command."""
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout

    def jobs(self) -> dict[str, Job]:
        """Return all tasks in the queue by "ARRAY_TASK"."""
        return parse_squeue(self.call("squeue", "-h", "-r", "-o", "%F|%K|%T|%r"))

    def occupy(self, seconds: int = 8) -> str:
        """Submit a job of the high partition that takes both nodes whole; return its id."""
        words = ["--parsable", "-phigh", "-N2", "--exclusive", "--output=/dev/null"]
        return self.call("sbatch", *words, f"--wrap=sleep {seconds}").strip()

    def settle(self) -> None:
        """Have slurmctld write its jobs to disk, as it does some seconds after a change."""
        asked = time.time()
        for task in self.jobs():
            self.call("scontrol", "update", f"JobId={task}", "Comment=kept")
        wait_until(lambda: (self.root / "state" / "job_state").stat().st_mtime > asked)

    def quiet(self) -> None:
        """Cancel everything, and bring both nodes back."""
        for node in ("node1", "node2"):
            self.do("start-node", node)
        if not self._emptied(within_s=30):
            # A task of a node that crashed can stay in COMPLETING until its node is set down.
            for state in ("state=down reason=stuck", "state=resume"):
                self.call("scontrol", "update", "nodename=node[1-2]", *state.split())
            assert self._emptied(within_s=120), self.call("squeue")
        wait_until(lambda: "idle" in self.call("sinfo", "-h", "-o", "%T").splitlines()[0])

    def _emptied(self, *, within_s: float) -> bool:
        deadline = time.monotonic() + within_s
        while self.jobs() and time.monotonic() < deadline:
            self.call("scancel", "-u", str(os.getuid()))
            time.sleep(0.5)
        return not self.jobs()


def open_slurm(**knobs: str) -> Iterator[Slurm]:
    """Start a cluster in a folder of its own, and stop it whatever happens."""
    if os.getuid() != 0:
        pytest.skip("the emulated Slurm needs root")
    # Short: the paths of sockets end at 108 characters.
    root = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    slurm = Slurm(root, **knobs)
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(root / "etc" / "slurm.conf")
    try:
        slurm.do("up")
        yield slurm
    finally:
        slurm.do("down")
        shutil.rmtree(root, ignore_errors=True)
        os.environ.pop("SLURM_CONF", None)
        if before is not None:
            os.environ["SLURM_CONF"] = before


def small_run(
    seed: int = 0, *, num_steps: int = 60, size: str = "tiny-h16", blind: bool = True
) -> RunSpec:
    """Return a run of a small model on three shipped episodes; `blind`: images zeroed."""
    from sweeps._mixtures import simulated_run

    spec = simulated_run(size, domains=1, episodes=3, blind=blind, seed=seed)
    short = (
        f"num_steps={num_steps}", f"engine.save_every={max(1, num_steps // 10)}",
        "global_batch_size=2", "data.eval_starts_per_episode=1", "data.eval_starts_other=1",
        "data.start_stride=40", "init.encoder=none", "init.encoder_sha256=''",
        "engine.log_every=5", "engine.eval_every=0", "engine.zero_stage=2", "study=slurm_test",
    )  # fmt: skip
    return with_overrides(spec, list(short)).validate()


def attempts(run_dir: Path) -> list[dict[str, Any]]:
    """Return the attempts of a run, oldest first."""
    paths = sorted((run_dir / "attempts").glob("*.json"))
    return [json.loads(path.read_text()) for path in paths]


def step_of(run_dir: Path) -> int:
    """Return the last step in the heartbeat, 0 before it."""
    try:
        return int(json.loads((run_dir / "heartbeat.json").read_text())["step"])
    except (OSError, ValueError):
        return 0


def log_of(run_dir: Path) -> str:
    """Return the run's train.log, "" before it."""
    log = run_dir / "train.log"
    return log.read_text() if log.exists() else ""


def result(run_dir: Path) -> dict[str, float]:
    """Return the final metrics that two runs of one spec share."""
    metrics = json.loads((run_dir / "DONE").read_text())["metrics"]
    return {name: value for name, value in metrics.items() if name not in OWN}


def losses(run_dir: Path) -> dict[int, float]:
    """Return step -> training loss; a replayed step counts with its last line."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss/train"] for line in lines if "loss/train" in line}
