"""Trunk and branches: what they cost, what they share to the sample, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from scaling.branch import (
    BranchedStudy,
    branch_point,
    branch_step,
    branched,
    check_trunk,
    wait_for_trunk,
)
from scaling.cli import main
from scaling.schedule import learning_rates
from scaling.spec import RunSpec, ScheduleConfig, SeedConfig
from scaling.study import is_ready, load_study, own_steps, saving, trunk_point
from sweeps._mixtures import simulated_run
from xvla.data.loader import make_loader

WSD = ScheduleConfig(kind="wsd", warmup_steps=5, decay_fraction=0.1)


def run(num_steps: int, **kw) -> RunSpec:
    return replace(simulated_run("tiny-h16", **kw), schedule=WSD, num_steps=num_steps)


def axis() -> list[RunSpec]:
    return branched([run(units * 100) for units in (1, 2, 4, 8)])


def test_sizes_1_2_4_8_cost_42_percent_less() -> None:
    trunk, *branches = axis()
    assert trunk.run_id == run(800).run_id  # the longest keeps its name and its own cool-down
    assert trunk.engine.keep_steps == [90, 180, 360]
    assert [spec.num_steps for spec in branches] == [400, 200, 100]
    assert [own_steps(spec) for spec in branches] == [40, 20, 10]
    assert {spec.init.trunk for spec in branches} == {trunk.run_id}
    costs = saving([trunk, *branches])
    assert costs.samples_shared / (100 * trunk.global_batch_size) == pytest.approx(8.7)
    assert costs.saving_percent == pytest.approx(42)


def test_the_trunk_is_part_of_a_branch_s_identity() -> None:
    branch = axis()[1]
    alone = replace(branch, init=replace(branch.init, trunk="", trunk_step=0))
    other = replace(branch, init=replace(branch.init, trunk="0" * 12))
    assert len({branch.run_id, alone.run_id, other.run_id}) == 3
    assert alone.run_id == run(400).run_id


def test_rates_agree_up_to_the_branch_and_part_after() -> None:
    trunk, branch, *_ = axis()
    start = branch.init.trunk_step
    for step in range(start + 1):
        assert learning_rates(branch, step) == learning_rates(trunk, step)
    assert learning_rates(branch, start + 1) != learning_rates(trunk, start + 1)
    check_trunk(branch, trunk)


def test_seeds_have_trunks_of_their_own() -> None:
    seeds = [replace(run(n), seeds=SeedConfig(init=s, data=s)) for s in (0, 1) for n in (100, 200)]
    first, branch, second, other = branched(seeds)
    assert (branch.init.trunk, other.init.trunk) == (first.run_id, second.run_id)
    assert first.run_id != second.run_id
    with pytest.raises(ValueError, match="holds run"):
        check_trunk(branch, second)


def test_branch_and_trunk_share_exactly_the_samples_they_claim() -> None:
    """Samples by key: trunk to the branch point, then the branch, are those of the run alone."""
    alone = replace(run(20, domains=2, episodes=3), schedule=replace(WSD, decay_fraction=0.25))
    trunk, branch = branched([alone, replace(alone, num_steps=60)])
    start = branch.init.trunk_step
    assert start == 15
    shared = keys(trunk, first=0, count=start)
    assert shared + keys(branch, first=start, count=own_steps(branch)) == keys(alone, 0, 20)
    assert keys(trunk, first=start, count=5) == keys(branch, first=start, count=5)  # then parted:
    assert learning_rates(trunk, start + 1) != learning_rates(branch, start + 1)


def keys(spec: RunSpec, first: int, count: int) -> list:
    data = replace(spec.data, batch_size=spec.global_batch_size, decode_images=False)
    start = first * spec.global_batch_size
    loader = make_loader(data, split="train", seed=spec.seeds.data, start_sample=start)
    found = []
    for _ in range(count):
        next(loader)
        found += loader.last_keys
    return found


@pytest.mark.parametrize(
    ("specs", "reason"),
    [
        ([run(100, episodes=5), run(100, episodes=10)], "nested subset is no prefix"),
        ([run(100, episodes=5), run(200, episodes=10)], "nested subset is no prefix"),
        ([run(100, domains=1), run(200, domains=2)], "another domain in the mixture"),
        ([run(5), run(100)], "fewer than the 5 of freeze and warm-up"),
        (
            [replace(run(n), schedule=ScheduleConfig(kind="cosine")) for n in (100, 200)],
            "schedule.kind=wsd only",
        ),
    ],
)
def test_refused(specs, reason) -> None:
    with pytest.raises(ValueError, match=reason):
        branched(specs)


def test_overrides_keep_the_link() -> None:
    study = BranchedStudy(
        name="x", description="", varies=("num_samples_seen",), holds_fixed="",
        runs={"cpu": lambda: [run(100), run(200)]},
    )  # fmt: skip
    for overrides in ((), ("optim.lr=1e-3",)):
        trunk, branch = study.expand("cpu", overrides)
        assert branch.init.trunk == trunk.run_id
    assert trunk.run_id != study.expand("cpu")[0].run_id


def test_the_axis_says_what_runs_see_under_an_override() -> None:
    study = load_study("sweeps.samples_seen")
    for overrides in ((), ("global_batch_size=8",)):
        runs = study.expand("cpu", overrides)
        assert [spec.axes["samples"] for spec in runs] == [spec.num_samples_seen for spec in runs]


def test_a_branch_waits_for_its_trunk(tmp_path: Path) -> None:
    trunk, branch, *_ = axis()
    assert is_ready(trunk, tmp_path)
    assert not is_ready(branch, tmp_path)
    with pytest.raises(ValueError, match="the trunk goes first"):
        branch_point(branch, tmp_path)
    trunk.save(tmp_path / trunk.run_id / "run.yaml")
    with pytest.raises(ValueError, match=f"has not saved step {branch.init.trunk_step} yet"):
        branch_point(branch, tmp_path)
    (tmp_path / trunk.run_id / "DONE").write_text('{"step": 10, "metrics": {}}')
    with pytest.raises(ValueError, match="did not keep step"):
        branch_point(branch, tmp_path)
    (tmp_path / trunk.run_id / "checkpoints" / f"step_{branch.init.trunk_step:07d}").mkdir(
        parents=True
    )
    assert is_ready(branch, tmp_path)
    with pytest.raises(ValueError, match=r"is damaged: it has no manifest\.json"):
        branch_point(branch, tmp_path)


def test_waiting_ends_with_the_point_the_trunk_or_patience(tmp_path: Path, monkeypatch) -> None:
    trunk, branch, *_ = axis()
    folder = tmp_path / trunk.run_id
    folder.mkdir()
    now, calls = [0.0], []

    def sleep(seconds: float) -> None:
        now[0] += seconds
        calls.append(seconds)
        if len(calls) in beats:
            (folder / "heartbeat.json").write_text(str(calls))

    monkeypatch.setattr("scaling.branch.time.sleep", sleep)
    monkeypatch.setattr("scaling.branch.time.monotonic", lambda: now[0])
    beats: set[int] = set()
    list(wait_for_trunk(branch, tmp_path))
    assert 59 < len(calls) < 63
    calls, beats = [], {40}  # one sign of life gives another minute
    list(wait_for_trunk(branch, tmp_path))
    assert 99 < len(calls) < 103
    (folder / "FAILED").write_text("{}")
    assert list(wait_for_trunk(branch, tmp_path)) == []
    (folder / "FAILED").unlink()
    waiting = wait_for_trunk(branch, tmp_path)
    assert next(waiting)
    trunk_point(branch, tmp_path).mkdir(parents=True)
    assert list(waiting) == []


def test_freeze_counts_before_the_cool_down() -> None:
    spec = replace(run(100), optim=replace(run(100).optim, freeze_steps=20))
    start = branch_step(spec)
    assert start == 92
    assert learning_rates(spec, start) == learning_rates(spec, start - 1)
    assert learning_rates(spec, start + 1) != learning_rates(spec, start)


STUDY = """
import json
from dataclasses import replace
from scaling.branch import BranchedStudy
from scaling.spec import ScheduleConfig
from sweeps._mixtures import simulated_run, with_axes

WSD = ScheduleConfig(kind="wsd", warmup_steps=5, decay_fraction=0.1)

def runs():
    for value in (2, 4):
        spec = simulated_run("tiny-h16", {axis}=value)
        yield with_axes(replace(spec, schedule=WSD, num_steps=100 * value), {axis}=value)

STUDY = BranchedStudy(name=__name__, description="", varies=("{axis}",), holds_fixed="",
                      runs={{"cpu": runs}})
"""


@pytest.mark.parametrize(
    ("axis", "reason"),
    [
        ("episodes", "runs on 14 and 28 episodes cannot share a trunk: samples are shuffled over"),
        ("domains", "runs on 2 and 4 domains cannot share a trunk: with another domain in the"),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "submit"])
def test_the_command_line_refuses_in_one_line(
    verb, axis, reason, tmp_path, monkeypatch, capsys
) -> None:
    (tmp_path / f"by_{axis}.py").write_text(STUDY.format(axis=axis))
    monkeypatch.syspath_prepend(tmp_path)
    assert main([verb, f"by_{axis}", "--runs", str(tmp_path / "runs")]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"error: {reason}")
    assert shown.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_an_override_that_spoils_the_trunk_is_refused_in_one_line(tmp_path, capsys) -> None:
    for words, reason in (
        (["schedule.kind=cosine"], "runs share a trunk under schedule.kind=wsd only"),
        (["schedule.warmup_steps=500"], "fewer than the 500 of freeze and warm-up"),
        (["num_steps=100"], "samples=3200 and samples=6400 are the same run"),
    ):
        assert main(["plan", "sweeps.samples_seen", *words, "--runs", str(tmp_path)]) == 2
        shown = capsys.readouterr()
        assert reason in shown.err
        assert shown.err.count("\n") == 1


def test_the_plan_prints_the_saving_under_its_table(tmp_path, capsys) -> None:
    assert main(["plan", "sweeps.samples_seen", "--runs", str(tmp_path)]) == 0
    assert "9 of 12 runs branch off a longer one" in capsys.readouterr().out
    assert main(["plan", "sweeps.samples_seen", "--json", "--runs", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)["totals"]["saving"]
    assert 41.9 < found["saving_percent"] < 42.1
