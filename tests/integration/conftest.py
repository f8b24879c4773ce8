"""A made set for short runs; ranks as processes of their own, forked from one warm process."""

import os
import runpy
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from xvla.config import DataConfig, DomainEntry

MAKE_SET = Path(__file__).parents[1] / "unit" / "xvla" / "make_lerobot.py"


class Ranks:
    """The processes of one attempt at a run; rank i is `children[i]`."""

    def __init__(self, children: list, log: Path) -> None:
        self.children, self.log = children, log
        self.codes: list[int | None] = [None] * len(children)

    @property
    def output(self) -> str:
        """What all ranks printed in this attempt and before."""
        return self.log.read_text()

    def signal(self, number: int, ranks: list[int] | None = None) -> None:
        """Send a signal to some ranks, or to all."""
        self.running()
        for rank in range(len(self.children)) if ranks is None else ranks:
            if self.codes[rank] is None:
                os.kill(self.children[rank].pid, number)

    def running(self) -> bool:
        """Poll; return whether a rank is left."""
        for rank, child in enumerate(self.children):
            if self.codes[rank] is None:
                self.codes[rank] = child.poll()
        return None in self.codes

    def wait(self, timeout_s: float = 600) -> list[int | None]:
        """Return the exit codes, negative for a signal; kill and fail when the time is over."""
        deadline = time.monotonic() + timeout_s
        while self.running():
            if time.monotonic() > deadline:
                self.signal(signal.SIGKILL)
                raise AssertionError(f"ranks still run after {timeout_s} s:\n{self.output}")
            time.sleep(0.02)
        return self.codes

    def wait_for(self, reached: Callable[[], bool], timeout_s: float = 600) -> None:
        """Return once `reached()` holds; fail where the ranks end before."""
        deadline = time.monotonic() + timeout_s
        while not reached():
            assert self.running(), f"the ranks ended with {self.codes}:\n{self.output}"
            assert time.monotonic() < deadline, f"not reached in {timeout_s} s:\n{self.output}"
            time.sleep(0.01)


@pytest.fixture(scope="session")
def rank_server() -> Iterator:
    """A warm process that forks ranks, each with a fault if asked (faulty_train.py)."""
    from jobs.local.launch import ForkServer

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"ranks-{os.getpid()}"
        server = ForkServer(folder, module="faulty_train")
    yield server
    server.close()


@pytest.fixture
def start_ranks(rank_server) -> Iterator[Callable[..., Ranks]]:
    """Return `start(run_yaml, ranks=2, fault="")`; what is left is killed at the end."""
    started: list[Ranks] = []

    def start(run_yaml: Path, *, ranks: int = 2, fault: str = "") -> Ranks:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = str(listener.getsockname()[1])
        log = run_yaml.parent / "train.log"
        shared = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1"}
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "FAULT": fault}
        children = [
            rank_server.start(run_yaml, log, {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(ranks)
        ]
        started.append(Ranks(children, log))
        return started[-1]

    yield start
    for ranks in started:
        ranks.signal(signal.SIGKILL)
        ranks.wait()


@pytest.fixture(scope="session")
def made_data() -> Callable[[Path], DataConfig]:
    """Return a function that writes six episodes below a folder; the data are four of them."""

    def write(root: Path) -> DataConfig:
        runpy.run_path(str(MAKE_SET))["write_set"](root / "sim_panda")
        return DataConfig(
            mixture=[DomainEntry(name="sim_panda", num_episodes=4)],
            anchor_domain="sim_panda",
            root=str(root),
            image_size=96,
            num_views=2,
            text_length=8,
            tokenizer="demo",
            prediction_window_s=1.0,
            augmentation="none",
            eval_starts_per_episode=4,
        )

    return write
