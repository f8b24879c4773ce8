"""A stand-in for sbatch, squeue, sacct, scancel and scontrol, driven by one JSON file.

Called by the name of its symbolic link. `$FAKE_SLURM/state.json`: {"next": job id, "jobs":
{"ARRAY_TASK": [state, reason]}, "refuse": text that sbatch fails with, "refuse_after": arrays
accepted before, "unheard": text that sbatch fails with once the job is in, "refuse_cancel": text
that scancel fails with, "squeue": text printed instead, "sacct": text printed instead (null: an
error), "down": every command fails, "scripts": {job id: script}, "calls": [[words]]}.
"""

import json
import os
import re
import sys
from pathlib import Path

PATH = Path(os.environ["FAKE_SLURM"]) / "state.json"


def main() -> int:
    name, words = Path(sys.argv[0]).name, sys.argv[1:]
    state = json.loads(PATH.read_text())
    state.setdefault("calls", []).append([name, *words])
    code = COMMANDS[name](state, words) if not state.get("down") else _fail(name, "no controller")
    PATH.write_text(json.dumps(state))
    return code


def _fail(name: str, text: str) -> int:
    print(f"{name}: error: {text}", file=sys.stderr)
    return 1


def _sbatch(state: dict, words: list[str]) -> int:
    refuse = state.get("refuse")
    if refuse and state.get("refuse_after", 0) <= len(state.get("accepted", [])):
        return _fail("sbatch", refuse)
    script = next(word for word in words if word.endswith(".sbatch"))
    text = "\n".join([*words, Path(script).read_text()])
    array = re.search(r"--array=(\d+)(?:-(\d+))?", text)
    number = state["next"] = state.get("next", 0) + 1
    first, last = (int(array[1]), int(array[2] or array[1])) if array else (0, 0)
    for task in range(first, last + 1):
        key = f"{number}_{task}" if array else str(number)
        state.setdefault("jobs", {})[key] = ["PENDING", "Priority"]
    state.setdefault("accepted", []).append(script)
    state.setdefault("scripts", {})[str(number)] = script
    if state.get("unheard"):
        return _fail("sbatch", state["unheard"])
    print(number)
    return 0


def _squeue(state: dict, words: list[str]) -> int:
    if "squeue" in state:
        print(state["squeue"])
        return 0
    for key, (job_state, reason) in state.get("jobs", {}).items():
        array, _, task = key.partition("_")
        if "%F|%o" in words:
            print(f"{array}|{state.get('scripts', {}).get(array, 'elsewhere')}")
            continue
        print(f"{array}|{task or 'N/A'}|{job_state}|{reason}")
    return 0


def _sacct(state: dict, words: list[str]) -> int:
    if state.get("sacct", "") is None:
        return _fail("sacct", "Slurm accounting storage is disabled")
    print(state.get("sacct", ""))
    return 0


def _scancel(state: dict, words: list[str]) -> int:
    if state.get("refuse_cancel"):
        return _fail("scancel", state["refuse_cancel"])
    for word in words:
        for key in list(state.get("jobs", {})):
            if key == word or key.partition("_")[0] == word:
                del state["jobs"][key]
    return 0


def _scontrol(state: dict, words: list[str]) -> int:
    if words[:2] == ["show", "config"]:
        print(f"MaxArraySize            = {state.get('max_array_size', 1001)}")
    elif words[:2] == ["show", "job"]:
        print(state.get("show_job", f"JobId={words[-1]} JobState=RUNNING Requeue=1"))
    elif words[0] == "requeue":
        if state.get("requeue_refused"):
            return _fail("scontrol", state["requeue_refused"])
        state["jobs"][words[1]] = ["PENDING", "BeginTime"]
    return 0


COMMANDS = {
    "sbatch": _sbatch,
    "squeue": _squeue,
    "sacct": _sacct,
    "scancel": _scancel,
    "scontrol": _scontrol,
}

if __name__ == "__main__":
    sys.exit(main())
