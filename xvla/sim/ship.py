"""Owns the data set that ships with the repository: what it holds, how it is made, its manifest."""

import argparse
import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from xvla.sim.collect import simulate

DEMO = Path(__file__).resolve().parents[1] / "data" / "demo"
SEED = 7
SIZE = 128
LIMIT_MB = 40.0
_PRETRAIN = {"train": 40, "val": 8, "test": 8}
SHIPPED: dict[str, dict[str, int]] = {
    "sim_kinova3_dual": {"train": 40, "val": 24, "test": 24},  # the anchor domain
    "sim_panda_left": _PRETRAIN,
    "sim_ur5e": _PRETRAIN,
    "sim_panda": _PRETRAIN,
    "sim_panda_right": _PRETRAIN,
    "sim_xarm7": {"train": 50, "val": 8, "test": 8},
    "sim_panda_dual": _PRETRAIN,
    "sim_ur5e_dual": _PRETRAIN,
}


def command(domain: str) -> str:
    """Return the command that makes one shipped domain."""
    counts = ",".join(f"{split}={count}" for split, count in SHIPPED[domain].items())
    return (
        f"scaling data simulate {domain} --out xvla/data/demo/{domain} "
        f"--episodes {counts} --seed {SEED} --size {SIZE}"
    )


def ship(*, workers: int, raw: str | None, root: Path = DEMO) -> dict[str, Any]:
    """Make every shipped domain that is missing, then write the manifest and return it.

    `raw` keeps recorded episodes between calls, see `simulate`.
    """
    path = root / "manifest.json"
    known = json.loads(path.read_text())["domains"] if path.exists() else {}
    for domain, counts in SHIPPED.items():
        if domain in known and (root / domain).is_dir():
            continue
        summary = simulate(
            domain,
            str(root / domain),
            episodes=counts,
            seed=SEED,
            workers=workers,
            size=SIZE,
            raw=raw,
        )
        del summary["path"]
        known[domain] = {"command": command(domain), **summary}
        manifest = write_manifest(root, known)
        print(json.dumps({**summary, "total_mb": manifest["total_mb"]}), flush=True)
    return write_manifest(root, known)


def write_manifest(root: Path, domains: dict[str, Any]) -> dict[str, Any]:
    """Write and return `root`/manifest.json: commands, summaries, versions, hashes of all files.

    Raises ValueError when the data exceed what the repository may hold.
    """
    files = sorted(
        file for domain in domains for file in (root / domain).rglob("*") if file.is_file()
    )
    size = sum(file.stat().st_size for file in files)
    manifest = {
        "what": "simulated demonstrations (MuJoCo, robosuite, scripted expert), LeRobot v3.0",
        "command": "python -m xvla.sim.ship",
        "total_mb": round(size / 1e6, 3),
        "episodes": sum(entry["episodes"] for entry in domains.values()),
        "frames": sum(entry["frames"] for entry in domains.values()),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("mujoco", "robosuite", "numpy", "scipy", "av")},
        },
        "domains": domains,
        "sha256": {
            str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in files
        },
    }
    (root / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    if size > LIMIT_MB * 1e6:
        raise ValueError(f"shipped data: {size / 1e6:.1f} MB; at most {LIMIT_MB} MB are allowed")
    return manifest


def main() -> None:
    """Make the shipped data set from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--raw", default=None, help="folder that keeps recorded episodes")
    arguments = parser.parse_args()
    manifest = ship(workers=arguments.workers, raw=arguments.raw)
    print(json.dumps({key: manifest[key] for key in ("total_mb", "episodes", "frames")}))


if __name__ == "__main__":
    main()
