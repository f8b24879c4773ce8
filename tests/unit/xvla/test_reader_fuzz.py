"""Mutated files of each format: a named ValueError or a sound dataset, never anything else."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from make_lerobot import SetSpec, write_set
from make_official import write_agibot, write_v21
from make_official import write_set as write_hdf5
from official_layouts import expected_states

from xvla.data import open_dataset

SEED = 20260
LIMIT_S = 20


def v3(root: Path) -> None:
    write_set(root, SetSpec(lengths=[14, 12], splits={"train": "0:2"}))


def v21(root: Path) -> None:
    write_v21(root, [expected_states("Calvin", n, i) for i, n in enumerate((14, 12))])


MAKERS: dict[str, Callable[[Path], object]] = {
    "lerobot_v3": v3,
    "lerobot_v21": v21,
    "hdf5": lambda root: write_hdf5(root, "robotwin2_clean", (14, 12)),
    "agibot": lambda root: write_agibot(root, (14, 12)),
}


@pytest.fixture(scope="module", params=MAKERS)
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fuzz") / request.param
    MAKERS[request.param](root)
    return root


@pytest.fixture(autouse=True)
def limit() -> Iterator[None]:
    """Turn a hang into a failure."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"reading hangs for {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, stop)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def mutate(content: bytes, generator: np.random.Generator) -> bytes:
    """Flip some bytes, cut the end, zero, double, swap or delete a piece."""
    data = bytearray(content)
    first, last = sorted(generator.integers(0, len(data) + 1, size=2).tolist())
    kind = generator.integers(6)
    if kind == 0:
        for place in generator.integers(0, len(data), size=generator.integers(1, 9)):
            data[place] = generator.integers(256)
    elif kind == 1:
        del data[first:]
    elif kind == 2:
        data[first:last] = bytes(last - first)
    elif kind == 3:
        data[first:first] = data[first:last]
    elif kind == 4:
        data[first:last] = data[first:last][::-1]
    else:
        del data[first:last]
    return bytes(data)


def read_everything(root: Path) -> str:
    """Return "read" after reading all of a sound set, or the ValueError that it names."""
    try:
        dataset = open_dataset(root)
        for episode in dataset.episodes:
            times, states, task = dataset.episode(episode.id)
            assert len(times) == len(states) == episode.length > 0
            assert states.shape[1] == 20
            assert np.isfinite(states).all()
            assert np.isfinite(times).all()
            assert (np.diff(times) > 0).all()
            assert states.any()
            assert task
            for view in dataset.views:
                frames = dataset.frames(episode.id, view, range(episode.length))
                assert frames.dtype == np.uint8
                assert len(frames) == episode.length
    except ValueError as error:
        return str(error)
    return "read"


def fuzz(original: Path, folder: Path, rounds: int) -> list[str]:
    """Mutate one file a round; return what reading said."""
    generator = np.random.default_rng(SEED)
    files = sorted(path.relative_to(original) for path in original.rglob("*") if path.is_file())
    said = []
    for number in range(rounds):
        name = files[number % len(files)]
        root = folder / "set"
        shutil.copytree(original, root, copy_function=os.link)
        content = mutate((root / name).read_bytes(), generator)
        (root / name).unlink()
        (root / name).write_bytes(content)
        signal.alarm(LIMIT_S)
        text = read_everything(root)
        signal.alarm(0)
        assert text.strip(), f"round {number}, {name}: an error without a word"
        said.append(text)
        shutil.rmtree(root)
    return said


def test_untouched_sets_read(original: Path) -> None:
    assert read_everything(original) == "read"


def test_mutated_files(original: Path, tmp_path: Path) -> None:
    said = fuzz(original, tmp_path, rounds=30)
    assert sum(text != "read" for text in said) >= 15


def test_heap_that_hangs_the_hdf5_library(tmp_path: Path) -> None:
    """A free object of size 0 makes the library walk on the spot for ever."""
    root = tmp_path / "set"
    write_hdf5(root, "robotwin2_clean", (14, 12))
    file = root / "episodes/1.hdf5"
    content = bytearray(file.read_bytes())
    place, heaps = content.find(b"GCOL"), 0
    while place >= 0:
        content[place + 16 : place + 32] = bytes(16)
        place, heaps = content.find(b"GCOL", place + 4), heaps + 1
    assert heaps
    file.write_bytes(bytes(content))
    signal.alarm(LIMIT_S)
    said = read_everything(root)
    assert "1.hdf5, episode 1, language_instruction: its heap of variable-length" in said


@pytest.mark.long
def test_many_mutated_files(original: Path, tmp_path: Path) -> None:
    said = fuzz(original, tmp_path, rounds=1500)
    assert sum(text != "read" for text in said) >= 750
