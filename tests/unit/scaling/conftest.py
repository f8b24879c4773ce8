"""What tests of saved state share: a process group of one rank."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    """Open a gloo group of this process alone for a test."""
    if dist.is_initialized():
        pytest.skip("another test left a process group behind")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()
