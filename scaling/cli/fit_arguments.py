"""What `fit` and `report` share: their options, and the table they read."""

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.cli.arguments import Asked, warn
from scaling.spec import RunSpec

if TYPE_CHECKING:
    import pandas as pd

    from analysis.estimator import FitOptions
    from scaling.runs.table import Exported


def add_fit_arguments(verb: ArgumentParser, *, one_law: bool) -> None:
    """Add how laws are fitted to a verb; with `one_law` also which single law, on which columns.

    Defaults stay None here: they live in `analysis.estimator.FitOptions`.
    """
    verb.add_argument("--loss", choices=("huber", "lad", "ls", "binomial"), help="default huber")
    verb.add_argument("--delta", type=float, help="Huber's knee on the link's scale (1e-3)")
    verb.add_argument("--link", choices=("log", "identity", "logit"), help="default log")
    verb.add_argument("--level", type=float, help="of intervals (0.95)")
    verb.add_argument("--draws", type=int, help="refits behind the intervals (1000)")
    verb.add_argument("--seed", type=int, help="of the refits (0)")
    verb.add_argument("--axes", help="axes or columns, by comma (default: those that vary)")
    if one_law:
        verb.add_argument("--law", help="one law on all rows: chinchilla, power, additive, ...")
        verb.add_argument("--fixed", action="append", help="hold a parameter, e.g. E=0")
        words = "also refit by other losses, without each level and each run"
        verb.add_argument("--sensitivity", action="store_true", default=None, help=words)
        verb.add_argument("--weights", help="column of weights; of trials with --loss binomial")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """How laws are to be fitted, as asked; None leaves a default of `FitOptions`."""

    y: str
    n_column: str
    loss: str | None = None
    delta: float | None = None
    link: str | None = None
    level: float | None = None
    draws: int | None = None
    seed: int | None = None
    axes: str | None = None
    sensitivity: bool | None = None

    @property
    def axis_names(self) -> list[str]:
        """The axes named."""
        return [axis.strip() for axis in (self.axes or "").split(",") if axis.strip()]

    def options(self) -> "FitOptions":
        """Return what was given over the defaults."""
        from analysis.estimator import FitOptions

        given: dict[str, Any] = {
            "loss": self.loss,
            "delta": self.delta,
            "link": self.link,
            "level": self.level,
            "num_draws": self.draws,
            "seed": self.seed,
            "sensitivity": self.sensitivity,
        }
        found = {name: value for name, value in given.items() if value is not None}
        if not 0 < found.get("level", 0.95) < 1 or found.get("num_draws", 1) < 1:
            raise ValueError("--level lies between 0 and 1, and --draws is 1 or more")
        if found.get("seed", 0) < 0:
            raise ValueError(f"--seed {found['seed']}: give a whole number, 0 or more")
        return FitOptions(y=self.y, n_column=self.n_column, **found)


def pairs(words: Sequence[str], what: str) -> dict[str, str]:
    """Split NAME=VALUE words."""
    wrong = [word for word in words if "=" not in word]
    if wrong:
        raise ValueError(f"{wrong[0]!r}: give {what}")
    return {word.split("=", 1)[0].strip(): word.split("=", 1)[1].strip() for word in words}


def numbers(pairs: dict[str, str]) -> dict[str, float]:
    """Turn the values of pairs into numbers."""
    try:
        return {name: float(value) for name, value in pairs.items()}
    except ValueError:
        raise ValueError(f"--fixed {pairs}: give NAME=NUMBER") from None


def read_runs(asked: Asked, *, has_columns: bool = False) -> "pd.DataFrame":
    """Return the run table: the file that was named, or the export of a study."""
    import pandas as pd

    if asked.is_table:
        if asked.overrides and not has_columns:
            raise ValueError(
                f"{asked.overrides[0]!r} has no effect on a table: overrides belong to a study"
            )
        return _read_table(Path(asked.study))
    return pd.read_parquet(export_study(asked.expand(), asked.folder).runs)


def _read_table(path: Path) -> "pd.DataFrame":
    import pandas as pd

    if not path.is_file():
        raise ValueError(f"no table at {path}; give a .csv, .parquet or .jsonl file or a study")
    suffix = path.suffix.lower()
    try:
        if suffix == ".csv":
            table = pd.read_csv(path)
        elif suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            table = pd.read_json(path, lines=True)
    except ValueError as problem:  # pandas and pyarrow raise its subclasses
        raise ValueError(
            f"{path} is no {suffix[1:]} table ({problem}): give one row a run, named columns, UTF-8"
        ) from None
    table.columns = [str(name).strip() for name in table.columns]
    if table.shape[1] == 1 and any(mark in table.columns[0] for mark in ";\t|"):
        raise ValueError(f"{path} has one column, {table.columns[0]!r}: separate columns by commas")
    return table


def export_study(specs: list[RunSpec], folder: Path) -> "Exported":
    """Write the tables of a study beside the folder of runs; return their paths and row counts."""
    from jobs.queue import read_held
    from scaling.cli.scores import score_columns
    from scaling.cost import export_row
    from scaling.runs.table import export_study as write

    scores = score_columns(specs, folder)
    rows = [{**export_row(spec), **scores.get(spec.run_id, {})} for spec in specs]
    out = folder.parent / "exports" / specs[0].study
    document = write(rows, folder, out, held=read_held(folder))
    warn(document.problems or ())
    return document
