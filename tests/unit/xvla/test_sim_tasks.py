"""Tasks chosen by name, what is kept and what is reported; the last tests run a simulator."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import xvla.sim.collect as collect
from xvla.sim.collect import EpisodeJob, episode_rng, job_task, record_episode, simulate
from xvla.sim.domains import DOMAINS, MORE_TASKS, TASKS, find_task
from xvla.sim.record import Trajectory, roll_out

ROBOTS_OF_THE_SHIPPED_SET = [name for name in DOMAINS if name != "sim_iiwa"]


def job(path: Path | str = "", **changes: object) -> EpisodeJob:
    """Return a job of one small episode."""
    fields: dict = {"domain": "sim_panda", "index": 0, "seed": 7, "size": 64, "path": str(path)}
    return EpisodeJob(**fields | changes)


def demonstration(*, success: bool) -> Trajectory:
    """Return a made-up demonstration of three instants, marked by its success."""
    return Trajectory(
        task="lift",
        instruction="lift the red cube",
        colours=["red"],
        sizes=[0.02],
        states=np.full((3, 20), float(success), np.float32),
        objects=np.zeros((3, 12), np.float32),
        qpos=np.zeros((3, 7)),
        success=success,
    )


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Replace the simulator by a list of outcomes to come; return the list."""
    coming: list[bool] = []
    scene = SimpleNamespace(task=TASKS["lift"])
    monkeypatch.setattr(collect, "stage", lambda *_: (scene, None))
    monkeypatch.setattr(collect, "roll_out", lambda *_: demonstration(success=coming.pop(0)))
    monkeypatch.setattr(collect, "render", lambda *_: {"main": np.zeros((3, 8, 8, 3), np.uint8)})
    return coming


def test_every_single_arm_domain_has_several_tasks() -> None:
    for domain in DOMAINS.values():
        if len(domain.robots) == 1:
            assert len({*domain.tasks, *domain.more_tasks}) >= 3
            assert len(set(domain.tasks)) >= 2


def test_tasks_beyond_the_shipped_set_are_asked_for() -> None:
    for name in ROBOTS_OF_THE_SHIPPED_SET:
        assert set(DOMAINS[name].tasks) <= set(TASKS)
        assert set(DOMAINS[name].more_tasks) <= set(MORE_TASKS)
    assert not set(TASKS) & set(MORE_TASKS)
    assert find_task("pick_place") is MORE_TASKS["pick_place"]
    with pytest.raises(ValueError, match=r"'fold'; allowed: lift, stack, two_arm_lift, pick_place"):
        find_task("fold")


@pytest.mark.parametrize("task", list(MORE_TASKS))
def test_instructions_name_colour_and_goal_and_no_two_are_alike(task: str) -> None:
    spec = MORE_TASKS[task]
    texts = [
        template.format(colour, goal)
        for template in spec.templates
        for colour in spec.objects[0].colours
        for goal in spec.goals
    ]
    assert len(set(texts)) == len(texts) >= 4 * 4 * 4
    assert all("{" not in text for text in texts)
    for template in spec.templates:
        assert "red" in template.format("red", "far left")
        assert "far left" in template.format("red", "far left")


def test_chosen_tasks_have_random_streams_of_their_own() -> None:
    assert job_task(job(index=1)) == "stack"
    assert job_task(job(index=1, task="pick_place")) == "pick_place"
    streams = [job(), job(task="lift"), job(task="pick_place"), job(task="stack")]
    assert len({episode_rng(one, 0).random() for one in streams}) == 4


@pytest.mark.parametrize(
    ("domain", "task"), [("sim_panda_dual", "pick_place"), ("sim_panda", "two_arm_lift")]
)
def test_a_task_the_domain_does_not_master_is_refused(
    tmp_path: Path, domain: str, task: str
) -> None:
    with pytest.raises(ValueError, match=f"{domain} has no task '{task}'; allowed: "):
        simulate(domain, f"{tmp_path}/x", episodes=1, seed=0, workers=1, size=64, tasks=[task])
    assert not any(tmp_path.iterdir())


def test_only_a_success_is_kept_and_the_failures_are_counted(
    tmp_path: Path, outcomes: list[bool]
) -> None:
    outcomes += [False, False, True]
    record_episode(job(tmp_path / "e.npz"))
    with np.load(tmp_path / "e.npz") as stored:
        assert (stored["states"] == 1.0).all()
        assert json.loads(str(stored["meta"]))["attempts"] == 3
    assert not outcomes


def test_an_expert_that_always_fails_leaves_nothing(tmp_path: Path, outcomes: list[bool]) -> None:
    outcomes += [False] * collect.MAX_ATTEMPTS
    with pytest.raises(RuntimeError, match=r"sim_panda: .* failed 10 times at episode 0 \(lift\)"):
        record_episode(job(tmp_path / "e.npz"))
    assert not any(tmp_path.iterdir())


def test_success_rates_are_successes_over_attempts(tmp_path: Path, outcomes: list[bool]) -> None:
    outcomes += [False, True, True, False, False, True]
    jobs = [job(tmp_path / f"{i}.npz", index=i) for i in range(3)]
    for one in jobs:
        record_episode(one)
    info = {"total_episodes": 3, "total_frames": 9, "splits": {"train": "0:3"}}
    summary = collect._summary(jobs, info, out="x", seconds=36.0, resumed=1)
    assert (summary["attempts"], summary["success_rate"]) == (6, 0.5)
    assert summary["success_rate_by_task"] == {"lift": 0.5}
    assert summary["episodes_per_hour"] == 200.0  # the two that this call recorded
    assert summary["of_8_s_or_more"] == 0


@pytest.mark.sim
def test_can_ends_in_the_compartment_of_the_instruction() -> None:
    scene = collect.Scene(DOMAINS["sim_ur5e"], "pick_place")
    sizes, goals = set(), set()
    for index in range(3):
        one = job(domain="sim_ur5e", index=index, task="pick_place")
        made = roll_out(scene, episode_rng(one, 0))
        assert made.success
        sizes.add(round(made.sizes[0], 5))
        box = np.array(scene.env.bin2_pos) - scene.arms[0].base()[0]
        far, left = made.objects[-1, :2] > box[:2]
        goal = f"{'far' if far else 'near'} {'left' if left else 'right'}"
        assert goal in made.instruction
        goals.add(goal)
        assert made.colours[0] in made.instruction
        assert len(made.states) >= 80
        grip = made.states[:, 9]
        assert np.ptp(made.states[grip == 1, 1]) > 0.25  # carried sideways, as in no lift
        assert (grip[0], grip.max(), grip[-1]) == (0, 1, 0)
    assert len(sizes) == 3
    assert len(goals) > 1
    again = roll_out(scene, episode_rng(one, 0))
    np.testing.assert_array_equal(again.qpos, made.qpos)
    np.testing.assert_array_equal(again.states, made.states)
