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
