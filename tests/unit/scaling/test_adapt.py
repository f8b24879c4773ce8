"""Finetuning: the spec that two-step adaptation makes of a parent, and what it reports."""

import json
from dataclasses import replace

import pytest

from scaling.adaptation import finetune_result, finetune_spec
from scaling.runs.folder import Run
from sweeps._mixtures import paper_run, simulated_run


def adapted(parent, **changes):
    options = {"sha256": "ab" * 32, "domain": "sim_xarm7", "num_episodes": 50} | changes
    return finetune_spec(parent, "/ckpt/step_0000600", **options)


def test_new_domain_becomes_the_anchor() -> None:
    parent = simulated_run("tiny", blind=True)
    spec = adapted(parent)
    assert (spec.stage, spec.data.anchor_domain) == ("finetune", "sim_xarm7")
    assert [(e.name, e.num_episodes) for e in spec.data.mixture] == [("sim_xarm7", 50)]
    assert spec.model == parent.model
    assert not spec.data.blind
    assert 0 < spec.optim.freeze_steps < spec.num_steps
    assert spec.init.encoder_sha256 == ""


def test_the_paper_scale_uses_the_papers_recipe() -> None:
    spec = adapted(replace(paper_run("0.9b"), scale="a100"), domain="libero")
    assert (spec.optim.freeze_steps, spec.schedule.warmup_steps) == (1000, 1000)
    assert (spec.global_batch_size, spec.num_steps) == (128, 60_000)


def test_identity_is_the_parents_weights_not_their_place() -> None:
    parent = simulated_run("tiny")
    here = adapted(parent)
    there = finetune_spec(
        parent, "/moved/step_0000600", sha256="ab" * 32, domain="sim_xarm7", num_episodes=50
    )
    assert here.run_id == there.run_id
    assert here.run_id != adapted(parent, sha256="cd" * 32).run_id


def test_a_new_name_takes_no_row_that_the_parent_trained() -> None:
    parent = adapted(simulated_run("tiny"), domain="mars")
    spec = adapted(parent, domain="venus")
    trained = {"sim_kinova3_dual": 15, "mars": 20}
    assert spec.data.domain_ids == parent.data.domain_ids | trained | {"venus": 21}
    assert spec.model.num_domains == 30
    again = adapted(spec, domain="mars")
    assert again.data.domain_ids["mars"] == 20
    with pytest.raises(ValueError, match="sim_panda and robomind_franka share row 11"):
        adapted(adapted(parent, domain="sim_panda"), domain="robomind_franka")


def test_tables_grow_where_no_row_is_free() -> None:
    spec = simulated_run("tiny")
    full = replace(spec.data, domain_ids={f"arm{row}": row for row in range(20, 30) if row != 28})
    grown = adapted(replace(spec, data=full), domain="mars")
    assert (grown.data.domain_ids["mars"], grown.model.num_domains) == (30, 31)


def test_released_rows_are_not_in_an_id() -> None:
    spec = simulated_run("tiny")
    said = replace(spec, data=replace(spec.data, domain_ids={"sim_kinova3_dual": 15}))
    other = replace(spec, data=replace(spec.data, domain_ids={"sim_kinova3_dual": 20}))
    assert said.run_id == spec.run_id != other.run_id


def test_result_is_the_contract(tmp_path) -> None:
    spec = adapted(simulated_run("tiny"))
    with pytest.raises(ValueError, match="is not done"):
        finetune_result(spec, Run(tmp_path), parent="p")
    first = {"step": 0, "val/l1": 0.5, "val/l1_sem": 0.05}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(first) + "\n")
    metrics = {"val/l1": 0.1, "val/l1_sem": 0.01, "test/l1": 0.2, "baseline/hold/val/l1": 0.3}
    (tmp_path / "DONE").write_text(json.dumps({"step": 300, "metrics": metrics}))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "latest").write_text("step_0000300")
    result = finetune_result(spec, Run(tmp_path), parent="abc")
    assert {
        "run_id", "domain", "val_l1_before", "val_l1_after", "val_l1_sem_before",
        "val_l1_sem_after", "checkpoint", "parent",
    } <= set(result.to_dict())  # fmt: skip
    assert (result.val_l1_before, result.val_l1_after) == (0.5, 0.1)
    assert result.checkpoint.endswith("checkpoints/step_0000300")
    assert result.metrics_after["baseline_hold_val_l1"] == 0.3
