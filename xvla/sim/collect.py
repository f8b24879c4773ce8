"""Owns collecting demonstrations with several processes and writing them as one data set."""

import hashlib
import itertools
import json
import os
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from xvla.data.writing.lerobot import STATE_NAMES, EpisodeRecord, write_dataset
from xvla.data.writing.targets import check_new
from xvla.data.writing.video import VideoOptions
from xvla.progress import OpenBar, silent
from xvla.sim.domains import Domain, find_domain
from xvla.sim.record import OBJECT_NAMES, RECORD_HZ, render, roll_out
from xvla.sim.render import ViewRenderer
from xvla.sim.scene import Scene, load_robosuite

MAX_ATTEMPTS = 10
LONG_S = 8.0  # shorter demonstrations make "hold the pose" a strong predictor
RECORDER_VERSION = 1  # raise when the same seed would give other episodes
VIDEO = VideoOptions(crf=26, gop=20)  # 33-37 dB; seeking decodes 20 small pictures at most

_stage: dict[tuple[str, str, int], tuple[Scene, ViewRenderer]] = {}  # one set a process


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeJob:
    """One episode to record; its random stream is a function of (seed, domain, index, attempt).

    A `task` that was asked for by name is part of the stream too: sets of other tasks never
    share an episode with the domain's own order.
    """

    domain: str
    index: int
    seed: int
    size: int
    path: str
    task: str = "auto"


def stage(domain: str, task: str, size: int) -> tuple[Scene, ViewRenderer]:
    """Return this process's scene and renderer, building them the first time."""
    key = (domain, task, size)
    if key not in _stage:
        scene = Scene(find_domain(domain), task)
        _stage[key] = (scene, ViewRenderer(scene, size))
    return _stage[key]


def episode_rng(job: EpisodeJob, attempt: int) -> np.random.Generator:
    """Return the random stream of one attempt at one episode."""
    asked = [] if job.task == "auto" else [zlib.crc32(job.task.encode())]
    return np.random.default_rng(
        [job.seed, zlib.crc32(job.domain.encode()), job.index, attempt, *asked]
    )


def job_task(job: EpisodeJob) -> str:
    """Return the task of an episode: the one asked for, or the domain's own for its index."""
    tasks = find_domain(job.domain).tasks
    return tasks[job.index % len(tasks)] if job.task == "auto" else job.task


def record_episode(job: EpisodeJob) -> str:
    """Record one successful episode to `job.path` (npz) unless it is there; return the path."""
    target = Path(job.path)
    if target.exists():
        return job.path
    began = time.process_time()
    scene, renderer = stage(job.domain, job_task(job), job.size)
    for attempt in range(MAX_ATTEMPTS):
        trajectory = roll_out(scene, episode_rng(job, attempt))
        if trajectory.success:
            break
    else:
        raise RuntimeError(
            f"{job.domain}: the expert failed {MAX_ATTEMPTS} times at episode {job.index} "
            f"({scene.task.name})"
        )
    frames = render(scene, renderer, trajectory)
    # by process: a killed call's worker may still be at the episode that the next call redoes
    partial = target.with_suffix(f".{os.getpid()}.partial.npz")
    meta = {
        "task": trajectory.task,
        "instruction": trajectory.instruction,
        "attempts": attempt + 1,
        "cpu_s": time.process_time() - began,
    }
    recorded = {"states": trajectory.states, "objects": trajectory.objects, **frames}
    _save(partial, {**recorded, "meta": np.array(json.dumps(meta))})
    os.replace(partial, target)
    return job.path


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays as np.load reads them, lightly packed: a third of the size for 0.1 s.

    NumPy's own savez_compressed takes five times as long for a sixth less.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as pack:
        for name, values in arrays.items():
            with pack.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, values, allow_pickle=False)


def simulate(
    domain: str,
    out: str,
    *,
    episodes: dict[str, int] | int,
    seed: int,
    workers: int,
    size: int,
    tasks: Sequence[str] = (),
    progress: OpenBar = silent,
    raw: str | None = None,
) -> dict[str, Any]:
    """Record simulated demonstrations of one domain as a LeRobot v3.0 data set at `out`.

    `episodes` is a number or counts by split in order ({"train": 40, "val": 8}); `tasks` are
    taken in turn, by default the domain's own; `size` is the pictures' side in pixels. Finished
    episodes wait in `raw` (default: a hidden folder beside `out`, removed at the end; about
    20 KB a picture at 128 pixels), so an interrupted call goes on where it stopped. Returns a
    JSON-able summary. ValueError: unknown domain or task, counts below 1, an existing `out`.
    ImportError: the extra `sim` is missing.
    """
    spec = find_domain(domain)
    splits = {"train": episodes} if isinstance(episodes, int) else dict(episodes)
    _check_request(splits, seed=seed, workers=workers, size=size, out=Path(out))
    _check_tasks(spec, tasks)
    load_robosuite()
    began = time.time()
    folder = _raw_folder(Path(raw or Path(out).parent / f".{Path(out).name}.raw"), spec, seed, size)
    jobs = _jobs(domain, folder, tasks, number=sum(splits.values()), seed=seed, size=size)
    kept = sum(Path(job.path).exists() for job in jobs)
    recorded = in_order(record_episode, jobs, workers=workers, label=domain, progress=progress)
    info = write_dataset(
        out,
        fps=RECORD_HZ,
        robot_type=spec.robot_type,
        views=dict.fromkeys(spec.views, (size, size)),
        episodes=(_load(path, spec.views) for path in recorded),
        splits=splits,
        video=VIDEO,
        names={
            "observation.state": STATE_NAMES,
            "action": STATE_NAMES,
            "observation.environment_state": OBJECT_NAMES,
        },
        extra_info={"simulated": True, "domain": domain, "seed": seed}
        | ({"tasks": list(tasks)} if tasks else {}),
    )
    summary = _summary(jobs, info, out=out, seconds=time.time() - began, resumed=kept)
    if raw is None:
        shutil.rmtree(folder.parent)
    return summary


def _jobs(
    domain: str, folder: Path, tasks: Sequence[str], *, number: int, seed: int, size: int
) -> list[EpisodeJob]:
    """Return the episodes to record; a task asked for is in the file's name, to resume it alone."""
    return [
        EpisodeJob(
            domain=domain,
            index=i,
            seed=seed,
            size=size,
            path=str(folder / (f"{i:05d}-{task}.npz" if tasks else f"{i:05d}.npz")),
            task=task,
        )
        for i, task in zip(range(number), itertools.cycle(tasks or ("auto",)))
    ]


def _raw_folder(root: Path, spec: Domain, seed: int, size: int) -> Path:
    """Return (made) where finished episodes of one recipe wait, so that none is mixed up."""
    recipe = json.dumps([RECORDER_VERSION, spec.name, spec.tasks, seed, size])
    folder = root / f"{spec.name}-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _check_tasks(spec: Domain, tasks: Sequence[str]) -> None:
    """Refuse tasks that the domain's expert has not been seen to master."""
    allowed = [*dict.fromkeys(spec.tasks), *spec.more_tasks]
    for task in tasks:
        if task not in allowed:
            raise ValueError(f"{spec.name} has no task {task!r}; allowed: {', '.join(allowed)}")


def _check_request(
    splits: dict[str, int], *, seed: int, workers: int, size: int, out: Path
) -> None:
    """Refuse impossible requests before any work is done."""
    if not splits or min(splits.values()) < 0 or sum(splits.values()) < 1:
        raise ValueError(f"episodes {splits}: give at least one episode, no negative counts")
    if workers < 1:
        raise ValueError(f"workers {workers}: must be 1 or more")
    if size < 32 or size % 2:
        raise ValueError(f"size {size}: must be an even number of pixels, 32 or more")
    if seed < 0:
        raise ValueError(f"seed {seed}: must be 0 or more")
    check_new(out)


def in_order(
    work: Callable[[Any], Any],
    jobs: list[Any],
    *,
    workers: int,
    label: str,
    progress: OpenBar = silent,
) -> Iterator[Any]:
    """Yield `work` of each job, in order, from fresh processes; `progress` counts them."""
    with (
        get_context("spawn").Pool(min(workers, len(jobs))) as pool,
        progress(label, len(jobs)) as advance,
    ):
        for done in pool.imap(work, jobs):
            yield done
            advance(1)


def _load(path: str, views: tuple[str, ...]) -> EpisodeRecord:
    """Return a recorded episode; the action is the next frame's state (the last repeated)."""
    with np.load(path) as stored:
        states = stored["states"]
        return EpisodeRecord(
            task=json.loads(str(stored["meta"]))["instruction"],
            columns={
                "observation.state": states,
                "action": np.concatenate([states[1:], states[-1:]]),
                "observation.environment_state": stored["objects"],
            },
            frames={view: stored[view] for view in views},
        )


def _metas(jobs: list[EpisodeJob]) -> Iterator[dict[str, Any]]:
    for job in jobs:
        with np.load(job.path) as stored:
            yield {**json.loads(str(stored["meta"])), "length": len(stored["states"])}


def _rates(metas: list[dict[str, Any]]) -> dict[str, float]:
    """Return the share of attempts that succeeded, by task."""
    tried: dict[str, list[int]] = {}
    for meta in metas:
        tried.setdefault(meta["task"], []).append(meta["attempts"])
    return {task: round(len(tries) / sum(tries), 4) for task, tries in tried.items()}


def _summary(
    jobs: list[EpisodeJob], info: dict[str, Any], *, out: str, seconds: float, resumed: int
) -> dict[str, Any]:
    """Return what the caller prints and the manifest keeps."""
    metas = list(_metas(jobs))
    lengths = np.array([meta["length"] for meta in metas]) / RECORD_HZ
    attempts = sum(meta["attempts"] for meta in metas)
    return {
        "path": out,
        "domain": jobs[0].domain,
        "seed": jobs[0].seed,
        "size": jobs[0].size,
        "episodes": info["total_episodes"],
        "frames": info["total_frames"],
        "splits": info["splits"],
        "tasks": {
            task: sum(meta["task"] == task for meta in metas)
            for task in dict.fromkeys(meta["task"] for meta in metas)
        },
        "attempts": attempts,
        "success_rate_by_task": _rates(metas),
        "success_rate": round(len(metas) / attempts, 4),
        "length_s": {
            "min": float(lengths.min()),
            "median": float(np.median(lengths)),
            "max": float(lengths.max()),
        },
        "cpu_s_per_episode": round(sum(meta["cpu_s"] for meta in metas) / len(metas), 2),
        "resumed": resumed,
        "seconds": round(seconds, 1),
        "episodes_per_hour": round((len(jobs) - resumed) / seconds * 3600, 1),
        "of_8_s_or_more": int((lengths >= LONG_S).sum()),
    }
