"""A stand-in for scaling.train that writes the same files in milliseconds, without torch.

`fake_trainer.py RUN_YAML BEHAVIOUR NUM_STEPS STEP_S` (the last three also as one variable
FAKE_TRAINER); behaviour: ok, crash (raises), fail, silent (dies without a marker), lie (code 0
without DONE), suicide (kill -9 of itself half-way, once), stubborn (ignores SIGTERM), gated (waits
for a file `go` after step 3). The metric is a digest chain over the steps, so a wrong resume shows
in DONE.
"""

import fcntl
import hashlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

SAVE_EVERY = 5


def main(argv: list[str]) -> int:
    folder = Path(argv[0]).parent
    words = argv[1:] or os.environ.get("FAKE_TRAINER", "ok 10 0.01").split()
    behaviour, num_steps, step_s = words[0], int(words[1]), float(words[2])
    if (folder / "DONE").exists():
        return 0
    with open(folder / ".lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("error: run folder is in use by another process", file=sys.stderr)
            return 2
        return _train(folder, behaviour, num_steps, step_s)


def _train(folder: Path, behaviour: str, num_steps: int, step_s: float) -> int:
    stops: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stops.append(number))
    number, step, chain = _open_attempt(folder)
    print(f"attempt {number} of {behaviour} from step {step}", flush=True)
    if behaviour == "silent":
        print("MemoryError: no room", file=sys.stderr)
        return 1
    if behaviour == "crash":
        raise RuntimeError("the fake trainer crashes")
    while step < num_steps:
        time.sleep(step_s)
        step += 1
        chain = hashlib.sha256(f"{chain}{step}".encode()).hexdigest()
        with open(folder / "steps.txt", "a") as stream:
            stream.write(f"{step}\n")
        _beat(folder, step, num_steps, number)
        if behaviour == "fail" and step == 3:
            reason = "NonFiniteLossError: loss is nan at step 3"
            _write(folder / "FAILED", {"reason": reason, "step": step, "time": time.time()})
            _close_attempt(folder, number, f"error: {reason}", step)
            return 1
        if behaviour == "gated" and step == 3:
            _await(folder / "go")
        if behaviour == "suicide" and number == 1 and step == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        stopping = bool(stops) and behaviour != "stubborn"
        if step % SAVE_EVERY == 0 or step == num_steps or stopping:
            _write(folder / "checkpoint.json", {"step": step, "chain": chain})
        if stopping and step < num_steps:
            _close_attempt(folder, number, "signal", step)
            return 85
    _close_attempt(folder, number, "done", step)
    if behaviour == "lie":
        return 0
    metrics = {"val/l1": 0.25, "chain": chain}
    _write(folder / "DONE", {"step": step, "time": time.time(), "metrics": metrics})
    return 0


def _await(path: Path) -> None:
    """Wait for a file, not for ever: the tests would not end."""
    give_up = time.monotonic() + 300
    while not path.exists() and time.monotonic() < give_up:
        time.sleep(0.01)


def _open_attempt(folder: Path) -> tuple[int, int, str]:
    attempts = folder / "attempts"
    attempts.mkdir(exist_ok=True)
    number = len(list(attempts.glob("*.json"))) + 1
    saved = {"step": 0, "chain": ""}
    if (folder / "checkpoint.json").exists():
        saved = json.loads((folder / "checkpoint.json").read_text())
    record = {
        "job_id": None,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "start": time.time(),
        "end": None,
        "reason": None,
        "first_step": saved["step"],
        "last_step": None,
        "gpu_hours": None,
    }
    _write(attempts / f"{number:04d}.json", record)
    return number, saved["step"], saved["chain"]


def _close_attempt(folder: Path, number: int, reason: str, step: int) -> None:
    path = folder / "attempts" / f"{number:04d}.json"
    record = json.loads(path.read_text())
    record |= {"end": time.time(), "reason": reason, "last_step": step, "gpu_hours": 0.0}
    _write(path, record)


def _beat(folder: Path, step: int, num_steps: int, attempt: int) -> None:
    beat = {
        "time": time.time(),
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "step": step,
        "num_steps": num_steps,
        "samples_per_s": 100.0,
        "eta_s": 1.0,
        "attempt": attempt,
        "val_l1": None,
        "phase": "train",
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }
    _write(folder / "heartbeat.json", beat)


def _write(path: Path, value: dict[str, object]) -> None:
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(json.dumps(value))
    aside.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
