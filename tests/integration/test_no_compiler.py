"""Two ranks of ZeRO-2 train where no C++ compiler can be found: plain gloo, nothing is built."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration


def test_two_ranks_train_without_a_compiler(make_run, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sh").symlink_to("/bin/sh")
    run_yaml = make_run("engine.zero_stage=2", "resources.processes_per_node=2")
    environment = {"PATH": str(tools), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1",
                   "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}  # fmt: skip
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                "--nproc-per-node=2", "-m", "scaling.train", str(run_yaml)]  # fmt: skip
    done = subprocess.run(launcher, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (run_yaml.parent / "DONE").exists()
    assert not (tmp_path / "extensions").exists() or not os.listdir(tmp_path / "extensions")
