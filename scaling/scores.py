"""What a search compares runs by: l1 over one fixed horizon, success after adaptation, or val/l1.

Errors of models with different prediction windows are not comparable: a shorter window has nearer
targets. `horizon_l1` reads every model's chunk at the same times within the smallest window, on
the frames that have the largest window ahead of them (paper, C.4, refuses validation loss).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from scaling.config import write_atomic
from scaling.runs.checkpoints import read_state
from scaling.runs.curves import metric_lines
from scaling.runs.files import read_json_or_none
from scaling.runs.folder import MANIFEST, Run
from scaling.runs.rollouts import read_counts
from scaling.search.task import Score, Scorer
from scaling.spec import RunSpec
from scaling.study import Choice, IntRange, Search
from scaling.study import Score as ScoreName
from xvla.config import DataConfig, DomainEntry

if TYPE_CHECKING:
    from xvla.data.horizon import Horizon
    from xvla.data.samples import SampleKey
    from xvla.data.sources import Mixture

NAMES: tuple[ScoreName, ...] = get_args(ScoreName)
DENOISING_STEPS = 10


def make_scorer(name: str, search: Search, runs_dir: Path, cache: Path) -> Scorer:
    """Return the score of (run, step), None where that checkpoint is not there; kept in `cache`.

    Raises ValueError for an unknown name.
    """
    if name not in NAMES:
        raise ValueError(f"score {name!r} is unknown; allowed: {', '.join(NAMES)}")
    if name == "val_l1":
        return lambda spec, step: validation_score(Run.of(runs_dir, spec.run_id), step)
    if name == "adapted_success":
        return lambda spec, step: (
            adapted_success(spec, runs_dir) if step == spec.num_steps else None
        )
    windows = _windows(search)

    def score(spec: RunSpec, step: int) -> Score | None:
        checkpoint = Run.of(runs_dir, spec.run_id).step_folder(step)
        kept = kept_score(name, spec, step, search=search, cache=cache)
        found = read_json_or_none(kept)
        if found:
            return Score(**found)
        if not (checkpoint / MANIFEST).exists():
            return None
        made = horizon_score(spec, checkpoint, windows)
        write_atomic(kept, json.dumps(asdict(made)))
        return made

    return score


def kept_score(name: str, spec: RunSpec, step: int, *, search: Search, cache: Path) -> Path:
    """Return the file in `cache` for a score of (run, step); a horizon is named by its windows."""
    kind = "adapted"
    if name == "horizon_l1":
        windows = _windows(search)
        kind = f"horizon-{min(windows):g}-{max(windows):g}"
    return cache / f"{spec.run_id}-{step}-{kind}.json"


def validation_score(run: Run, step: int) -> Score | None:
    """Return val/l1 as the run itself logged it at a step."""
    done = run.done()
    if done and done.step == step:
        return _logged(done.metrics)
    for line in reversed(metric_lines(run)):
        if line.step == step and "val/l1" in line.values:
            return _logged(line.values)
    return None


def horizon_score(
    spec: RunSpec, checkpoint: Path, windows_s: Sequence[float], *, split: str = "val"
) -> Score:
    """Return the mean l1 over the fixed horizon on the anchor domain and its clustered error.

    Absolute poses over present dimensions, as `val/l1`, with the noise fixed by frame and seed.
    """
    from scaling.training.evaluate import clustered_mean
    from xvla.data.horizon import Horizon, horizon_frames

    horizon = Horizon.of(windows_s)
    data = replace(
        spec.data,
        mixture=[DomainEntry(name=spec.data.anchor_domain)],
        subset_seed=0,
        num_workers=0,
        decode_images=True,
    )
    mixture = _anchor_alone(data.root, data.anchor_domain).under(data)
    keys = horizon_frames(mixture, split, horizon)  # type: ignore[arg-type]
    errors = _horizon_errors(spec, checkpoint, mixture, keys, horizon)
    import numpy as np

    mean, sem = clustered_mean(errors, np.array([episode for _, episode, _ in keys]))
    return Score(value=mean, sem=sem)


@lru_cache(maxsize=1)  # a search scores run after run on the same frames
def _anchor_alone(root: str, name: str) -> "Mixture":
    from xvla.data.sources import Mixture

    entry = DomainEntry(name=name)
    return Mixture.open(DataConfig(mixture=[entry], anchor_domain=name, root=root))


def adapted_success(spec: RunSpec, runs_dir: Path) -> Score:
    """Return the failure rate of rollouts after finetuning from the run (C.4).

    Rollouts are read from the folders of runs finetuned from it (the document of `scaling rollout
    --json`). Raises ValueError when there are none.
    """
    from scaling.adaptation import finetuned_from

    found = [
        read_counts(path)
        for _, run in finetuned_from(runs_dir, {spec.run_id})
        for path in run.rollout_files()
    ]
    episodes = sum(counts["rollouts"] for counts in found)
    if not episodes:
        raise ValueError(
            f"score=adapted_success needs rollouts: run {spec.run_id} has no finetuned run with a "
            "rollout*.json; finetune from it and roll out, then search again, or use horizon_l1"
        )
    failure = 1 - sum(counts["successes"] for counts in found) / episodes
    return Score(value=failure, sem=math.sqrt(failure * (1 - failure) / episodes))


def _horizon_errors(
    spec: RunSpec,
    checkpoint: Path,
    mixture: "Mixture",
    keys: "list[SampleKey]",
    horizon: "Horizon",
):
    """Return l1 of each frame [F]."""
    import numpy as np
    import torch

    from scaling.training.evaluate import frame_errors
    from xvla.data.evaluation import frame_noise
    from xvla.data.horizon import at_horizon, horizon_targets
    from xvla.data.normalise import Normaliser
    from xvla.data.samples import SampleMaker
    from xvla.params import action_dim
    from xvla.pretrained import load_pretrained

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_pretrained(checkpoint, attention=spec.engine.attention).to(device)
    if spec.precision == "bf16":  # as the run itself evaluates
        model = model.to(torch.bfloat16)
    state = read_state(checkpoint)
    normaliser = Normaliser.from_dict(state.normaliser)
    maker = SampleMaker(mixture, normaliser)
    targets = horizon_targets(mixture, keys, horizon).numpy()
    present = mixture.sources[spec.data.anchor_domain].present
    shape = (spec.model.num_anchors, action_dim(spec.model))
    errors = []
    for first in range(0, len(keys), spec.engine.eval_batch_size):
        part = keys[first : first + spec.engine.eval_batch_size]
        poses = maker.poses(part)
        noise = torch.from_numpy(frame_noise(part, seed=spec.seeds.eval, shape=shape))
        batch = maker.collate(part, poses).to(device)
        with torch.no_grad():
            chunk = model.act(batch, DENOISING_STEPS, noise.to(device)).float().cpu()
        proprio = torch.from_numpy(poses.proprio.copy())
        absolute = normaliser.decode([key[0] for key in part], proprio, chunk)
        window = spec.data.prediction_window_s
        at_times = at_horizon(proprio, absolute, window_s=window, horizon=horizon)
        rows = frame_errors(
            at_times.numpy(),
            targets[first : first + len(part)],
            np.tile(present, (len(part), 1)),
        )
        errors.append(rows["l1"].to_numpy())
    return np.concatenate(errors)


def _windows(search: Search) -> list[float]:
    """Return the windows compared: those of the space, else that of the default."""
    axis = search.space.get("prediction_window_s")
    if isinstance(axis, Choice):
        return [float(value) for value in axis.values]
    if isinstance(axis, IntRange):
        return [float(axis.low), float(axis.high)]
    return sorted({run_window(search, scale) for scale in search.run})


def run_window(search: Search, scale: str) -> float:
    """Return the window of a search that does not vary it."""
    return search.run[scale](search.defaults[scale], 0).data.prediction_window_s


def _logged(metrics: dict[str, float]) -> Score:
    """Return the score; metrics leave out what is not finite."""
    return Score(value=metrics.get("val/l1", math.nan), sem=metrics.get("val/l1_sem") or math.nan)
