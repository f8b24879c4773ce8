"""Soft prompts on a plane: principal components of their tokens, and how well domains separate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.document import Document

MAX_TOKENS = 4000  # pairwise distances are kept in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptMap(Document):
    """Tokens in principal components, and their silhouette in the full space.

    `silhouette` is the mean over tokens of (b - a) / max(a, b): a the mean Euclidean distance to
    the own domain's other tokens, b that to the nearest other domain's (Rousseeuw 1987); near 1
    domains are apart, at 0 they overlap. `silhouette_shuffled` is its mean under shuffled labels,
    `p_value` the share of shuffles that reach it. `nearest` is, for each domain, the domain with
    the nearest mean.
    """

    coordinates: tuple[tuple[float, float], ...]
    labels: tuple[str, ...]
    explained: tuple[float, ...]
    silhouette: float
    silhouette_by_domain: dict[str, float]
    silhouette_shuffled: float
    p_value: float
    nearest: dict[str, str]
    num_shuffles: int


def map_prompts(
    prompts: Any, domains: Sequence[str], *, num_shuffles: int = 200, seed: int = 0
) -> PromptMap:
    """Place soft prompts on a plane and say how far domains are apart (paper, Fig. 9).

    Args:
        prompts: [domains, tokens, width], or [tokens in all, width] with one label a token.
        domains: name of each domain (or of each token).
        num_shuffles: of the labels, for the null.
        seed: of the shuffles.

    Raises:
        ValueError: shapes that do not match, values that are not finite, fewer than two domains
            or a domain with one token.
    """
    tokens, labels = _flatten(np.asarray(prompts, dtype=float), list(domains))
    names, code = np.unique(labels, return_inverse=True)
    counts = np.bincount(code)
    if len(names) < 2 or counts.min() < 2:
        raise ValueError(
            f"{len(names)} domains, the smallest with {counts.min()} tokens: a silhouette needs "
            "two domains or more with two tokens or more each"
        )
    centred = tokens - tokens.mean(axis=0)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    variance = scale**2 / max(float((scale**2).sum()), 1e-300)
    distance = _distances(centred)
    each = silhouettes(distance, code)
    rng = np.random.default_rng(seed)
    null = [float(silhouettes(distance, rng.permutation(code)).mean()) for _ in range(num_shuffles)]
    observed = float(each.mean())
    return PromptMap(
        coordinates=tuple((float(a), float(b)) for a, b in _plane(left, scale)),
        labels=tuple(str(name) for name in labels),
        explained=tuple(float(v) for v in variance[:10]),
        silhouette=observed,
        silhouette_by_domain={str(n): float(each[code == k].mean()) for k, n in enumerate(names)},
        silhouette_shuffled=float(np.mean(null)) if null else float("nan"),
        p_value=(1 + sum(v >= observed for v in null)) / (1 + num_shuffles),
        nearest=_nearest(centred, code, [str(n) for n in names]),
        num_shuffles=num_shuffles,
    )


def _flatten(values: np.ndarray, domains: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens [n, width] and a label each [n]."""
    if values.ndim not in (2, 3) or len(values) != len(domains):
        raise ValueError(
            f"prompts have shape {values.shape} for {len(domains)} labels: give "
            "[domains, tokens, width] and one name a domain, or [tokens, width] and one a token"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} prompt values are not finite")
    labels = np.array([str(name) for name in domains])
    if values.ndim == 3:
        labels = np.repeat(labels, values.shape[1])
        values = values.reshape(-1, values.shape[2])
    if len(values) > MAX_TOKENS:
        raise ValueError(f"{len(values)} tokens: at most {MAX_TOKENS}; give a sample of them")
    return values, labels


def _plane(left: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the first two components [n, 2]; signs are fixed by the largest entry."""
    place = left[:, :2] * scale[:2]
    if place.shape[1] < 2:
        place = np.column_stack([place, np.zeros(len(place))])
    signs = np.sign(place[np.abs(place).argmax(axis=0), [0, 1]])
    return place * np.where(signs == 0, 1, signs)


def _distances(values: np.ndarray) -> np.ndarray:
    """Return Euclidean distances between rows [n, n]."""
    square = (values**2).sum(axis=1)
    return np.sqrt(np.maximum(square[:, None] + square[None] - 2 * values @ values.T, 0.0))


def silhouettes(distance: np.ndarray, code: np.ndarray) -> np.ndarray:
    """Return the silhouette of each row [n] from distances [n, n] and cluster numbers [n]."""
    member = np.eye(int(code.max()) + 1)[code]
    counts = member.sum(axis=0)
    sums = distance @ member
    rows = np.arange(len(code))
    own = sums[rows, code] / np.maximum(counts[code] - 1, 1)
    other = sums / counts
    other[rows, code] = np.inf
    nearest = other.min(axis=1)
    return (nearest - own) / np.maximum(np.maximum(nearest, own), 1e-300)


def _nearest(values: np.ndarray, code: np.ndarray, names: list[str]) -> dict[str, str]:
    means = np.stack([values[code == k].mean(axis=0) for k in range(len(names))])
    apart = _distances(means)
    np.fill_diagonal(apart, np.inf)
    return {name: names[int(apart[k].argmin())] for k, name in enumerate(names)}
