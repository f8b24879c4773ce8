"""Verbs on data: simulate, inspect, map, convert, prepare, pretrain-encoder."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.cli.arguments import Asked, as_json, print_news

if TYPE_CHECKING:
    from xvla.data.prepare import CacheFrames
    from xvla.progress import OpenBar


def simulate(
    asked: Asked,
    *,
    name: str | None,
    domain: str | None,
    task: str | None,
    out: str,
    episodes: str,
    seed: int,
    workers: int,
    size: int,
) -> int:
    """Record simulated episodes of a domain (extra `sim`); DOMAIN:TASK+TASK chooses tasks."""
    from xvla.sim.collect import simulate as record

    named, _, tasks = (domain or name or "").partition(":")
    if not named:
        raise ValueError("no domain given; e.g. `scaling data simulate sim_panda_left --out DIR`")
    document = record(
        named,
        out,
        episodes=_episodes(episodes),
        seed=seed,
        workers=workers,
        size=size,
        tasks=tuple(filter(None, (task or tasks).split("+"))),
        progress=_bar(asked),
    )
    asked.show(document, as_json)
    return 0


def inspect(asked: Asked, *, path: str, html: str | None) -> int:
    """Print what a data set holds, and draw it with --html; exit 1 if there are errors."""
    from xvla.data.inspect import inspect_dataset

    document = inspect_dataset(path)
    if html:
        from xvla.data.inspect_page import write_page

        write_page(path, document, html)
        print(f"page: {html}", file=sys.stderr)
    asked.show(document, as_json)
    return 1 if any(problem["severity"] == "error" for problem in document["problems"]) else 0


def map_states(asked: Asked, *, path: str, write: bool) -> int:
    """Propose what the columns of one's own set mean, and show what becomes of an episode."""
    from xvla.data.propose import proposal_text, propose_mapping

    proposal = propose_mapping(path, write=write)
    asked.show(proposal, proposal_text)
    return 1 if proposal.problem else 0


def convert(
    asked: Asked,
    *,
    path: str,
    folder: str | None,
    out: str | None,
    size: int,
    crf: int,
    episodes_per_file: int,
    workers: int,
    skip_bad: bool,
) -> int:
    """Write a data set (X-VLA's HDF5 layout, LeRobot v2.1) as LeRobot v3.0."""
    from xvla.data.writing.convert import ConvertOptions, convert_dataset

    target = out or folder
    if not target:
        raise ValueError("no folder given; e.g. `scaling data convert SOURCE --out DIR`")
    document = convert_dataset(
        path,
        target,
        options=ConvertOptions(size=size, crf=crf, episodes_per_file=episodes_per_file),
        workers=workers,
        skip_bad=skip_bad,
        progress=_bar(asked),
    )
    asked.show(document, as_json)
    return 0


def prepare(asked: Asked, *, out: str, frames: "CacheFrames", yes: bool) -> int:
    """Build the sample index, and a frame cache if asked, of every domain of a study."""
    from dataclasses import replace

    from xvla.data.prepare import prepare_caches
    from xvla.data.sources import Mixture

    rows = []
    seen: set[str] = set()
    for spec in asked.expand():
        new = [entry for entry in spec.data.mixture if entry.name not in seen]
        seen |= {entry.name for entry in new}
        if new:
            rows += prepare_caches(
                Mixture.open(replace(spec.data, mixture=new, anchor_domain=new[0].name)),
                out,
                frames=frames,
                yes=yes,
                say=lambda text: print(text, file=sys.stderr),
            )
    asked.show({"domains": rows, "written": yes}, as_json)
    return 0


# Labelled frames behind the shipped encoder; more of the one-armed scenes, where views differ most.
FRAMES = {
    "sim_kinova3_dual": 1400,
    "sim_panda": 1800,
    "sim_panda_dual": 700,
    "sim_panda_left": 2400,
    "sim_panda_right": 1800,
    "sim_ur5e": 2000,
    "sim_ur5e_dual": 700,
}
FRAMES_SEED = 1001


def pretrain_encoder(
    asked: Asked, *, frames: str, out: str, steps: int, batch_size: int, seed: int
) -> int:
    """Train the small encoder that stands in for Florence-2; render its frames first if none."""
    from scaling.sizes import SIZES
    from xvla.stand_in.training import pretrain_encoder as pretrain

    if steps < 1 or batch_size < 1:
        raise ValueError(f"--steps {steps} --batch-size {batch_size}: both must be 1 or more")
    if not any(Path(frames).glob("*.npz")):
        _render_frames(Path(frames), progress=_bar(asked))
    document = pretrain(
        frames,
        out,
        config=SIZES["tiny"],
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        threads=os.cpu_count() or 1,
        say=(lambda text: None) if asked.json else print_news,
    )
    asked.show(document, as_json)
    return 0


def _render_frames(folder: Path, *, progress: "OpenBar") -> None:
    """Make the frames of FRAMES (extra `sim`; about a quarter of an hour on two cores)."""
    from xvla.stand_in.frames import generate_frames

    folder.mkdir(parents=True, exist_ok=True)
    for domain, frames in FRAMES.items():
        generate_frames(
            domain,
            str(folder / f"{domain}.npz"),
            frames=frames,
            seed=FRAMES_SEED,
            workers=os.cpu_count() or 1,
            size=128,
            progress=progress,
        )


def _bar(asked: Asked) -> "OpenBar":
    """Return what shows how far it is: nothing where the answer is JSON."""
    from scaling.cli.progress import open_bar
    from xvla.progress import silent

    return silent if asked.json else open_bar


def _episodes(text: str) -> dict[str, int] | int:
    """Parse `40` or `train=40,val=8,test=8`."""
    try:
        if "=" not in text:
            return int(text)
        pairs = [part.split("=") for part in text.split(",")]
        counts = {split.strip(): int(count) for split, count in pairs}
        if len(counts) < len(pairs) or not all(counts):
            raise ValueError
        return counts
    except ValueError:
        raise ValueError(
            f"--episodes {text!r} is neither a number nor train=N,val=N,test=N, each once"
        ) from None
