"""The shipped simulated data set keeps its promises: counts, size, hashes, lengths, variety."""

import hashlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from xvla.sim.domains import DOMAINS
from xvla.sim.ship import DEMO, LIMIT_MB, SHIPPED

MANIFEST = json.loads((DEMO / "manifest.json").read_text())


def columns(domain: str) -> dict[str, np.ndarray]:
    """Return a domain's frame table as arrays."""
    table = pq.read_table(DEMO / domain / "data/chunk-000/file-000.parquet")
    return {name: np.array(table[name].to_pylist()) for name in table.column_names}


def test_every_file_is_listed_with_its_hash_and_all_fit() -> None:
    files = {
        str(file.relative_to(DEMO)): file
        for domain in SHIPPED
        for file in (DEMO / domain).rglob("*")
        if file.is_file()
    }
    assert files.keys() == MANIFEST["sha256"].keys()
    for name, file in files.items():
        assert hashlib.sha256(file.read_bytes()).hexdigest() == MANIFEST["sha256"][name], name
    assert sum(file.stat().st_size for file in files.values()) <= LIMIT_MB * 1e6


@pytest.mark.parametrize("domain", list(SHIPPED))
def test_splits_and_lengths(domain: str) -> None:
    info = json.loads((DEMO / domain / "meta/info.json").read_text())
    edges = np.cumsum([0, *SHIPPED[domain].values()])
    wanted = {s: f"{edges[i]}:{edges[i + 1]}" for i, s in enumerate(SHIPPED[domain])}
    assert info["splits"] == wanted
    assert info["simulated"] is True
    lengths = np.bincount(columns(domain)["episode_index"])
    assert len(lengths) == info["total_episodes"] == edges[-1]
    assert np.median(lengths) / info["fps"] >= 8.0


@pytest.mark.parametrize("domain", list(SHIPPED))
def test_states_are_poses_and_actions_are_the_next_states(domain: str) -> None:
    table = columns(domain)
    states, actions = table["observation.state"], table["action"]
    arms = len(DOMAINS[domain].robots)
    for arm in range(arms):
        six = states[:, 10 * arm + 3 : 10 * arm + 9].reshape(-1, 3, 2)
        np.testing.assert_allclose(
            np.einsum("nij,nik->njk", six, six), np.eye(2)[None].repeat(len(six), 0), atol=1e-4
        )
        assert set(np.unique(states[:, 10 * arm + 9])) == {0.0, 1.0}
        reach = np.linalg.norm(states[:, 10 * arm : 10 * arm + 3], axis=1)
        assert 0.2 < reach.min() < reach.max() < 1.1
    assert not states[:, 10 * arms :].any()
    inside = np.flatnonzero(np.diff(table["episode_index"]) == 0)
    np.testing.assert_array_equal(actions[inside], states[inside + 1])


@pytest.mark.parametrize("domain", list(SHIPPED))
def test_the_start_does_not_tell_where_the_object_is(domain: str) -> None:
    table = columns(domain)
    first = table["frame_index"] == 0
    places = table["observation.environment_state"][first][:, :2]
    starts = table["observation.state"][first][:, :9]
    assert np.ptp(places, axis=0).min() > 0.10
    design = np.column_stack([np.ones(len(starts)), starts[:, :3]])
    fitted = design @ np.linalg.lstsq(design, places, rcond=None)[0]
    explained = 1 - ((places - fitted) ** 2).sum(0) / ((places - places.mean(0)) ** 2).sum(0)
    assert explained.max() < 0.3  # three free slopes on 56 episodes explain some by chance
