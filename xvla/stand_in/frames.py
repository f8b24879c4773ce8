"""Owns labelled simulated frames: pictures with poses and keypoints, to pretrain an encoder on."""

import json
import os
import shutil
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from xvla.progress import OpenBar, silent
from xvla.sim.collect import in_order, stage
from xvla.sim.domains import find_domain
from xvla.sim.record import Trajectory, read_state, restore, roll_out
from xvla.sim.render import ViewRenderer
from xvla.sim.scene import Scene, load_robosuite

INSTANTS = 12  # looked at in each demonstration
PLACEMENTS = 4  # random scenes made from an instant at which nothing is held
OVERLAP_M = 0.003
KEYPOINTS = ("object0", "object1", "gripper0", "gripper1", "handle0", "handle1")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameJob:
    """One demonstration to make labelled frames from."""

    domain: str
    index: int
    seed: int
    size: int
    path: str


def generate_frames(
    domain: str,
    out: str,
    *,
    frames: int,
    seed: int,
    workers: int,
    size: int,
    progress: OpenBar = silent,
) -> dict[str, Any]:
    """Write `frames` labelled pictures of one domain to the .npz file `out`; return a summary.

    Demonstrations are rolled out without pictures; from each, some instants are taken, and while
    nothing is held the objects are put elsewhere, recoloured and resized before rendering. Arrays
    (n frames, world lengths in m, everything in robot 0's base frame unless said):

    * one per view: uint8 [n, size, size, 3]
    * `state` [n, 20]: as `observation.state`; `episode` [n]: which demonstration (split on it)
    * `grippers` [n, 2, 3]; `objects` [n, 2, 3]; `handles` [n, 2, 3]; `yaw` [n, 2, 2] (sin, cos)
    * `to_object` [n, 2 grippers, 2 objects, 3]; `to_object_hand`: the same in the hand's own frame
    * `closed` [n, 2]: gripper commands; `half_size` [n, 2]
    * `present` [n, 6]: which of KEYPOINTS exist; zeros stand for what does not
    * `keypoints` [n, views, 6, 2]: image x, y in 0..1; `seen` [n, views, 6]: inside the picture
      (perhaps hidden behind something)
    * `instruction`, `task` [n] str; `meta`: JSON

    Use a seed that no data set uses. ValueError: unknown domain, `out` exists, bad numbers.
    """
    spec = find_domain(domain)
    target = Path(out)
    if target.exists() or target.suffix != ".npz":
        raise ValueError(f"{out}: must be a new file ending in .npz")
    if frames < 1 or workers < 1:
        raise ValueError(f"frames {frames}, workers {workers}: both must be 1 or more")
    load_robosuite()
    parts = target.parent / f".{target.stem}-{seed}-{size}.parts"
    parts.mkdir(parents=True, exist_ok=True)
    tables = _collect(
        FrameJob(domain=domain, index=0, seed=seed, size=size, path=str(parts)),
        frames=frames,
        workers=workers,
        progress=progress,
    )
    keys = [key for key in tables[0] if key != "meta"]
    merged = {key: np.concatenate([table[key] for table in tables])[:frames] for key in keys}
    summary = {
        "domain": domain,
        "frames": len(merged["state"]),
        "demonstrations": len(tables),
        "views": list(spec.views),
        "keypoints": list(KEYPOINTS),
        "seed": seed,
        "size": size,
        "simulated": True,
    }
    partial = target.with_suffix(".partial.npz")
    np.savez(partial, meta=json.dumps(summary), **merged)
    os.replace(partial, target)
    shutil.rmtree(parts)
    return {**summary, "path": out}


def _collect(
    first: FrameJob, *, frames: int, workers: int, progress: OpenBar
) -> list[dict[str, np.ndarray]]:
    """Run demonstrations until there are enough frames; return one table each, in order."""
    tables: list[dict[str, np.ndarray]] = []
    while sum(len(table["state"]) for table in tables) < frames:
        missing = frames - sum(len(table["state"]) for table in tables)
        count = max(workers, int(np.ceil(missing / (INSTANTS * PLACEMENTS * 0.5))))
        jobs = [
            replace(first, index=i, path=f"{first.path}/{i:05d}.npz")
            for i in range(len(tables), len(tables) + count)
        ]
        label = f"{first.domain} frames"
        list(in_order(frame_table, jobs, workers=workers, label=label, progress=progress))
        for job in jobs:
            with np.load(job.path) as stored:
                tables.append(dict(stored))
    return tables


def frame_table(job: FrameJob) -> str:
    """Write the labelled frames of one demonstration to `job.path`; return the path."""
    if Path(job.path).exists():
        return job.path
    tasks = find_domain(job.domain).tasks
    scene, renderer = stage(job.domain, tasks[job.index % len(tasks)], job.size)
    seed = [job.seed, zlib.crc32(job.domain.encode()), job.index, 0xF2A]
    rng = np.random.default_rng(seed)
    trajectory = roll_out(scene, rng)
    rows = []
    for instant in _instants(trajectory, rng):
        for _ in range(PLACEMENTS if _is_free(trajectory, instant) else 1):
            rows.append(_labelled(scene, renderer, trajectory, instant, rng))
    table = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    table["episode"] = np.full(len(rows), job.index)
    partial = Path(job.path).with_suffix(".partial.npz")
    np.savez(partial, **table)
    os.replace(partial, job.path)
    return job.path


def _instants(trajectory: Trajectory, rng: np.random.Generator) -> np.ndarray:
    """Return random instants, about two thirds of them before the first grasp."""
    length = len(trajectory.states)
    grasp = int(np.argmax(trajectory.states[:, 9] > 0.5)) or length
    early = rng.choice(grasp, size=min(grasp, INSTANTS * 2 // 3), replace=False)
    rest = np.arange(grasp, length)
    late = rng.choice(rest, size=min(len(rest), INSTANTS - len(early)), replace=False)
    return np.sort(np.concatenate([early, late]))


def _is_free(trajectory: Trajectory, instant: int) -> bool:
    """Tell whether no gripper has closed yet, so that objects may be put anywhere."""
    return not np.any(trajectory.states[: instant + 1, [9, 19]] > 0.5)


def _labelled(
    scene: Scene,
    renderer: ViewRenderer,
    trajectory: Trajectory,
    instant: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Render one instant with new colours (and places and sizes, if nothing is held)."""
    colours = [o.colours[int(rng.integers(len(o.colours)))] for o in scene.task.objects]
    sizes = trajectory.sizes
    free = _is_free(trajectory, instant)
    if free:
        ranges = [o.half_size or (s, s) for o, s in zip(scene.task.objects, sizes, strict=True)]
        sizes = [float(rng.uniform(*bounds)) for bounds in ranges]
    restore(scene, replace(trajectory, colours=colours, sizes=sizes), instant)
    if free:
        _scatter(scene, trajectory.qpos[instant], rng)
    words = scene.task.templates[int(rng.integers(len(scene.task.templates)))]
    grip = int(trajectory.states[instant, 9] > 0.5)
    return {
        **{view: renderer.frame(view) for view in scene.domain.views},
        **_labels(scene, grip),
        **_keypoints(scene, renderer),
        "instruction": np.array(scene.instruction(words, colours)),
        "task": np.array(scene.task.name),
    }


def _scatter(scene: Scene, qpos: np.ndarray, rng: np.random.Generator) -> None:
    """Put the objects somewhere they touch no hand; after ten failures leave them in place."""
    for _ in range(10):
        scene.place(scene.sample_placements(rng))
        if not _overlaps(scene):
            return
    scene.data.qpos[:] = qpos
    scene.env.sim.forward()


def _overlaps(scene: Scene) -> bool:
    """Tell whether an object and anything else are inside each other."""
    model, contacts = scene.model, scene.data.contact
    objects = [model.body(item.body).id for item in scene.task.objects]
    touching = np.isin(model.body_rootid[model.geom_bodyid[contacts.geom]], objects).any(axis=1)
    return bool(np.any(contacts.dist[touching] < -OVERLAP_M))


def _labels(scene: Scene, grip: int) -> dict[str, np.ndarray]:
    """Return everything that is known without a camera."""
    origin, base = scene.arms[0].base()
    hands = [arm.pose() for arm in scene.arms]
    poses = [scene.object_pose(i) for i in range(len(scene.sizes))]
    turned = float(np.arctan2(base[1, 0], base[0, 0]))
    row = {
        "state": read_state(scene, grip),
        "grippers": np.zeros((2, 3), np.float32),
        "objects": np.zeros((2, 3), np.float32),
        "handles": np.zeros((2, 3), np.float32),
        "yaw": np.zeros((2, 2), np.float32),
        "to_object": np.zeros((2, 2, 3), np.float32),
        "to_object_hand": np.zeros((2, 2, 3), np.float32),
        "closed": np.zeros(2, np.float32),
        "half_size": np.zeros(2, np.float32),
    }
    row["closed"][: len(hands)] = grip
    row["half_size"][: len(poses)] = scene.sizes
    for a, (hand, facing) in enumerate(hands):
        row["grippers"][a] = base.T @ (hand - origin)
        for o, (place, _) in enumerate(poses):
            row["to_object"][a, o] = base.T @ (place - hand)
            row["to_object_hand"][a, o] = facing.T @ (place - hand)
    for o, (place, yaw) in enumerate(poses):
        row["objects"][o] = base.T @ (place - origin)
        row["yaw"][o] = np.sin(yaw - turned), np.cos(yaw - turned)
    if len(hands) == 2:
        row["handles"][:] = [base.T @ (handle - origin) for handle in scene.handles()]
    return row


def _keypoints(scene: Scene, renderer: ViewRenderer) -> dict[str, np.ndarray]:
    """Return where the objects, grip sites and handles are in every view."""
    points: dict[str, np.ndarray] = {
        f"object{i}": scene.object_pose(i)[0] for i in range(len(scene.sizes))
    }
    points |= {f"gripper{i}": arm.pose()[0] for i, arm in enumerate(scene.arms)}
    if len(scene.arms) == 2:
        points |= {f"handle{i}": handle for i, handle in enumerate(scene.handles())}
    present = np.array([name in points for name in KEYPOINTS])
    world = np.stack([points.get(name, np.zeros(3)) for name in KEYPOINTS])
    where = np.stack([renderer.project(view, world) for view in scene.domain.views])
    inside = np.all((where >= 0) & (where < 1), axis=-1) & present  # NaN compares false
    where = np.where(present[None, :, None], np.nan_to_num(where, nan=0.0), 0.0)
    return {"present": present, "keypoints": where.astype(np.float32), "seen": inside}
