"""`scaling plan`: its head, the JSON's keys, and the page that draws the grid."""

import io
import json
import re
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from analysis.figures.grid import make_grids
from analysis.figures.plan import draw_grid
from analysis.pages.plan import plan_page
from scaling.cli import main

SVG = "{http://www.w3.org/2000/svg}"
AXES = {"size": ("tiny", "50m"), "steps": (10, 20, 30), "lr": (1e-4, 1e-3), "wd": (0.0, 0.1)}


def document(
    count: int, *, states: tuple[str, ...] = ("planned",), gpus: int = 8
) -> SimpleNamespace:
    """Return a plan of the full cross of the first `count` axes, states in turn."""
    names = list(AXES)[:count]
    rows = []
    for index, values in enumerate(product(*(AXES[name] for name in names))):
        hours = 10.0 * (1 + index) if gpus else None
        rows.append(SimpleNamespace(
            run_id=f"{index:012x}", axes=dict(zip(names, values, strict=True)),
            num_params_total=10**6, num_samples_seen=10**4, num_unique_episodes=7, num_domains=1,
            seed=0, compute_flops=1e15, num_gpus=gpus, memory_gib_per_gpu=9.5 if gpus else None,
            gpu_hours=hours, gpu_hours_low=hours, gpu_hours_high=hours,
            state=states[index % len(states)],
        ))  # fmt: skip
    return plan_of(rows)


def plan_of(rows: list[SimpleNamespace]) -> SimpleNamespace:
    """Return a plan of these runs, as far as the page reads one."""
    totals = SimpleNamespace(
        num_runs=len(rows), gpu_hours=5.0, gpu_hours_low=4.0, gpu_hours_high=6.0, disk_gib=2.0
    )
    return SimpleNamespace(
        study="sweeps.simulated", scale="a100", runs=rows, totals=totals, memory_by_gpus=None
    )


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("states", [("planned",), ("failed", "done")])
def test_every_number_of_axes_is_drawn(count: int, states: tuple[str, ...]) -> None:
    text = plan_page(document(count, states=states), [("varies", "much <of> it")])
    assert "much &lt;of&gt; it" in text
    assert text.count("<figure") == 1
    assert "http" not in re.sub(r"https?://www\.w3\.org\S*", "", text)  # needs no network
    hover = re.search(r'<script type="application/json">(.*?)</script>', text)
    if count == 4:
        assert (f"<!-- {states[0]} -->" in text) == (len(states) > 1)  # an axis of states
        return
    assert hover is not None
    marks = json.loads(hover[1])["marks"]
    assert sum(len(texts) for texts in marks.values()) == len(document(count).runs)
    assert {gid.rpartition("-")[2] for gid in marks} == set(states)


@pytest.mark.parametrize("count", [2, 3])
def test_each_mark_has_its_text(count: int) -> None:
    (grid,) = make_grids(document(count, states=("failed", "done", "planned")).runs)
    figure, marks = draw_grid(grid)
    stream = io.StringIO()
    figure.savefig(stream, format="svg")
    groups = {g.get("id"): g for g in ElementTree.fromstring(stream.getvalue()).iter(f"{SVG}g")}
    for gid, texts in marks.items():
        shapes = [item for name in ("use", "path") for item in groups[gid].iter(f"{SVG}{name}")]
        hidden = [item for defs in groups[gid].iter(f"{SVG}defs") for item in defs]
        assert len(shapes) - len(hidden) == len(texts), gid


def test_sums_along_the_sides_are_those_of_the_runs() -> None:
    (grid,) = make_grids(document(2).runs)
    figure, _ = draw_grid(grid)
    top = next(ax for ax in figure.axes if len(ax.patches) == 2)  # two sizes
    assert [bar.get_height() for bar in top.patches] == [10 + 20 + 30, 40 + 50 + 60]


def test_ten_thousand_runs_are_drawn_and_a_tenth_of_them_listed(num_calls) -> None:
    """Above 40 levels an axis is drawn in ranges: twice the runs are as many marks and rows."""
    one = vars(document(1).runs[0])
    rows = [SimpleNamespace(**one | {"run_id": f"{i:012x}", "axes": {"a": i % 100, "b": i // 100}})
            for i in range(10_000)]  # fmt: skip
    texts = []

    def draw(number: int) -> None:
        texts.append(plan_page(plan_of(rows[:number]), []))

    draw(10)  # fonts are found and imports done
    half, whole = (num_calls(partial(draw, number)) for number in (5_000, 10_000))
    assert whole < 1.5 * half
    text = texts[-1]
    hover = re.search(r'<script type="application/json">(.*?)</script>', text)
    assert hover is not None
    assert sum(len(marks) for marks in json.loads(hover[1])["marks"].values()) == 25 * 25
    assert text.count("<use") < 2 * 25 * 25
    assert text.count("<tr data-run=") == 1000
    assert "9,000 more" in text
    assert len(text) < 4e6


def test_an_axis_of_lists_is_drawn_and_listed() -> None:
    made = document(2)
    for index, row in enumerate(made.runs):
        row.axes["shape"] = [8, index % 2]
    text = plan_page(made, [])
    assert text.count("<figure") == 1
    assert text.count("[8, 1]</td>") == len(made.runs) / 2


def run(capsys, *words: str) -> str:
    assert main(["plan", *words]) == 0
    return capsys.readouterr().out


def test_the_paper_s_run_beside_our_estimate(capsys, tmp_path: Path) -> None:
    runs = ["--runs", str(tmp_path / "runs")]
    shown = " ".join(run(capsys, "sweeps.pretrain", *runs).split())
    assert "204.8M samples seen, 4.2e+20 FLOPs" in shown
    assert "6,144 GPU-hours (6% MFU of an A100 by the released code" in shown
    assert "varies nothing holds fixed mixture, samples seen, model, recipe" in shown
    assert "seeds initialisation and data order 0; evaluation 0" in shown
    assert not (tmp_path / "runs").exists()


def test_wall_hours_name_the_gpus_they_take(capsys, tmp_path: Path) -> None:
    words = ["plan", "sweeps.joint", "scale=a100", "--runs", str(tmp_path / "runs")]
    assert main(words) == 0
    assert "hours with all runs at once, 1,024 GPUs" in capsys.readouterr().out
    assert main([*words, "--on", "a100"]) == 0
    assert "hours on 64 GPUs" in capsys.readouterr().out


def test_memory_is_in_the_json_only_when_asked(capsys, tmp_path: Path) -> None:
    words = ["sweeps.model_size", "scale=a100", "--json", "--runs", str(tmp_path / "runs")]
    assert set(json.loads(run(capsys, *words))) == {"schema", "study", "scale", "runs", "totals"}
    rows = json.loads(run(capsys, *words, "--memory"))["memory"]
    sizes = {row["size"] for row in rows}
    assert sizes == {"0.19b", "0.26b", "0.45b", "0.9b", "2b"}
    assert {row["gpus"] for row in rows} == {1, 2, 4, 8, 16, 32, 64}
    big = {row["gpus"]: row["total"] for row in rows if row["size"] == "2b"}
    assert big[1] > big[8] > big[64]


@pytest.mark.parametrize("words", [["--html", "scale=a100"], ["scale=a100", "--html"]])
def test_the_page_has_its_usual_place(capsys, tmp_path: Path, words: list[str]) -> None:
    run(capsys, "sweeps.prompt_length", *words, "--runs", str(tmp_path / "runs"))
    page = tmp_path / "reports" / "sweeps.prompt_length" / "plan-a100.html"
    text = page.read_text()
    assert "soft-prompt length at two model sizes" in text
    assert "GPU-hours a run" in text
    assert not (tmp_path / "runs").exists()


def test_a_page_that_is_no_page_is_refused(capsys, tmp_path: Path) -> None:
    assert main(["plan", "sweeps.demo", "--html", "page.pdf"]) == 2
    assert "give a file name that ends in .html" in capsys.readouterr().err
