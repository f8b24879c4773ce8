"""Studies: expansion, sharing of runs, overrides, errors; and those that ship."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scaling.cli import main
from scaling.study import known_studies, load_study, split_arguments


def test_demo_shares_the_centre_of_its_axes() -> None:
    specs = load_study("sweeps.demo").expand()
    ids = [spec.run_id for spec in specs]
    assert len(set(ids)) == len(ids) == 22  # (4 + 3 + 3) points x 2 seeds and 2 blind runs
    centre = [s for s in specs if s.axes.get("size") == "tiny" and s.axes.get("domains") == 7
              and s.axes.get("episodes_per_domain") == 40]  # fmt: skip
    assert len(centre) == 2
    assert sum(spec.data.blind for spec in specs) == 2


@pytest.mark.parametrize("name", known_studies())
def test_every_shipped_study_expands_at_every_scale(name: str) -> None:
    study = load_study(name)
    for scale in study.runs:
        specs = study.expand(scale)
        assert specs
        assert {spec.study for spec in specs} == {name}
        for spec in specs:
            assert spec.data.anchor_domain in {entry.name for entry in spec.data.mixture}


def test_pretrain_is_table_9_with_table_10s_weights() -> None:
    (spec,) = load_study("sweeps.pretrain").expand("a100")
    assert (spec.global_batch_size, spec.num_steps) == (1024, 200_000)
    assert (spec.optim.lr, spec.optim.weight_decay, spec.optim.betas) == (1e-4, 0.01, [0.9, 0.95])
    assert (spec.precision, spec.data.image_size) == ("bf16", 224)
    assert spec.data.augmentation == "color_jitter"
    weights = {entry.name: entry.weight for entry in spec.data.mixture}
    assert weights == {
        "agibot": 0.4,
        "droid_left": 0.15,
        "droid_right": 0.15,
        "robomind_franka": 0.1,
        "robomind_franka_dual": 0.03,
        "robomind_ur": 0.1,
        "robomind_agilex": 0.07,
    }
    assert spec.num_samples_seen == 204_800_000


def test_overrides_reach_every_run_and_change_ids() -> None:
    study = load_study("sweeps.data_volume")
    plain, changed = study.expand("cpu"), study.expand("cpu", ["num_steps=7"])
    assert {spec.num_steps for spec in changed} == {7}
    assert not {s.run_id for s in plain} & {s.run_id for s in changed}


def test_split_arguments() -> None:
    assert split_arguments(["scale=a100", "optim.lr=1"]) == ("a100", ["optim.lr=1"])


@pytest.mark.parametrize(
    ("name", "scale", "overrides", "words"),
    [
        ("sweeps.nothing", None, [], "unknown study 'sweeps.nothing'; known: .*sweeps.demo"),
        ("scaling.spec", None, [], "declares no STUDY"),
        ("sweeps/demo.py", None, [], "'sweeps/demo.py' is not a module path like sweeps.demo"),
        (".demo", None, [], "'.demo' is not a module path"),
        ("sweeps.demo", "mars", [], "no scale 'mars'; declared: cpu"),
        ("sweeps.demo", None, ["optim.rate=1"], "rate"),
        ("sweeps.demo", None, ["num_steps=many"], "num_steps"),
        ("sweeps.demo", None, ["num_steps"], "key=value"),
    ],
)
def test_mistakes(name, scale, overrides, words) -> None:
    with pytest.raises(ValueError, match=words):
        load_study(name).expand(scale, overrides)


def test_a_study_of_ones_own_lies_in_the_current_folder(tmp_path: Path) -> None:
    """The script `scaling`, unlike `python -m`, has no current folder to import from."""
    (tmp_path / "own_study.py").write_text(
        "from scaling.study import Study\nfrom sweeps._mixtures import simulated_run\n"
        "STUDY = Study(name='other', description='', varies=(), holds_fixed='',\n"
        "              runs={'cpu': lambda: [simulated_run()]})\n"
    )
    script = Path(sys.executable).with_name("scaling")
    found = subprocess.run([script, "plan", "own_study", "--json"], cwd=tmp_path,
                           capture_output=True, text=True)  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["study"] == "own_study"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def f(:\n", "cannot be imported: SyntaxError: invalid syntax"),
        ("import not_a_package\n", "cannot be imported: No module named 'not_a_package'"),
        ("runs={}", "declares no scale"),
        ("runs={'cpu': lambda: [3]}", "yields 3 at scale cpu, no RunSpec"),
        ("runs={'cpu': lambda: {}['x']}", "cannot list its runs at scale cpu: KeyError: 'x'"),
        ("runs={'cpu': lambda: []}", "declares no runs with it"),
    ],
)
def test_a_broken_study_is_the_users_mistake(capsys, tmp_path, monkeypatch, text, words) -> None:
    head = "from scaling.study import Study\nSTUDY = Study(name=__name__, description='', "
    made = f"{head}varies=(), holds_fixed='', {text})\n" if text.startswith("runs=") else text
    (tmp_path / "broken_study.py").write_text(made)
    monkeypatch.syspath_prepend(tmp_path)
    for verb in ("plan", "export", "status"):
        monkeypatch.delitem(sys.modules, "broken_study", raising=False)
        assert main([verb, "broken_study", "--runs", str(tmp_path / "runs")]) == 2
        captured = capsys.readouterr()
        assert words in captured.err
        assert captured.err.count("\n") == 1
