"""Prices runs before they start: GPU-hours and disk, in closed form and without torch."""

from collections.abc import Callable
from dataclasses import dataclass

from scaling.spec import RunSpec

Price = Callable[[list[RunSpec]], float | None]
GIB = 2**30
# Dense peak of an A100 (NVIDIA's data sheet); fp32 without TF32, as torch multiplies by default.
PEAK_FLOPS = {"bf16": 312e12, "fp32": 19.5e12}
MFU_LOW, MFU_HIGH = 0.15, 0.50


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """FLOPs that one GPU gets through in a second: likely, slow and fast."""

    likely: float
    slow: float
    fast: float


def assumed_rate(precision: str, *, peak_tflops: float = 0.0) -> Rate:
    """Return the rate at 15 to 50 % model FLOPs utilisation, likely at their geometric mean.

    `peak_tflops`: dense bf16 peak of a cluster's GPU (0: an A100's); fp32 is always an A100's.
    """
    peak = PEAK_FLOPS[precision]
    if peak_tflops and precision == "bf16":
        peak = peak_tflops * 1e12
    likely = (MFU_LOW * MFU_HIGH) ** 0.5
    return Rate(likely=peak * likely, slow=peak * MFU_LOW, fast=peak * MFU_HIGH)


def measured_rate(flops_and_gpu_hours: list[tuple[float, float]]) -> Rate:
    """Return the rate of finished runs, widened to at least 20 % on either side."""
    rates = sorted(flops / (hours * 3600) for flops, hours in flops_and_gpu_hours)
    middle = rates[len(rates) // 2]
    return Rate(likely=middle, slow=min(rates[0], middle / 1.2), fast=max(rates[-1], middle * 1.2))


def gpu_hours(flops: float, rate: Rate) -> tuple[float, float, float]:
    """Return (likely, low, high) GPU-hours of a number of FLOPs."""
    return tuple(flops / speed / 3600 for speed in (rate.likely, rate.fast, rate.slow))  # type: ignore[return-value]


def num_checkpoints(*, num_steps: int, save_every: int, keep_last: int, keep_every: int) -> int:
    """Return how many step folders a finished run holds; the last step is always saved."""
    if not save_every:
        return 1
    regular = num_steps // save_every
    saves = regular + (1 if num_steps % save_every else 0)
    kept = min(saves, max(1, keep_last))
    if not keep_every:
        return kept
    older = regular - (kept - (1 if num_steps % save_every else 0))
    return kept + sum(1 for index in range(1, older + 1) if (index * save_every) % keep_every == 0)


def price_within(price: Price | None, todo: list[RunSpec], cap: float | None) -> float | None:
    """Return the GPU-hours of the runs to submit, None on CPU; ValueError above the cap."""
    hours = price(todo) if price else None
    if cap is not None and hours is not None and hours > cap:
        raise ValueError(
            f"{len(todo)} runs would take about {hours:,.0f} GPU-hours, above --max-gpu-hours "
            f"{cap:,.0f}; nothing was submitted: select fewer runs or raise the cap"
        )
    return hours
