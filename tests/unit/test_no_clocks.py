"""The check that no test asserts a time: what it finds, what it lets pass, and this repository."""

import runpy
from pathlib import Path
from textwrap import indent

import pytest

CHECK = runpy.run_path(str(Path(__file__).parents[1] / "no_clocks.py"))

FOUND = {
    "a difference": """
began = time.monotonic()
work()
assert time.monotonic() - began < 1.0
""",
    "a name for it": """
began = perf_counter()
work()
took_here = perf_counter() - began
half = took_here / 2
assert 0 < half <= 1, "too slow"
""",
    "CPU time less another": """
before = time.process_time_ns(); work(); ids = time.process_time_ns() - before
before = time.process_time_ns(); work()
assert time.process_time_ns() - before - ids < 1e9
""",
    "a deadline outside of a poll": """
deadline = time.time() + 5
work()
assert time.time() < deadline
""",
    "a list of them": """
runs = []
for size in (1, 2):
    began = time.thread_time()
    work(size)
    runs.append(time.thread_time() - began)
assert runs[1] < 2 * runs[0] + 0.3
assert max(runs) > 0
""",
    "what the system says": """
used, _ = resource.getrusage(resource.RUSAGE_SELF).ru_utime, work()
assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - used <= 2
""",
    "a helper": """
def cost(work):
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
assert cost(work) < 3 * cost(other)
""",
    "an attribute": """
self.began = datetime.now()
assert (datetime.now() - self.began).days < 1
""",
    "a key": 'assert json.loads(text)["seconds"] < 1.0',
    "a key that may be absent": 'assert record.get("elapsed_s") < 1.0',
    "a name": "count, wall_s = work()\nassert wall_s < 20 and count",
}
PASSED = {
    "a poll that would hang": """
deadline = time.monotonic() + 300
while not ready():
    assert time.monotonic() < deadline, "it never came"
    time.sleep(0.02)
""",
    "a time that is only passed on": """
now = time.time()
found = ledger({"time": now - 9000})
assert found["queued"] > 0
assert len(beats(now)) < 3
""",
    "a fake clock": """
clock.now += 30.0
assert record["seconds"] == 30.0
""",
    "counts beside a clock": """
calls, began = [], time.monotonic()
say(time.monotonic() - began)
assert len(calls) < 3
assert calls[0] > 1
""",
    "an order of samples": "assert order.samples(0, 5)[1].max() > 3",
}


def lines_of(body: str) -> list[int]:
    return CHECK["clocks_in"]("def test_it() -> None:\n" + indent(body.strip("\n"), "    "))


@pytest.mark.parametrize("what", FOUND)
def test_a_planted_clock_is_found(what: str) -> None:
    body = FOUND[what].strip("\n").splitlines()
    wanted = [number for number, line in enumerate(body, 2) if line.startswith("assert")]
    assert lines_of(FOUND[what]) == wanted


@pytest.mark.parametrize("what", PASSED)
def test_what_is_no_clock_passes(what: str) -> None:
    assert lines_of(PASSED[what]) == []


def test_no_test_of_this_repository_has_a_clock() -> None:
    assert CHECK["main"]() == 0


def test_each_place_is_printed_with_what_to_do(tmp_path: Path, monkeypatch, capsys) -> None:
    """tests/bench measures, and is left out."""
    for folder in ("unit", "bench"):
        (tmp_path / "tests" / folder).mkdir(parents=True)
        path = tmp_path / "tests" / folder / "test_it.py"
        path.write_text("def test_it():\n    assert elapsed < 1\n")
    monkeypatch.setitem(CHECK["main"].__globals__, "TESTS", tmp_path / "tests")
    assert CHECK["main"]() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tests/unit/test_it.py:2: no test has a clock: count calls")
