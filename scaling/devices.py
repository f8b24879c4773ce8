"""What machines can do: peak FLOPs of known GPUs, measured ones of a CPU, memory that is free."""

import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

# Dense peaks in FLOP/s from NVIDIA's data sheets (SXM parts, no sparsity; fp32 without TF32, as
# torch multiplies by default).
PEAK_FLOPS: dict[str, dict[str, float]] = {
    "A100": {"bf16": 312e12, "fp32": 19.5e12},
    "H100": {"bf16": 989e12, "fp32": 67e12},
    "H200": {"bf16": 989e12, "fp32": 67e12},
}
# Slower than this share of fp32 matrix products, bf16 earns a warning.
SLOW_BF16 = 1.0
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def table_peak(device_name: str, precision: str) -> float | None:
    """Return the data sheet's peak FLOP/s of a GPU by its name; None where it is not listed."""
    for kind, peaks in PEAK_FLOPS.items():
        if kind in device_name:
            return peaks[precision]
    return None


def peak_flops(device: Any, precision: str) -> float | None:
    """Return one rank's peak FLOP/s: a GPU's from the table, a CPU's measured once a process.

    None for an unknown GPU, for which no utilisation is reported.
    """
    import torch

    if torch.device(device).type == "cuda":
        return table_peak(torch.cuda.get_device_name(device), precision)
    return measured_peak(precision)


@cache
def measured_peak(precision: str = "fp32", *, size: int = 512, repeats: int = 5) -> float:
    """Return the best FLOP/s of a square matrix product on this CPU with torch's threads."""
    import torch

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left = torch.ones(size, size, dtype=dtype)
    right = torch.ones(size, size, dtype=dtype)
    out = torch.empty(size, size, dtype=dtype)
    return 2 * size**3 / min(_seconds_of(torch.mm, left, right, out) for _ in range(repeats))


def _seconds_of(product: Any, left: Any, right: Any, out: Any) -> float:
    began = time.perf_counter()
    product(left, right, out=out)
    return max(1e-9, time.perf_counter() - began)


def bf16_speed() -> float:
    """Return bf16's speed over fp32's for the products of a linear layer on this CPU.

    Small matrices, because bf16 without hardware support can take a hundred times as long.
    """
    shape: dict[str, int] = {"size": 256, "repeats": 3}
    return measured_peak("bf16", **shape) / measured_peak("fp32", **shape)


def bf16_warning(device: Any, precision: str) -> str | None:
    """Return what to say where bf16 is asked for and slower than fp32; None where it is fine."""
    import torch

    if precision != "bf16" or torch.device(device).type == "cuda":
        return None
    ratio = bf16_speed()
    if ratio >= SLOW_BF16:
        return None
    return (
        f"precision=bf16 is slow on this CPU: measured {ratio:.2f} x the speed of fp32; "
        "use precision=fp32 here and bf16 on GPUs"
    )


def memory_available(device: Any = "cpu", *, ranks: int = 1) -> int:
    """Return the bytes that one of `ranks` processes on this machine may use.

    A GPU is one rank's own; a CPU's free memory (the cgroup's, where that is less) is shared.
    """
    import torch

    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(_free_of_machine(), _free_of_cgroup()) // ranks


def _free_of_machine() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo has no MemAvailable")


def _free_of_cgroup(folder: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the rest of a cgroup's limit (version 2); a very large number without one."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
    except (OSError, ValueError):
        return 2**62
    return 2**62 if limit == "max" else max(0, int(limit) - used)


def resident_bytes(*, peak: bool = False) -> int:
    """Return this process's resident memory, or its peak since `forget_peak`."""
    key = "VmHWM:" if peak else "VmRSS:"
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


def return_freed_memory() -> None:
    """Have glibc give freed blocks of 1 MiB and more back at once (mallopt(3)).

    By default the threshold grows to 32 MiB, and what lies below stays with the process: a fifth
    of a large model's peak. Does nothing under another C library.
    """
    import ctypes

    with suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(_M_MMAP_THRESHOLD, 2**20)
        library.mallopt(_M_TRIM_THRESHOLD, 2**20)


def forget_peak() -> None:
    """Start the kernel's record of this process's peak memory anew (Linux, proc(5))."""
    Path("/proc/self/clear_refs").write_text("5")
