"""Opens the Optuna storage of a search: one journal a study, repaired when torn, or a database."""

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.config import write_atomic
from scaling.search.task import Beginning
from scaling.tracking.store import without_password

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage
    from optuna.trial import Trial

JOURNAL = "journal.log"
CREATE_STUDY = 0  # the operation's code in Optuna's journal
BEGINNING = "begun_with"  # the study's attribute


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
    name: str,
    folder: Path,
    *,
    begun_with: Beginning,
    url: str | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> "tuple[optuna.Study, BaseStorage]":
    """Return the Optuna study `name`, created where there is none; hold `sole_controller`.

    `url`: a database's; by default the journal in `folder`. `begun_with` is kept with a new study;
    `warn` hears of a repair. Raises ValueError for a journal of another study, a search begun
    otherwise, or a storage that cannot be opened.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    storage = _database(url) if url else _journal(folder / JOURNAL, name, warn)
    study = optuna.create_study(
        study_name=name, storage=storage, direction="minimize", load_if_exists=True
    )
    before, now = study.user_attrs.get(BEGINNING), asdict(begun_with)
    if before is None and not study.get_trials(deepcopy=False):
        study.set_user_attr(BEGINNING, now)
        _name_score(study, begun_with.score)
    elif before != now:
        raise ValueError(
            f"the search in {shown_storage(folder, url)} was begun with "
            f"{_difference(before or {}, now)}; give the same words to go on, or move {folder} "
            "away to begin another"
        )
    return study, storage


def restore(study: "optuna.Study", storage: "BaseStorage", number: int) -> "Trial":
    """Return a running trial that this process, or one that was killed, has asked for.

    Optuna gives out no trial that can be reported to but by asking for a new one (its issue 2987;
    2213 was to allow it), so it is made of the storage's id of it.
    """
    from optuna.trial import Trial

    study_id = storage.get_study_id_from_name(study.study_name)
    return Trial(study, storage.get_trial_id_from_study_id_trial_number(study_id, number))


def repair_journal(path: Path) -> int:
    """Remove what a killed writer left half-written; return how many lines were lost.

    Optuna forgives a torn last line only until the next write (its issue 5138): what was appended
    to one ends in a whole entry, which is kept. The broken file stays beside the repaired one.
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


def shown_storage(folder: Path, url: str | None) -> str:
    """Return where a search's trials are: its journal, or a database's URL without a password."""
    return without_password(url) if url else str(folder / JOURNAL)


def _name_score(study: "optuna.Study", score: str) -> None:
    """Have pages on the storage show the score by its name."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "experimental"
        study.set_metric_names([score])


def _journal(path: Path, name: str, warn: Callable[[str], None]) -> "BaseStorage":
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    lost = repair_journal(path)
    if lost:
        warn(
            f"warning: {path} had {lost} torn line(s), repaired; the old file is "
            f"{path.with_suffix('.broken')}"
        )
    others = _study_names(path) - {name}
    if others:
        raise ValueError(
            f"{path} is the journal of study {', '.join(sorted(others))}, not of {name}; move it "
            "away, or give another folder with --runs"
        )
    # A killed controller leaves Optuna's lock, for which the next would wait for ever; that nobody
    # else works here is what `sole_controller` has made sure of.
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    return JournalStorage(JournalFileBackend(str(path)))


def _database(url: str) -> "BaseStorage":
    from optuna.storages import RDBStorage

    if "://" not in url:
        raise ValueError(
            f"storage {url!r} is not of a known form; give postgresql+psycopg2://user@host/name or "
            "sqlite:///path"
        )
    try:
        return RDBStorage(url)
    except (ImportError, ModuleNotFoundError) as error:
        raise ValueError(f"storage {without_password(url)} needs a driver: {error}") from None
    except Exception as error:  # SQLAlchemy's and Optuna's, of many classes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"storage {without_password(url)} cannot be opened: {reason}") from None


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


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    names = [name for name in before.keys() | now.keys() if before.get(name) != now.get(name)]
    return ", ".join(
        f"{name}={before.get(name)!r} (now {now.get(name)!r})" for name in sorted(names)
    )
