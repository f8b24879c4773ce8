"""Search over prompt length and prediction window together: `scaling search` drives it.

`plan` and `submit` know the fixed points: the default and the corners, where every search begins.
"""

from collections.abc import Callable, Iterator

from scaling.spec import RunSpec
from scaling.study import Choice, IntRange, Point, Search, Study, product
from sweeps._mixtures import with_axes
from sweeps._preliminary import (
    WINDOWS_S,
    preliminary_run,
    small_run,
    with_prompt_length,
    with_window,
)

SPACE: dict[str, IntRange | Choice] = {
    "soft_prompt_length": IntRange(low=1, high=128),
    "prediction_window_s": Choice(WINDOWS_S),
}
CORNERS = product({"soft_prompt_length": (4, 64), "prediction_window_s": (1.0, 8.0)})


def _point(base: RunSpec, point: Point) -> RunSpec:
    length, window = int(point["soft_prompt_length"]), float(point["prediction_window_s"])
    spec = with_window(with_prompt_length(base, length), window)
    return with_axes(spec, soft_prompt_length=length, prediction_window_s=window)


def _cpu(point: Point, seed: int) -> RunSpec:
    return _point(small_run("tiny", seed=seed), point)


def _a100(point: Point, seed: int) -> RunSpec:
    return _point(preliminary_run("0.26b", seed=seed), point)


SEARCH = Search(
    space=SPACE,
    defaults={
        "cpu": {"soft_prompt_length": 8, "prediction_window_s": 4.0},
        "a100": {"soft_prompt_length": 32, "prediction_window_s": 4.0},
    },
    first=CORNERS,
    run={"cpu": _cpu, "a100": _a100},
    score="horizon_l1",
    rungs=(0.5,),
)


def _fixed(scale: str) -> Callable[[], Iterator[RunSpec]]:
    return lambda: (SEARCH.run[scale](point, 0) for point in SEARCH.fixed_points(scale))


STUDY = Study(
    name=__name__,
    description="soft-prompt length and prediction window, searched with Optuna",
    varies=("soft_prompt_length", "prediction_window_s"),
    holds_fixed="mixture, samples seen, size, anchors a window, recipe",
    scores=("horizon_l1", "adapted_success"),
    runs={"cpu": _fixed("cpu"), "a100": _fixed("a100")},
    search=SEARCH,
)
