"""`scaling doctor`: is this machine fit for a run? Asked before anything is spent."""

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from scaling.devices import bf16_speed, bf16_warning, memory_available
from scaling.document import Document
from scaling.machine.doctor_rank import MOST, Measured, shrink
from scaling.memory import GIB, UNCALIBRATED, checkpoint_bytes, memory, what_to_change
from scaling.spec import ResourceConfig, RunSpec
from scaling.training.engine import attention_kernel, deepspeed_problem, free_port

State = Literal["ok", "warning", "failed"]
Number = bool | int | float | str | list[str] | list[float] | None
PACKAGES = ("torch", "deepspeed", "transformers", "flash-attn", "mlflow", "optuna", "numpy")
OPTIONAL = ("flash-attn",)
# Largest relative error of one parameter's gradient. bf16 rounds each product to 8 bits.
TOLERANCE = {"fp32": 1e-4, "bf16": 0.1}
STARTUP_CPU_S = 10.0
WRITE_BYTES = 256 * 2**20
SIGNAL_LEAD_S = 120.0
RANK_TIMEOUT_S = 600
POLL_S = 0.05
RANK_MODULE = "scaling.machine.doctor_rank"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check(Document):
    """One question, its answer in a sentence and in numbers."""

    name: str
    state: State
    message: str
    values: Mapping[str, Number] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis(Document):
    """What `doctor --json` prints; `ok`: no check has failed."""

    schema: int = 1
    ok: bool
    host: str
    checks: list[Check]


def examine(spec: RunSpec, folder: Path, *, ranks: int = 2) -> Diagnosis:
    """Return the answer to every question; a check that cannot run has failed.

    `folder`: where runs go, whose disk is measured (256 MiB are written and removed). Raises
    ValueError for ranks < 1.
    """
    if ranks < 1:
        raise ValueError(f"ranks={ranks}; check the gradients on at least 1, better 2")
    here = _here(spec, ranks)
    questions: dict[str, Callable[[], Check]] = {
        "environment": check_environment,
        "devices": lambda: check_devices(spec),
        "attention": lambda: check_attention(here),
        "precision": lambda: check_precision(here),
        "memory": lambda: check_memory(spec, here),
        "disk": lambda: check_disk(spec, folder),
        "gradients": lambda: check_ranks(here, ranks),
    }
    checks = [_ask(name, question) for name, question in questions.items()]
    return Diagnosis(
        ok=all(check.state != "failed" for check in checks),
        host=socket.gethostname(),
        checks=checks,
    )


def check_environment() -> Check:
    """Name the versions; refuse the DeepSpeed releases with wrong gradients."""
    found = {name: _version(name) for name in PACKAGES}
    missing = [name for name, given in found.items() if given is None and name not in OPTIONAL]
    problem = deepspeed_problem(found["deepspeed"] or "0")
    values: dict[str, Number] = {
        "python": platform.python_version(),
        **found,
        "compiler": shutil.which("c++"),
    }
    text = ", ".join(f"{name} {given}" for name, given in found.items() if given)
    if missing or problem:
        return Check(
            name="environment", state="failed", values=values,
            message=problem or f"missing: {', '.join(missing)}; run `pip install -e .`",
        )  # fmt: skip
    return Check(
        name="environment", state="ok", message=f"python {values['python']}, {text}", values=values
    )


def check_devices(spec: RunSpec) -> Check:
    """Compare the GPUs that a node of the run needs with those that are here."""
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    wanted = spec.resources.gpus_per_node
    cores = len(os.sched_getaffinity(0))
    values: dict[str, Number] = {"gpus": names, "cores": cores, "wanted_gpus": wanted}
    text = f"{len(names)} GPUs ({', '.join(sorted(set(names))) or 'none'}), {cores} cores"
    if wanted > len(names):
        text += f"; the run asks for {wanted} GPUs a node: the checks below used the CPU"
        return Check(name="devices", state="warning", message=text, values=values)
    return Check(name="devices", state="ok", message=text, values=values)


def check_attention(spec: RunSpec) -> Check:
    """Say which attention kernel the run would get here."""
    device, asked = _device(spec), spec.engine.attention
    kernel = attention_kernel(spec, device)
    return Check(
        name="attention",
        state="ok",
        message=f"{kernel} on {device} in {spec.precision} (engine.attention={asked})",
        values={"kernel": kernel, "asked": asked, "device": device},
    )


def check_precision(spec: RunSpec) -> Check:
    """Measure bf16 against fp32 where the run computes on a CPU."""
    device = _device(spec)
    if device != "cpu":
        return Check(name="precision", state="ok", message=f"{spec.precision} on a GPU")
    ratio = bf16_speed()
    warning = bf16_warning(device, spec.precision)
    return Check(
        name="precision",
        state="warning" if warning else "ok",
        message=warning or f"{spec.precision}; bf16 runs at {ratio:.2f} x fp32 on this CPU",
        values={"bf16_over_fp32": ratio},
    )


def check_memory(spec: RunSpec, here: RunSpec) -> Check:
    """Compare the run's formula with what a rank may use on this machine."""
    device = _device(here)
    on_gpu = device != "cpu"
    needed = memory(spec).total
    if spec.resources.gpus_per_node and not on_gpu:
        text = (
            f"{needed / GIB:.1f} GiB a GPU ({UNCALIBRATED}); there is no GPU here to compare with"
        )
        return Check(name="memory", state="ok", message=text, values={"needed_gib": needed / GIB})
    local = 1 if on_gpu else spec.resources.processes_per_node
    free = memory_available(device, ranks=local)
    source = UNCALIBRATED if on_gpu else "by the formula"
    text = f"{needed / GIB:.2f} GiB a rank ({source}), {free / GIB:.2f} GiB free"
    fits = needed < free
    return Check(
        name="memory",
        state="ok" if fits else "failed",
        message=text if fits else f"{text}; {what_to_change(spec)}",
        values={"needed_gib": needed / GIB, "free_gib": free / GIB},
    )


def check_disk(spec: RunSpec, folder: Path) -> Check:
    """Write 256 MiB where runs go; say how long the run's checkpoint takes and whether it fits."""
    folder.mkdir(parents=True, exist_ok=True)
    rate = _write_rate(folder)
    size = checkpoint_bytes(spec)
    seconds, free = size / rate, shutil.disk_usage(folder).free
    kept = size * (max(1, spec.engine.keep_last) + 1)  # one more while it is written
    lead = max(SIGNAL_LEAD_S, 3 * seconds)
    fits = kept < free
    text = (
        f"{rate / 1e6:,.0f} MB/s; a checkpoint of {size / 1e9:.2f} GB takes {seconds:.1f} s "
        f"(warn a job {lead:.0f} s ahead), {free / 1e9:,.0f} GB free"
    )
    if not fits:
        text += f"; {kept / 1e9:.1f} GB are needed: free space or lower engine.keep_last"
    return Check(
        name="disk",
        state="ok" if fits else "failed",
        message=text,
        values={
            "write_mb_per_s": rate / 1e6,
            "checkpoint_gb": size / 1e9,
            "checkpoint_s": seconds,
            "signal_lead_s": lead,
            "free_gb": free / 1e9,
        },
    )


def check_ranks(spec: RunSpec, ranks: int) -> Check:
    """Compare the engine's gradients on `ranks` processes with plain autograd's."""
    found = run_ranks(spec, ranks)
    limit = TOLERANCE[spec.precision]
    wrong = max(found.gradient_error, found.update_error) > limit
    text = (
        f"{ranks} ranks, ZeRO {spec.engine.zero_stage}, {found.accumulation} micro-batches: "
        f"gradients {_within(found.gradient_error)} plain autograd's, updates "
        f"{_within(found.update_error)} its updates (allowed {limit:g}); all-reduce "
        f"{found.all_reduce_gb_per_s:.2f} GB/s, start-up {found.startup_cpu_s:.1f} CPU-s"
    )
    if wrong:
        text += f"; {_blame(found, limit)}: do not train"
    slow = found.startup_cpu_s > STARTUP_CPU_S
    state: State = "failed" if wrong else "warning" if slow else "ok"
    return Check(name="gradients", state=state, message=text, values=found.to_dict())


def _within(error: float) -> str:
    """Say how near; two ranks of one sample each sum to the same bits in either order."""
    return f"within {error:.1e} of" if error else "equal to"


def _blame(found: Measured, limit: float) -> str:
    """Say what the numbers point at: the shares of the ranks, or the worst parameter."""
    if found.gradient_error <= limit:
        return f"gradients are right, the update of {found.update_worst} is not"
    worst, shares = found.gradient_worst, found.shares
    if found.gradient_error >= MOST:
        return f"the gradient of {worst} is not finite"
    if max(abs(share) for share in shares) < limit:
        return f"{worst} gets no gradient: is it in no group of the optimizer?"
    if len(shares) > 1 and max(shares) - min(shares) > limit:
        counts = ", ".join(f"rank {rank}'s {share:.3f} x" for rank, share in enumerate(shares))
        return f"in {worst} the samples of the ranks count differently: {counts}"
    if abs(shares[0] - 1) > limit:
        return f"{worst} is {shares[0]:.3f} x what it should be: a wrong divisor"
    return f"worst in {worst}"


def run_ranks(spec: RunSpec, ranks: int) -> Measured:
    """Run `doctor_rank` on local processes; RuntimeError with the end of a failed log."""
    return Measured(**json.loads(answer_of_ranks(spec, ranks)))


def answer_of_ranks(spec: RunSpec, ranks: int) -> str:
    """Return what rank 0 of `run_ranks` writes."""
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch) / "spec.yaml", Path(scratch) / "out.json"
        shrink(spec, ranks=ranks).save(source)
        command = [sys.executable, "-m", RANK_MODULE, str(source), str(target)]
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        shared |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
        logs = [Path(scratch) / f"rank_{rank}.log" for rank in range(ranks)]
        processes = [
            _start(command, shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, log)
            for rank, log in enumerate(logs)
        ]
        _join(processes, logs)
        return target.read_text()


def _start(command: list[str], settings: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a rank that writes to a file: a pipe that nobody empties would stop it when full."""
    with open(log, "wb") as stream:
        return subprocess.Popen(
            command, env=os.environ | settings, stdout=stream, stderr=subprocess.STDOUT
        )


def _join(processes: list[subprocess.Popen[bytes]], logs: list[Path]) -> None:
    """Return when all ranks have ended well; when one fails or is late, the others are ended too.

    Watched all at once: the others may wait for the failed one for as long as they are let.
    """
    deadline = time.monotonic() + RANK_TIMEOUT_S
    try:
        while True:
            codes = [process.poll() for process in processes]
            for rank, code in enumerate(codes):
                if code:
                    raise RuntimeError(f"rank {rank} failed (code {code}): {_end_of(logs[rank])}")
            if None not in codes:
                return
            if time.monotonic() > deadline:
                late = codes.index(None)
                raise RuntimeError(f"rank {late} has not answered for {RANK_TIMEOUT_S} s")
            time.sleep(POLL_S)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _end_of(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-3:])


def _here(spec: RunSpec, ranks: int) -> RunSpec:
    """Return the run as `ranks` local processes can do it: on GPUs if they are there, else CPU."""
    import torch

    share = spec.global_batch_size // spec.resources.world_size
    micro = spec.engine.micro_batch_size or share
    accumulation = share // micro
    on_gpu = 0 < ranks <= torch.cuda.device_count() and spec.resources.gpus_per_node > 0
    return replace(
        spec,
        precision=spec.precision if on_gpu or not spec.resources.gpus_per_node else "fp32",
        global_batch_size=ranks * micro * accumulation,
        engine=replace(spec.engine, micro_batch_size=micro),
        resources=ResourceConfig(gpus_per_node=ranks if on_gpu else 0, processes_per_node=ranks),
    )


def _ask(name: str, question: Callable[[], Check]) -> Check:
    try:
        return question()
    except Exception as error:  # the other answers are wanted all the same
        text = " ".join(str(error).split()) or type(error).__name__
        return Check(name=name, state="failed", message=text)


def _device(spec: RunSpec) -> str:
    return "cuda" if spec.resources.gpus_per_node else "cpu"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _write_rate(folder: Path) -> float:
    """Return bytes a second of writing and syncing a file."""
    block = os.urandom(2**20)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as stream:
        began = time.perf_counter()
        for _ in range(WRITE_BYTES // len(block)):
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())
        return WRITE_BYTES / max(1e-9, time.perf_counter() - began)
