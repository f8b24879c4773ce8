"""A Slurm cluster as an executor; what submits is imported when something is submitted."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.executor import HandedOver, Link, Order
from jobs.slurm.commands import SlurmError, scancel
from jobs.slurm.queue import read_holds
from jobs.slurm.submissions import read_submission, slurm_folder
from scaling.runs.folder import CANCELLED, Run
from scaling.runs.state import Hold, RunStatus

if TYPE_CHECKING:
    from jobs.cluster import Cluster
    from scaling.spec import RunSpec


class SlurmExecutor:
    """A Slurm cluster: runs go out as job arrays, and come back into its queue by themselves."""

    exclusive = False

    def submit(
        self, specs: Sequence["RunSpec"], runs_dir: Path, cluster: "Cluster", order: Order
    ) -> HandedOver:
        """Hand the runs over and return at once."""
        from jobs.cluster import check_mounts
        from jobs.slurm.submit import submit

        check_mounts(cluster, runs_dir)
        return submit(
            specs,
            runs_dir,
            cluster,
            parallel=order.parallel,
            price=order.price,
            max_gpu_hours=order.max_gpu_hours,
            then=order.then,
            retry_failed=order.retry_failed,
            dry_run=order.dry_run,
        )

    def held(
        self, runs_dir: Path, *, fresh: bool = False, but: Path | None = None
    ) -> Mapping[str, Hold]:
        """Return the jobs of open submissions; asked now, those of a killed submission as well."""
        if fresh:
            from jobs.slurm.orphans import recover_ids

            recover_ids(runs_dir)
        return read_holds(runs_dir, fresh=fresh)

    def cancel(
        self, before: Sequence[RunStatus], runs_dir: Path, *, wait_s: float
    ) -> dict[str, str]:
        """Cancel the jobs of these runs with one scancel, which does not wait."""
        for status in before:
            if status.state == "running":  # before the signal: a task that ends must find it
                Run.of(runs_dir, status.run_id).write_failed(CANCELLED)
        actions = {"queued": "removed from the queue", "running": "stopping"}
        try:
            scancel([status.job_id for status in before if status.job_id])
        except SlurmError as error:  # a task that starts nevertheless finds its marker
            actions = dict.fromkeys(actions, f"marked cancelled, but {error}")
        return {status.run_id: actions[status.state] for status in before}

    def links(self, runs_dir: Path, study: str) -> list[Link]:
        """Return the commands chained behind a study."""
        from jobs.slurm.chain import chain_state

        return chain_state(runs_dir, study)

    def waits(self, run_id: str, runs_dir: Path) -> list[tuple[float, float]]:
        """Return when each life of a run was submitted and when its job began."""
        from jobs.slurm.lives import read_lives

        found = []
        for life in read_lives(Run.of(runs_dir, run_id)):
            record = read_submission(slurm_folder(runs_dir) / life.submission)
            found.append((record.time if record and record.time else life.time, life.time))
        return found
