"""What a refused Slurm command is said to have complained of."""

import pytest

from jobs.slurm.commands import SlurmError, SlurmSilenceError, run, sbatch


@pytest.fixture
def refusing(tmp_path, monkeypatch):
    """Return a function that puts an sbatch on PATH which prints and fails."""

    def put(*lines: str, code: int = 1) -> None:
        said = "\n".join(lines)
        script = tmp_path / "sbatch"
        script.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{said}\nEND\nexit {code}\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return put


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            ["sbatch: error: invalid partition specified: gpu7",
             "sbatch: error: Batch job submission failed: Invalid partition name specified"],
            "sbatch: invalid partition specified: gpu7; Batch job submission failed: Invalid "
            "partition name specified",
        ),
        (
            ["sbatch: unrecognized option '--nodez'",
             'Try "sbatch --help" for more information'],
            "sbatch: unrecognized option '--nodez'",
        ),
        (["sbatch: error: busy", "sbatch: error: busy", ""], "sbatch: busy"),
        ([""], "sbatch: exit code 3"),
    ],
)  # fmt: skip
def test_a_refusal_is_one_line_with_its_cause(refusing, lines, said):
    refusing(*lines, code=3)
    with pytest.raises(SlurmError) as caught:
        sbatch("x.sbatch")
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("said", "silent"),
    [
        ("Unable to contact slurm controller (connect failure)", True),
        ("Batch job submission failed: Socket timed out on send/recv operation", True),
        ("Batch job submission failed: Zero Bytes were transmitted or received", True),
        ("Batch job submission failed: Invalid account or account/partition combination", False),
        ("Batch job submission failed: Requested node configuration is not available", False),
    ],
)
def test_an_absent_controller_is_not_a_refusal(refusing, said, silent):
    refusing(f"sbatch: error: {said}")
    with pytest.raises(SlurmError) as caught:
        sbatch("x.sbatch")
    assert isinstance(caught.value, SlurmSilenceError) == silent


def test_silence_is_an_error_with_a_limit(tmp_path, monkeypatch):
    (tmp_path / "squeue").write_text("#!/bin/sh\nexec sleep 20\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(SlurmError, match="squeue did not answer within 0 s"):
        run(["squeue"], timeout_s=0.3)
