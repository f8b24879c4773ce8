"""What a batch script asks on the node: may this run start, and what follows its end?

`python -m jobs.slurm.task begin RUN_DIR SUBMISSION` exits 0 to start, 3 for nothing to do;
`... end RUN_DIR SUBMISSION ARRAY CODE` puts a run that saved and left back into the queue;
`... wait SUBMISSION` waits for the runs before a chain and exits 1 unless all are done.
"""

import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from jobs.handover import RESUMABLE_CODE, record_end
from jobs.queue import read_held
from jobs.slurm.commands import SlurmError, job_state, sbatch
from jobs.slurm.commands import run as call
from jobs.slurm.lives import Life, note_life, read_lives
from jobs.slurm.submissions import RECORD, note_resubmitted, read_submission
from jobs.status import run_state
from scaling.runs.attempts import clear_failed, close_attempt
from scaling.runs.folder import CANCELLED, KILLED, Run
from scaling.runs.logs import last_line, size_of, tail
from scaling.runs.process import this_host

GO, FAILURE, NOTHING = 0, 1, 3
MAX_BARREN = 3
POLL_S = 20.0
# What ranks say when another rank, its node or the network has gone; the cause is elsewhere.
PEER_LOST = re.compile(
    r"closed by peer|connection reset|broken pipe|connection refused|remote process exited|"
    r"DistNetworkError|DistBackendError|ncclRemoteError|ncclSystemError|socket timeout|"
    r"timed out after|wait timeout|heartbeat", re.IGNORECASE
)  # fmt: skip
# In the job's own output; "DUE TO ..." follows where Slurm, not a person, ended it.
BY_HAND = re.compile(r"\*\*\* JOB \d+ ON \S+ CANCELLED AT \S+ \*\*\*")
MEMORY = re.compile(
    r"oom.?kill|out of memory|exceeded.{0,20}memory limit|Cannot allocate memory|"
    r"OutOfMemoryError|DefaultCPUAllocator", re.IGNORECASE
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Answer one question of the batch script by an exit code."""
    verb, *words = sys.argv[1:] if argv is None else argv
    if verb == "begin":
        return begin(Run(Path(words[0])), Path(words[1]))
    if verb == "end":
        return end(Run(Path(words[0])), Path(words[1]), array=int(words[2]), code=int(words[3]))
    return wait(Path(words[0]))


def begin(run: Run, submission: Path) -> int:
    """Note a new life of the job and return GO, or NOTHING for a run that must not start.

    A run whose last lives (of this submission) all began at the checkpoint it is at now makes no
    progress: it gets a FAILED marker that says so.
    """
    if run.done_file.exists():
        return NOTHING
    marker = run.failed()
    if marker is not None:
        if marker.reason == CANCELLED or not os.environ.get("SLURM_RESTART_COUNT"):
            say(f"nothing to do: {marker.reason}")
            return NOTHING
        clear_failed(run)  # Slurm itself restarts the job: a node failed under it
    step = run.saved_step()
    barren = _barren_lives(run, submission, step)
    if barren >= MAX_BARREN:
        why = _why_barren(run, step)
        say(why)
        run.write_failed(why)
        return NOTHING
    life = Life(
        job_id=_task(),
        submission=submission.name,
        restart=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        time=time.time(),
        step=step,
        log_start=size_of(run.log_file),
        out_start=size_of(_output(submission)),
    )
    note_life(run, life)
    say(f"Slurm job {_task()} starts run {run.run_id} on {os.environ.get('SLURM_JOB_NODELIST')}")
    return GO


def end(run: Run, submission: Path, *, array: int, code: int) -> int:
    """Write what the run's processes could not write; requeue or resubmit what can go on.

    `code`: exit code of srun. Returns the exit code of the batch script.
    """
    if run.done_file.exists():
        return GO
    state, restarts = job_state(os.environ.get("SLURM_JOB_ID", ""))
    lives = read_lives(run)
    start = lives[-1].log_start if lives else 0
    if not _record_end(run, code, log_start=start):
        return FAILURE
    if BY_HAND.search(tail(_output(submission), lives[-1].out_start if lives else 0)):
        say("cancelled with scancel; `scaling submit` resumes the run")
        return FAILURE
    if _barren_lives(run, submission, run.saved_step()) >= MAX_BARREN:
        why = _why_barren(run, run.saved_step())
        run.write_failed(why)
        say(why)
        return FAILURE
    if state == "PENDING" and restarts:
        return RESUMABLE_CODE  # Slurm has put it back already
    _go_on(run, submission, array)
    return RESUMABLE_CODE


def wait(submission: Path) -> int:
    """Wait until every run before a chain is through; return 0 when all are done, else 1."""
    runs_dir = submission.parents[1]
    while True:
        record = read_submission(submission)
        run_ids = record.before_chain() if record else []
        held = read_held(runs_dir)
        states = {r: run_state(Run.of(runs_dir, r), held).state for r in run_ids}
        if not any(_may_go_on(Run.of(runs_dir, r), state) for r, state in states.items()):
            break
        time.sleep(POLL_S)
    wrong = [f"{run_id} {state}" for run_id, state in states.items() if state != "done"]
    if wrong:
        say(f"{len(wrong)} of {len(states)} runs are not done: {', '.join(wrong[:5])}")
    return FAILURE if wrong or not states else GO


def _may_go_on(run: Run, state: str) -> bool:
    """Return whether a run may still be done without anybody's help."""
    return state in ("queued", "running") or (state == "unknown" and not run.damage())


def _record_end(run: Run, code: int, *, log_start: int) -> bool:
    """Close the attempt and return whether the run may go on; else FAILED says why."""
    spec = run.spec()
    gpus = spec.resources.nodes * spec.resources.gpus_per_node
    said = tail(run.log_file, log_start)
    marker = run.failed()
    if marker is not None and marker.reason == CANCELLED:
        return False
    if spec.resources.world_size > 1 and PEER_LOST.search(said):
        if marker is not None:
            clear_failed(run)
        close_attempt(run, reason=KILLED, num_gpus=gpus)
        return True
    if marker is not None:
        return False
    if code != RESUMABLE_CODE and MEMORY.search(said):
        close_attempt(run, reason="error: out of memory", num_gpus=gpus)
        run.write_failed(
            "out of memory; lower engine.micro_batch_size, or raise mem_gib_per_rank of the "
            f"cluster: {last_line(run.log_file, start=log_start)}",
        )
        return False
    signalled = 128 - code if code > 128 else code  # as a shell counts
    status = record_end(spec, run, signalled, pid=0, log_start=log_start)
    return status.state in ("preempted", "running", "unknown", "queued", "planned")


def _go_on(run: Run, submission: Path, array: int) -> None:
    """Put this one task back into the queue; where Slurm refuses, submit it anew."""
    task = _task()
    try:
        call(["scontrol", "requeue", task])
        (submission / RECORD).touch()  # `status` asks Slurm again instead of using old answers
        say(f"requeued {task} at step {run.saved_step()}")
        return
    except SlurmError as error:
        refused = str(error)
    try:
        index = os.environ["SLURM_ARRAY_TASK_ID"]
        job_id = sbatch(str(submission / f"array-{array}.sbatch"), f"--array={index}")
    except SlurmError as error:
        say(f"cannot requeue ({refused}) nor resubmit ({error}); `scaling submit` resumes the run")
        return
    note_resubmitted(submission, run_id=run.run_id, task=f"{job_id}_{index}")
    say(f"resubmitted as {job_id}_{index} at step {run.saved_step()} ({refused})")


def _barren_lives(run: Run, submission: Path, step: int) -> int:
    """Return how many of the newest lives in this submission began at the step of now."""
    count = 0
    for life in reversed(read_lives(run)):
        if life.submission != submission.name or life.step != step:
            break
        count += 1
    return count


def _why_barren(run: Run, step: int) -> str:
    lives = read_lives(run)
    start = lives[-1].log_start if lives else 0
    said = last_line(run.log_file, start=start) or "nothing"
    return (
        f"no checkpoint beyond step {step} in {MAX_BARREN} attempts; save more often "
        f"(engine.save_every) or see train.log, which last said: {said}"
    )


def _output(submission: Path) -> Path:
    """Return where Slurm writes of this task; the run's own words go to train.log."""
    return submission / f"slurm-{_task()}.out"


def _task() -> str:
    """Return "ARRAY_TASK": a bare job id would requeue every task of the array."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID") or this_host()
    index = os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if index else array


def say(message: str) -> None:
    """Print one line with the time; a batch script's output goes to train.log."""
    print(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] {message}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
