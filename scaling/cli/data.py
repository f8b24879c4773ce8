"""Verbs on data: simulate, inspect, convert, prepare, pretrain-encoder."""

import os
import sys
from argparse import Namespace
from pathlib import Path

from scaling.cli.arguments import as_json, print_news, show


def simulate(arguments: Namespace) -> int:
    """Record simulated episodes of a domain (extra `sim`); DOMAIN:TASK+TASK chooses tasks."""
    from xvla.sim.collect import simulate as record

    domain, _, tasks = (arguments.domain or arguments.name or "").partition(":")
    if not domain:
        raise ValueError("no domain given; e.g. `scaling data simulate sim_panda_left --out DIR`")
    document = record(
        domain,
        arguments.out,
        episodes=_episodes(arguments.episodes),
        seed=arguments.seed,
        workers=arguments.workers,
        size=arguments.size,
        tasks=tuple(filter(None, (arguments.task or tasks).split("+"))),
        progress=not arguments.json,
    )
    show(arguments, document, as_json)
    return 0


def inspect(arguments: Namespace) -> int:
    """Print what a data set holds, and draw it with --html; exit 1 if there are problems."""
    from xvla.data.inspect import inspect_dataset

    document = inspect_dataset(arguments.path)
    if arguments.html:
        from xvla.data.inspect_page import write_page

        write_page(arguments.path, document, arguments.html)
        print(f"page: {arguments.html}", file=sys.stderr)
    show(arguments, document, as_json)
    return 1 if document["problems"] else 0


def convert(arguments: Namespace) -> int:
    """Write a data set (X-VLA's HDF5 layout, LeRobot v2.1) as LeRobot v3.0."""
    from xvla.data.writing.convert import ConvertOptions, convert_dataset

    out = arguments.out or arguments.folder
    if not out:
        raise ValueError("no folder given; e.g. `scaling data convert SOURCE --out DIR`")
    document = convert_dataset(
        arguments.path,
        out,
        options=ConvertOptions(
            size=arguments.size, crf=arguments.crf, episodes_per_file=arguments.episodes_per_file
        ),
        workers=arguments.workers,
        skip_bad=arguments.skip_bad,
        progress=not arguments.json,
    )
    show(arguments, document, as_json)
    return 0


def prepare(arguments: Namespace) -> int:
    """Build the sample index, and a frame cache if asked, of every domain of a study."""
    from dataclasses import replace

    from scaling.cli.arguments import expand
    from xvla.data.prepare import prepare_caches
    from xvla.data.sources import Mixture

    rows = []
    seen: set[str] = set()
    for spec in expand(arguments):
        new = [entry for entry in spec.data.mixture if entry.name not in seen]
        seen |= {entry.name for entry in new}
        if new:
            rows += prepare_caches(
                Mixture.open(replace(spec.data, mixture=new, anchor_domain=new[0].name)),
                arguments.out,
                frames=arguments.frames,
                yes=arguments.yes,
                say=lambda text: print(text, file=sys.stderr),
            )
    show(arguments, {"domains": rows, "written": arguments.yes}, as_json)
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


def pretrain_encoder(arguments: Namespace) -> int:
    """Train the small encoder that stands in for Florence-2; render its frames first if none."""
    from scaling.sizes import SIZES
    from xvla.stand_in.training import pretrain_encoder as pretrain

    if arguments.steps < 1 or arguments.batch_size < 1:
        raise ValueError(
            f"--steps {arguments.steps} --batch-size {arguments.batch_size}: both must be 1 or more"
        )
    if not any(Path(arguments.frames).glob("*.npz")):
        _render_frames(Path(arguments.frames), progress=not arguments.json)
    document = pretrain(
        arguments.frames,
        arguments.out,
        config=SIZES["tiny"],
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        threads=os.cpu_count() or 1,
        say=(lambda text: None) if arguments.json else print_news,
    )
    show(arguments, document, as_json)
    return 0


def _render_frames(folder: Path, *, progress: bool) -> None:
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
