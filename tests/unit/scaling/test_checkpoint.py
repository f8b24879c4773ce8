"""Which step folders are kept and which are trusted."""

import json
from pathlib import Path

import pytest

from scaling.spec import EngineConfig
from scaling.training.checkpoint import (
    _prune,
    _remove_after,
    file_sha256,
    is_disk_full,
    newest_valid,
    step_name,
    verify,
)


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


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "manifest.json is not readable"),
        ("[1]", "manifest.json is not readable"),
        ('{"sha256": ["trainer.json"]}', "manifest.json is not readable"),
        ('{"sha256": null}', "manifest.json is not readable"),
        ('{"sha256": {}}', "manifest.json does not list trainer.json"),
        ('{"sha256": {"trainer.json": 5}}', "trainer.json does not match its sha256"),
    ],
)
def test_a_manifest_of_garbage_is_passed_over(tmp_path: Path, text: str, problem: str) -> None:
    good, bad = (step_folder(tmp_path, step) for step in (1, 2))
    (bad / "manifest.json").write_text(text)
    assert verify(bad) == problem
    assert newest_valid(tmp_path) == good


def test_what_is_no_step_folder_is_left_alone(tmp_path: Path) -> None:
    good = step_folder(tmp_path, 5)
    copied = tmp_path / "step_0000005.old"
    copied.mkdir()
    (tmp_path / "step_0000009").write_text("a file")
    assert newest_valid(tmp_path) == good
    _prune(tmp_path, EngineConfig(keep_last=1))
    assert copied.exists()


def test_damaged_folders_do_not_push_out_what_is_saved_after_them(tmp_path: Path) -> None:
    """A run that fell back to step 1 saves step 2 beside the damaged 3 and 4."""
    for step in (1, 2, 3, 4):
        step_folder(tmp_path, step)
    _remove_after(tmp_path, 2)
    _prune(tmp_path, EngineConfig(keep_last=2))
    assert sorted(tmp_path.iterdir()) == [tmp_path / step_name(step) for step in (1, 2)]


def test_a_damaged_state_is_not_the_best(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        step_folder(tmp_path, step, val_l1=0.1 * step)
    (tmp_path / step_name(1) / "trainer.json").write_text("{")
    _prune(tmp_path, EngineConfig(keep_last=1, keep_best=True))
    assert sorted(tmp_path.iterdir()) == [tmp_path / step_name(step) for step in (2, 3)]


def test_a_full_disk_is_known_by_its_words_too() -> None:
    """As xvla.pretrained wraps what safetensors raises, without an errno."""
    wrapped = OSError("cannot write model.safetensors")
    wrapped.__cause__ = RuntimeError("I/O error: No space left on device (os error 28)")
    assert is_disk_full(wrapped)
    assert is_disk_full(OSError("4096 requested and 512 written"))  # numpy's
    assert not is_disk_full(OSError("cannot write model.safetensors"))
