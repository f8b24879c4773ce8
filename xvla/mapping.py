"""What the columns of one's own robot mean: a mapping to our 20 numbers; standard library only.

It stands in `mapping.yaml` beside `meta/`, or in a study. `scaling data map` proposes one.
"""

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin

from xvla.limits import Config, FieldError, limited

MAPPING_FILE = "mapping.yaml"
RotationKind = Literal[
    "rotation6d_interleaved",
    "rotation6d_columns",
    "quaternion_xyzw",
    "quaternion_wxyz",
    "euler",
    "axis_angle",
    "matrix",
]
# Numbers of each kind; a matrix is written row by row.
WIDTH = dict(zip(RotationKind.__args__, (6, 6, 4, 4, 3, 3, 9), strict=True))  # type: ignore[attr-defined]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionColumns(Config):
    """Where x, y, z stand in the joined state, and their unit."""

    section: ClassVar[str] = "position"

    columns: list[int] = limited([], least=0)
    unit: Literal["m", "cm", "mm"] = "m"


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationColumns(Config):
    """Where a rotation stands and what it is.

    `order` is of Euler angles, as scipy has it: small letters turn about fixed axes, capitals
    about the moving ones. `unit` is that of Euler angles and of an axis-angle.
    """

    section: ClassVar[str] = "rotation"

    columns: list[int] = limited([], least=0)
    kind: RotationKind = "rotation6d_interleaved"
    order: str = "xyz"
    unit: Literal["rad", "deg"] = "rad"


@dataclass(frozen=True, slots=True, kw_only=True)
class GripperColumn(Config):
    """Where a gripper stands, and its values when it is open and when it is closed."""

    section: ClassVar[str] = "gripper"

    column: int = limited(0, least=0)
    open: float = 0.0
    closed: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmColumns(Config):
    """One arm; without a gripper it counts as open."""

    section: ClassVar[str] = "arms"

    position: PositionColumns = field(default_factory=PositionColumns)
    rotation: RotationColumns = field(default_factory=RotationColumns)
    gripper: GripperColumn | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StateMapping(Config):
    """How the features of a LeRobot set become our states; columns count in the joined features.

    version: the set's codebase_version that it was written for, "" for any.
    state:   features whose columns, one feature after another, hold the state.
    width:   numbers that these have together, 0 where it is not to be checked.
    target:  what a policy learns to reach: later states, or the `action` feature's poses.
    action:  features laid out as `state` is, for `target: action`.
    arms:    one or two, in the order of our 20 numbers.
    joints:  columns of joint angles, for the action spaces that keep them.
    views:   the cameras, the main view first; others are left out. None: all but depths.
    """

    section: ClassVar[str] = "mapping"

    version: str = ""
    state: list[str] = field(default_factory=lambda: ["observation.state"])
    width: int = limited(0, least=0)
    target: Literal["state", "action"] = "state"
    action: list[str] = field(default_factory=lambda: ["action"])
    arms: list[ArmColumns] = field(default_factory=list)
    joints: list[int] = limited([], least=0)
    views: list[str] = field(default_factory=list)

    def validate(self) -> "StateMapping":
        """Return self, or raise ValueError for parts that do not go together."""
        if not self.arms and not self.joints:
            raise ValueError("mapping.arms is empty; give one or two arms, or joints")
        if len(self.arms) > 2:
            raise ValueError(f"mapping.arms has {len(self.arms)} arms; give one or two")
        if not self.state or (self.target == "action" and not self.action):
            raise ValueError("mapping.state names no feature, e.g. state: [observation.state]")
        for number, arm in enumerate(self.arms):
            _check_arm(f"mapping.arms[{number}]", arm)
        self._check_columns()
        return self

    def columns(self) -> list[int]:
        """Return every column that is used."""
        found = [*self.joints]
        for arm in self.arms:
            found += [*arm.position.columns, *arm.rotation.columns]
            found += [arm.gripper.column] if arm.gripper else []
        return found

    def check_width(self, width: int, feature: str) -> None:
        """Raise ValueError when a joined feature has other columns than the mapping is for."""
        if self.width and self.width != width:
            raise ValueError(
                f"mapping.width={self.width}, but {feature} has {width} numbers a frame: it is a "
                "mapping for another version of the set; propose one with `scaling data map`"
            )
        if self.columns() and max(self.columns()) >= width:
            raise ValueError(
                f"the mapping names column {max(self.columns())}, but {feature} has {width} "
                f"numbers a frame; allowed: 0 to {width - 1}"
            )

    def _check_columns(self) -> None:
        columns = self.columns()
        twice = sorted({column for column in columns if columns.count(column) > 1})
        if twice:
            raise ValueError(f"the mapping names column {twice[0]} twice; each has one meaning")


def parse_mapping(document: object) -> StateMapping:
    """Return the mapping of a YAML document; ValueError names the first key that cannot be."""
    return _parse(StateMapping, document, "mapping").validate()


def _check_arm(where: str, arm: ArmColumns) -> None:
    for name, columns, wanted in (
        ("position", arm.position.columns, 3),
        (f"rotation ({arm.rotation.kind})", arm.rotation.columns, WIDTH[arm.rotation.kind]),
    ):
        if len(columns) != wanted:
            raise ValueError(
                f"{where}.{name} has {len(columns)} columns {columns}; it needs {wanted}"
            )
    order = arm.rotation.order
    if arm.rotation.kind == "euler" and (
        sorted(order.lower()) != ["x", "y", "z"] or order not in (order.lower(), order.upper())
    ):
        raise ValueError(
            f"{where}.rotation.order={order!r}; allowed: the letters x, y, z in any order, small "
            "(fixed axes) or capital (moving axes)"
        )
    if arm.gripper and arm.gripper.open == arm.gripper.closed:
        raise ValueError(
            f"{where}.gripper is open and closed at {arm.gripper.open:g}; give two values"
        )


def _parse(kind: type[T], document: object, where: str) -> T:
    """Return a config of `kind`, made of plain dicts and lists with no key beside its fields."""
    if not isinstance(document, dict):
        raise ValueError(f"{where} is {document!r}; it must have the keys {', '.join(_keys(kind))}")
    unknown = [key for key in document if key not in _keys(kind)]
    if unknown:
        raise ValueError(f"{where}.{unknown[0]} is unknown; allowed: {', '.join(_keys(kind))}")
    types = {item.name: item.type for item in fields(kind)}  # type: ignore[arg-type]
    values = {key: _value(types[key], held, f"{where}.{key}") for key, held in document.items()}
    try:
        return kind(**values)
    except FieldError as error:
        raise ValueError(
            f"{where}.{error.field}={error.value!r}; allowed: {error.allowed}"
        ) from None


def _value(kind: Any, value: object, where: str) -> Any:
    parts: list[Any] = [part for part in get_args(kind) if is_dataclass(part)]
    if get_origin(kind) is list and parts:
        if not isinstance(value, list):
            raise ValueError(f"{where} is {value!r}; it must be a list")
        return [_parse(parts[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if parts:  # `X | None`
        return None if value is None else _parse(parts[0], value, where)
    return _parse(kind, value, where) if isinstance(kind, type) and is_dataclass(kind) else value


def _keys(kind: Any) -> list[str]:
    return [item.name for item in fields(kind)]
