"""The two mixtures that the studies vary: the paper's sources and the simulated ones."""

import hashlib
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from scaling.recipes import with_recipe
from scaling.sizes import SIZES
from scaling.spec import EngineConfig, InitConfig, ResourceConfig, RunSpec, SeedConfig
from xvla.config import DataConfig, DomainEntry

DATA = Path(__file__).resolve().parents[1] / "xvla" / "data"

# Paper, Table 10: source, trajectories, sampling weight. AGIBOT, the anchor domain, comes first;
# the order is the one in which the diversity study adds sources.
PAPER_MIXTURE = (
    DomainEntry(name="agibot", num_episodes=141_000, weight=0.4),
    DomainEntry(name="droid_left", num_episodes=45_000, weight=0.15),
    DomainEntry(name="robomind_ur", num_episodes=25_000, weight=0.1),
    DomainEntry(name="robomind_franka", num_episodes=19_000, weight=0.1),
    DomainEntry(name="droid_right", num_episodes=45_000, weight=0.15),
    DomainEntry(name="robomind_agilex", num_episodes=11_000, weight=0.07),
    DomainEntry(name="robomind_franka_dual", num_episodes=2_000, weight=0.03),
)
# The simulated stand-ins, in the same order, and the training episodes that ship of each.
SIMULATED_DOMAINS = (
    "sim_kinova3_dual",
    "sim_panda_left",
    "sim_ur5e",
    "sim_panda",
    "sim_panda_right",
    "sim_ur5e_dual",
    "sim_panda_dual",
)
SIMULATED_EPISODES = 40


def paper_run(size: str, *, mixture: tuple[DomainEntry, ...] = PAPER_MIXTURE, seed: int = 0):
    """Return a run of Table 9 at the given size on 8 nodes of 8 A100s."""
    base = RunSpec(
        size=size,
        model=SIZES[size],
        data=DataConfig(mixture=list(mixture), anchor_domain="agibot"),
        seeds=SeedConfig(init=seed, data=seed),
        init=InitConfig(encoder=_florence(size)),
        engine=EngineConfig(
            zero_stage=2, num_workers=8, log_every=50, eval_every=10_000, save_every=5_000,
            keep_last=2, activation_checkpointing=size in ("0.9b", "2b"),
        ),
        resources=ResourceConfig(nodes=8, gpus_per_node=8),
    )  # fmt: skip
    return with_recipe(base, "pretrain_paper")


def simulated_run(
    size: str = "tiny",
    *,
    episodes: int = SIMULATED_EPISODES,
    domains: int = len(SIMULATED_DOMAINS),
    seed: int = 0,
    blind: bool = False,
) -> RunSpec:
    """Return a CPU run on the first `domains` simulated domains, `episodes` of each."""
    mixture = [_simulated_entry(name, episodes) for name in SIMULATED_DOMAINS[:domains]]
    base = RunSpec(
        size=size,
        model=SIZES[size],
        data=DataConfig(
            mixture=mixture,
            anchor_domain=SIMULATED_DOMAINS[0],
            image_size=96,
            text_length=16,
            tokenizer="demo",
            start_stride=2,
            blind=blind,
        ),
        seeds=SeedConfig(init=seed, data=seed),
        init=InitConfig(encoder="simulated", encoder_sha256=_encoder_sha256()),
        engine=EngineConfig(zero_stage=0, log_every=20, eval_every=250, save_every=250),
        resources=ResourceConfig(),
    )
    return with_recipe(base, "pretrain_small")


def with_axes(spec: RunSpec, **axes: float | int | str) -> RunSpec:
    """Return `spec` labelled with its values on the study's axes."""
    return replace(spec, axes=dict(axes))


def scaled_weights(entries: tuple[DomainEntry, ...], fraction: float) -> tuple[DomainEntry, ...]:
    """Return the mixture with a fraction of each source's episodes and the same weights."""
    return tuple(
        replace(entry, num_episodes=max(1, round(entry.num_episodes * fraction)))
        for entry in entries
    )


def _florence(size: str) -> str:
    """Return the pretrained encoder of a size, or "none" where no weights were released."""
    released = {
        768: "florence-community/Florence-2-base",
        1024: "florence-community/Florence-2-large",
    }
    return released.get(SIZES[size].text.d_model, "none")


def _simulated_entry(name: str, episodes: int) -> DomainEntry:
    return DomainEntry(name=name, num_episodes=episodes, sha256=_demo_digests().get(name))


@cache
def _demo_digests() -> dict[str, str]:
    """Return domain -> the digest `xvla.data.verify` computes, from the shipped file hashes."""
    manifest = DATA / "demo" / "manifest.json"
    if not manifest.exists():
        return {}
    totals: dict[str, Any] = {}
    for path, content in sorted(json.loads(manifest.read_text())["sha256"].items()):
        domain, name = path.split("/", 1)
        totals.setdefault(domain, hashlib.sha256()).update(f"{content}  {name}\n".encode())
    return {domain: total.hexdigest() for domain, total in totals.items()}


@cache
def _encoder_sha256() -> str:
    record = DATA / "encoder" / "encoder.json"
    return str(json.loads(record.read_text())["sha256"]) if record.exists() else ""
