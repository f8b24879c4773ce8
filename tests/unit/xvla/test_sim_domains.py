"""The table of simulated domains, checked without a simulator."""

import sys

import pytest

from xvla.sim.collect import EpisodeJob, episode_rng, simulate
from xvla.sim.domains import DOMAINS, TASKS, find_domain
from xvla.sim.ship import SHIPPED, command
from xvla.stand_in.frames import generate_frames

CONTRACT = {
    "sim_kinova3_dual": 2,
    "sim_panda_left": 1,
    "sim_panda_right": 1,
    "sim_panda": 1,
    "sim_panda_dual": 2,
    "sim_ur5e": 1,
    "sim_ur5e_dual": 2,
    "sim_xarm7": 1,
    "sim_iiwa": 1,
}


def test_names_and_arms_are_those_of_the_contract() -> None:
    assert {name: len(domain.robots) for name, domain in DOMAINS.items()} == CONTRACT
    assert all(name == domain.name for name, domain in DOMAINS.items())


@pytest.mark.parametrize("name", list(DOMAINS))
def test_views_put_the_main_camera_first(name: str) -> None:
    views = DOMAINS[name].views
    assert views[0] == "observation.images.main"
    wrists = {1: ("wrist",), 2: ("wrist_left", "wrist_right")}[CONTRACT[name]]
    assert views[1:] == tuple(f"observation.images.{wrist}" for wrist in wrists)


def test_left_and_right_are_one_robot_seen_by_two_cameras() -> None:
    left, right = DOMAINS["sim_panda_left"], DOMAINS["sim_panda_right"]
    assert (left.robots, left.tasks) == (right.robots, right.tasks)
    assert (left.camera.azimuth, right.camera.azimuth) == (215.0, 145.0)


def test_pretraining_single_arm_domains_mix_two_tasks() -> None:
    for name in SHIPPED:
        if CONTRACT[name] == 1 and name != "sim_iiwa":
            assert set(DOMAINS[name].tasks) == {"lift", "stack"}


@pytest.mark.parametrize("task", list(TASKS))
def test_instructions_name_every_colour_and_differ(task: str) -> None:
    spec = TASKS[task]
    assert len(set(spec.templates)) >= 4
    colours = [item.colours[0] for item in spec.objects]
    for template in spec.templates:
        text = template.format(*colours)
        assert "{" not in text
        assert all(colour in text for colour in colours)


def test_stack_colours_tell_the_cubes_apart() -> None:
    small, large = TASKS["stack"].objects
    assert not set(small.colours) & set(large.colours)


@pytest.mark.parametrize("call", [simulate, generate_frames])
def test_unknown_domain_lists_the_allowed_ones(call: object, tmp_path: object) -> None:
    settings: dict = {"seed": 0, "workers": 1, "size": 64}
    settings["episodes" if call is simulate else "frames"] = 1
    with pytest.raises(ValueError, match=r"sim_pand.*allowed: sim_kinova3_dual.*sim_iiwa"):
        call("sim_pand", f"{tmp_path}/x.npz", **settings)  # type: ignore[operator]
    with pytest.raises(ValueError, match="unknown"):
        find_domain("")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episodes": 0}, "at least one"),
        ({"episodes": {"train": 2, "val": -1}}, "negative"),
        ({"workers": 0}, "workers"),
        ({"size": 33}, "even"),
    ],
)
def test_impossible_requests_are_refused_at_once(
    tmp_path: object, changes: dict, message: str
) -> None:
    settings: dict = {"episodes": 1, "seed": 0, "workers": 1, "size": 64} | changes
    with pytest.raises(ValueError, match=message):
        simulate("sim_panda", f"{tmp_path}/out", **settings)


def test_missing_extra_says_what_to_install(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "robosuite", None)
    with pytest.raises(ImportError, match=r"pip install '\.\[sim\]'"):
        simulate("sim_panda", f"{tmp_path}/out", episodes=1, seed=0, workers=1, size=64)


def test_random_streams_differ_by_seed_domain_index_and_attempt() -> None:
    def first(attempt: int = 0, **changes: object) -> float:
        fields: dict = {"domain": "sim_panda", "index": 3, "seed": 7, "size": 64, "path": ""}
        return episode_rng(EpisodeJob(**fields | changes), attempt).random()

    assert first() == first(size=128, path="elsewhere")
    others = [first(1), first(seed=8), first(index=4), first(domain="sim_ur5e")]
    assert len({first(), *others}) == 5


def test_shipped_commands_state_counts_seed_and_size() -> None:
    assert command("sim_xarm7") == (
        "scaling data simulate sim_xarm7 --out xvla/data/demo/sim_xarm7 "
        "--episodes train=50,val=8,test=8 --seed 7 --size 128"
    )
