"""The ledger of a study: what became of the hours that its runs took of GPUs (or CPU ranks)."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jobs.queue import read_queues
from jobs.slurm.submissions import open_submissions, slurm_folder
from jobs.slurm.task import read_lives, saved_step
from jobs.status import run_state
from scaling.runs.folder import read_json, run_folder
from scaling.spec import RunSpec
from scaling.study import is_ready

ACCOUNTS = ("useful", "replayed", "failed", "queued")


def ledger(specs: Iterable[RunSpec], runs_dir: str | Path) -> dict[str, Any]:
    """Return device-hours by account, from the attempt files of the runs.

    `useful`: spent on steps that stand; `replayed`: on steps that a later attempt had (or will
    have) to repeat, and on attempts that made none; `failed`: all attempts of runs that failed or
    were cancelled; `queued`: waited for in Slurm's queue, times the devices asked for: from the
    end of a branch's trunk on, but behind the study's own arrays and ceilings too. `{"unit",
    "useful", "replayed", "failed", "queued", "total" (without queued), "runs": [{"run_id", ...}]}`;
    the unit is "GPU-hours" or, for runs on CPU, "CPU-rank-hours" ("device-hours" where both occur).
    """
    runs_dir = Path(runs_dir)
    queued = read_queues(runs_dir)
    waiting_since = {r: item.time for item in open_submissions(runs_dir) for r in item.tasks}
    rows: list[dict[str, Any]] = []
    units: set[str] = set()
    for spec in specs:
        run_dir = run_folder(runs_dir, spec.run_id)
        state = run_state(run_dir, queued=queued).state
        if state == "planned":
            continue
        units.add("GPU-hours" if spec.resources.gpus_per_node else "CPU-rank-hours")
        seconds = _seconds(run_dir, state)
        pending_from = waiting_since.get(spec.run_id) if state == "queued" else None
        seconds["queued"] = _queued_seconds(spec, runs_dir, pending_from)
        hours = {name: seconds[name] * spec.resources.world_size / 3600 for name in ACCOUNTS}
        rows.append({"run_id": spec.run_id, "state": state, **hours})
    totals = {name: sum(float(row[name]) for row in rows) for name in ACCOUNTS}
    return {
        "unit": units.pop() if len(units) == 1 else "device-hours",
        **totals,
        "total": totals["useful"] + totals["replayed"] + totals["failed"],
        "runs": rows,
    }


def render_ledger(document: dict[str, Any]) -> str:
    """Return the ledger as one line for the end of a report."""
    total = document["total"]
    if not document["runs"]:
        return "no hours spent yet"
    parts = []
    for name in ("useful", "replayed", "failed"):
        share = f" ({100 * document[name] / total:.0f} %)" if total else ""
        parts.append(f"{document[name]:,.3g} {name}{share}")
    waited = f"waited {document['queued']:,.3g} in the queue, behind arrays of its own too"
    return f"{document['unit']}: {', '.join(parts)}; {waited}"


def _seconds(run_dir: Path, state: str) -> dict[str, float]:
    """Return the seconds of a run's attempts by account."""
    attempts = _attempts(run_dir)
    heartbeat = read_json(run_dir / "heartbeat.json") or {}
    result = {"useful": 0.0, "replayed": 0.0, "failed": 0.0}
    for index, attempt in enumerate(attempts):
        is_last = index == len(attempts) - 1
        spent = _spent(attempt, heartbeat, is_last=is_last)
        if state in ("failed", "cancelled"):
            result["failed"] += spent
            continue
        if is_last and attempt.get("last_step") is None:  # killed without a word
            attempt = attempt | {"last_step": heartbeat.get("step")}
        later = [item.get("first_step") for item in attempts[index + 1 :]]
        resumed = [step for step in later if step is not None]
        if state != "done" and not (is_last and state == "running"):
            resumed.append(saved_step(run_dir))  # where it will go on
        kept = _kept(attempt, min(resumed)) if resumed else 1.0
        result["useful"] += spent * kept
        result["replayed"] += spent * (1 - kept)
    return result


def _kept(attempt: dict[str, Any], resumed: int) -> float:
    """Return the share of an attempt's steps that stand where the run goes on at `resumed`."""
    first, last = attempt.get("first_step"), attempt.get("last_step") or 0
    if first is None:
        return 0.0
    if last <= first:  # only its start-up, or its steps were never reported
        return 1.0 if resumed > first else 0.0
    return min(1.0, max(0.0, (resumed - first) / (last - first)))


def _spent(attempt: dict[str, Any], heartbeat: dict[str, Any], *, is_last: bool) -> float:
    """Return the seconds of an attempt, by its own clock where it was noted."""
    elapsed = attempt.get("seconds")
    if elapsed is None and is_last and heartbeat.get("born") == attempt.get("born"):
        elapsed = heartbeat.get("elapsed_s")
    if elapsed is not None:
        return float(elapsed)
    start = float(attempt.get("start") or 0)
    end = attempt.get("end")
    if end is None:
        end = heartbeat.get("time") if is_last else None
    return max(0.0, float(end or start) - start)


def _queued_seconds(spec: RunSpec, runs_dir: Path, pending_from: float | None) -> float:
    """Return how long a run has waited: before each life of its jobs, and now.

    A branch that waits for its trunk does not wait for the cluster.
    """
    run_dir = run_folder(runs_dir, spec.run_id)
    before = [run_dir, run_folder(runs_dir, spec.init.trunk)] if spec.init.trunk else [run_dir]
    ends = [float(a["end"]) for folder in before for a in _attempts(folder) if a.get("end")]
    waited = 0.0
    for life in read_lives(run_dir):
        record = read_json(slurm_folder(runs_dir) / life["submission"] / "submission.json")
        asked = float((record or {}).get("time") or life["time"])
        since = max([asked, *(end for end in ends if end <= life["time"])])
        waited += max(0.0, life["time"] - since)
    if pending_from is not None and is_ready(spec, runs_dir):
        waited += max(0.0, time.time() - max([pending_from, *ends]))
    return waited


def _attempts(run_dir: Path) -> list[dict[str, Any]]:
    paths = sorted((run_dir / "attempts").glob("*.json"))
    return [item for path in paths if (item := read_json(path)) is not None]
