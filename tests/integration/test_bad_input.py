"""Users' mistakes, each by a subprocess: exit code, one line on stderr, nothing written."""

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.integration
ANCHOR = "sim_kinova3_dual"
SCALING = [sys.executable, "-m", "scaling"]


def tree_hash(root: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        digest.update(str(path.relative_to(root)).encode())
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def refused(command: list[str], tree: Path) -> str:
    """Run a command that must exit 2 with one line and an unchanged tree; return the line."""
    before = tree_hash(tree)
    done = subprocess.run(command, capture_output=True, text=True, cwd=tree, timeout=300)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert tree_hash(tree) == before
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan", "sweeps.demo", "optim.rate=1"], ["rate", "OptimConfig"]),
        (["plan", "sweeps.demo", "num_steps=many"], ["num_steps", "many", "Integer"]),
        (["plan", "sweeps.mars"], ["unknown study 'sweeps.mars'", "sweeps.demo"]),
        (["plan", "sweeps.demo", "scale=h100"], ["no scale 'h100'", "cpu"]),
        (["plan", "sweeps.demo", "data.mixture.0.weight=2"], ["give a list whole"]),
        (["submit", "sweeps.demo", "--on", "moon"], ["--on 'moon'", "local"]),
        (["submit", "sweeps.demo", "engine.zero_stage=3"], ["zero_stage=3", "0 to 2"]),
        (["status", "sweeps.demo", "--select", "colour=red"], ["colour"]),
        (["logs", "ffffffffffff"], ["ffffffffffff"]),
        (["best", "sweeps.demo"], ["no"]),
        (["submit", "sweeps.demo", "--then", "finetune:mars"], ["mars", "sim_xarm7"]),
        (["plan", "sweeps.demo", "data.root=/nope"], ["no dataset folder at /nope/", "data.roots"]),
        (["finetune", "--from", "nowhere", "--domain", "sim_xarm7"], ["nowhere"]),
        (["train", "absent/run.yaml"], ["absent/run.yaml"]),
        (["data", "simulate", "--domain", "mars", "--out", "x"], ["mars", "sim_panda"]),
        (["data", "inspect", "nowhere"], ["nowhere"]),
        (["fit", "absent.csv"], ["absent.csv"]),
        (["dance"], ["dance", "plan"]),
    ],
    ids=lambda value: "-".join(value)[:40] if isinstance(value, list) else None,
)
def test_command_line(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    line = refused([*SCALING, *arguments], tmp_path)
    assert [word for word in words if word not in line] == []


@pytest.fixture
def dataset(tmp_path: Path, repository: Path) -> Path:
    """A private copy of the shipped anchor domain."""
    target = tmp_path / "data" / ANCHOR
    shutil.copytree(repository / "xvla" / "data" / "demo" / ANCHOR, target)
    return target


@pytest.fixture
def train(make_run: Callable[..., Path], tmp_path: Path) -> Callable[..., list[str]]:
    """Return the command that trains on `tmp_path/data`, its hash check switched off."""

    def command(*overrides: str) -> list[str]:
        mixture = f"data.mixture=[{{name: {ANCHOR}, num_episodes: 3}}]"
        root = f"data.root={tmp_path / 'data'}"
        run_yaml = make_run(root, mixture, "data.blind=false", *overrides)
        return [sys.executable, "-m", "scaling.train", str(run_yaml)]

    return command


def rewrite_table(dataset: Path, change: Callable[[dict], None]) -> None:
    path = dataset / "data" / "chunk-000" / "file-000.parquet"
    columns = pq.read_table(path).to_pydict()
    schema = pq.read_schema(path)
    change(columns)
    pq.write_table(pa.Table.from_pydict(columns, schema=schema), path)


def test_empty_dataset(tmp_path: Path, train) -> None:
    (tmp_path / "data" / ANCHOR).mkdir(parents=True)
    assert ANCHOR in refused(train(), tmp_path)


def test_truncated_table(tmp_path: Path, dataset: Path, train) -> None:
    path = dataset / "data" / "chunk-000" / "file-000.parquet"
    path.write_bytes(path.read_bytes()[:-1000])
    assert "file-000.parquet" in refused(train(), tmp_path)


def test_video_shorter_than_its_table(tmp_path: Path, dataset: Path, train) -> None:
    for video in sorted((dataset / "videos").rglob("*.mp4")):
        shorten(video)
        break
    assert ".mp4" in refused(train(), tmp_path)


def shorten(video: Path) -> None:
    import av

    short = video.with_suffix(".short.mp4")
    with av.open(str(video)) as source, av.open(str(short), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for index, packet in enumerate(source.demux(video=0)):
            if index >= 50 or packet.dts is None:
                break
            packet.stream = stream
            target.mux(packet)
    short.replace(video)


def test_nan_in_actions(tmp_path: Path, dataset: Path, train) -> None:
    def spoil(columns: dict) -> None:
        columns["observation.state"][7] = [float("nan")] * 20

    rewrite_table(dataset, spoil)
    assert "observation.state" in refused(train(), tmp_path)


def test_missing_instruction(tmp_path: Path, dataset: Path, train) -> None:
    path = dataset / "meta" / "tasks.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(0, table.num_rows - 1), path)
    assert "task" in refused(train(), tmp_path)


def test_a_domain_without_data_in_run_yaml(tmp_path: Path, make_run) -> None:
    run_yaml = make_run()
    run_yaml.write_text(run_yaml.read_text().replace(ANCHOR, "mars"))
    line = refused([sys.executable, "-m", "scaling.train", str(run_yaml)], tmp_path)
    assert "domain mars: no dataset folder at" in line
    assert ANCHOR in line


def test_other_bytes_than_declared(tmp_path: Path, dataset: Path, make_run) -> None:
    states = dataset / "meta" / "stats.json"
    states.write_text(states.read_text() + " ")
    run_yaml = make_run(f"data.root={dataset.parent}")
    assert "sha256" in refused([sys.executable, "-m", "scaling.train", str(run_yaml)], tmp_path)


def test_checkpoint_of_another_architecture(tmp_path: Path, make_run) -> None:
    from scaling.runs.checkpoints import file_sha256
    from scaling.sizes import SIZES
    from xvla.model import XVLA
    from xvla.pretrained import save_pretrained

    parent = tmp_path / "parent"
    save_pretrained(XVLA(SIZES["tiny-h32"]), parent)
    sha256 = file_sha256(parent / "model.safetensors")
    run_yaml = make_run(f"init.checkpoint={parent}", f"init.checkpoint_sha256={sha256}")
    line = refused([sys.executable, "-m", "scaling.train", str(run_yaml)], tmp_path)
    assert "another architecture" in line
    assert "hidden_size" in line


def test_second_process_on_a_run(tmp_path: Path, make_run) -> None:
    run_yaml = make_run()
    with open(run_yaml.parent / ".lock", "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        command = [sys.executable, "-m", "scaling.train", str(run_yaml)]
        line = refused(command, tmp_path)
    assert "in use by another process" in line
    assert "scaling cancel" in line


def test_data_inspect_lists_problems(tmp_path: Path, dataset: Path) -> None:
    def spoil(columns: dict) -> None:
        columns["observation.state"][7] = [float("nan")] * 20

    rewrite_table(dataset, spoil)
    command = [*SCALING, "data", "inspect", str(dataset), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    problems = json.loads(done.stdout)["problems"]
    assert [problem["field"] for problem in problems] == ["observation.state"]
    assert set(problems[0]) == {"file", "episode", "field", "message", "severity"}


def test_full_disk_fails_in_one_line_and_resumes(tmp_path: Path, make_run) -> None:
    """On a 2 MB file system the first checkpoint does not fit: exit 1, one line, no rest."""
    small = tmp_path / "small"
    small.mkdir()
    probe = ["unshare", "-rm", "sh", "-c", f"mount -t tmpfs -o size=2m tmpfs {small}"]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system in a namespace of its own")
    run_yaml = make_run("data.blind=true")
    script = f"""
        mount -t tmpfs -o size=2m tmpfs {small} && mkdir {small}/run
        cp {run_yaml} {small}/run/run.yaml
        {sys.executable} -m scaling.train {small}/run/run.yaml engine.cache_features=false
        code=$?
        ls -a {small}/run/checkpoints
        exit $code
    """
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "disk full" in errors[0]
    assert "step_" not in done.stdout
