"""The domains that a policy has tables for, and what a mixture of them may name."""

import re
from itertools import count
from pathlib import Path

from xvla.config import DataConfig

# Rows of the domain-specific tables. Real sources keep the released ids (X-VLA's data table); a
# simulated domain takes the row of the source it stands for, unseen robots the unused ids 19, 28.
DOMAIN_IDS: dict[str, int] = {
    "bridge": 0,
    "rt1": 1,
    "calvin": 2,
    "libero": 3,
    "widowx_air": 4,
    "air_agilex_hq": 5,
    "robotwin2": 6,
    "robocasa_human": 7,
    "vlabench": 8,
    "agibot_challenge": 9,
    "air_agilex": 10,
    "robomind_franka": 11,
    "robomind_ur": 12,
    "droid_left": 13,
    "droid_right": 14,
    "agibot": 15,
    "robomind_agilex": 16,
    "robomind_franka_dual": 17,
    "airbot": 18,
    "sim_panda": 11,
    "sim_ur5e": 12,
    "sim_panda_left": 13,
    "sim_panda_right": 14,
    "sim_kinova3_dual": 15,
    "sim_ur5e_dual": 16,
    "sim_panda_dual": 17,
    "sim_xarm7": 19,
    "sim_iiwa": 28,
}


# A name becomes a folder, a part of a metric's name and a key in MLflow.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
DEMO_ROOT = Path(__file__).parent / "data" / "demo"


def domain_rows(data: DataConfig) -> dict[str, int]:
    """Return the row of each name of `data.domain_ids` and of the mixture.

    A released or simulated name has its own row, a new one the first row that no name has. The
    result goes into run.yaml, so that a row stays with its name. Raises ValueError for two names
    that share a row: they would train one soft prompt.
    """
    rows = dict(data.domain_ids)
    for entry in data.mixture:
        if entry.name not in rows:
            own = DOMAIN_IDS.get(entry.name)
            rows[entry.name] = _first_free(rows) if own is None else own
    names: dict[int, str] = {}
    for name, row in rows.items():
        if names.setdefault(row, name) != name:
            raise ValueError(
                f"domains {names[row]} and {name} share row {row} of the tables, so that they "
                f"would train one soft prompt; give one of them its own, e.g. "
                f"data.domain_ids.{name}={_first_free(rows)}"
            )
    return rows


def _first_free(rows: dict[str, int]) -> int:
    taken = {*DOMAIN_IDS.values(), *rows.values()}
    return next(row for row in count() if row not in taken)


def check_mixture(data: DataConfig) -> None:
    """Raise ValueError unless the mixture names domains, each once, by names that can be."""
    names = [entry.name for entry in data.mixture]
    if not names:
        raise ValueError("data.mixture is empty; name at least one domain")
    for name in {*names, *data.domain_ids, *data.roots}:
        if not NAME.fullmatch(name):
            raise ValueError(
                f"domain {name!r}; allowed: letters, digits and _ . - (it names a folder and a "
                "metric)"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"data.mixture names a domain twice: {names}")
    data.split.validate()
    for entry in data.mixture:
        if entry.mapping is not None:
            entry.mapping.validate()


def dataset_folder(data: DataConfig, name: str) -> Path:
    """Return the folder of a domain's set: `data.roots`, else below `data.root` or the demo's.

    Raises ValueError, naming what is there, when it is no folder.
    """
    own, root = data.roots.get(name), Path(data.root) if data.root else DEMO_ROOT
    path = Path(own) if own else root / name
    if path.is_dir():
        return path.resolve()
    if not own and (root / "meta/info.json").is_file():
        advice = f"data.root={root} is a dataset itself: give data.roots.{name}={root}"
    else:
        metas = [*root.glob("*/meta/info.json"), *root.glob("*/*.json")]
        there = sorted({file.relative_to(root).parts[0] for file in metas})
        advice = (
            f"below {'data.root' if data.root else 'the shipped sets'} there are "
            f"{', '.join(there) or 'none'}; record it with `scaling data simulate`, or set "
            f"data.roots.{name} to its folder"
        )
    raise ValueError(f"domain {name}: no dataset folder at {path}; {advice}")


def check_folders(data: DataConfig) -> None:
    """Raise ValueError for a domain whose folder is named, or whose name is new, and is not there.

    A released name without `data.root` may be planned with no data at hand.
    """
    for entry in data.mixture:
        if data.root or entry.name in data.roots or entry.name not in DOMAIN_IDS:
            dataset_folder(data, entry.name)


def check_anchor(data: DataConfig) -> None:
    """Raise ValueError unless the domain that is validated on is trained on."""
    names = [entry.name for entry in data.mixture]
    if data.anchor_domain not in names:
        raise ValueError(
            f"data.anchor_domain={data.anchor_domain!r} is not in the mixture {names}; validation "
            "needs the anchor domain in every training set"
        )
