"""Peaks of devices, free memory, and the warning about slow bf16."""

import pytest

from scaling import devices


def test_peaks_of_known_gpus() -> None:
    assert devices.table_peak("NVIDIA A100-SXM4-80GB", "bf16") == 312e12
    assert devices.table_peak("NVIDIA H200", "bf16") == devices.table_peak("H100 80GB", "bf16")
    assert devices.table_peak("NVIDIA GeForce GTX 1080", "bf16") is None


def test_a_cpus_peak_is_measured_once() -> None:
    rate = devices.peak_flops("cpu", "fp32")
    assert 1e8 < rate < 1e13
    assert devices.peak_flops("cpu", "fp32") == rate


@pytest.mark.parametrize(("ratio", "warns"), [(0.12, True), (1.0, False), (3.7, False)])
def test_bf16_is_warned_of_where_it_is_slow(monkeypatch, ratio: float, warns: bool) -> None:
    monkeypatch.setattr(devices, "bf16_speed", lambda: ratio)
    warning = devices.bf16_warning("cpu", "bf16")
    assert (warning is not None) == warns
    if warning:
        assert "0.12 x" in warning
        assert "precision=fp32" in warning
    assert devices.bf16_warning("cpu", "fp32") is None


def test_free_memory_is_shared_among_ranks() -> None:
    alone, shared = devices.memory_available(), devices.memory_available(ranks=4)
    assert shared == pytest.approx(alone / 4, rel=0.1)


def test_a_cgroups_limit_counts(tmp_path) -> None:
    assert devices._free_of_cgroup(tmp_path) == 2**62
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert devices._free_of_cgroup(tmp_path) == 600_000
    (tmp_path / "memory.max").write_text("max\n")
    assert devices._free_of_cgroup(tmp_path) == 2**62


def test_the_peak_can_be_forgotten() -> None:
    devices.return_freed_memory()
    block = bytearray(200_000_000)
    assert devices.resident_bytes(peak=True) - devices.resident_bytes() < 100_000_000
    del block
    assert devices.resident_bytes(peak=True) - devices.resident_bytes() > 150_000_000
    devices.forget_peak()
    assert devices.resident_bytes(peak=True) - devices.resident_bytes() < 100_000_000
