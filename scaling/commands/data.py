"""Verbs on data: simulate, inspect, pretrain-encoder."""

import os
from argparse import Namespace

from scaling.commands.common import as_json, show


def simulate(arguments: Namespace) -> int:
    """Record simulated episodes of a domain (extra `sim`)."""
    from xvla.sim.collect import simulate as record

    domain = arguments.domain or arguments.name
    if not domain:
        raise ValueError("no domain given; e.g. `scaling data simulate sim_panda_left --out DIR`")
    document = record(
        domain,
        arguments.out,
        episodes=_episodes(arguments.episodes),
        seed=arguments.seed,
        workers=arguments.workers,
        size=arguments.size,
        progress=not arguments.json,
    )
    show(arguments, document, as_json)
    return 0


def inspect(arguments: Namespace) -> int:
    """Print what a data set holds; exit 1 if there are problems."""
    from xvla.data.inspect import inspect_dataset

    document = inspect_dataset(arguments.path)
    show(arguments, document, as_json)
    return 1 if document["problems"] else 0


def pretrain_encoder(arguments: Namespace) -> int:
    """Train the small encoder that stands in for Florence-2."""
    from scaling.sizes import SIZES
    from xvla.encoder_pretraining import pretrain_encoder

    document = pretrain_encoder(
        arguments.frames,
        arguments.out,
        config=SIZES["tiny"],
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        threads=os.cpu_count() or 1,
        progress=not arguments.json,
    )
    show(arguments, document, as_json)
    return 0


def _episodes(text: str) -> dict[str, int] | int:
    """Parse `40` or `train=40,val=8,test=8`."""
    try:
        if "=" not in text:
            return int(text)
        pairs = (part.split("=") for part in text.split(","))
        return {split: int(count) for split, count in pairs}
    except ValueError:
        raise ValueError(
            f"--episodes {text!r} is neither a number nor train=N,val=N,test=N"
        ) from None
