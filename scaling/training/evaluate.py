"""Validation l1 exactly as the contract defines it, on frozen frames with frozen noise.

Shapes: F frames, T anchors, A action dim; errors are in absolute poses (m, degrees, 0..1).
"""

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
import torch

from scaling.spec import RunSpec
from xvla.data.evaluation import EvalBatch, frame_noise, hold_chunk
from xvla.data.normalise import Normaliser
from xvla.data.rotation import geodesic_angle, rot6d_to_matrix
from xvla.params import action_dim

ARM_WIDTH = 10  # xyz, rotation 6D, gripper
KEYS = ("domain", "episode", "start")
METRICS = ("l1", "l1_position_m", "l1_rotation_deg", "l1_gripper")


def frame_errors(prediction: np.ndarray, target: np.ndarray, present: np.ndarray) -> pd.DataFrame:
    """Return one row a frame with the four errors over its domain's present dimensions.

    prediction, target [F, T, A]; present [F, A] bool. `l1` is the mean absolute difference over
    anchors and present dimensions; an absent arm's zeros do not count. `l1_position_m` and
    `l1_gripper` are its position and gripper parts, `l1_rotation_deg` the geodesic angle.
    """
    difference = np.abs(prediction - target)
    arms = present.reshape(len(present), -1, ARM_WIDTH)[:, :, 0]
    per_arm = difference.reshape(*difference.shape[:2], -1, ARM_WIDTH)
    rotation = np.stack([_rotation_error(prediction, target, arm) for arm in range(2)], axis=-1)
    return pd.DataFrame(
        {
            "l1": _mean(difference, present[:, None, :]),
            "l1_position_m": _mean(per_arm[..., :3], arms[:, None, :, None]),
            "l1_rotation_deg": _mean(rotation, arms[:, None, :]),
            "l1_gripper": _mean(per_arm[..., 9], arms[:, None, :]),
        }
    )


def clustered_mean(values: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """Return the mean over all values and its standard error clustered by `clusters`.

    The sandwich estimator of a mean with the usual G/(G-1) correction (Cameron & Miller 2015);
    nan with fewer than two clusters.
    """
    mean = float(values.mean())
    sums = pd.Series(values - mean).groupby(clusters).sum().to_numpy()
    count = len(sums)
    if count < 2:
        return mean, float("nan")
    return mean, float(np.sqrt(count / (count - 1) * (sums**2).sum()) / len(values))


def summarise(errors: pd.DataFrame, *, anchor: str, prefix: str) -> dict[str, float]:
    """Return `prefix`/l1 and its companions from per-frame errors of all domains."""
    on_anchor = errors[errors["domain"] == anchor]
    result: dict[str, float] = {}
    for metric in METRICS:
        values = on_anchor[metric].to_numpy()
        mean, sem = clustered_mean(values, on_anchor["episode"].to_numpy())
        result[f"{prefix}/{metric}"] = mean
        result[f"{prefix}/{metric}_sem"] = sem
    by_domain = errors.groupby("domain")["l1"].mean()
    position = errors.groupby("domain")["l1_position_m"].mean()
    result[f"{prefix}/l1_all"] = float(by_domain.mean())
    result |= {f"{prefix}/l1/{name}": float(value) for name, value in by_domain.items()}
    result |= {f"{prefix}/l1_position_m/{name}": float(v) for name, v in position.items()}
    return result


def per_episode(errors: pd.DataFrame, *, step: int, split: str) -> pd.DataFrame:
    """Return the rows of val_episodes.parquet: errors averaged within each episode."""
    grouped = errors.groupby(["domain", "episode"], sort=True)
    table = grouped[list(METRICS)].mean()
    table["num_frames"] = grouped.size()
    table = table.reset_index()
    table.insert(0, "split", split)
    table.insert(0, "step", step)
    return table


def evaluate_policy(
    batches: Iterable[EvalBatch],
    act: Callable[[EvalBatch, torch.Tensor], torch.Tensor],
    spec: RunSpec,
    normaliser: Normaliser,
) -> pd.DataFrame:
    """Return per-frame errors of a policy over evaluation batches.

    `act(item, noise [B, T, A])` -> chunk [B, T, A] as the network gives it; `normaliser` turns it
    into absolute poses. The noise is fixed by frame and evaluation seed.
    """
    shape = (spec.model.num_anchors, action_dim(spec.model))
    frames = []
    for item in batches:
        noise = torch.from_numpy(frame_noise(item.keys, seed=spec.seeds.eval, shape=shape))
        chunk = act(item, noise).float().cpu()
        frames.append(_errors_of(item, normaliser.decode(_names(item), item.raw_proprio, chunk)))
    return _joined(frames)


def evaluate_baselines(
    batches: Iterable[EvalBatch], mean_chunks: dict[str, np.ndarray]
) -> dict[str, pd.DataFrame]:
    """Return per-frame errors of the two trivial predictors: holding the pose and mean chunk."""
    hold, mean = [], []
    for item in batches:
        hold.append(_errors_of(item, hold_chunk(item.raw_proprio, item.target.shape[1])))
        chunks = np.stack([mean_chunks[name] for name in _names(item)])
        mean.append(_errors_of(item, torch.from_numpy(chunks)))
    return {"hold": _joined(hold), "mean_chunk": _joined(mean)}


def _joined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the tables as one; a rank may have had no frame."""
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(KEYS))


def _names(item: EvalBatch) -> list[str]:
    return [name for name, _, _ in item.keys]


def _errors_of(item: EvalBatch, prediction: torch.Tensor) -> pd.DataFrame:
    errors = frame_errors(prediction.numpy(), item.target.numpy(), item.present.numpy())
    keys = pd.DataFrame(item.keys, columns=list(KEYS))
    return pd.concat([keys, errors], axis=1)


def _rotation_error(prediction: np.ndarray, target: np.ndarray, arm: int) -> np.ndarray:
    dims = slice(arm * ARM_WIDTH + 3, arm * ARM_WIDTH + 9)
    angle = geodesic_angle(
        rot6d_to_matrix(prediction[..., dims]), rot6d_to_matrix(target[..., dims])
    )
    return np.degrees(angle)


def _mean(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    weights = np.broadcast_to(mask, values.shape)
    axes = tuple(range(1, values.ndim))
    return np.where(weights, values, 0.0).sum(axis=axes) / weights.sum(axis=axes)
