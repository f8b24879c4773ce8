"""The runs of every study at every scale: their ids, axes, counts and prices, in order."""

import pytest
from golden_files import ASSETS, WRITING, call, call_json, check_json, check_names

PLANS = ASSETS / "plans"


def _listed(error: str, word: str) -> list[str]:
    """Return the names after `word` in the one line that a user's mistake is told in."""
    _, found, names = error.strip().partition(word)
    assert found, f"no {word!r} in {error!r}"
    return names.split(", ")


def studies_and_scales() -> list[tuple[str, str]]:
    """Return every study and scale, as the command line lists them on a wrong name."""
    known = _listed(call("plan", "sweeps.none").err, "known: ")
    return [
        (study, scale)
        for study in known
        for scale in _listed(call("plan", study, "scale=none").err, "declared: ")
    ]


FOUND = studies_and_scales()


def test_no_study_or_scale_came_or_went() -> None:
    if WRITING:
        for path in PLANS.glob("*.json"):
            path.unlink()
        return
    goldens = [path.stem for path in PLANS.glob("*.json")]
    check_names("studies", goldens, [f"{study}-{scale}" for study, scale in FOUND])


@pytest.mark.parametrize(("study", "scale"), FOUND)
def test_a_study_plans_the_runs_it_always_did(study, scale, tmp_path) -> None:
    document = call_json("plan", study, f"scale={scale}", "--runs", str(tmp_path / "runs"))
    check_json(f"plans/{study}-{scale}.json", document)


@pytest.mark.parametrize("words", [["seeds.init=7"], ["num_steps=123", "optim.betas=[0.9,0.99]"]])
def test_overrides_name_the_runs_they_always_did(words, tmp_path) -> None:
    document = call_json("plan", "sweeps.model_size", *words, "--runs", str(tmp_path / "runs"))
    named = {row["run_id"]: row["axes"] for row in document["runs"]}
    check_json(f"overrides-{'-'.join(words[0].split('='))}.json", named)


def test_a_cluster_and_its_memory_change_no_key_of_a_plan(tmp_path) -> None:
    words = ["plan", "sweeps.model_size", "scale=a100", "--on", "a100", "--memory"]
    check_json("plan-on-a100.json", call_json(*words, "--runs", str(tmp_path / "runs")))
