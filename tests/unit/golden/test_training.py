"""Two training steps through `scaling train`: losses bit for bit, and the files a run leaves."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from golden_files import REPOSITORY, WRITING, check_json, machine, read_golden

STEPS = ("num_steps=2", "engine.eval_every=1", "engine.save_every=1")
# The blind run has no images; the sighted one reads them through the shipped encoder.
RUNS = {
    "blind": STEPS,
    "sighted": (
        *STEPS,
        "data.blind=False",
        "init.encoder=simulated",
        "engine.cache_features=False",
    ),
}
CLOCKS = ("time", "attempt", "throughput/samples_per_s", "throughput/samples_per_s_per_device",
          "data_wait_percent", "memory/peak_active_gib", "mfu_percent")  # fmt: skip
# Half of the time of so short a run goes into importing other people's packages: once is enough.
FORK_AND_TRAIN = """
import os, sys
import deepspeed, transformers.models.bart.modeling_bart
from pathlib import Path
from scaling.cli import main
from xvla.data.readers import formats

def train(run_yaml):
    real, note = formats._open, Path(run_yaml).parents[1] / "opened"
    def noted(path, *rest):
        with note.open("a") as file:
            print(Path(path).name, file=file)
        return real(path, *rest)
    formats._open = noted
    code = main(["train", run_yaml])
    sys.stdout.flush()
    os._exit(code)

children = [os.fork() or train(run_yaml) for run_yaml in sys.argv[1:]]
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
sys.exit(f"exit codes {codes}" if any(codes) else 0)
"""
_finished: dict[str, Path] = {}


@pytest.fixture
def trained(make_run: Callable[..., Path]) -> dict[str, Path]:
    """Return the folders of the two finished runs, trained side by side by the first caller."""
    if not _finished:
        paths = {name: make_run(*words, folder=name) for name, words in RUNS.items()}
        _train(list(paths.values()))
        _finished.update({name: path.parent for name, path in paths.items()})
    return _finished


def test_two_steps_lose_what_they_always_lost(trained: dict[str, Path]) -> None:
    found = {name: _numbers(folder) for name, folder in trained.items()}
    here = machine("torch", "numpy", "deepspeed")
    golden = here if WRITING else read_golden("training.json")["machine"]
    # A sum of float32 is added up in another order by other vector units or another torch, so only
    # the machine that wrote the golden has every bit of it.
    rel = 0.0 if golden == here else 1e-5
    check_json("training.json", {"machine": golden} | found, rel=rel)


def test_a_finished_run_leaves_the_files_it_always_left(trained: dict[str, Path]) -> None:
    check_json("run_files.json", {name: _outline(folder) for name, folder in trained.items()})


def _train(paths: list[Path]) -> None:
    """Call `scaling train` on every run, each in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", FORK_AND_TRAIN, *map(str, paths)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, f"`scaling train`: {done.stdout[-2000:]}"


def _numbers(folder: Path) -> dict[str, Any]:
    """Return what a run learned, less what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for name in CLOCKS:
            line.pop(name, None)
    return {"lines": lines, "final": json.loads((folder / "DONE").read_text())["metrics"]}


def _outline(folder: Path) -> dict[str, Any]:
    """Return the names of a run's files, and the keys or columns of each that has any."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _keys_in(path) for path in files}


def _keys_in(path: Path) -> Any:
    if path.suffix == ".parquet":
        table = pd.read_parquet(path)
        return {column: str(kind) for column, kind in table.dtypes.items()}
    if path.suffix == ".jsonl":
        return [list(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".json" or path.name == "DONE":
        return _keys(json.loads(path.read_text()))
    return path.read_text() if path.name == "latest" else None


def _keys(value: Any) -> Any:
    """Return a document with the type of each leaf in its place."""
    if isinstance(value, dict):
        return {key: _keys(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_keys(item) for item in value[:1]]
    return type(value).__name__


def test_a_run_opens_each_of_its_sets_once(trained: dict[str, Path]) -> None:
    """To verify, to fit, to train on and to validate with: one mixture, handed around."""
    for folder in trained.values():
        assert (folder.parent / "opened").read_text().split() == ["sim_kinova3_dual"]
