"""docs/own_robot.md: its study and each of its commands, in order, on a set drawn here."""

import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from scipy.spatial.transform import Rotation

from scaling.spec import load_spec
from xvla.data.rotation import rot6d_to_matrix

DATA = "data/chunk-000/file-000.parquet"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FEW = ["num_steps=4", "data.start_stride=20", "data.eval_starts_per_episode=2"]


@pytest.fixture(scope="module")
def page(repository: Path) -> list[tuple[str, str]]:
    """Return the page's blocks, (language, text), in order."""
    return FENCE.findall((repository / "docs" / "own_robot.md").read_text())


@pytest.fixture(scope="module")
def folder(page, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the recordings and the page's study, and nothing else."""
    folder = tmp_path_factory.mktemp("own")
    made = runpy.run_path(str(repository / "tests" / "unit" / "xvla" / "make_lerobot.py"))
    spec = made["SetSpec"](lengths=[24, 26, 28] * 4, splits={"train": "0:12"}, size=64)
    _to_euler(made["write_set"](folder / "recordings", spec))
    (study,) = [text for language, text in page if language == "python"]
    (folder / "my_study.py").write_text(study)
    return folder


def _to_euler(root: Path) -> None:
    """Write the states as an arm has them: xyz in m, Euler angles in rad, gripper."""
    table = pq.read_table(root / DATA, partitioning=None)
    info = json.loads((root / "meta/info.json").read_text())
    for key in ("observation.state", "action"):
        states = np.array(table.column(key).to_pylist())
        angles = Rotation.from_matrix(rot6d_to_matrix(states[:, 3:9])).as_euler("xyz")
        own = np.concatenate([states[:, :3], angles, states[:, 9:10]], axis=1).astype(np.float32)
        column = pa.array(own.tolist(), type=pa.list_(pa.float32()))
        table = table.set_column(table.column_names.index(key), key, column)
        info["features"][key]["shape"] = [7]
    pq.write_table(table, root / DATA)
    (root / "meta/info.json").write_text(json.dumps(info))


def _run(line: str, folder: Path) -> str:
    words = shlex.split(line)
    assert words[0] == "scaling"
    if words[1] in ("plan", "submit", "status", "best"):
        words += FEW
    if words[1] == "finetune":
        words[words.index("--from") + 1] += "," + ",".join(FEW)
        words += [*FEW, "optim.freeze_steps=2"]
    done = subprocess.run(
        [sys.executable, "-m", "scaling", *words[1:]],
        capture_output=True, text=True, cwd=folder, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_commands_of_the_page(page: list[tuple[str, str]], folder: Path) -> None:
    lines = [line for language, text in page if language == "bash" for line in text.splitlines()]
    said = {line: _run(line, folder) for line in lines}
    assert len(said) == 10

    written = yaml.safe_load((folder / "recordings" / "mapping.yaml").read_text())
    (shown,) = [yaml.safe_load(text) for language, text in page if language == "yaml"]
    assert {key: written[key] for key in shown} == shown  # the page's example is what came out

    specs = [load_spec(path) for path in sorted((folder / "runs").glob("*/run.yaml"))]
    ids = {spec.stage: spec.data.domain_ids for spec in specs}
    assert ids == {"pretrain": {"my_arm": 20}, "finetune": {"my_arm": 20, "my_other_arm": 21}}
    (tuned,) = [spec for spec in specs if spec.stage == "finetune"]
    inspected = json.loads(said["scaling data inspect recordings"])
    assert tuned.num_unique_episodes == inspected["splits"]["train"]
    last = json.loads(said[lines[-1]])
    assert last["run_id"] == tuned.run_id
    assert 0 < last["val_l1_after"] != last["val_l1_before"]
