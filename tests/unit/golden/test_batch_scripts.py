"""What `submit --dry-run` hands to a cluster, script by script; no Slurm is asked.

tests/unit/jobs/golden_*.sbatch hold single scripts of the renderer; here a whole study passes
through the command line: shapes, limits, branches that wait for their trunk, and the chain.
"""

from pathlib import Path

import pytest
from golden_files import call_json, check_json, scrub, usual_places

SUBMISSIONS = {
    "model_size-a100": ["sweeps.model_size", "scale=a100", "--on", "a100", "--then", "fit,report"],
    "samples_seen-a100": ["sweeps.samples_seen", "scale=a100", "--on", "a100"],
    "demo-dev": ["sweeps.demo", "--on", "dev", "--then", "sync,fit,report,finetune:sim_xarm7"],
    "demo-local": ["sweeps.demo", "--on", "local"],
}


@pytest.mark.parametrize("name", SUBMISSIONS)
def test_a_cluster_gets_the_scripts_it_always_got(name: str, tmp_path: Path) -> None:
    words = ["submit", *SUBMISSIONS[name], "--dry-run", "--runs", str(tmp_path / "runs")]
    document = scrub(call_json(*words), usual_places(tmp_path))
    for array in document["arrays"]:
        array["script"] = array["script"].splitlines()  # a failure names the line
    check_json(f"submit-{name}.json", document)
    assert not (tmp_path / "runs").exists()
