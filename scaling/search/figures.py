"""Draws a search by Optuna's own plots: history, contour, importances."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from scaling.search.task import Task

if TYPE_CHECKING:
    import optuna
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MIN_TRIALS = 4  # complete ones: fewer are read off the table
WIDTH, HEIGHT = 6.0, 3.6  # inches: a column and a half of a paper
SCORES = {
    "horizon_l1": "l1 over the fixed horizon\n(m, rotation 6D, gripper)",
    "val_l1": "validation l1\n(m, rotation 6D, gripper)",
    "adapted_success": "failure rate after adaptation",
}
BEST_VALUE = "Best Value"  # what Optuna calls the line of its history


def draw(
    study: "optuna.Study",
    task: Task,
    *,
    score: str,
    importance: Mapping[str, float],
    label: Callable[[str], str],
) -> "dict[str, Figure]":
    """Return the figures of a search by name, in matplotlib's current style; close them.

    `label(parameter)` -> its words and unit. With fewer than four complete trials there is nothing
    to draw; the contour is of the two parameters that matter most, and takes two.
    """
    from optuna.trial import TrialState

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < MIN_TRIALS:
        return {}
    names = sorted(task.search.space, key=lambda name: -importance.get(name, 0.0))[:2]
    with _current_style(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls its plots experimental, since 2.2
        figures = {"history": _history(study, SCORES[score])}
        varied = [name for name in names if len({trial.params[name] for trial in complete}) > 1]
        if len(varied) == 2:
            figures["contour"] = _contour(study, varied, SCORES[score], label)
        if importance:
            figures["importance"] = _importance(study, label)
    return figures


@contextmanager
def _current_style() -> Iterator[None]:
    """Draw in the caller's style, where every plot of Optuna's asks for "ggplot", for good."""
    from matplotlib import RcParams
    from matplotlib.style import library as styles

    kept = styles["ggplot"]
    styles["ggplot"] = RcParams()
    try:
        yield
    finally:
        styles["ggplot"] = kept


def _history(study: "optuna.Study", score: str) -> "Figure":
    """Return the scores in the order asked for, and the best so far."""
    from optuna.visualization.matplotlib import plot_optimization_history

    ax = plot_optimization_history(study, target_name="complete trial")
    ax.set(xlabel="trial", ylabel=score)
    ax.locator_params(axis="x", integer=True)
    handles, names = ax.get_legend_handles_labels()
    texts = ["best so far" if name == BEST_VALUE else name for name in names]
    ax.legend(handles, texts, loc="best")
    return _finished(ax)


def _contour(
    study: "optuna.Study", names: list[str], score: str, label: Callable[[str], str]
) -> "Figure":
    """Return the score over two parameters; dots are complete trials."""
    from matplotlib.ticker import LogLocator, NullLocator
    from optuna.visualization.matplotlib import plot_contour

    ax = cast("Axes", plot_contour(study, params=names, target_name=score))  # an array of more
    ax.set(xlabel=label(ax.get_xlabel()), ylabel=label(ax.get_ylabel()))
    for axis in (ax.xaxis, ax.yaxis):
        if axis.get_scale() == "log":  # a length in tokens: 8 says more than 10 to the power of 0.9
            axis.set_major_locator(LogLocator(base=2, numticks=12))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter("{x:g}")
    return _finished(ax)


def _importance(study: "optuna.Study", label: Callable[[str], str]) -> "Figure":
    """Return the importances, the greatest on top."""
    from optuna.visualization.matplotlib import plot_param_importances

    ax = plot_param_importances(study)
    ax.set(xlabel="importance, 1 in all (PED-ANOVA)", ylabel="")
    ax.set_yticks(ax.get_yticks(), [label(text.get_text()) for text in ax.get_yticklabels()])
    ax.legend().remove()
    return _finished(ax, height=0.9 + 0.45 * len(ax.get_yticks()))


def _finished(ax: "Axes", *, height: float = HEIGHT) -> "Figure":
    """Take Optuna's title off, whose words stand in the caption, and lay the figure out."""
    for place in ("left", "center"):
        ax.set_title("", loc=place)
    figure = cast("Figure", ax.get_figure(root=True))
    figure.set_size_inches(WIDTH, height)
    figure.set_layout_engine("tight")
    return figure
