"""The grid of a plan: axes, levels, cells and their costs."""

from itertools import product
from types import SimpleNamespace

from analysis.figures.grid import MOST_LEVELS, label, levels, make_grids


def row(index: int, *, seed: int = 0, state: str = "planned", hours: float | None = 2.0, **axes):
    spread = (None, None, None) if hours is None else (hours, hours / 2, hours * 2)
    names = ("gpu_hours", "gpu_hours_low", "gpu_hours_high")
    costs = dict(zip(names, spread, strict=True))
    return SimpleNamespace(
        run_id=f"{index:012x}", axes=axes, seed=seed, state=state, compute_flops=1e15, **costs
    )


def test_levels_are_in_order_and_one_value_is_no_axis() -> None:
    rows = [row(i, size=size, steps=steps, lr=1e-4)
            for i, (size, steps) in enumerate(product(("tiny", "50m"), (100, 20)))]  # fmt: skip
    assert levels(r.axes for r in rows) == {
        "size": ["tiny", "50m"], "steps": [20, 100], "lr": [1e-4],
    }  # fmt: skip
    (grid,) = make_grids(rows)
    assert [(axis.name, axis.labels) for axis in grid.axes] == [
        ("size", ("tiny", "50m")),
        ("steps", ("20", "100")),
    ]
    assert grid.fixed == {"lr": "0.0001"}
    assert grid.unit == "GPU-hours"
    places = {cell.at: cell.run_ids for cell in grid.cells}
    assert places[1, 0] == [rows[3].run_id]


def test_seeds_share_a_cell_of_a_plane_and_are_an_axis_of_a_line() -> None:
    plane = [row(i, seed=seed, a=a, b=b)
             for i, (a, b, seed) in enumerate(product((1, 2), (1, 2), (0, 1, 2)))]  # fmt: skip
    (grid,) = make_grids(plane)
    assert len(grid.cells) == 4
    assert {len(cell.run_ids) for cell in grid.cells} == {3}
    cell = grid.cells[0]
    assert (cell.cost, cell.low, cell.high, cell.mean_cost) == (6.0, 3.0, 12.0, 2.0)
    line = [row(i, seed=seed, a=a) for i, (a, seed) in enumerate(product((1, 2), (0, 1)))]
    (grid,) = make_grids(line)
    assert [axis.name for axis in grid.axes] == ["a", "seed"]


def test_states_of_a_point_are_cells_of_their_own() -> None:
    rows = [row(0, a=1, b=1, state="done"), row(1, seed=1, a=1, b=1), row(2, a=2, b=2)]
    (grid,) = make_grids(rows)
    assert {(cell.at, cell.state) for cell in grid.cells} == {
        ((0, 0), "done"), ((0, 0), "planned"), ((1, 1), "planned"),
    }  # fmt: skip


def test_runs_with_other_axes_are_a_grid_of_their_own() -> None:
    rows = [row(0, size="tiny", blind=1), *(row(i, size="tiny", domains=i) for i in (1, 2))]
    first, second = make_grids(rows)
    assert (first.num_runs, second.num_runs) == (2, 1)
    assert [axis.name for axis in first.axes] == ["domains"]
    assert make_grids([]) == []


def test_without_gpu_hours_flops_are_the_cost() -> None:
    (grid,) = make_grids([row(0, hours=None, a=1), row(1, hours=None, a=2)])
    assert (grid.unit, grid.cells[0].cost) == ("FLOPs", 1e15)


def test_many_levels_become_ranges_of_the_same_length() -> None:
    (grid,) = make_grids([row(i, lr=i) for i in range(100)])
    (axis,) = grid.axes
    assert len(axis.labels) == 25
    assert axis.labels[:2] == ("0\N{EN DASH}3", "4\N{EN DASH}7")
    assert {len(cell.run_ids) for cell in grid.cells} == {4}
    (grid,) = make_grids([row(i, lr=i) for i in range(10_007)])  # a prime
    assert len(grid.axes[0].labels) <= MOST_LEVELS
    assert grid.num_runs == 10_007


def test_a_level_may_be_a_list_or_a_mapping() -> None:
    shapes = ([1, 2], [1, 3], {"b": 1, "a": [2]}, "[1, 2]")
    rows = [row(i, shape=shape, steps=steps)
            for i, (shape, steps) in enumerate(product(shapes, (10, 20)))]  # fmt: skip
    assert levels(r.axes for r in rows)["shape"] == list(shapes)
    (grid,) = make_grids(rows)
    assert grid.axes[0].labels == ("[1, 2]", "[1, 3]", "{'b': 1, 'a': [2]}", "[1, 2]")
    assert [cell.at for cell in grid.cells] == list(product(range(4), range(2)))
    (one,) = make_grids([row(0, shape=[1, 2]), row(1, seed=1, shape=[1, 2])])
    assert one.fixed == {"shape": "[1, 2]"}


def test_labels() -> None:
    shown = [label(v) for v in (1.0, 0.03125, 45_000, 204_800_000, "tiny", True, 1e-4)]
    assert shown == ["1", "0.03125", "45k", "205M", "tiny", "True", "0.0001"]
