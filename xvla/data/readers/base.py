"""What every reader implements and returns: episodes, their poses over time, and problems."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from xvla.data.readers.episode_table import EpisodeTable

STATE_DIM = 20
# What makes values wrong is an error, and refused; the rest warns.
Severity = Literal["error", "warning"]
# Up to so many frames and episodes a set is checked when it is opened, in about a second.
CHECKED_FRAMES, CHECKED_EPISODES = 500_000, 5_000


class Episode(NamedTuple):
    """Poses of one episode: times [n] float64 in s, states [n, 20] float32, its instruction."""

    times: NDArray[np.float64]
    states: NDArray[np.float32]
    instruction: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Poses:
    """Poses [n, 20] at times [n] in s; `arm_times` [n, 2] where the arms have clocks of their own.

    With own clocks `states` are interpolated at the mean of the two, as `times` is, and
    `arm_states` [n, 20] are the rows as recorded. `targets` [n, 20] are the poses to reach where
    they are not the later states.
    """

    times: NDArray[np.float64]
    states: NDArray[np.float32]
    arm_times: NDArray[np.float64] | None = None
    arm_states: NDArray[np.float32] | None = None
    targets: NDArray[np.float32] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        parts = (self.times, self.states, self.arm_times, self.arm_states, self.targets)
        return sum(part.nbytes for part in parts if part is not None)

    def recorded(self) -> dict[str, NDArray[Any]]:
        """Return times [n] and states [n, 20] as anchors are made of them, by name.

        Arms with clocks of their own have arm_times [n, 2] as well, actions that are learned
        targets [n, 20].
        """
        if self.targets is not None:
            return {"times": self.times, "states": self.states, "targets": self.targets}
        if self.arm_times is None or self.arm_states is None:
            return {"times": self.times, "states": self.states}
        return {"times": self.times, "states": self.arm_states, "arm_times": self.arm_times}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One defect of a dataset: where it is and what to do about it, in one line."""

    file: str
    message: str
    episode: int | None = None
    field: str | None = None
    severity: Severity = "error"

    def to_dict(self) -> dict[str, Any]:
        """Return the row of `data inspect --json`."""
        return asdict(self)

    def __str__(self) -> str:
        """Return `file, episode e, field: message`, after "warning: " where it is one."""
        where = [self.file if self.severity == "error" else f"warning: {self.file}"]
        if self.episode is not None:
            where.append(f"episode {self.episode}")
        if self.field is not None:
            where.append(self.field)
        return f"{', '.join(where)}: {self.message}"


class DatasetError(ValueError):
    """A dataset that cannot be used; `problems` lists every defect found."""

    def __init__(self, root: str, problems: list[Problem]) -> None:
        self.problems = problems
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        super().__init__(f"dataset {root}: {problems[0]}{more}")


class FieldError(ValueError):
    """A defect of one field of one episode; the reader adds the file and the episode.

    A warning is raised by checks alone: nothing that reads stops at one.
    """

    def __init__(self, field: str | None, message: str, *, severity: Severity = "error") -> None:
        self.field, self.message, self.severity = field, message, severity
        super().__init__(f"{field}: {message}" if field else message)


def errors_of(problems: Sequence[Problem]) -> list[Problem]:
    """Return the problems that make values wrong."""
    return [problem for problem in problems if problem.severity == "error"]


def fail(
    root: str | Path, file: str | Path, field: str | None, message: str, episode: int | None = None
) -> NoReturn:
    """Raise the DatasetError of one defect; a Path below `root` is named relative to it."""
    if isinstance(file, Path):
        file = file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name
    problem = Problem(file=file, episode=episode, field=field, message=message)
    # Where a library's error led here, its text is in the message.
    raise DatasetError(str(root), [problem]) from None


def one_line(error: Exception, limit: int | None = None) -> str:
    """Return a library's error as one line of at most `limit` characters."""
    return " ".join(str(error).split())[:limit]


class Dataset(Protocol):
    """The interface of a reader, whatever the format on disk; all of it, nothing is probed for.

    meta: the set's own meta file. instruction_variants: other wordings, by instruction.
    """

    path: str
    domain: str
    fps: float
    views: tuple[str, ...]
    episodes: EpisodeTable
    meta: dict[str, Any]
    instruction_variants: Mapping[str, list[str]]

    @property
    def format(self) -> str:
        """Name of the format on disk."""
        ...

    @property
    def has_arm_clocks(self) -> bool:
        """Whether poses are more than times and states: clocks of the arms, actions to reach."""
        ...

    def episode(self, index: int) -> Episode:
        """Return times, states and instruction of one episode."""
        ...

    def poses(self, index: int) -> Poses:
        """Return the poses of an episode, with the arms' own clocks where the source has them."""
        ...

    def start_frames(self, index: int, *, evaluate: bool = False) -> NDArray[np.int64] | None:
        """Return the frames that the source lets a sample start from; None: no rule of its own."""
        ...

    def column(self, index: int, key: str) -> NDArray[Any]:
        """Return any other per-frame column of an episode as [n, ...]."""
        ...

    def frames(self, index: int, view: str, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Return the frames `indices` of a view as uint8 [k, H, W, 3] RGB."""
        ...

    def problems(self) -> list[Problem]:
        """Return every defect, and every warning, found without decoding whole videos."""
        ...


def checked_at_open(dataset: Dataset) -> bool:
    """Return whether a set is small enough to check its whole content when it is opened.

    A larger one is checked by `inspect_dataset`, and each of its episodes when it is read.
    """
    episodes = dataset.episodes
    return episodes.num_frames <= CHECKED_FRAMES and len(episodes) <= CHECKED_EPISODES
