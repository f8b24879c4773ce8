"""A submission killed while sbatch was under way finds its jobs again."""

import json
from dataclasses import replace

from jobs.cluster import Cluster
from jobs.slurm.orphans import recover_ids
from jobs.slurm.submissions import CLOSED, RECORD, note_resubmitted, read_submission
from jobs.slurm.submit import submit

DEV = Cluster(name="dev", gpus_per_node=8, max_gpus=16, max_cpu_ranks=2, time_limit="10")


def test_jobs_without_a_record_are_adopted(tmp_path, make_spec, fake_slurm):
    big = replace(make_spec(7), size="0.9b", seeds=replace(make_spec(7).seeds, init=90))
    specs = [make_spec(0), make_spec(1), big]
    assert recover_ids(tmp_path) == []
    submit(specs, tmp_path, DEV)
    (path,) = tmp_path.glob(f"_slurm/*/{RECORD}")
    whole = json.loads(path.read_text())
    assert [array["job_id"] for array in whole["arrays"]] == ["1", "2"]
    # Killed in the second sbatch: Slurm has the job, the record does not.
    broken = json.loads(path.read_text())
    broken["arrays"][1]["job_id"] = None
    path.write_text(json.dumps(broken))
    (path.parent / CLOSED).touch()
    fake_slurm.set(jobs=fake_slurm["jobs"] | {"7_0": ["RUNNING", "None"]})  # another's
    assert recover_ids(tmp_path) == ["2"]
    assert json.loads(path.read_text()) == whole
    assert not (path.parent / CLOSED).exists()
    assert set(read_submission(path.parent).tasks().values()) == {"1_0", "1_1", "2_0"}
    calls = len(fake_slurm.calls("squeue"))
    assert recover_ids(tmp_path) == []
    assert len(fake_slurm.calls("squeue")) == calls
    assert submit(specs, tmp_path, DEV).submitted == 0


def test_tasks_sent_anew_are_not_taken_for_their_array(tmp_path, make_spec, fake_slurm):
    """A task that went on under another job has the script of its array."""
    specs = [make_spec(seed) for seed in range(3)]
    submit(specs, tmp_path, DEV)
    (path,) = tmp_path.glob(f"_slurm/*/{RECORD}")
    record = json.loads(path.read_text())
    record["arrays"][0]["job_id"] = None
    path.write_text(json.dumps(record))
    note_resubmitted(path.parent, run_id=specs[2].run_id, task="0_2")
    script = f"{path.parent}/array-0.sbatch"
    anew = {"0_2": ["RUNNING", "None"], "10_1": ["PENDING", "Priority"]}  # 10: not yet noted
    fake_slurm.set(jobs=fake_slurm["jobs"] | anew, scripts={"0": script, "1": script, "10": script})
    assert recover_ids(tmp_path) == ["1"]
    tasks = read_submission(path.parent).tasks()
    assert [tasks[spec.run_id] for spec in specs] == ["1_0", "1_1", "0_2"]


def test_a_job_that_has_gone_is_handed_over_again(tmp_path, make_spec, fake_slurm):
    specs = [make_spec(0)]
    submit(specs, tmp_path, DEV)
    (path,) = tmp_path.glob(f"_slurm/*/{RECORD}")
    record = json.loads(path.read_text())
    record["arrays"][0]["job_id"] = None
    path.write_text(json.dumps(record))
    fake_slurm.set(squeue="")
    assert recover_ids(tmp_path) == []
    assert submit(specs, tmp_path, DEV).submitted == 1
