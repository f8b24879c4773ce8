"""Which step folders are kept and which are trusted."""

import json
from pathlib import Path

import pytest

from scaling.spec import EngineConfig
from scaling.training.checkpoint import _prune, file_sha256, newest_valid, step_name, verify


def step_folder(folder: Path, step: int, val_l1: float | None = None) -> Path:
    path = folder / step_name(step)
    path.mkdir()
    (path / "trainer.json").write_text(json.dumps({"step": step, "val_l1": val_l1}))
    digests = {"trainer.json": file_sha256(path / "trainer.json")}
    (path / "manifest.json").write_text(json.dumps({"step": step, "sha256": digests}))
    return path


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (EngineConfig(keep_last=2), [9, 10]),
        (EngineConfig(keep_last=0), [10]),
        (EngineConfig(keep_last=1, keep_every=4), [4, 8, 10]),
        (EngineConfig(keep_last=1, keep_steps=[3, 5]), [3, 5, 10]),
        (EngineConfig(keep_last=1, keep_best=True), [6, 10]),
        (EngineConfig(keep_last=1, keep_every=5, keep_steps=[1], keep_best=True), [1, 5, 6, 10]),
    ],
)
def test_kept(tmp_path: Path, keep: EngineConfig, expected: list[int]) -> None:
    errors = {2: 0.5, 4: 0.3, 6: 0.0, 8: 0.2}
    for step in range(1, 11):
        step_folder(tmp_path, step, errors.get(step))
    _prune(tmp_path, keep)
    assert sorted(tmp_path.iterdir()) == [tmp_path / step_name(step) for step in expected]


def test_newest_valid_passes_over_what_is_damaged(tmp_path: Path, capsys) -> None:
    good, changed, torn, empty = (step_folder(tmp_path, step) for step in (1, 2, 3, 4))
    (changed / "trainer.json").write_text("{}")
    (torn / "manifest.json").write_text('{"sha')
    (empty / "trainer.json").unlink()
    assert newest_valid(tmp_path) == good
    said = capsys.readouterr().err.splitlines()
    assert [line.split(": ", 2)[2] for line in said] == [
        "trainer.json is missing",
        "manifest.json is not readable",
        "trainer.json does not match its sha256",
    ]
    assert verify(good) is None
