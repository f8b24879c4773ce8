"""This machine as an executor; what works through runs is imported when there are some."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.executor import HandedOver, Order, Submitted
from jobs.local.queue import read_queues
from scaling.runs.state import Hold, RunStatus

if TYPE_CHECKING:
    from jobs.cluster import Cluster
    from scaling.spec import RunSpec


class LocalExecutor:
    """This machine: works through the runs in this process, or in one in the background."""

    exclusive = True  # two of them would both begin at GPU 0

    def submit(
        self, specs: Sequence["RunSpec"], runs_dir: Path, cluster: "Cluster", order: Order
    ) -> Submitted:
        """Run the specs here and return when they have ended, or start a process that does."""
        from jobs.handover import choose_runs
        from jobs.local.detach import submit_detached
        from jobs.local.launch import local_slots
        from jobs.local.loop import submit
        from jobs.pricing import price_within

        if order.then:
            raise ValueError("--then needs a Slurm cluster; give --on CLUSTER")
        local_slots(specs, 1)
        ours = choose_runs(specs, runs_dir, retry_failed=order.retry_failed, dry_run=True)
        hours = price_within(order.price, ours.todo, order.max_gpu_hours)
        if order.dry_run:
            return HandedOver(
                study=specs[0].study if specs else "",
                cluster=cluster.name,
                submitted=len(ours.todo),
                **ours.skipped(),
                gpu_hours=hours,
                arrays=[],
                chain=[],
                submission=None,
                dry_run=True,
            )
        parallel = order.parallel or os.cpu_count() or 1
        if order.background is not None:
            return submit_detached(
                specs,
                runs_dir,
                parallel=parallel,
                retry_failed=order.retry_failed,
                command=order.background or None,
            )
        with order.meanwhile():
            return submit(
                specs,
                runs_dir,
                parallel=parallel,
                retry_failed=order.retry_failed,
                progress=order.progress,
            )

    def held(
        self, runs_dir: Path, *, fresh: bool = False, but: Path | None = None
    ) -> Mapping[str, Hold]:
        """Return what the living local executors over a folder of runs have."""
        return read_queues(runs_dir, but=but)

    def cancel(
        self, before: Sequence[RunStatus], runs_dir: Path, *, wait_s: float
    ) -> dict[str, str]:
        """Signal the processes of these runs on this host; those that wait find their marker."""
        from jobs.local.processes import stop_processes

        return stop_processes(before, runs_dir, wait_s=wait_s)
