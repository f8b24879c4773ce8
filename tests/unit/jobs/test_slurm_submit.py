"""Submitting to a fake Slurm: arrays, throttles, idempotency, refusals, the cap, the chain."""

import json
from dataclasses import replace

import pytest

from jobs.cluster import Cluster, known_clusters, load_cluster
from jobs.control import cancel
from jobs.queue import read_held
from jobs.slurm.commands import SlurmUnreachableError
from jobs.slurm.sbatch import make_arrays, one_at_a_time, render_array
from jobs.slurm.submit import submit
from jobs.status import study_status
from scaling.cli.study import chain_commands
from scaling.runs.folder import Run
from scaling.spec import ResourceConfig

DEV = Cluster(name="dev", gpus_per_node=8, max_gpus=16, max_cpu_ranks=2, time_limit="10")


def states(specs, runs):
    return [row.state for row in study_status(specs, runs).runs]


def test_one_array_holds_the_runs_of_a_shape(tmp_path, make_spec, fake_slurm):
    specs = [make_spec(seed) for seed in range(3)]
    big = [replace(make_spec(seed), size="tiny") for seed in (7, 8)]
    big = [replace(s, size="0.9b", seeds=replace(s.seeds, init=90 + i)) for i, s in enumerate(big)]
    summary = submit([*specs, *big], tmp_path / "runs", DEV)
    assert summary.submitted == 5
    assert [(a.job_id, a.runs, a.limit) for a in summary.arrays] == [
        ("1", 3, 1),
        ("2", 2, 1),
    ]
    assert states(specs, tmp_path / "runs") == ["queued"] * 3
    manifest = next((tmp_path / "runs" / "_slurm").glob("*/array-0.txt")).read_text().split()
    assert manifest == [spec.run_id for spec in specs]


def test_a_longer_array_takes_no_more_commands(tmp_path, make_spec, fake_slurm):
    commands = []
    for number in (2, 20):
        fake_slurm.set(calls=[])
        submit([make_spec(seed) for seed in range(number)], tmp_path / str(number), DEV)
        commands.append([words[0] for words in fake_slurm["calls"]])
    assert commands[0] == commands[1]
    assert commands[0].count("sbatch") == 1


def test_submitting_twice_submits_nothing_twice(tmp_path, make_spec, fake_slurm):
    specs = [make_spec(seed) for seed in range(3)]
    submit(specs, tmp_path, DEV)
    again = submit([*specs, make_spec(9)], tmp_path, DEV)
    assert (again.submitted, again.skipped_running) == (1, 3)
    assert submit(specs, tmp_path, DEV).submitted == 0
    assert len(fake_slurm.calls("sbatch")) == 2


def test_a_task_that_left_the_queue_is_submitted_again(tmp_path, make_spec, fake_slurm):
    specs = [make_spec(seed) for seed in range(3)]
    submit(specs, tmp_path, DEV)
    (tmp_path / specs[0].run_id / "DONE").write_text('{"step": 10, "metrics": {}}')
    fake_slurm.end("1_0", "1_2")
    again = submit(specs, tmp_path, DEV)
    assert (again.submitted, again.skipped_done, again.skipped_running) == (1, 1, 1)
    assert read_held(tmp_path)[specs[2].run_id].job_id == "2_0"


def test_arrays_split_at_the_maximum_size(tmp_path, make_spec, fake_slurm):
    fake_slurm.set(max_array_size=4)
    specs = [make_spec(seed) for seed in range(10)]
    summary = submit(specs, tmp_path, replace(DEV, max_cpu_ranks=0))
    assert [array.runs for array in summary.arrays] == [4, 4, 2]


def test_the_gpu_ceiling_is_divided_among_arrays(make_spec):
    def shaped(seed, gpus, size):
        spec = make_spec(seed)
        return replace(spec, size=size, global_batch_size=64,
                       resources=ResourceConfig(nodes=1, gpus_per_node=gpus))  # fmt: skip

    specs = [*(shaped(i, 4, "a") for i in range(6)), *(shaped(i, 8, "b") for i in range(10, 12))]
    arrays = make_arrays(specs, replace(DEV, max_gpus=64), max_array_size=1001)
    used = sum(array.limit * array.specs[0].resources.gpus_per_node for array in arrays)
    assert [array.limit for array in arrays] == [8, 3]
    assert used <= 64
    tight = replace(DEV, max_gpus=8)
    arrays = make_arrays(specs, tight, max_array_size=1001)
    assert one_at_a_time(arrays, tight)
    assert [array.limit for array in arrays] == [2, 1]


def test_arrays_too_wide_together_go_one_behind_another(tmp_path, make_spec, fake_slurm):
    specs = [make_spec(0), make_spec(1, ranks=2)]
    submit(specs, tmp_path, DEV)
    first, second = fake_slurm.calls("sbatch")
    assert not [word for word in first if word.startswith("--dependency")]
    assert "--dependency=afterany:1" in second


def test_a_refusal_leaves_nothing_half_submitted(tmp_path, make_spec, fake_slurm):
    specs = [make_spec(0), replace(make_spec(1), size="0.9b")]
    failed = make_spec(2)
    (tmp_path / failed.run_id).mkdir(parents=True)
    Run(tmp_path / failed.run_id).write_failed("diverged")
    fake_slurm.set(refuse="invalid partition specified: gpuu", refuse_after=1)
    with pytest.raises(ValueError, match=r"cluster dev: sbatch: invalid partition .* nothing was"):
        submit([*specs, failed], tmp_path, DEV)
    assert fake_slurm["jobs"] == {}
    assert states([*specs, failed], tmp_path) == ["planned", "planned", "failed"]
    fake_slurm.set(refuse="")
    assert submit([*specs, failed], tmp_path, DEV).submitted == 3


def test_what_could_not_be_cancelled_is_found_again(tmp_path, make_spec, fake_slurm):
    specs = [make_spec(0), replace(make_spec(1), size="0.9b")]
    fake_slurm.set(refuse="invalid qos", refuse_after=1, refuse_cancel="controller is down")
    with pytest.raises(SlurmUnreachableError, match="invalid qos; some of it may be in the queue"):
        submit(specs, tmp_path, DEV)
    assert states(specs, tmp_path) == ["queued", "planned"]
    fake_slurm.set(refuse="", refuse_cancel="")
    assert submit(specs, tmp_path, DEV).submitted == 1
    assert sorted(fake_slurm["jobs"]) == ["1_0", "2_0"]


@pytest.mark.parametrize("cancel_works", [True, False])
def test_a_job_that_sbatch_did_not_hear_of(tmp_path, make_spec, fake_slurm, cancel_works):
    """Slurm takes the job, and its answer is lost: the script's path in squeue tells."""
    specs = [make_spec(seed) for seed in range(2)]
    fake_slurm.set(unheard="Batch job submission failed: Socket timed out on send/recv operation")
    fake_slurm.set(refuse_cancel="" if cancel_works else "Zero Bytes were transmitted or received")
    message = "nothing was submitted" if cancel_works else "may be in the queue; submit again finds"
    with pytest.raises(SlurmUnreachableError, match=message):
        submit(specs, tmp_path, DEV)
    assert len(fake_slurm["jobs"]) == (0 if cancel_works else 2)
    fake_slurm.set(unheard="", refuse_cancel="")
    assert submit(specs, tmp_path, DEV).submitted == (2 if cancel_works else 0)
    assert len(fake_slurm["jobs"]) == 2
    assert states(specs, tmp_path) == ["queued"] * 2


def test_a_job_that_comes_in_late_is_found_again(tmp_path, make_spec, fake_slurm, monkeypatch):
    """Nor does squeue show it yet, so nothing is said to be sure."""
    specs = [make_spec(seed) for seed in range(2)]
    fake_slurm.set(unheard="Batch job submission failed: Socket timed out on send/recv operation")
    with monkeypatch.context() as patched:
        patched.setattr("jobs.slurm.submit.jobs_by_script", dict)
        with pytest.raises(SlurmUnreachableError, match="may be in the queue"):
            submit(specs, tmp_path, DEV)
    fake_slurm.set(unheard="")
    assert submit(specs, tmp_path, DEV).submitted == 0


def test_without_an_answer_nothing_is_submitted(tmp_path, make_spec, fake_slurm):
    spec = make_spec()
    submit([spec], tmp_path, DEV)
    fake_slurm.set(down=True)
    with pytest.raises(SlurmUnreachableError, match="no controller; nothing was submitted"):
        submit([spec, make_spec(1)], tmp_path, DEV)
    assert states([spec], tmp_path) == ["queued"]  # as last known


def test_no_sbatch_at_all_is_one_line(tmp_path, make_spec, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="no sbatch on PATH; submit from a login node"):
        submit([make_spec()], tmp_path, DEV)


def test_the_cap_refuses_before_anything_goes_out(tmp_path, make_spec, fake_slurm):
    with pytest.raises(ValueError, match="about 7,000 GPU-hours, above --max-gpu-hours 6,144"):
        submit([make_spec()], tmp_path, DEV, price=lambda todo: 7000.0, max_gpu_hours=6144)
    assert fake_slurm.calls("sbatch") == []
    summary = submit([make_spec()], tmp_path, DEV, price=lambda todo: 7000.0, max_gpu_hours=7001)
    assert (summary.submitted, summary.gpu_hours) == (1, 7000.0)


def test_a_dry_run_writes_nothing(tmp_path, make_spec, fake_slurm):
    summary = submit([make_spec(i) for i in range(3)], tmp_path / "runs", DEV, dry_run=True)
    assert (summary.submitted, summary.dry_run) == (3, True)
    assert "#SBATCH --array=0-2%2" in summary.arrays[0].script
    assert not (tmp_path / "runs").exists()
    assert fake_slurm.calls("sbatch") == []


def test_a_dry_run_refuses_and_lists_what_submit_would(tmp_path, make_spec, fake_slurm):
    specs = [make_spec(seed) for seed in range(3)]
    (tmp_path / specs[0].run_id).mkdir()
    Run(tmp_path / specs[0].run_id).write_failed("diverged")
    options = {"price": lambda todo: 100.0 * len(todo), "then": [["fit", "s"], ["report", "s"]]}
    refusals = []
    for dry_run in (True, False):
        with pytest.raises(ValueError, match="3 runs would take about 300 GPU-hours, ") as error:
            submit(specs, tmp_path, DEV, max_gpu_hours=250, dry_run=dry_run, **options)
        refusals.append(str(error.value))
    assert refusals[0] == refusals[1]
    options |= {"max_gpu_hours": 250, "retry_failed": False}
    shown = submit(specs, tmp_path, DEV, dry_run=True, **options)
    assert [link.command for link in shown.chain] == ["fit s", "report s"]
    assert states(specs, tmp_path) == ["failed", "planned", "planned"]
    real = submit(specs, tmp_path, DEV, **options)
    assert (real.submitted, real.skipped_failed) == (2, 1)
    same = ("submitted", "skipped_done", "skipped_running", "skipped_failed", "gpu_hours")
    assert [getattr(shown, name) for name in same] == [getattr(real, name) for name in same]
    assert submit(specs, tmp_path, DEV, dry_run=True, **options).chain == []  # pending already


def test_cancel_takes_tasks_out_of_the_queue(tmp_path, make_spec, fake_slurm):
    specs = [make_spec(seed) for seed in range(3)]
    submit(specs, tmp_path, DEV)
    results = cancel(specs[:2], tmp_path, wait_s=0.5)
    assert [result.action for result in results] == ["removed from the queue"] * 2
    assert list(fake_slurm["jobs"]) == ["1_2"]
    assert len(fake_slurm.calls("scancel")) == 1
    assert states(specs, tmp_path) == ["cancelled", "cancelled", "queued"]


def test_the_chain_waits_for_the_runs_then_for_each_other(tmp_path, make_spec, fake_slurm):
    commands = chain_commands("fit,finetune:sim_xarm7", "sweeps.fake", ["--runs=r"])
    assert commands == [
        ["fit", "sweeps.fake", "--runs=r"],
        ["finetune", "--from", "best:sweeps.fake", "--domain", "sim_xarm7", "--runs=r"],
    ]
    summary = submit([make_spec()], tmp_path, DEV, then=commands)
    assert [link.job_id for link in summary.chain] == ["2", "3"]
    folder = next((tmp_path / "_slurm").glob("*/"))
    first, second = ((folder / f"then-{i}.sbatch").read_text() for i in (0, 1))
    assert "--dependency=afterany:1\n" in first
    assert "slurm.task wait" in first
    assert "--dependency=afterok:2\n" in second
    assert "slurm.task wait" not in second
    with pytest.raises(ValueError, match="--then 'fitt' cannot be chained; allowed: sync"):
        chain_commands("fitt", "s", [])


def test_a_chained_job_has_a_rank_s_memory_and_a_finetune_one_process(
    tmp_path, make_spec, fake_slurm
):
    then = [["finetune", "--from", "best:s", "--domain", "sim_xarm7"]]
    with pytest.raises(ValueError, match=r"the 2 of the study's runs; leave it out, .* by hand"):
        submit([make_spec(0), make_spec(1, ranks=2)], tmp_path, DEV, then=then)
    assert fake_slurm.path.read_text() == "{}"
    summary = submit([make_spec()], tmp_path, replace(DEV, mem_gib_per_rank=16.0), then=then)
    script = (tmp_path / summary.submission / "then-0.sbatch").read_text()
    assert "#SBATCH --mem=16384M\n" in script
    summary = submit([make_spec(5)], tmp_path, DEV, then=then)
    assert "--mem=" not in (tmp_path / summary.submission / "then-0.sbatch").read_text()


def test_shipped_clusters_load():
    assert set(known_clusters()) >= {"a100", "dev", "local"}
    a100 = load_cluster("a100")
    assert (a100.nodes, a100.gpus_per_node, a100.max_gpus) == (8, 8, 64)
    assert load_cluster("local").backend == "local"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("partitoin: gpu", "partitoin"),
        ("gpus_per_node: eight", "gpus_per_node"),
        ("time_limit: '1h'", "time_limit='1h' is not a time"),
        ("time_limit: 00:01:00", "time_limit"),
        ("backend: pbs", "backend"),
        ("max_gpus: -1", "max_gpus=-1 must be 0 or more"),
        ("signal_lead_s: -5", "signal_lead_s=-5 must be 0 or more"),
        ("peak_tflops: -312", r"peak_tflops=-312\.0 must be 0 or more"),
        ("peak_tflops: .nan", "peak_tflops=nan must be 0 or more"),
        ("environment: {A B: x}", "environment: 'A B' is no name"),
        ("container: {kind: apptainer}", "needs container.image"),
        ("sbatch_options: [exclusive]", "must start with --"),
    ],
)
def test_a_typo_in_a_cluster_file_is_one_line(tmp_path, line, message):
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: mine\n{line}\n")
    with pytest.raises(ValueError, match=message) as error:
        load_cluster(str(path))
    assert "mine.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_texts_of_a_cluster_file_are_taken_as_they_stand(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\ntime_limit: 24:00:00\naccount: 0123\npartition: off\n"
        "environment: {LEVEL: 010, CHECK: no}\n"
    )
    cluster = load_cluster(str(path))
    assert cluster.time_limit == "24:00:00"  # not 86400 minutes
    assert (cluster.account, cluster.partition) == ("0123", "off")
    assert cluster.environment == {"LEVEL": "010", "CHECK": "no"}
    path.write_text("name: mine\ntime_limit: 90\n")
    assert load_cluster(str(path)).time_limit == "90"


def test_unknown_clusters_name_the_known():
    with pytest.raises(ValueError, match="'a10' is not a known cluster; allowed: a100, dev, local"):
        load_cluster("a10")


def test_runs_that_do_not_fit_are_refused(tmp_path, make_spec):
    wide = replace(make_spec(), global_batch_size=64, resources=ResourceConfig(gpus_per_node=16))
    with pytest.raises(ValueError, match="asks for 16 GPUs on a node, cluster dev has 8"):
        submit([wide], tmp_path, DEV)
    none = replace(DEV, gpus_per_node=0)
    with pytest.raises(ValueError, match="asks for 4 GPUs on a node, cluster dev has 0"):
        submit([replace(wide, resources=ResourceConfig(gpus_per_node=4))], tmp_path, none)


def test_the_script_of_a_full_cluster(tmp_path, make_spec, monkeypatch):
    monkeypatch.setattr("sys.executable", "/venv/bin/python")
    spec = replace(
        make_spec(), size="0.9b", global_batch_size=1024,
        resources=ResourceConfig(nodes=8, gpus_per_node=8),
    )  # fmt: skip
    cluster = replace(load_cluster("a100"), account="lab", modules=["cuda/12.8"])
    (array,) = make_arrays([spec], cluster, max_array_size=1001)
    where = tmp_path.__class__("/scratch/runs/_slurm/s")
    text = render_array(array, cluster, submission=where, runs_dir=where.parents[1])
    golden = tmp_path.__class__(__file__).with_name("golden_a100.sbatch")
    assert text == golden.read_text()


def test_the_record_survives_as_json(tmp_path, make_spec, fake_slurm):
    summary = submit([make_spec()], tmp_path, DEV)
    assert json.loads(json.dumps(summary.to_dict())) == summary.to_dict()
