"""Prices of runs against numbers worked out by hand."""

import json
import math
import os
from dataclasses import replace
from functools import partial

import pytest
from rich.console import Console

from jobs import pricing
from jobs.local.queue import queue_path, write_queue
from jobs.plan import plan
from scaling.branch import branched
from scaling.cli.plan_table import render_plan, saving_line
from scaling.cost import Cost
from scaling.memory import checkpoint_bytes
from scaling.spec import EngineConfig, ResourceConfig, ScheduleConfig, SeedConfig
from scaling.study import load_study
from xvla.params import num_params

NUMBERS = Cost(
    **{
        "num_params_total": 900_000_000,
        "num_params_trainable": 900_000_000,
        "num_params_policy": 300_000_000,
        "compute_flops": 1e20,
    }
)


def describe(_):
    return NUMBERS


@pytest.fixture
def gpu_spec(make_spec):
    """A run of the released size on one node of eight GPUs."""
    from xvla.config import ModelConfig

    spec = make_spec()
    return replace(
        spec,
        scale="a100",
        model=ModelConfig(),
        data=replace(spec.data, num_views=3, image_size=224, text_length=50),
        precision="bf16",
        global_batch_size=1024,
        num_steps=1000,
        engine=EngineConfig(micro_batch_size=16, zero_stage=2),
        resources=ResourceConfig(gpus_per_node=8),
    )


def test_gpu_hours_of_an_exaflop_hour():
    """312e12 * 3600 * 0.5 FLOPs are one hour at 50 % MFU, and 3.33 at 15 %."""
    likely, low, high = pricing.gpu_hours(312e12 * 3600 * 0.5, pricing.assumed_rate("bf16"))
    assert low == pytest.approx(1.0)
    assert high == pytest.approx(0.5 / 0.15)
    assert likely == pytest.approx(math.sqrt(0.5 / 0.15))


def test_a_measured_rate_has_a_margin():
    rate = pricing.measured_rate([(3600.0 * 100, 1.0), (3600.0 * 300, 2.0), (3600.0 * 120, 1.0)])
    assert (rate.likely, rate.slow, rate.fast) == (120.0, 100.0, 150.0)


@pytest.mark.parametrize(
    ("num_steps", "save_every", "keep_last", "keep_every", "expected"),
    [
        (100, 0, 2, 0, 1),
        (100, 10, 2, 0, 2),
        (95, 10, 2, 0, 2),
        (15, 10, 3, 0, 2),
        (100, 10, 2, 20, 2 + 4),  # 90 and 100, and of 10..80: 20, 40, 60, 80
        (95, 10, 2, 30, 2 + 2),  # 90 and 95, and 30, 60
    ],
)
def test_checkpoints_kept(num_steps, save_every, keep_last, keep_every, expected):
    found = pricing.num_checkpoints(
        num_steps=num_steps, save_every=save_every, keep_last=keep_last, keep_every=keep_every
    )
    assert found == expected


def test_the_plan_on_gpus(tmp_path, gpu_spec):
    document = plan([gpu_spec], tmp_path, cost=describe)
    row, totals = document.runs[0], document.totals
    assert (document.schema, document.study, document.scale) == (1, "sweeps.fake", "a100")
    assert row.gpu_hours_low == pytest.approx(1e20 / (312e12 * 0.5 * 3600))
    assert row.gpu_hours_high == pytest.approx(1e20 / (312e12 * 0.15 * 3600))
    assert row.gpu_hours_low < row.gpu_hours < row.gpu_hours_high
    assert totals.wall_hours == pytest.approx(row.gpu_hours / 8)
    weights = num_params(gpu_spec.model)["total"]
    assert totals.disk_gib == pytest.approx(weights * 16 / 2**30)
    mean = replace(gpu_spec, optim=replace(gpu_spec.optim, ema_decay=0.999))
    disk = plan([mean], tmp_path, cost=describe).totals.disk_gib
    assert disk == pytest.approx(weights * 20 / 2**30)
    assert (row.num_samples_seen, row.num_unique_episodes) == (1_024_000, 10)
    table = [row for row in document.memory_by_gpus if row.size == gpu_spec.size]
    by_gpus = {row.gpus: row.total for row in table}
    assert list(by_gpus) == [1, 2, 4, 8, 16, 32, 64]
    assert by_gpus[8] == row.memory_gib_per_gpu
    throttled = plan([gpu_spec], tmp_path, cost=describe, max_gpus=4).totals
    assert throttled.wall_hours == pytest.approx(row.gpu_hours / 4)


def test_the_plan_has_the_contracts_keys_and_no_gpu_fields_on_cpu(tmp_path, make_spec):
    document = plan([make_spec(3)], tmp_path, cost=describe)
    row = document.runs[0]
    assert list(row.to_dict()) == [
        "run_id",
        "axes",
        "num_params_total",
        "num_params_trainable",
        "num_params_policy",
        "num_samples_seen",
        "num_unique_episodes",
        "num_domains",
        "seed",
        "global_batch_size",
        "num_steps",
        "compute_flops",
        "nodes",
        "gpus_per_node",
        "memory_gib_per_gpu",
        "gpu_hours",
        "gpu_hours_low",
        "gpu_hours_high",
        "state",
    ]
    assert list(document.totals.to_dict()) == [
        "num_runs",
        "compute_flops",
        "gpu_hours",
        "gpu_hours_low",
        "gpu_hours_high",
        "wall_hours",
        "disk_gib",
    ]
    assert row.memory_gib_per_gpu is None
    assert row.gpu_hours is row.gpu_hours_low is row.gpu_hours_high is None
    assert document.totals.gpu_hours is None
    assert (row.state, row.seed) == ("planned", 3)
    assert not list(tmp_path.iterdir())
    json.dumps(document.to_dict(), allow_nan=False)


def test_a_finished_run_prices_the_others(tmp_path, gpu_spec):
    other = replace(gpu_spec, num_steps=2000)
    folder = tmp_path / gpu_spec.run_id
    folder.mkdir()
    metrics = {"compute/flops": 1e20, "compute/gpu_hours": 200.0}
    (folder / "DONE").write_text(json.dumps({"step": 10, "metrics": metrics}))
    first, second = plan([gpu_spec, other], tmp_path, cost=describe).runs
    assert first.state == "done"
    assert first.gpu_hours == first.gpu_hours_low == first.gpu_hours_high == 200.0
    assert second.gpu_hours == pytest.approx(200.0)
    assert second.gpu_hours_low == pytest.approx(200 / 1.2)
    assert second.gpu_hours_high == pytest.approx(240)


def test_the_table_has_totals_and_says_what_it_leaves_out(tmp_path, gpu_spec):
    specs = [replace(gpu_spec, num_steps=steps) for steps in (1000, 2000, 3000)]
    console = Console(record=True, width=200, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(render_plan(plan(specs, tmp_path, cost=describe), max_rows=2))
    shown = console.export_text()
    assert "3 runs" in shown
    assert "3.00e+20" in shown
    assert "1 more runs; --json has them all" in shown


def test_the_plan_has_one_way_to_write_a_number(tmp_path, gpu_spec):
    """The head says "5000" of an axis with 5000 samples; the table does too."""
    spec = replace(gpu_spec, global_batch_size=8, num_steps=625, axes={"samples": 5000})
    console = Console(record=True, width=200, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(render_plan(plan([spec], tmp_path, cost=describe)))
    assert "samples=5000" in (shown := console.export_text())
    assert "5k" not in shown


def test_a_run_more_costs_a_plan_little_beside_its_id(tmp_path, gpu_spec, num_calls, opened):
    """Runs that differ in their seeds share one price; another price is worked out in closed form.

    A run is named once: an id is most of what it costs.
    """
    seeds = [replace(gpu_spec, seeds=SeedConfig(init=index)) for index in range(150)]
    lengths = [replace(gpu_spec, num_steps=1000 + index) for index in range(150)]
    waiting, described = queue_path(tmp_path), []
    write_queue(waiting, [])

    def numbers(spec):
        described.append(spec)
        return NUMBERS

    def of_100_more(specs):
        few, many = (partial(plan, specs[:n], tmp_path, cost=numbers) for n in (50, 150))
        return num_calls(many) - num_calls(few)

    ids = num_calls(lambda: [spec.run_id for spec in seeds[:100]])
    assert of_100_more(seeds) < 2 * ids
    assert len(described) == 2  # once a plan
    assert of_100_more(lengths) < 20 * ids
    assert len(described) == 2 + 50 + 150
    assert opened.count(waiting) == 4  # once a plan


def test_another_gpu_has_another_peak(tmp_path, make_spec):
    spec = replace(make_spec(), precision="bf16", resources=ResourceConfig(gpus_per_node=1))
    a100, h100 = (
        plan([spec], tmp_path, cost=describe, peak_tflops=peak).totals.gpu_hours
        for peak in (0.0, 2 * 312.0)
    )
    assert a100 == pytest.approx(2 * h100)


@pytest.fixture
def axis(gpu_spec):
    """A trunk of 800 steps and branches of 400, 200 and 100, saved every 50 steps."""
    schedule = ScheduleConfig(kind="wsd", warmup_steps=5, decay_fraction=0.1)
    engine = replace(gpu_spec.engine, save_every=50, keep_last=2)
    base = replace(gpu_spec, schedule=schedule, engine=engine)
    return branched([replace(base, num_steps=units * 100) for units in (1, 2, 4, 8)])


def by_steps(spec):
    return replace(NUMBERS, compute_flops=1e20 * spec.num_steps)


def test_branches_are_priced_by_the_steps_they_train(tmp_path, axis):
    """8.7 units instead of 15; FLOPs of the science are those of whole runs."""
    document = plan(axis, tmp_path, cost=by_steps)
    rows, totals = document.runs, document.totals
    unit = rows[0].gpu_hours / 8
    assert [row.compute_flops / 1e22 for row in rows] == [8, 4, 2, 1]
    assert [row.gpu_hours / unit for row in rows] == pytest.approx([8, 0.4, 0.2, 0.1])
    assert totals.gpu_hours / unit == pytest.approx(8.7)
    assert totals.compute_flops == pytest.approx(15e22)
    found = totals.saving
    assert found.compute_flops_shared == pytest.approx(8.7e22)
    assert found.gpu_hours_alone / unit == pytest.approx(15)
    assert found.saving_percent == pytest.approx(42)
    assert totals.wall_hours == pytest.approx(8.4 * unit / 8)  # on 8 GPUs, a branch last
    assert "3 of 4 runs branch off" in saving_line(totals, found)
    assert "42.0 % less" in saving_line(totals, found)
    assert saving_line(totals, found) in render_plan(document).renderables


def test_branch_points_take_disk(tmp_path, axis):
    """The trunk: 90, 180, 360, 750, 800; a branch what it saves itself: 400; 200; 100."""
    one = plan(axis[:1], tmp_path, cost=by_steps).totals.disk_gib
    assert one == pytest.approx(5 * checkpoint_bytes(axis[0]) / 2**30)
    rest = [plan([spec], tmp_path, cost=by_steps).totals.disk_gib / one * 5 for spec in axis[1:]]
    assert rest == pytest.approx([1, 1, 1])
    kept = replace(axis[0], engine=replace(axis[0].engine, keep_every=90))
    assert plan([kept], tmp_path, cost=by_steps).totals.disk_gib / one == pytest.approx(6 / 5)


def test_a_finished_branch_prices_by_what_it_trained(tmp_path, axis):
    branch = axis[1]
    (tmp_path / branch.run_id).mkdir()
    metrics = {"compute/flops": 4e22, "compute/gpu_hours": 10.0}
    (tmp_path / branch.run_id / "DONE").write_text(json.dumps({"step": 10, "metrics": metrics}))
    rows = plan(axis, tmp_path, cost=by_steps).runs
    assert [row.gpu_hours for row in rows] == pytest.approx([200, 10, 5, 2.5])


@pytest.mark.parametrize("scale", ["cpu", "a100"])
def test_the_samples_study_saves_42_percent(tmp_path, scale):
    specs = load_study("sweeps.samples_seen").expand(scale)
    totals = plan(specs, tmp_path).totals
    assert 41.9 < totals.saving.saving_percent < 42.1
    flops = totals.saving.compute_flops_shared / totals.compute_flops
    assert flops == pytest.approx(8.7 / 15)
    assert (totals.gpu_hours is None) == (totals.saving.gpu_hours_alone is None)


def test_without_branches_nothing_is_said(tmp_path, gpu_spec):
    totals = plan([gpu_spec], tmp_path, cost=describe).totals
    assert "saving" not in totals.to_dict()
