"""The noun run: the folder `<runs>/<run id>/`. The names of its files stand here, and only here."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.runs.files import (
    SUBMIT_AGAIN,
    DamagedFileError,
    known,
    read_json,
    read_json_or_none,
    write_json,
)

if TYPE_CHECKING:
    from scaling.spec import RunSpec

CANCELLED = "cancelled"
KILLED = "killed"
SPEC, LOG, METRICS, ENVIRONMENT = "run.yaml", "train.log", "metrics.jsonl", "env.json"
ROLLOUTS = "rollout*.json"
DONE, FAILED = "DONE", "FAILED"
CHECKPOINTS, ATTEMPTS = "checkpoints", "attempts"
MANIFEST = "manifest.json"  # of a step folder: step, and sha256 of each file
FIRST_KEY, LAST_KEY = b"study", b"resources"  # of a RunSpec: a run.yaml with both was not cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a finished run says: its last step and final metrics; `time` is unix s."""

    step: int
    metrics: dict[str, float] = field(default_factory=dict)
    num_samples_seen: int | None = None
    time: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Why a run stopped for good; "cancelled" by hand. `step`: the last one known."""

    reason: str
    step: int | None = None
    time: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Of env.json what is asked for: the code, and the digest of each split's frames."""

    code_digest: str | None = None
    eval_manifest: dict[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """The newest sign of life: times in seconds, `time` in unix s, `born` of the process."""

    time: float = 0.0
    pid: int | None = None
    host: str | None = None
    born: str | None = None
    attempt: int | None = None
    phase: str | None = None
    step: int | None = None
    num_steps: int | None = None
    samples_per_s: float | None = None
    eta_s: float | None = None
    elapsed_s: float | None = None
    val_l1: float | None = None
    loss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """What run.yaml says of a run, as it stands there; `checkpoint`: the one that it started from."""

    study: str | None = None
    scale: str | None = None
    stage: str | None = None
    size: str | None = None
    checkpoint: str | None = None
    checkpoint_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One run's folder, which need not exist; docs/runs.md says what each file holds."""

    folder: Path

    @classmethod
    def of(cls, runs_dir: str | Path, run_id: str) -> "Run":
        """Return the run of an id in a folder of runs."""
        return cls(Path(runs_dir) / run_id)

    @property
    def run_id(self) -> str:
        """The folder's name: 12 hex digits."""
        return self.folder.name

    @property
    def spec_file(self) -> Path:
        """run.yaml: the RunSpec, every default written out."""
        return self.folder / SPEC

    @property
    def environment_file(self) -> Path:
        """env.json: versions, code digest, device, attention, digests of the evaluation frames."""
        return self.folder / ENVIRONMENT

    @property
    def heartbeat_file(self) -> Path:
        """heartbeat.json: the newest sign of life."""
        return self.folder / "heartbeat.json"

    @property
    def metrics_file(self) -> Path:
        """metrics.jsonl: one object a line."""
        return self.folder / METRICS

    @property
    def episodes_file(self) -> Path:
        """val_episodes.parquet: errors by evaluation episode."""
        return self.folder / "val_episodes.parquet"

    @property
    def log_file(self) -> Path:
        """train.log: what the job printed."""
        return self.folder / LOG

    @property
    def lock_file(self) -> Path:
        """.lock: held while a process advances the run."""
        return self.folder / ".lock"

    @property
    def done_file(self) -> Path:
        """DONE: last step and final metrics."""
        return self.folder / DONE

    @property
    def failed_file(self) -> Path:
        """FAILED: the reason."""
        return self.folder / FAILED

    @property
    def attempts(self) -> Path:
        """attempts/: one life of the run a file."""
        return self.folder / ATTEMPTS

    @property
    def lives_file(self) -> Path:
        """lives.jsonl: one start of a batch job a line."""
        return self.folder / "lives.jsonl"

    @property
    def checkpoints(self) -> Path:
        """checkpoints/: step folders, and `latest`."""
        return self.folder / CHECKPOINTS

    @property
    def latest_file(self) -> Path:
        """checkpoints/latest: the name of the newest step folder."""
        return self.checkpoints / "latest"

    def step_folder(self, step: int) -> Path:
        """Return where the checkpoint of a step lies, e.g. checkpoints/step_0001000."""
        return self.checkpoints / step_name(step)

    def rollout_files(self) -> list[Path]:
        """Return the documents of `scaling rollout`, by name."""
        return sorted(self.folder.glob(ROLLOUTS))

    def published_files(self) -> list[str]:
        """Return what a tracker shows of a run; as text, which is quick for thousands of them."""
        names = (SPEC, ENVIRONMENT, METRICS, ATTEMPTS, DONE, FAILED)
        return [f"{self.folder}/{name}" for name in names]

    def exists(self) -> bool:
        """Return whether the folder is there."""
        return self.folder.exists()

    def is_prepared(self) -> bool:
        """Return whether run.yaml is there."""
        return self.spec_file.exists()

    def has_marker(self) -> bool:
        """Return whether the run says itself that it is through, well or badly."""
        return self.done_file.exists() or self.failed_file.exists()

    def spec(self) -> "RunSpec":
        """Return the RunSpec of run.yaml; raises ValueError where it is absent or damaged."""
        from scaling.spec import load_spec

        return load_spec(self.spec_file)

    def labels(self) -> Labels:
        """Return what run.yaml says of the run, unchecked, so that an earlier version's shows too.

        Nothing is known where it is absent; raises DamagedFileError.
        """
        content = self._content()
        init = content.get("init")
        return known(Labels, (init if isinstance(init, dict) else {}) | content)

    def _content(self) -> dict[str, Any]:
        import yaml

        try:
            text = self.spec_file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return {}
        # libyaml is 40 times as fast as the pure reader.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            value = yaml.load(text.decode(), Loader=loader)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            said = " ".join(str(error).split())[:120]
            raise _damaged_spec(self.spec_file, said) from None
        if not isinstance(value, dict):
            raise _damaged_spec(self.spec_file, "empty" if value is None else "no mapping")
        return value

    def done(self) -> Done | None:
        """Return what DONE says, None without it; raises DamagedFileError."""
        content = read_json(self.done_file, cure=SUBMIT_AGAIN)
        if content is None:
            return None
        lacking = [n for n, kind in (("step", int), ("metrics", dict))
                   if not isinstance(content.get(n), kind)]  # fmt: skip
        if lacking:
            raise DamagedFileError(f"{self.done_file} has no {lacking[0]!r}; {SUBMIT_AGAIN}")
        return known(Done, content)

    def failed(self) -> Failed | None:
        """Return what FAILED says, None without it.

        That it is there is what counts: one that cannot be read is a failure that says so.
        """
        try:
            content = read_json(self.failed_file, cure="`scaling submit` tries again")
        except DamagedFileError as error:
            return Failed(reason=f"no reason was written: {error}")
        if content is None:
            return None
        reason = str(content.get("reason") or "no reason was written")
        return known(Failed, content | {"reason": reason})

    def heartbeat(self) -> Heartbeat:
        """Return the newest sign of life, an empty one where there is none that can be read."""
        return known(Heartbeat, read_json_or_none(self.heartbeat_file) or {})

    def environment(self) -> Environment:
        """Return env.json, empty where it is absent or damaged: labels, rewritten at each start."""
        return known(Environment, read_json_or_none(self.environment_file) or {})

    def damage(self) -> str | None:
        """Return what is wrong with run.yaml or DONE, None where they are whole or absent."""
        try:
            self.done()
            self.check_spec()
        except DamagedFileError as error:
            return str(error)
        return None

    def check_spec(self) -> None:
        """Raise DamagedFileError for a run.yaml that cannot be whole.

        Parsing thousands of them would take seconds, so only one that lacks its last key is.
        """
        try:
            content = self.spec_file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return
        if FIRST_KEY + b":" in content[:64] and b"\n" + LAST_KEY + b":" in content:
            return
        labels = self._content()
        if FIRST_KEY.decode() in labels and LAST_KEY.decode() not in labels:
            raise _damaged_spec(self.spec_file, "cut short")

    def saved_step(self) -> int:
        """Return the step of the newest checkpoint, 0 without one."""
        digits = self.latest_name().removeprefix("step_")
        return int(digits) if digits.isdecimal() else 0

    def latest_name(self) -> str:
        """Return the name of the newest step folder, "" without one."""
        try:
            return self.latest_file.read_text().strip()
        except (OSError, UnicodeDecodeError):
            return ""

    def write_failed(self, reason: str, *, step: int | None = None) -> None:
        """Write the FAILED marker, with the last step known."""
        step = self.heartbeat().step if step is None else step
        write_json(self.failed_file, {"reason": reason, "step": step, "time": time.time()})


def step_name(step: int) -> str:
    """Return the folder name of a step, e.g. step_0001000."""
    return f"step_{step:07d}"


def is_run_id(name: str) -> bool:
    """Return whether a folder's name is a run id; other folders belong to executors and caches."""
    return len(name) == 12 and set(name) <= set("0123456789abcdef")


def prepared_runs(runs_dir: str | Path) -> Iterator[Run]:
    """Yield the runs of a folder that have a run.yaml, by id."""
    yield from (Run(path.parent) for path in sorted(Path(runs_dir).glob(f"*/{SPEC}")))


def finished_runs(runs_dir: str | Path) -> Iterator[Run]:
    """Yield the runs of a folder that have a DONE marker, by id."""
    yield from (Run(path.parent) for path in sorted(Path(runs_dir).glob(f"*/{DONE}")))


def runs_with_rollouts(runs_dir: str | Path) -> Iterator[Run]:
    """Yield the runs of a folder that have rollouts, by id."""
    folders = {path.parent for path in Path(runs_dir).glob(f"*/{ROLLOUTS}")}
    yield from (Run(folder) for folder in sorted(folders))


def run_of_checkpoint(path: str | Path) -> Run | None:
    """Return the run whose step folder a path is (`<run>/checkpoints/<step>`), None for another."""
    path = Path(path)
    return Run(path.parents[1]) if path.parent.name == CHECKPOINTS else None


def _damaged_spec(path: Path, said: str) -> DamagedFileError:
    return DamagedFileError(
        f"{path} is damaged ({said}); delete it, and `scaling submit` writes it again"
    )
