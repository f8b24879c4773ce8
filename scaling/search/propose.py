"""Proposes a search's next point: the space as Optuna's distributions, samplers, restarts."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from scaling.study import Choice, IntRange, Point, Search

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial, Trial

    from scaling.search.controller import Options

Sampler = Literal["tpe", "gp", "random"]
SAMPLERS: tuple[Sampler, ...] = ("tpe", "gp", "random")
STARTUP_TRIALS = 8


def distributions(search: Search) -> dict[str, Any]:
    """Return the space as Optuna's distributions."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    made: dict[str, Any] = {}
    for name, axis in search.space.items():
        if isinstance(axis, IntRange):
            made[name] = IntDistribution(axis.low, axis.high, log=True)
        elif isinstance(axis, Choice):
            made[name] = CategoricalDistribution(axis.values)
    return made


def propose(study: "optuna.Study", search: Search, options: "Options") -> "Trial":
    """Return a new trial with all its parameters.

    The sampler is made anew from (seed, number of trials): a restart goes on with the draws that
    would have come, instead of repeating the first ones.
    """
    study.sampler = make_sampler(options.sampler, seed=_trial_seed(study, options))
    return study.ask(fixed_distributions=distributions(search))


def completed(
    study: "optuna.Study", trial: "FrozenTrial", search: Search, options: "Options"
) -> Mapping[str, Any]:
    """Return a trial's parameters, drawing those that a killed controller left out."""
    point = point_of(trial, search)
    if point is not None:
        return point
    from optuna.trial import Trial

    study.sampler = make_sampler(options.sampler, seed=_trial_seed(study, options))
    live = Trial(study, trial._trial_id)
    for name, axis in search.space.items():
        if isinstance(axis, IntRange):
            live.suggest_int(name, axis.low, axis.high, log=True)
        else:
            live.suggest_categorical(name, axis.values)
    return live.params


def next_fixed(study: "optuna.Study") -> Point | None:
    """Return the point that the next trial is bound to have, None where the sampler is free."""
    from optuna.trial import TrialState

    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    return dict(waiting[0].system_attrs["fixed_params"]) if waiting else None


def point_of(trial: "FrozenTrial", search: Search) -> Point | None:
    """Return a trial's point, or None while parameters are missing."""
    return dict(trial.params) if search.space.keys() <= trial.params.keys() else None


def make_sampler(name: Sampler, *, seed: int) -> Any:
    """Return one of Optuna's samplers; a point that did not fit into memory is avoided."""
    import warnings

    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import GPSampler, RandomSampler, TPESampler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if name == "random":
            return RandomSampler(seed=seed)
        if name == "gp":
            return GPSampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
        return TPESampler(
            seed=seed,
            n_startup_trials=STARTUP_TRIALS,
            multivariate=True,
            constant_liar=True,
        )


def _trial_seed(study: "optuna.Study", options: "Options") -> int:
    return (options.seed * 1_000_003 + len(study.get_trials(deepcopy=False))) % 2**32
