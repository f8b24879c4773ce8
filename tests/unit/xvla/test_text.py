"""Tokenizers: fixed length, BART's special ids, the shipped one and the pretrained one's loader."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from xvla.data.text import DEMO_TOKENIZER, build_tokenizer, train_tokenizer


def test_shipped_tokenizer() -> None:
    tokenizer = build_tokenizer("demo")
    assert tokenizer.vocab_size <= 512
    row = tokenizer.encode("lift the red cube", 12)
    assert row.dtype == np.int64
    assert row.shape == (12,)
    used = row[row != 1]
    assert (used[0], used[-1]) == (0, 2)
    assert row.tolist() == used.tolist() + [1] * (12 - len(used))
    assert len(used) < 10
    assert not np.array_equal(row, tokenizer.encode("lift the green cube", 12))


def test_truncation_keeps_the_end_token() -> None:
    row = build_tokenizer("demo").encode("zzz " * 40, 8)
    assert row.shape == (8,)
    assert (row[0], row[-1]) == (0, 2)
    assert 1 not in row


def test_any_text_survives_bytewise() -> None:
    from tokenizers import Tokenizer as Backend

    backend = Backend.from_file(str(DEMO_TOKENIZER))
    for text in ("Öffne die Tür!", "把杯子拿起来", "pick\tup  2 cubes \U0001f916"):
        ids = build_tokenizer("demo").encode(text, 100)
        assert backend.decode(ids[ids != 1].tolist()) == text


def test_shipped_tokenizer_is_the_one_of_the_simulated_instructions(tmp_path: Path) -> None:
    """After a change of the templates: train_tokenizer(instructions, DEMO_TOKENIZER)."""
    from xvla.sim.domains import TASKS

    instructions = [
        template.format(*colours)
        for task in TASKS.values()
        for colours in itertools.product(*(thing.colours for thing in task.objects))
        for template in task.templates
    ]
    trained = tmp_path / "tokenizer.json"
    train_tokenizer(reversed(instructions), trained)
    shipped = json.loads(DEMO_TOKENIZER.read_text())
    assert json.loads(trained.read_text())["model"] == shipped["model"]


def test_pretrained_tokenizer_from_a_folder(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    train_tokenizer(["push the button"], tmp_path / "raw.json")
    folder = tmp_path / "bart"
    PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "raw.json"),
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
    ).save_pretrained(folder)
    tokenizer = build_tokenizer(str(folder))
    row = tokenizer.encode("push the button", 10)
    assert (
        row.tolist()
        == train_tokenizer(["push the button"], tmp_path / "b.json")
        .encode("push the button", 10)
        .tolist()
    )
    assert tokenizer.encode("push " * 30, 6).shape == (6,)


def test_tokenizer_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"cannot be loaded \(.*allowed: 'demo'") as caught:
        build_tokenizer(str(tmp_path / "nothing"))
    assert "\n" not in str(caught.value)
