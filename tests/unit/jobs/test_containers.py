"""Scripts for clusters with containers and modules: golden, and run with stand-ins for both."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.cluster import Cluster, check_mounts, load_cluster
from jobs.slurm.sbatch import make_arrays, render_array
from scaling.spec import ResourceConfig

HERE = Path(__file__).parent
WHERE = Path("/scratch/runs/_slurm/s")
KINDS = {
    "apptainer": "{kind: apptainer, image: /images/train.sif, python: python3.11,\n"
    '            mounts: ["/scratch:/scratch", "/data sets:/data"]}',
    "pyxis": "{kind: pyxis, image: /images/train.sqsh, python: python3.11,\n"
    '            mounts: ["/scratch:/scratch", "/home/lab/xvla:/xvla"]}',
}


def cluster(folder: Path, kind: str) -> Cluster:
    """Return the shipped example with modules, an environment and a container, from its YAML."""
    text = (Path(load_cluster.__code__.co_filename).parent / "clusters" / "a100.yaml").read_text()
    text = text.replace("modules: []", "modules: [cuda/12.8, apptainer/1.3]  #")
    text = text.replace("environment:\n", "environment:\n  NCCL_SOCKET_IFNAME: ib0\n")
    start = text.index("container:")
    path = folder / f"{kind}.yaml"
    path.write_text(f"{text[:start]}container: {KINDS[kind]}\nsetup: [ulimit -l unlimited]\n")
    return load_cluster(str(path))


@pytest.fixture
def script(tmp_path, make_spec, monkeypatch):
    """Return a renderer of the script of one run on the whole cluster."""
    monkeypatch.setattr("sys.executable", "/venv/bin/python")
    shape = ResourceConfig(nodes=8, gpus_per_node=8)
    spec = replace(make_spec(), size="0.9b", global_batch_size=1024, resources=shape)

    def render(kind: str) -> str:
        chosen = cluster(tmp_path, kind)
        (array,) = make_arrays([spec], chosen, max_array_size=1001)
        return render_array(array, chosen, submission=WHERE, runs_dir=WHERE.parents[1])

    return render


@pytest.mark.parametrize("kind", KINDS)
def test_the_script_of_a_container(script, kind: str) -> None:
    assert script(kind) == (HERE / f"golden_{kind}.sbatch").read_text()


# What srun and a container runtime get to see: one JSON line each, then the inner command.
STAND_IN = """#!{python}
import json, os, sys
words = sys.argv[1:]
print(json.dumps([{name!r}, *words]), flush=True)
at = words.index({first!r})
os.execvp(words[at], words[at:])
"""


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_reach_the_trainer_through_the_container(script, tmp_path, kind: str) -> None:
    """The step of the script, run by bash with stand-ins on PATH, ends in the trainer's words."""
    python, folder = sys.executable, tmp_path / "bin"
    text = script(kind)
    folder.mkdir()
    inner = {"srun": "bash", "apptainer": "python3.11"}
    for name, first in inner.items():
        (folder / name).write_text(STAND_IN.format(python=_python(), name=name, first=first))
    show = "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ['RANK']]))"
    (folder / "python3.11").write_text(f'#!/bin/bash\nexec {_python()} -c {show!r} "$@"\n')
    for path in folder.iterdir():
        path.chmod(0o755)
    (step,) = (line for line in text.splitlines() if line.startswith("srun "))
    ranks = {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NTASKS": "64"}
    done = subprocess.run(
        ["bash", "-c", f"run_dir='/scratch/runs/a b'\n{step.removesuffix(' &')}"],
        env=os.environ | ranks | {"PATH": f"{folder}:/usr/bin:/bin"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *seen, last = (json.loads(line) for line in done.stdout.splitlines())
    assert last == [["-m", "scaling.train", "/scratch/runs/a b/run.yaml"], "5"]
    if kind == "pyxis":
        assert len(seen) == 1
        assert "--container-image=/images/train.sqsh" in seen[0]
        assert "--container-mounts=/scratch:/scratch,/home/lab/xvla:/xvla" in seen[0]
    else:
        box = ["exec", "--nv", "--bind", "/scratch:/scratch", "--bind", "/data sets:/data"]
        assert seen[1][1:8] == [*box, "/images/train.sif"]
    assert python == "/venv/bin/python"  # the batch script's own, outside the container


def test_a_container_must_see_the_runs(tmp_path) -> None:
    pyxis = cluster(tmp_path, "pyxis")
    check_mounts(pyxis, Path("/scratch/me/runs"))
    with pytest.raises(ValueError, match=r"no mount .* shows the runs at /other/runs, .* add '/ot"):
        check_mounts(pyxis, Path("/other/runs"))
    with pytest.raises(ValueError, match="shows the runs at /home/lab/xvla/runs"):
        check_mounts(pyxis, Path("/home/lab/xvla/runs"))  # it is elsewhere inside
    check_mounts(cluster(tmp_path, "apptainer"), Path("/other/runs"))
    check_mounts(load_cluster("dev"), Path("/other/runs"))


def test_a_mount_with_a_typo_is_one_line(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ncontainer: {kind: pyxis, image: a.sqsh, mounts: [/data]}\n")
    with pytest.raises(ValueError, match=r"mine\.yaml: .*'/data' is not of the form"):
        load_cluster(str(path))


def _python() -> str:
    return os.path.realpath(f"/proc/{os.getpid()}/exe")
