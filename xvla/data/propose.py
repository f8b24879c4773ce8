"""A mapping proposed for one's own set, and what it makes of the first episode."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from xvla.data.inspect import DIM_NAMES
from xvla.data.layouts import by_names, by_width, flat_names
from xvla.data.readers.base import STATE_DIM, DatasetError, FieldError, fail
from xvla.data.readers.episode_files import STATE
from xvla.data.readers.formats import INFO, detect_format, open_columns
from xvla.data.readers.lerobot_meta import Feature, Features, features_of, views_of
from xvla.data.readers.mapped import map_states, read_mapping
from xvla.data.readers.meta_json import read_meta
from xvla.data.readers.plausible import LONG_REACH_M
from xvla.data.readers.poses import check_states
from xvla.data.writing.targets import new_file
from xvla.mapping import MAPPING_FILE, ArmColumns, GripperColumn, StateMapping

# Ends that grippers' drivers have; a smaller stroke is an opening in m.
STROKES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 100.0), (0.0, 255.0), (0.0, 1000.0))
POSE_WORDS, GRIPPER_WORDS = ("cartesian", "eef", "ee_p", "tcp", "pose"), ("grip",)
TURN = 2 * np.pi + 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One of our 20 numbers over the first episode."""

    name: str
    first: float
    least: float
    most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """The document of `data map --json`.

    `source` tells how the mapping was found: file, names, shape or none (joints, or a set that
    needs no mapping). `states` are what it makes of the first episode, `problem` why it makes none.
    """

    path: str
    source: str
    mapping: StateMapping
    notes: list[str]
    states: list[Span]
    move_m: float
    problem: str
    written: str


def propose_mapping(path: str | Path, *, write: bool = False) -> Proposal:
    """Propose a mapping for a LeRobot set, or show the one that lies there; `write` puts it there.

    Raises:
        ValueError: no LeRobot set, one whose first episode cannot be read, `write` over a file.
    """
    path = Path(path).resolve()
    if not path.exists():
        raise ValueError(f"no dataset folder at {path}; give a folder that holds meta/info.json")
    existing = read_mapping(path)
    if existing and write:
        raise ValueError(f"{path / MAPPING_FILE} is there; move it away to have one proposed")
    detect_format(path)
    info = read_meta(path, path / INFO)
    if existing:
        return _shown(path, "file", existing, _joined(path, existing), [])
    version = str(info.get("codebase_version"))
    source, mapping, joined, notes = _found(path, version, features_of(path, info))
    proposal = _shown(path, source, mapping, joined, notes)
    if write:
        with new_file(path / MAPPING_FILE) as stream:
            stream.write(mapping_yaml(mapping).encode())
        proposal = replace(proposal, written=str(path / MAPPING_FILE))
    return proposal


def mapping_yaml(mapping: StateMapping) -> str:
    """Return a mapping as it stands in a file."""
    return yaml.safe_dump(asdict(mapping), sort_keys=False, default_flow_style=None)


def proposal_text(proposal: Proposal) -> str:
    """Return a proposal for people: the YAML, what was guessed, and what the mapping makes."""
    lines = [mapping_yaml(proposal.mapping).rstrip(), ""]
    lines += [f"# {note}" for note in proposal.notes]
    lines += [f"# refused: {proposal.problem}"] if proposal.problem else []
    lines += [f"# first episode, farthest move {proposal.move_m:.3f} m:"] if proposal.states else []
    lines += [
        f"#   {span.name:<14} begins {span.first:8.4f}, from {span.least:8.4f} to {span.most:8.4f}"
        for span in proposal.states
    ]
    if proposal.written:
        lines.append(f"# written to {proposal.written}")
    return "\n".join(lines)


Found = tuple[str, StateMapping, NDArray[np.float64], list[str]]


def _found(root: Path, version: str, features: Features) -> Found:
    """Return the first layout whose numbers are poses, or joints where none is."""
    views = list(views_of(features))
    for group in _groups(root, features):
        base = StateMapping(
            version=version,
            state=[feature.name for feature in group],
            width=sum(feature.width for feature in group),
            views=views,
        )
        joined = _joined(root, base)
        if base.state == [STATE] and _is_ours(joined):
            ours = next(arms for arms in by_width(STATE_DIM) if len(arms) == 2)
            return (
                "none",
                replace(base, arms=ours),
                joined,
                ["our own layout: no mapping is needed"],
            )
        own = {feature.name: flat_names(feature.names, feature.width) for feature in group}
        names = [name for feature, columns in own.items() for name in columns or [feature]]
        tried = [("names", arms) for arms in by_names(names) if len(names) == base.width]
        # Named columns that speak of no pose are joints.
        if not any(own.values()) or tried:
            tried += [("shape", arms) for arms in by_width(base.width)]
        for source, arms in tried:
            mapping = _fitted(replace(base, arms=arms), joined)
            if mapping is not None:
                return source, mapping, joined, _notes(source, mapping)
    joints = replace(base, joints=[*range(base.width)])
    note = "no pose fits: taken as joints; if it is a pose, say so under `arms`"
    return "none", joints, joined, [note]


def _is_ours(joined: NDArray[np.float64]) -> bool:
    """Tell whether a state is our 20 numbers already, where a gripper's ends are no guess."""
    if joined.shape[1] != STATE_DIM:
        return False
    try:
        check_states(joined, STATE)
    except FieldError:
        return False
    return True


def _groups(root: Path, features: Features) -> Iterator[list[Feature]]:
    """Yield the features that may hold the state together, likeliest first."""
    numbers = [
        feature
        for name, feature in features.items()
        if name.startswith("observation.") and feature.dtype.startswith("float") and feature.width
    ]
    if not numbers:
        fail(root, INFO, "features", f"none is called {STATE} or observation.*; name one in a file")
    poses = [f for f in numbers if f.name != STATE and any(w in f.name for w in POSE_WORDS)]
    grippers = [f for f in numbers if f.width == 1 and any(w in f.name for w in GRIPPER_WORDS)]
    for pose in poses:
        yield [pose, *grippers[:1]]
    for feature in [feature for feature in numbers if feature.name == STATE] or numbers:
        yield [feature]


def _joined(root: Path, mapping: StateMapping) -> NDArray[np.float64]:
    """Return the joined features [n, d] of the first episode."""
    dataset = open_columns(root, replace(mapping, arms=[], joints=[0]))
    parts = [dataset.column(0, name) for name in mapping.state]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1).astype(float)


def _fitted(mapping: StateMapping, joined: NDArray[np.float64]) -> StateMapping | None:
    """Return the mapping with units and ends that make poses of the numbers, None if none do."""
    fits = [_with_units(arm, joined) for arm in mapping.arms]
    arms = [arm for arm in fits if arm is not None]
    if len(arms) < len(fits):
        return None
    fitted = replace(mapping, arms=arms)
    try:
        fitted.validate()
        states = map_states(fitted, joined, "state")
        check_states(states, "state")
    except ValueError:
        return None
    return fitted


def _with_units(arm: ArmColumns, joined: NDArray[np.float64]) -> ArmColumns | None:
    reach = np.abs(joined[:, arm.position.columns]).max(initial=0.0)
    unit: Any = "m" if reach <= LONG_REACH_M else "mm"
    if unit == "mm" and not 50 <= reach <= 1000 * LONG_REACH_M:
        return None
    rotation = arm.rotation
    if rotation.kind in ("euler", "axis_angle"):
        turn = np.abs(joined[:, rotation.columns]).max(initial=0.0)
        if turn > 361:
            return None
        rotation = replace(rotation, unit="rad" if turn <= TURN else "deg")
    gripper = arm.gripper and _with_ends(arm.gripper, joined[:, arm.gripper.column])
    if arm.gripper and gripper is None:
        return None
    position = replace(arm.position, unit=unit)
    return ArmColumns(position=position, rotation=rotation, gripper=gripper)


def _with_ends(gripper: GripperColumn, values: NDArray[np.float64]) -> GripperColumn | None:
    """Return a gripper with its ends: the one nearer to where the episode begins is open."""
    low, high = float(values.min()), float(values.max())
    if low >= 0 and 0 < high < 0.2:
        ends: tuple[float, float] | None = (0.0, round(high, 4))
    else:
        slack = 0.05
        ends = next(
            (
                (least, most)
                for least, most in STROKES
                if least - slack * (most - least) <= low and high <= most + slack * (most - least)
            ),
            None,
        )
    if ends is None:
        return None
    begins_low = abs(values[0] - ends[0]) <= abs(values[0] - ends[1])
    opened, closed = ends if begins_low else ends[::-1]
    return replace(gripper, open=opened, closed=closed)


def _notes(source: str, mapping: StateMapping) -> list[str]:
    notes = []
    if source == "shape":
        notes.append("guessed from the number of columns and their values alone: check each line")
    for arm in mapping.arms:
        if arm.rotation.kind.startswith("quaternion") and source == "shape":
            notes.append("whether a quaternion is xyzw or wxyz is not seen in its values")
        if arm.rotation.kind == "euler":
            notes.append(f"the order of the Euler angles ({arm.rotation.order}) is a guess")
        if arm.gripper:
            notes.append("the gripper is taken to be open where the first episode begins")
        else:
            notes.append("no gripper was found; it counts as open")
    return [*dict.fromkeys(notes)]


def _shown(
    path: Path, source: str, mapping: StateMapping, joined: NDArray[np.float64], notes: list[str]
) -> Proposal:
    states, problem = np.zeros((0, 20)), ""
    try:
        if mapping.arms:
            states = map_states(mapping, joined, "+".join(mapping.state))
            check_states(states, "+".join(mapping.state))
    except (FieldError, DatasetError) as error:
        problem = str(error)
    used = [dim for dim in range(20) if len(states) and dim < 10 * len(mapping.arms)]
    moves = [np.linalg.norm(states[:, a : a + 3] - states[:1, a : a + 3], axis=1) for a in (0, 10)]
    return Proposal(
        path=str(path),
        source=source,
        mapping=mapping,
        notes=notes,
        states=[
            Span(
                name=DIM_NAMES[dim],
                first=float(states[0, dim]),
                least=float(states[:, dim].min()),
                most=float(states[:, dim].max()),
            )
            for dim in used
        ],
        move_m=float(max(move.max(initial=0.0) for move in moves)),
        problem=problem,
        written="",
    )
