"""Renders sbatch scripts: arrays of runs, branches behind their trunks, and chained jobs."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from jobs.cluster import Cluster
from jobs.slurm.submissions import read_submission
from jobs.slurm.trunks import dependency
from scaling.runs.folder import LOG, SPEC
from scaling.spec import RunSpec

Shape = tuple[str, int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """Runs of one size and shape: one sbatch array. `limit`: tasks at once (0: no limit).

    `behind`: the arrays, by index, that hold the trunks `trunks` of its branches.
    """

    index: int
    specs: tuple[RunSpec, ...]
    limit: int = 0
    behind: tuple[int, ...] = ()
    trunks: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The job name: study and size."""
        kind = "-branches" if self.specs[0].init.trunk else ""
        return f"{self.specs[0].study.rpartition('.')[2] or 'runs'}-{self.specs[0].size}{kind}"

    @property
    def ranks_per_node(self) -> int:
        """Tasks that srun starts on a node."""
        asked = self.specs[0].resources
        return asked.gpus_per_node or asked.processes_per_node


def make_arrays(
    specs: Sequence[RunSpec], cluster: Cluster, *, max_array_size: int, parallel: int = 0
) -> list[Array]:
    """Group runs by (size, shape), split at Slurm's MaxArraySize, and divide the GPU ceiling.

    Branches come in arrays of their own, after those of their trunks. `parallel` bounds the tasks
    at once of each array. The ceiling is divided in proportion to the devices that the arrays
    could use at the same time; where it has no room for a task of each, every array gets the whole
    ceiling (and the caller chains them one behind another, see `one_at_a_time`).
    """
    shapes: dict[tuple[bool, Shape], list[RunSpec]] = {}
    for spec in sorted(specs, key=lambda spec: bool(spec.init.trunk)):
        shapes.setdefault((bool(spec.init.trunk), _shape(spec)), []).append(spec)
    chunks = [
        tuple(group[first : first + max_array_size])
        for group in shapes.values()
        for first in range(0, len(group), max_array_size)
    ]
    links = _links(chunks)
    limits = _staged_limits(chunks, links, cluster)
    if parallel:
        limits = [min(limit or parallel, parallel) for limit in limits]
    return [
        Array(
            index=index,
            specs=chunk,
            limit=limits[index],
            behind=tuple(sorted(set(links[index].values()))),
            trunks=frozenset(links[index]),
        )
        for index, chunk in enumerate(chunks)
    ]


def one_at_a_time(arrays: Sequence[Array], cluster: Cluster) -> bool:
    """Return whether the ceiling is too low for one task of each array at the same time."""
    for on_gpu, ceiling in ((True, cluster.max_gpus), (False, cluster.max_cpu_ranks)):
        widths = [_devices(a.specs[0]) for a in arrays if _on_gpu(a.specs[0]) == on_gpu]
        if ceiling and sum(widths) > ceiling:
            return True
    return False


def render_array(array: Array, cluster: Cluster, *, submission: Path, runs_dir: Path) -> str:
    """Return the batch script of an array; line N+1 of its manifest is the run of task N.

    Branches depend on the jobs of their trunks: those that the record of this submission names
    already (ARRAY-N in a dry run), and those in the queue of before. Raises ValueError for a
    branch whose trunk nobody advances.
    """
    first = array.specs[0]
    asked = first.resources
    last = len(array.specs) - 1
    options = {
        "job-name": array.name,
        "array": f"0-{last}" + (f"%{array.limit}" if 0 < array.limit <= last else ""),
        "dependency": _behind_trunks(array, submission, runs_dir),
        "output": str(submission / "slurm-%A_%a.out"),
        "open-mode": "append",
        "requeue": None,
        "signal": f"B:USR1@{cluster.signal_lead_s}",
        "nodes": str(asked.nodes),
        "ntasks-per-node": str(array.ranks_per_node),
        "cpus-per-task": str(_cpus(array, cluster)),
        "gres": _gres(asked.gpus_per_node, cluster),
        "mem": _memory(cluster, array.ranks_per_node),
        "time": cluster.time_limit,
        "partition": cluster.partition,
    }
    python = shlex.quote(sys.executable)
    return "\n".join(
        [
            *_header(options, cluster),
            "# Made by `scaling submit`: each task of the array advances one run.",
            "set -u",
            f"submission={shlex.quote(str(submission))}",
            f"runs={shlex.quote(str(runs_dir))}",
            f'run_dir="$runs/$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" '
            f'"$submission/array-{array.index}.txt")"',
            f'exec >>"$run_dir/{LOG}" 2>&1',
            *_environment(cluster, first),
            *_check_trunk(array, python),
            f'{python} -m jobs.slurm.task begin "$run_dir" "$submission"',
            "case $? in 0) ;; 3) exit 0 ;; *) exit 1 ;; esac  # 3: nothing to do",
            *_rendezvous(asked.world_size),
            "",
            "# Shortly before the time limit: every rank saves and leaves with code 85.",
            'warn() { (while kill -USR1 "$child" 2>/dev/null; do sleep 15; done) & }',
            "trap warn USR1",
            "trap : TERM  # Slurm signals the ranks itself; wait for them",
            _srun(array, cluster) + " &",
            "child=$!",
            'while kill -0 "$child" 2>/dev/null; do wait "$child"; done',
            'wait "$child"',
            "code=$?",
            "trap '' TERM",
            f'{python} -m jobs.slurm.task end "$run_dir" "$submission" {array.index} $code',
            "exit $?",
            "",
        ]
    )


def render_chained(
    words: Sequence[str], cluster: Cluster, *, index: int, submission: Path, after: str
) -> str:
    """Return the batch script of a command behind the runs (or behind another such command).

    `after`: Slurm's dependency. The first of a chain waits until the runs of the submission,
    requeued and resubmitted ones too, are through, and fails unless all are done.
    """
    options = {
        "job-name": f"then-{words[0]}",
        "dependency": after,
        "kill-on-invalid-dep": "yes",
        "output": str(submission / f"then-{index}-{words[0]}.out"),
        "open-mode": "append",
        "requeue": None,
        "ntasks": "1",
        "mem": _memory(cluster, 1),
        "gres": _gres(1, cluster) if words[0] == "finetune" and cluster.gpus_per_node else "",
        "time": cluster.time_limit,
        "partition": cluster.chain_partition or cluster.partition,
    }
    python = shlex.quote(sys.executable)
    wait = [f"{python} -m jobs.slurm.task wait {shlex.quote(str(submission))} || exit 1"]
    return "\n".join(
        [
            *_header(options, cluster),
            *_environment(cluster, None),
            *(wait if index == 0 else []),
            f"exec {python} -m scaling {shlex.join(words)}",
            "",
        ]
    )


def _header(options: dict[str, str | None], cluster: Cluster) -> list[str]:
    options = options | {
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "reservation": cluster.reservation,
    }
    lines = [
        f"#SBATCH --{name}" + ("" if value is None else f"={value}")
        for name, value in options.items()
        if value != ""
    ]
    return ["#!/bin/bash", *lines, *(f"#SBATCH {line}" for line in cluster.sbatch_options)]


def _environment(cluster: Cluster, spec: RunSpec | None) -> list[str]:
    values = {"PYTHONUNBUFFERED": "1"}
    if spec is not None:
        values["OMP_NUM_THREADS"] = str(max(1, spec.engine.threads))
    exports = [f"export {k}={shlex.quote(v)}" for k, v in (values | cluster.environment).items()]
    return [*(f"module load {shlex.quote(name)}" for name in cluster.modules), *exports,
            *cluster.setup]  # fmt: skip


def _rendezvous(world_size: int) -> list[str]:
    if world_size == 1:
        return []
    port = "$((12000 + (SLURM_JOB_ID * 7 + ${SLURM_RESTART_COUNT:-0}) % 20000))"
    return [
        'export MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"',
        f"export MASTER_PORT={port}",
    ]


def _srun(array: Array, cluster: Cluster) -> str:
    """Return the step: one task a rank, so that signals and exit codes reach Slurm unchanged."""
    asked = array.specs[0].resources
    words = ["srun", "--kill-on-bad-exit=1", f"--nodes={asked.nodes}",
             f"--ntasks-per-node={array.ranks_per_node}",
             f"--cpus-per-task={_cpus(array, cluster)}", *cluster.srun_options]  # fmt: skip
    python = shlex.quote(sys.executable)
    box = cluster.container
    if box.kind != "none":
        python = shlex.quote(box.python)
    if box.kind == "pyxis":
        words += [f"--container-image={box.image}"]
        words += [f"--container-mounts={','.join(box.mounts)}"] if box.mounts else []
    if box.kind == "apptainer":
        binds = [f"--bind {shlex.quote(mount)}" for mount in box.mounts]
        gpu = ["--nv"] if asked.gpus_per_node else []
        python = " ".join(["apptainer exec", *gpu, *binds, shlex.quote(box.image), python])
    ranks = "RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS " \
            f"LOCAL_WORLD_SIZE={array.ranks_per_node}"  # fmt: skip
    exports = f"export {ranks}; " if asked.world_size > 1 else ""
    # A warning that comes before Python listens is ignored, and repeated by the batch script.
    inner = f"""trap "" USR1; {exports}exec {python} -m scaling.train "$0" """.strip()
    return f'{shlex.join(words)} bash -c {shlex.quote(inner)} "$run_dir/{SPEC}"'


def _check_trunk(array: Array, python: str) -> list[str]:
    if not array.specs[0].init.trunk:
        return []
    return [
        f'{python} -m jobs.trunks "$run_dir" "$submission" {array.index}',
        "case $? in 0) ;; 3) exit 0 ;; *) exit 1 ;; esac  # 3: its trunk is not so far",
    ]


def _behind_trunks(array: Array, submission: Path, runs_dir: Path) -> str:
    if not array.specs[0].init.trunk:
        return ""
    record = read_submission(submission)
    ids = [(record.arrays[i].job_id or "") if record else f"ARRAY-{i}" for i in array.behind]
    return dependency(array.specs, runs_dir, within=array.trunks, arrays=ids)


def _links(chunks: Sequence[tuple[RunSpec, ...]]) -> list[dict[str, int]]:
    """Return for each chunk: trunk of a branch in it -> the chunk that holds the trunk."""
    wanted = {spec.init.trunk for chunk in chunks for spec in chunk if spec.init.trunk}
    if not wanted:
        return [{} for _ in chunks]
    place = {spec.run_id: index for index, chunk in enumerate(chunks) for spec in chunk}
    return [
        {spec.init.trunk: place[spec.init.trunk] for spec in chunk if spec.init.trunk in place}
        for chunk in chunks
    ]


def _staged_limits(
    chunks: Sequence[tuple[RunSpec, ...]], links: Sequence[dict[str, int]], cluster: Cluster
) -> list[int]:
    """Divide the ceiling; once among trunks and once among branches if none runs beside another."""
    first = [index for index, link in enumerate(links) if not link]
    second = [index for index, link in enumerate(links) if link]
    if any(set(links[index].values()) != set(first) for index in second):
        return _limits(chunks, cluster)
    limits = [0] * len(chunks)
    for stage in (first, second):
        for index, limit in zip(stage, _limits([chunks[i] for i in stage], cluster), strict=True):
            limits[index] = limit
    return limits


def _limits(chunks: Sequence[tuple[RunSpec, ...]], cluster: Cluster) -> list[int]:
    limits = [0] * len(chunks)
    for on_gpu, ceiling in ((True, cluster.max_gpus), (False, cluster.max_cpu_ranks)):
        mine = [i for i, chunk in enumerate(chunks) if _on_gpu(chunk[0]) == on_gpu]
        if not ceiling or not mine:
            continue
        widths = {i: _devices(chunks[i][0]) for i in mine}
        demand = sum(widths[i] * len(chunks[i]) for i in mine)
        if sum(widths.values()) > ceiling:
            limits = [ceiling // widths[i] if i in mine else v for i, v in enumerate(limits)]
            continue
        spare = ceiling - sum(widths.values())  # one task of each has its place
        for i in mine:
            share = spare * widths[i] * len(chunks[i]) / demand
            limits[i] = 1 + int(share // widths[i])
    return limits


def _shape(spec: RunSpec) -> Shape:
    asked = spec.resources
    return (spec.size, asked.nodes, asked.gpus_per_node, asked.processes_per_node,
            spec.engine.threads)  # fmt: skip


def _on_gpu(spec: RunSpec) -> bool:
    return spec.resources.gpus_per_node > 0


def _devices(spec: RunSpec) -> int:
    return spec.resources.world_size


def _cpus(array: Array, cluster: Cluster) -> int:
    """Return CPUs a rank: a GPU's share of its node, or the threads of a CPU rank."""
    first = array.specs[0]
    if first.resources.gpus_per_node and cluster.cpus_per_node:
        return max(1, cluster.cpus_per_node // max(1, cluster.gpus_per_node))
    return max(1, first.engine.threads)


def _gres(gpus: int, cluster: Cluster) -> str:
    if not gpus:
        return ""
    return f"gpu:{cluster.gpu_kind}:{gpus}" if cluster.gpu_kind else f"gpu:{gpus}"


def _memory(cluster: Cluster, ranks_per_node: int) -> str:
    """Return memory of a node in MiB; "" leaves it to the partition's default."""
    mib = ceil(1024 * cluster.mem_gib_per_rank * ranks_per_node)
    return f"{mib}M" if mib else ""
