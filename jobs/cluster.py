"""Cluster: a machine that runs are submitted to, read from jobs/clusters/NAME.yaml or a path."""

import re
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

import yaml

from jobs.executor import EXECUTORS
from scaling.config import from_yaml
from scaling.spec import RunSpec

CLUSTERS = Path(__file__).with_name("clusters")
TIME_LIMIT = re.compile(r"(\d+-)?\d{1,2}:\d{2}:\d{2}|\d+")

NUMBERS = (
    "nodes", "gpus_per_node", "peak_tflops", "cpus_per_node", "mem_gib_per_rank", "signal_lead_s",
    "max_gpus", "max_cpu_ranks", "max_array_size",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerConfig:
    """The container that training runs in; `mounts` are host:container pairs."""

    kind: Literal["none", "apptainer", "pyxis"] = "none"
    image: str = ""
    mounts: list[str] = field(default_factory=list)
    python: str = "python"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """One cluster. Empty texts and zeros leave the choice to Slurm, or mean: no limit.

    `backend` names its executor (`jobs.executor.EXECUTORS`).
    `max_gpus` and `max_cpu_ranks` bound what one submission uses at once. `time_limit` is
    Slurm's [days-]hours:minutes:seconds, or minutes. `signal_lead_s`: how long before it a run is
    told to save and leave; give three times a measured checkpoint, at least 120.
    """

    name: str = ""
    backend: str = "slurm"
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    reservation: str = ""
    chain_partition: str = ""
    nodes: int = 0
    gpus_per_node: int = 0
    gpu_kind: str = ""
    peak_tflops: float = 0.0
    cpus_per_node: int = 0
    mem_gib_per_rank: float = 0.0
    time_limit: str = "24:00:00"
    signal_lead_s: int = 120
    max_gpus: int = 0
    max_cpu_ranks: int = 0
    max_array_size: int = 0
    modules: list[str] = field(default_factory=list)
    setup: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    container: ContainerConfig = field(default_factory=ContainerConfig)
    sbatch_options: list[str] = field(default_factory=list)
    srun_options: list[str] = field(default_factory=list)


def known_clusters() -> list[str]:
    """Return the names under jobs/clusters."""
    return sorted(path.stem for path in CLUSTERS.glob("*.yaml"))


def load_cluster(name: str) -> Cluster:
    """Read a cluster by its name or by the path of a YAML file.

    Raises ValueError for an unknown name, an unknown or mistyped key, or a value out of range.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else CLUSTERS / f"{name}.yaml"
    if not path.exists():
        raise ValueError(
            f"--on {name!r} is not a known cluster; allowed: {', '.join(known_clusters())}, or the "
            "path of a YAML file like jobs/clusters/a100.yaml"
        )
    cluster = _as_written(from_yaml(path, Cluster), path)
    _check(cluster, path)
    return cluster


def check_fits(cluster: Cluster, specs: list[RunSpec]) -> None:
    """Raise ValueError for a run that the cluster cannot hold."""
    for spec in specs:
        asked = spec.resources
        name, gpus = f"run {spec.run_id}", asked.nodes * asked.gpus_per_node
        limits = {
            "nodes": (asked.nodes, cluster.nodes),
            "GPUs on a node": (asked.gpus_per_node, cluster.gpus_per_node),
            "GPUs at once": (gpus, cluster.max_gpus),
            "CPU ranks at once": (0 if gpus else asked.world_size, cluster.max_cpu_ranks),
        }
        for what, (wanted, most) in limits.items():
            no_gpus = what == "GPUs on a node" and wanted and not most
            if no_gpus or 0 < most < wanted:
                raise ValueError(
                    f"{name} asks for {wanted} {what}, cluster {cluster.name} has {most}; choose "
                    "another cluster, or override resources.nodes and resources.gpus_per_node"
                )


def check_mounts(cluster: Cluster, folder: Path) -> None:
    """Raise ValueError where a container that mounts nothing by itself would not see the runs.

    apptainer mounts the home and the working folder; pyxis mounts what it is told.
    """
    box = cluster.container
    if box.kind != "pyxis":
        return
    for mount in box.mounts:
        host, inside, *_ = mount.split(":")
        if host == inside and folder.is_relative_to(host):
            return
    raise ValueError(
        f"cluster {cluster.name}: no mount of its container shows the runs at {folder}, where the "
        f"batch script has them; add '{folder}:{folder}' to container.mounts"
    )


def seconds(time_limit: str) -> int:
    """Return Slurm's time limit ([days-]h:m:s, or minutes) in seconds."""
    if time_limit.isdigit():
        return 60 * int(time_limit)
    days, _, clock = time_limit.rpartition("-")
    hours, minutes, rest = (int(part) for part in clock.split(":"))
    return 86400 * int(days or 0) + 3600 * hours + 60 * minutes + rest


def _as_written(cluster: Cluster, path: Path) -> Cluster:
    """Take texts as they stand: YAML reads 24:00:00 as 86400, 0123 as 83 and off as False."""
    written = yaml.load(path.read_text(), Loader=yaml.BaseLoader) or {}
    texts = {
        item.name: written[item.name]
        for item in fields(cluster)
        if item.type is str and "${" not in written.get(item.name, "${")
    }
    settings = written.get("environment") or {}
    values = {name: text for name, text in settings.items() if "${" not in text}
    return replace(cluster, **texts, environment=cluster.environment | values)


def _check(cluster: Cluster, path: Path) -> None:
    if cluster.backend not in EXECUTORS:
        raise ValueError(
            f"{path}: backend={cluster.backend!r} is not known; allowed: {', '.join(EXECUTORS)}"
        )
    if not TIME_LIMIT.fullmatch(cluster.time_limit):
        raise ValueError(
            f"{path}: time_limit={cluster.time_limit!r} is not a time; give e.g. '24:00:00', "
            "'2-00:00:00' or minutes, in quotes"
        )
    # Slurm looks at limits every 30 s and may signal 60 s early.
    if cluster.backend == "slurm" and seconds(cluster.time_limit) < cluster.signal_lead_s + 60:
        raise ValueError(
            f"{path}: time_limit={cluster.time_limit} leaves no time before the warning "
            f"signal_lead_s={cluster.signal_lead_s}; give at least a minute more"
        )
    for name in NUMBERS:
        if not getattr(cluster, name) >= 0:  # nan is neither
            raise ValueError(f"{path}: {name}={getattr(cluster, name)} must be 0 or more")
    names = [name for name in cluster.environment if not name.isidentifier()]
    if names:
        raise ValueError(f"{path}: environment: {names[0]!r} is no name of a variable, as in A_1")
    if cluster.container.kind != "none" and not cluster.container.image:
        raise ValueError(f"{path}: container.kind={cluster.container.kind} needs container.image")
    strange = [mount for mount in cluster.container.mounts if mount.count(":") not in (1, 2)]
    if strange:
        raise ValueError(
            f"{path}: container.mounts: {strange[0]!r} is not of the form HOST:CONTAINER"
        )
    wrong = [line for line in cluster.sbatch_options if not line.startswith("--")]
    if wrong:
        raise ValueError(f"{path}: sbatch_options: {wrong[0]!r} must start with --")
