"""The run folders of a finished demo: packed into one archive, unpacked with small checkpoints."""

import hashlib
import json
import lzma
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from golden_files import ASSETS
from safetensors.numpy import save_file

ARCHIVE = ASSETS / "demo_runs.tar.xz"
PLACE = "/demo/runs"  # where the packed runs say that they lie
# Not read by the verbs that look at finished runs.
LEFT_OUT = ("train.log", ".lock", "model.safetensors")


def pack(runs: Path) -> None:
    """Write the finished runs in a folder into the archive, less weights, logs and caches."""
    ARCHIVE.parent.mkdir(parents=True, exist_ok=True)
    with (
        lzma.open(ARCHIVE, "wb", preset=9 | lzma.PRESET_EXTREME) as stream,
        tarfile.open(fileobj=stream, mode="w") as archive,
    ):
        for path in _packed_files(runs):
            content = path.read_bytes()
            if path.name == "run.yaml":
                content = content.replace(str(runs.resolve()).encode(), PLACE.encode())
            entry = tarfile.TarInfo(path.relative_to(runs).as_posix())
            entry.size = len(content)
            archive.addfile(entry, BytesIO(content))


def unpack(folder: Path) -> Path:
    """Write the archive's runs into `folder`/runs, each with a small last checkpoint; return it."""
    runs = folder / "runs"
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(runs, filter="data")
    for path in runs.glob("*/run.yaml"):
        path.write_text(path.read_text().replace(PLACE, str(runs)))
    for path in sorted(runs.glob("*/checkpoints/step_*/manifest.json")):
        _make_weights(path.parent)
    return runs


def _packed_files(runs: Path) -> Iterator[Path]:
    """Yield the files to pack in order; of checkpoints those of the last step."""
    for done in sorted(runs.glob("*/DONE")):
        last = (done.parent / "checkpoints" / "latest").read_text().strip()
        for path in sorted(done.parent.rglob("*")):
            parts = path.relative_to(done.parent).parts
            old = parts[0] == "checkpoints" and parts[1:2] not in ((), (last,), ("latest",))
            if (
                path.is_file()
                and path.name not in LEFT_OUT
                and "deepspeed" not in parts
                and not old
            ):
                yield path


def _make_weights(step: Path) -> None:
    """Write the tensors that the verbs read and the manifest that vouches for the files."""
    config = json.loads((step / "config.json").read_text())["model"]
    width = config["soft_prompt_length"] * config["hidden_size"]
    own = int(step.parts[-3][:4], 16)  # of a run's id: no two runs have the same weights
    tables = {"transformer.soft_prompt_hub.weight": _spread(config["num_domains"], width, own)}
    save_file(tables, step / "model.safetensors")
    manifest: dict[str, Any] = json.loads((step / "manifest.json").read_text())
    kept = [name for name in manifest["sha256"] if (step / name).exists()]
    manifest["sha256"] = {
        name: hashlib.sha256((step / name).read_bytes()).hexdigest() for name in kept
    }
    (step / "manifest.json").write_text(json.dumps(manifest))


def _spread(rows: int, width: int, seed: int) -> np.ndarray:
    """Return numbers that look random and are the same on every machine, apart by row."""
    state = np.arange(rows * width, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(seed)
    state = (state ^ (state >> np.uint64(13))) * np.uint64(2246822519) % np.uint64(2**32)
    noise = (state % np.uint64(4096)).astype(np.float32).reshape(rows, width) / np.float32(4096)
    own = (np.arange(rows, dtype=np.float32) * 7 % 11)[:, None] / np.float32(8)
    return noise + own * noise[:1]
