"""Two nodes with network namespaces of their own: a rendezvous on the wrong address would fail."""

import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from slurm_helpers import Slurm, attempts, open_slurm, small_run, wait_until

from jobs.slurm.submit import submit
from scaling.spec import ResourceConfig

pytestmark = pytest.mark.slurm


@pytest.fixture
def apart() -> Iterator[Slurm]:
    """Start a second cluster whose nodes only see each other over a bridge."""
    if shutil.which("ip") is None:
        pytest.skip("no `ip` (iproute2) for network namespaces")
    yield from open_slurm(SLURM_DEV_NET="veth")


# Rank 0 listens on all its addresses; rank 1 looks for it at the address given.
MEET = """
if [ "$SLURM_PROCID" = 0 ]; then timeout 6 python3 -m http.server 15999 >/dev/null 2>&1; exit 0; fi
sleep 3; exec 3<>/dev/tcp/$0/15999
"""


def meet(slurm: Slurm, folder: Path, address: str) -> bool:
    """Return whether rank 1 on the second node finds rank 0 at an address."""
    output = folder / f"meet-{address}.txt"
    step = f"srun bash -c {shlex.quote(MEET)} {address} && echo met || echo missed"
    words = ["-N2", "--ntasks-per-node=1", f"--output={output}", f"--wrap={step}"]
    slurm.call("sbatch", *words)
    wait_until(lambda: output.exists() and output.read_text().endswith(("met\n", "missed\n")))
    return output.read_text().endswith("met\n")


def test_ranks_on_two_networks_meet(apart, tmp_path, dev, finish):
    assert meet(apart, tmp_path, "node1")
    assert not meet(apart, tmp_path, "127.0.0.1")  # the other bed would let this pass
    spec = replace(small_run(num_steps=20), resources=ResourceConfig(nodes=2))
    submit([spec], tmp_path, dev)
    finish(spec)
    assert len(attempts(tmp_path / spec.run_id)) == 1
