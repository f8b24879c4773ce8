"""Layouts that a robot's state may have: found by the names of its columns, or tried by width."""

import re
from collections.abc import Iterator, Sequence

from xvla.mapping import (
    WIDTH,
    ArmColumns,
    GripperColumn,
    PositionColumns,
    RotationColumns,
    RotationKind,
)

ROLES = {
    "gripper": r"grip|claw|finger",
    "quaternion": r"(?:^|[^a-z])q(?:uat(?:ernion)?)?[^a-z]*([wxyz])$",
    "euler": r"(roll|pitch|yaw)",
    "matrix": r"(?:^|[^a-z])(?:r|rot|rotation)[^a-z0-9]*([012])_?([012])$",
    "six": r"(?:rot|rotation|ortho|r)_?6d?[^a-z0-9]*([0-5])$",
    "turn": r"(?:^|[^a-z])(?:r|rot|rotvec|axis_?angle|aa)[^a-z]*([xyz])$",
    "position": r"(?:^|[^a-z])(?:p|pos|position|ee|eef|tcp|xyz|trans)?[^a-z]*([xyz])$",
}
LEFT, RIGHT = (
    re.compile(rf"(?:^|[^a-z]){side}(?:[^a-z]|$)") for side in ("(?:left|l)", "(?:right|r)")
)
# Kinds of a rotation of so many columns, in the order in which they are tried.
KINDS: dict[int, tuple[RotationKind, ...]] = {
    3: ("euler", "axis_angle"),
    4: ("quaternion_xyzw", "quaternion_wxyz"),
    6: ("rotation6d_interleaved", "rotation6d_columns"),
    9: ("matrix",),
}


def by_names(names: Sequence[str]) -> Iterator[list[ArmColumns]]:
    """Yield the arms that the names of the columns speak of; none where they name no pose."""
    sides = [_side(name.lower()) for name in names]
    arms = [
        _named_arm([(i, name.lower()) for i, name in enumerate(names) if sides[i] == side])
        for side in dict.fromkeys(sides)
    ]
    known = [arm for arm in arms if arm]
    if known and len(known) <= 2:
        for number in range(max(map(len, known))):
            yield [arm[min(number, len(arm) - 1)] for arm in known]


def by_width(width: int) -> Iterator[list[ArmColumns]]:
    """Yield layouts of one arm or two: position, a rotation, perhaps a gripper."""
    for arms in (1, 2):
        each, rest = divmod(width, arms)
        if rest:
            continue
        for size in (6, 9, 4, 3):
            for fingers in (1, 0, 2):
                # Six joints are more usual than a pose without a gripper.
                if 3 + size + fingers == each and each > 6:
                    for kind in KINDS[size]:
                        yield [_arm(number * each, kind, fingers) for number in range(arms)]


def _arm(first: int, kind: RotationKind, fingers: int) -> ArmColumns:
    last = first + 3 + WIDTH[kind]
    return ArmColumns(
        position=PositionColumns(columns=[*range(first, first + 3)]),
        rotation=RotationColumns(columns=[*range(first + 3, last)], kind=kind),
        gripper=GripperColumn(column=last) if fingers else None,
    )


def _side(name: str) -> str:
    return "left" if LEFT.search(name) else "right" if RIGHT.search(name) else ""


def _named_arm(columns: Sequence[tuple[int, str]]) -> list[ArmColumns]:
    """Return the readings of one side's columns; none without a position and a rotation."""
    found: dict[str, dict[str, int]] = {}
    for column, name in columns:
        for role, pattern in ROLES.items():
            if match := re.search(pattern, name):
                found.setdefault(role, {}).setdefault("".join(match.groups()), column)
                break
    position = _ordered(found, "position", ["x", "y", "z"])
    readings: list[tuple[RotationKind, list[int]]] = [
        ("quaternion_xyzw", _ordered(found, "quaternion", [*"xyzw"])),
        ("euler", _ordered(found, "euler", ["roll", "pitch", "yaw"])),
        ("matrix", _ordered(found, "matrix", [f"{r}{c}" for r in range(3) for c in range(3)])),
        ("rotation6d_interleaved", _ordered(found, "matrix", ["00", "01", "10", "11", "20", "21"])),
        ("rotation6d_interleaved", _ordered(found, "six", [*"012345"])),
        ("rotation6d_columns", _ordered(found, "six", [*"012345"])),
        ("axis_angle", _ordered(found, "turn", [*"xyz"])),
        ("euler", _ordered(found, "turn", [*"xyz"])),
    ]
    if not position:
        return []
    gripper = [*found.get("gripper", {}).values()]
    return [
        ArmColumns(
            position=PositionColumns(columns=position),
            rotation=RotationColumns(columns=columns, kind=kind),
            gripper=GripperColumn(column=gripper[0]) if gripper else None,
        )
        for kind, columns in readings
        if columns
    ]


def _ordered(found: dict[str, dict[str, int]], role: str, keys: list[str]) -> list[int]:
    """Return the columns of a role in the order of `keys`; none where one is missing."""
    columns = found.get(role, {})
    return [columns[key] for key in keys] if {*keys} <= {*columns} else []


def flat_names(names: object, width: int) -> list[str]:
    """Return a feature's names of its columns, however info.json nests them; none if they differ.

    LeRobot writes a list, a list in a dict, or a dict from name to number.
    """
    if isinstance(names, dict):
        values = [*names.values()]
        if values and all(isinstance(value, int) for value in values):
            names = sorted(names, key=names.__getitem__)
        else:
            names = [text for value in values if isinstance(value, list) for text in value]
    if not isinstance(names, list) or len(names) != width:
        return []
    return [str(name) for name in names]
