"""The digest of the code that trains: changed by what is done, not by where or how it is said."""

from pathlib import Path

import pytest

from scaling import code_digest as module
from scaling.code_digest import digest_of, loaded_files, same_runs

TRAIN = '''"""Trains."""

import json

from scaling.loss import loss


def main():
    """Advance a run."""
    from xvla.model import act  # late

    return json.dumps(loss(act()))  # said at the end
'''
LOSS = "SCALE = 2\n\n\ndef loss(x):\n    return SCALE * x\n"
MODEL = '"""A model."""\n\n\ndef act():\n    return 1\n'
FILES = {
    "scaling/train.py": TRAIN,
    "scaling/loss.py": LOSS,
    "xvla/model.py": MODEL,
    "scaling/report.py": "A = 1\n",
}


def _digest(root: Path, **changes: str) -> str:
    changed = {name.replace("__", "/") + ".py": text for name, text in changes.items()}
    for name, text in (FILES | changed).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return digest_of(root)


@pytest.mark.parametrize(
    "changes",
    [
        {"scaling__report": "A = 2\n"},
        {"xvla__model": MODEL.replace("A model", "Another account of it")},
        {"scaling__train": TRAIN.replace("  # late", "").replace("Advance a run.", "Go on.")},
        {
            "scaling__train": TRAIN.replace("scaling.loss", "scaling.parts.objective"),
            "scaling__parts__objective": LOSS,
        },
        {"scaling__loss": "from xvla.model import SCALE\n" + LOSS[12:],
         "xvla__model": "SCALE = 2\n" + MODEL},
    ],
    ids=["not loaded", "docstring", "comment", "module moved", "statement moved"],
)  # fmt: skip
def test_prose_and_places_do_not_count(tmp_path: Path, changes: dict[str, str]) -> None:
    assert _digest(tmp_path / "a") == _digest(tmp_path / "b", **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"scaling__loss": LOSS.replace("2", "3")},
        {"xvla__model": MODEL.replace("return 1", "return '1'")},
        {"scaling__train": TRAIN.replace("loss(act())", "act()")},
    ],
)
def test_what_is_done_counts(tmp_path: Path, changes: dict[str, str]) -> None:
    assert _digest(tmp_path / "a") != _digest(tmp_path / "b", **changes)


def test_the_training_loop_and_the_model_are_read_and_reports_are_not(repository: Path) -> None:
    names = {path.relative_to(repository).as_posix() for path in loaded_files(repository)}
    assert {"scaling/train.py", "scaling/training/trainer.py", "xvla/transformer.py"} <= names
    assert not any(name.startswith(("scaling/tracking", "scaling/cli")) for name in names)


def test_equal_digests_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAME_RUNS", {"a": "b", "b": "c"})
    monkeypatch.setattr(module, "SAME_IN_FP32", {"c": "e"})
    assert same_runs("a", "c", precision="bf16")
    assert same_runs("b", "a", precision="fp32")
    assert not same_runs("a", "d", precision="fp32")
    assert same_runs("a", "e", precision="fp32")
    assert not same_runs("a", "e", precision="bf16")
