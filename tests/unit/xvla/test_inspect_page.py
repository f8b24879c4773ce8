"""The page of `data inspect --html`: self-contained, frames and paths drawn, problems named."""

import re
from pathlib import Path

import numpy as np
import pytest
from make_lerobot import SetSpec, write_set
from make_official import KEYS, write_v21
from make_official import write_set as write_official

from scaling.cli import main
from xvla.data.inspect import inspect_dataset
from xvla.data.inspect_page import write_page


def test_page_of_an_official_set(tmp_path: Path) -> None:
    root = write_official(tmp_path / "set", "robotwin2_clean", (40, 35))
    document = inspect_dataset(root)
    assert (document["format"], document["episodes"], document["frames"]) == ("xvla", 2, 75)
    assert (document["fps"], document["views"], document["problems"]) == (30.0, list(KEYS), [])
    write_page(root, document, tmp_path / "pages/page.html")
    page = (tmp_path / "pages/page.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2 * 2 * 6
    # Two arms: a path each from above, three lines each over time.
    assert page.count("<polyline") == 2 * (2 + 2 * 3)
    assert "lift the red cube" in page
    assert not re.search(r"https?://|<script|src=\"(?!data:)", page)


def test_page_of_a_set_with_problems(tmp_path: Path) -> None:
    root = write_set(tmp_path / "sim_panda", SetSpec(nan_in="action", task_text="<b> & cube"))
    write_page(root, inspect_dataset(root), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "1 problems" in page
    assert "episode 1, action: NaN or infinite" in page
    assert "&lt;b&gt; &amp; cube" in page
    assert "<b> & cube" not in page


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    states = [np.tile([0.1, 0.2, 0.3, 1, 0, 0, 1, 0, 0, 0], (20, 2)) for _ in range(2)]
    root = write_v21(tmp_path / "v21", states)
    page = tmp_path / "page.html"
    assert main(["data", "inspect", str(root), "--json", "--html", str(page)]) == 0
    assert '"format": "lerobot_v21", "episodes": 2, "frames": 40' in capsys.readouterr().out
    assert page.is_file()
    (root / "data/chunk-000/episode_000001.parquet").unlink()
    assert main(["data", "inspect", str(root), "--html", str(page)]) == 1
    assert "episode_000001.parquet, episode 1: missing" in page.read_text()
    out = tmp_path / "out"
    assert main(["data", "convert", str(tmp_path / "nowhere"), "--out", str(out)]) == 2
    assert not out.exists()


def test_commands_on_data_refuse_what_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = write_official(tmp_path / "set", "Bridge", (24,))
    file = tmp_path / "file"
    file.write_text("")
    new, nested = str(tmp_path / "new"), str(file / "x")
    convert = ["convert", str(root), "--out"]
    simulate = ["simulate", "sim_panda", "--out", new, "--episodes"]
    encoder = ["pretrain-encoder", "--frames", new, "--out", new, "--steps"]
    for command, said in (
        (["inspect", str(root), "--html", str(tmp_path)], "is a folder; give the file of the page"),
        (["inspect", str(root), "--html", nested], f"{file} is a file, not a folder"),
        ([*convert, nested], f"{file} is a file, not a folder"),
        ([*convert, new, "--crf", "99"], "crf 99: give h264's rate factor, 0 (exact) to 51"),
        ([*simulate, "1", "--seed", "-1"], "seed -1: must be 0 or more"),
        ([*simulate, "train=1,train=2"], "'train=1,train=2' is neither a number nor train=N"),
        ([*simulate, "train=1,=2"], "'train=1,=2' is neither a number nor train=N"),
        ([*encoder, "0"], "--steps 0 --batch-size 32: both must be 1 or more"),
    ):
        assert main(["data", *command]) == 2
        assert said in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "set"]
