"""Figures of a search for the report: history, contour, importance, as PNG and SVG."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

MIN_TRIALS = 4


def draw_search(study: "optuna.Study", folder: Path, *, score: str) -> dict[str, list[str]]:
    """Write search_{history,contour,importance}.{png,svg} and return their paths by figure.

    With fewer than four complete trials there is nothing to draw and {} is returned.
    """
    from optuna.trial import TrialState

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < MIN_TRIALS:
        return {}
    import matplotlib

    matplotlib.use("Agg")
    from optuna.visualization import matplotlib as plots

    drawings: dict[str, Callable[[], Any]] = {
        "history": lambda: plots.plot_optimization_history(study, target_name=score),
        "contour": lambda: plots.plot_contour(study, target_name=score),
        "importance": lambda: plots.plot_param_importances(
            study, evaluator=_evaluator(), target_name=score
        ),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: _save(draw, folder / f"search_{name}") for name, draw in drawings.items()}


def importances(study: "optuna.Study") -> dict[str, float]:
    """Return the share of the score's variance by parameter (fANOVA); {} with too few trials."""
    from optuna.importance import get_param_importances
    from optuna.trial import TrialState

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len({trial.value for trial in complete}) < MIN_TRIALS:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = get_param_importances(study, evaluator=_evaluator())
    return {name: float(share) for name, share in found.items()}


def _evaluator() -> Any:
    from optuna.importance import FanovaImportanceEvaluator

    return FanovaImportanceEvaluator(seed=0)


def _save(draw: Callable[[], Any], stem: Path) -> list[str]:
    import matplotlib.pyplot as plt

    axes = draw()
    first = axes.flat[0] if hasattr(axes, "flat") else axes
    figure = first.figure
    figure.set_size_inches(6.4, 4.2)
    paths = []
    for ending in ("png", "svg"):
        path = stem.with_suffix(f".{ending}")
        figure.savefig(path, dpi=150, bbox_inches="tight")
        paths.append(str(path))
    plt.close(figure)
    return paths
