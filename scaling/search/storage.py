"""Opens the Optuna storage of a search: one journal a study, repaired when torn, or a database."""

import fcntl
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.config import write_atomic

if TYPE_CHECKING:
    import optuna

CREATE_STUDY = 0  # the operation's code in Optuna's journal
BEGINNING = "begun_with"


@contextmanager
def sole_controller(folder: Path) -> Iterator[None]:
    """Hold the search for this process; raise ValueError when another controller has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".controller.lock", "a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(
                f"another `scaling search` works in {folder}; wait for it or stop it first"
            ) from None
        yield


def open_study(
    name: str, folder: Path, *, begun_with: dict[str, Any], storage: str | None = None
) -> "optuna.Study":
    """Return the Optuna study `name`, created where there is none; hold `sole_controller`.

    `storage`: a database's URL; by default the journal in `folder`. `begun_with` is kept with a
    new study. Raises ValueError for a journal of another study, a search begun with other words,
    or a storage that cannot be opened.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    place = shown_storage(storage) if storage else str(folder / "journal.log")
    opened = _database(storage) if storage else _journal(folder / "journal.log", name)
    study = optuna.create_study(
        study_name=name, storage=opened, direction="minimize", load_if_exists=True
    )
    before = study.user_attrs.get(BEGINNING)
    if before is None and not study.get_trials(deepcopy=False):
        study.set_user_attr(BEGINNING, begun_with)
        _name_score(study, begun_with.get("score"))
    elif before != begun_with:
        raise ValueError(
            f"the search in {place} was begun with {_difference(before or {}, begun_with)}; give "
            f"the same words to go on, or move {folder} away to begin another"
        )
    return study


def repair_journal(path: Path) -> int:
    """Remove what a killed writer left half-written; return how many lines were lost.

    A torn line to which the next writer appended ends in a whole entry: that entry is kept. The
    broken file stays beside the repaired one.
    """
    if not path.exists():
        return 0
    content = path.read_bytes()
    kept, lost = [], 0
    for line in content.splitlines(keepends=True):
        if line.endswith(b"\n") and _is_entry(line):
            kept.append(line)
            continue
        lost += 1
        tail = line[line.rfind(b'{"op_code"') :]
        if line.endswith(b"\n") and tail != line and _is_entry(tail):
            kept.append(tail)
    if lost:
        path.with_suffix(".broken").write_bytes(content)
        write_atomic(path, b"".join(kept).decode())
    return lost


def shown_storage(url: str) -> str:
    """Return a database's URL without its password."""
    from scaling.tracking.client import shown

    return shown(url)


def _name_score(study: "optuna.Study", score: str | None) -> None:
    """Have pages on the storage show the score by its name."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "experimental"
        study.set_metric_names([score or "score"])


def _journal(path: Path, name: str) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    lost = repair_journal(path)
    if lost:
        print(
            f"warning: {path} had {lost} torn line(s), repaired; the old file is "
            f"{path.with_suffix('.broken')}",
            file=sys.stderr,
        )
    others = _study_names(path) - {name}
    if others:
        raise ValueError(
            f"{path} is the journal of study {', '.join(sorted(others))}, not of {name}; move it "
            "away, or give another folder with --runs"
        )
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)  # of a controller that was killed
    return JournalStorage(JournalFileBackend(str(path)))


def _database(url: str) -> Any:
    from optuna.storages import RDBStorage

    if "://" not in url:
        raise ValueError(
            f"storage {url!r} is not of a known form; give postgresql+psycopg2://user@host/name or "
            "sqlite:///path"
        )
    try:
        return RDBStorage(url)
    except (ImportError, ModuleNotFoundError) as error:
        raise ValueError(f"storage {shown_storage(url)} needs a driver: {error}") from None
    except Exception as error:  # SQLAlchemy's and Optuna's, of many classes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"storage {shown_storage(url)} cannot be opened: {reason}") from None


def _is_entry(line: bytes) -> bool:
    try:
        return "op_code" in json.loads(line)
    except (ValueError, TypeError):
        return False


def _study_names(path: Path) -> set[str]:
    if not path.exists():
        return set()
    with open(path) as stream:
        entries = (json.loads(line) for line in stream if '"study_name"' in line)
        return {entry["study_name"] for entry in entries if entry["op_code"] == CREATE_STUDY}


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    names = [name for name in before.keys() | now.keys() if before.get(name) != now.get(name)]
    return ", ".join(
        f"{name}={before.get(name)!r} (now {now.get(name)!r})" for name in sorted(names)
    )
