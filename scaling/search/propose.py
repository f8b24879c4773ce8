"""Proposes a search's next point: the space as Optuna's distributions, samplers, restarts."""

from typing import TYPE_CHECKING

from scaling.search.task import Sampler, Settings
from scaling.study import IntRange, Point, Search

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, Trial

STARTUP_TRIALS = 8
POINT = "point"  # the attribute of a queued trial: what it is bound to have


def enqueue(study: "optuna.Study", point: Point) -> None:
    """Have a point tried before the sampler is free; one that is there already is not repeated."""
    study.enqueue_trial(point, user_attrs={POINT: point}, skip_if_exists=True)


def next_fixed(study: "optuna.Study") -> Point | None:
    """Return the point that the next trial is bound to have, None where the sampler is free.

    None as well for a trial that another program queued: its point is Optuna's secret until asked.
    """
    from optuna.trial import TrialState

    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    return waiting[0].user_attrs.get(POINT) if waiting else None


def propose(study: "optuna.Study", search: Search, settings: Settings) -> "Trial":
    """Return a new trial with all its parameters.

    The sampler is made anew from (seed, number of trials): a restart goes on with the draws that
    would have come, instead of repeating the first ones.
    """
    study.sampler = _sampler_now(study, settings)
    return study.ask(fixed_distributions=distributions(search))


def complete(trial: "Trial", search: Search, settings: Settings) -> Point:
    """Return a running trial's point, drawing what a killed controller left out.

    Optuna stores a trial, then its parameters one by one.
    """
    if not search.space.keys() <= trial.params.keys():
        trial.study.sampler = _sampler_now(trial.study, settings)
        for name, axis in search.space.items():
            if isinstance(axis, IntRange):
                trial.suggest_int(name, axis.low, axis.high, log=True)
            else:
                trial.suggest_categorical(name, axis.values)
    return dict(trial.params)


def point_of(trial: "FrozenTrial", search: Search) -> Point | None:
    """Return a trial's point, or None while parameters are missing."""
    return dict(trial.params) if search.space.keys() <= trial.params.keys() else None


def distributions(search: Search) -> "dict[str, BaseDistribution]":
    """Return the space as Optuna's distributions."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    return {
        name: IntDistribution(axis.low, axis.high, log=True)
        if isinstance(axis, IntRange)
        else CategoricalDistribution(axis.values)
        for name, axis in search.space.items()
    }


def make_sampler(name: Sampler, *, seed: int) -> "BaseSampler":
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
            constant_liar=True,  # trials under way count as bad: parallel ones spread out
        )


def _sampler_now(study: "optuna.Study", settings: Settings) -> "BaseSampler":
    # A prime apart, so that neighbouring seeds do not repeat each other's draws a trial later.
    count = len(study.get_trials(deepcopy=False))
    return make_sampler(settings.sampler, seed=(settings.seed * 1_000_003 + count) % 2**32)
