"""Prediction windows of 1, 2, 4 and 8 s (Table 7), the same runs scored in two ways.

`val/l1` rewards a shorter window for nothing, since its targets are nearer. The runs are compared
by l1 over one fixed horizon, and by the success rate after adaptation (C.4) where rollouts exist.
"""

from collections.abc import Iterator

from scaling.spec import RunSpec
from scaling.study import Study, product
from sweeps._mixtures import with_axes
from sweeps._preliminary import WINDOWS_S, preliminary_run, small_run, with_window

SEEDS = (0, 1, 2)


def _cpu() -> Iterator[RunSpec]:
    for point in product({"seed": SEEDS, "window": WINDOWS_S}):
        spec = with_window(small_run("tiny", seed=point["seed"]), point["window"])
        yield with_axes(spec, prediction_window_s=point["window"])


def _a100() -> Iterator[RunSpec]:
    for window in WINDOWS_S:
        spec = with_window(preliminary_run("0.26b"), window)
        yield with_axes(spec, prediction_window_s=window)


STUDY = Study(
    name=__name__,
    description="prediction window; compare by horizon_l1 or adapted_success, never by val_l1",
    varies=("prediction_window_s",),
    holds_fixed="mixture, samples seen, model, anchors a window, recipe",
    scores=("horizon_l1", "adapted_success"),
    runs={"cpu": _cpu, "a100": _a100},
)
