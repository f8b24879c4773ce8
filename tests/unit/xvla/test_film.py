"""Frame k is the picture at its time, whatever the container, the codec's order or the rate."""

from pathlib import Path

import numpy as np
import pytest
from make_film import SIDE, FilmSpec, numbers_in, picture, write_film
from make_lerobot import FPS, VIEWS, SetSpec, helix, write_set

from xvla.data import open_dataset
from xvla.data.readers.video import decode_frames, look_through
from xvla.data.writing.lerobot import EpisodeRecord, write_dataset

OPEN_GOP = {"g": "12", "bf": "3", "x264-params": "open-gop=1:b-pyramid=normal:scenecut=0"}
HEVC = {"preset": "ultrafast"}
QUIET = "log-level=none:pools=1:frame-threads=1:"
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
UNEVEN = np.cumsum(np.random.default_rng(3).choice([0.03, 0.1, 0.25], 64))
KINDS = {
    "h264 without B-frames": FilmSpec(options={"bf": "0", "g": "10"}),
    "h264 with B-frames": FilmSpec(options={"bf": "3", "g": "12"}),
    "h264, open groups": FilmSpec(options=OPEN_GOP),
    "h264, open groups of 30": FilmSpec(options={**OPEN_GOP, "g": "30"}),
    "h264, one group": FilmSpec(options={"bf": "3", "g": "250"}),
    "h264, intra refresh": FilmSpec(options={"g": "16", "bf": "0", "intra-refresh": "1"}),
    "h264, no edit list": FilmSpec(options=OPEN_GOP, container={"use_editlist": "0"}),
    "h264, negative offsets": FilmSpec(
        options=OPEN_GOP, container={"movflags": "negative_cts_offsets"}
    ),
    "h264, fragments": FilmSpec(options={"bf": "3", "g": "12"}, container=FRAGMENTS),
    "h264, fragments, open groups": FilmSpec(options=OPEN_GOP, container=FRAGMENTS),
    "h264, Matroska": FilmSpec(options=OPEN_GOP, suffix=".mkv"),
    "h264, transport stream": FilmSpec(options={"bf": "3", "g": "12"}, suffix=".ts"),
    "hevc, key frame every 2": FilmSpec(
        codec="libx265", options={**HEVC, "x265-params": QUIET + "keyint=2:min-keyint=2:bframes=1"}
    ),
    "hevc, open groups": FilmSpec(
        codec="libx265", options={**HEVC, "x265-params": QUIET + "keyint=12:open-gop=1:bframes=4"}
    ),
    "hevc, no edit list": FilmSpec(
        codec="libx265",
        options={**HEVC, "x265-params": QUIET + "keyint=12:open-gop=1:bframes=4"},
        container={"use_editlist": "0"},
    ),
    "another rate, h264": FilmSpec(fps=25, frames=160, options={"bf": "3", "g": "12"}),
    "half the rate": FilmSpec(fps=5, frames=32, options={"bf": "2", "g": "8"}),
    "uneven": FilmSpec(times=UNEVEN - UNEVEN[0], options={"bf": "0", "g": "12"}),
    "uneven, open groups": FilmSpec(times=UNEVEN - UNEVEN[0], options=OPEN_GOP),
    "uneven, Matroska": FilmSpec(times=UNEVEN - UNEVEN[0], options=OPEN_GOP, suffix=".mkv"),
}
STEP_S = 0.1


def nearest(spec: FilmSpec, times: np.ndarray) -> list[int]:
    """Return the number of the picture nearest to each time, the earlier of two."""
    distance = np.abs(spec.pts_s()[None] - times[:, None])
    return np.argmin(np.round(distance, 6), axis=1).tolist()


@pytest.fixture(params=list(KINDS))
def film(request, tmp_path: Path) -> tuple[Path, FilmSpec]:
    spec = KINDS[request.param]
    return write_film(tmp_path / f"film{spec.suffix}", spec), spec


def test_the_picture_is_the_nearest_alone_in_any_order_and_in_a_run(film) -> None:
    path, spec = film
    times = np.arange(0, spec.pts_s()[-1] + 1e-6, STEP_S)
    expected = nearest(spec, times)
    together = decode_frames(path, times, step_s=STEP_S)
    assert numbers_in(together) == expected
    order = np.random.default_rng(1).permutation(len(times))
    alone = [decode_frames(path, [times[k]], step_s=STEP_S)[0] for k in order]
    np.testing.assert_array_equal(np.stack(alone), together[order])
    some = order[: len(order) // 3]
    np.testing.assert_array_equal(decode_frames(path, times[some], step_s=STEP_S), together[some])


def test_what_lies_after_the_last_picture_is_missing(film) -> None:
    path, spec = film
    shown = look_through(path, step_s=STEP_S).length_s
    last = spec.pts_s()[-1]
    assert last < shown < last + 2 * max(STEP_S, 1 / spec.fps) + 0.2
    beyond = last + max(STEP_S, 1 / spec.fps) + 0.2
    for at in (0.0, last):  # wherever the file stands
        decode_frames(path, [at], step_s=STEP_S)
        with pytest.raises(ValueError, match="it is truncated, copy it again"):
            decode_frames(path, [beyond], step_s=STEP_S)


@pytest.mark.parametrize("kind", ["another rate, h264", "half the rate", "uneven"])
def test_a_set_whose_video_has_another_rate_is_read_by_time_and_said(
    kind: str, tmp_path: Path
) -> None:
    lengths = [24, 30]
    spec = SetSpec(lengths=lengths, splits={"train": "0:2"}, views=VIEWS[:1])
    root = write_set(tmp_path / "sim_panda", spec)
    film = KINDS[kind]
    path = next(root.rglob("*.mp4"))
    path.unlink()
    write_film(path, film)
    dataset = open_dataset(root)
    for episode, start in enumerate((0, lengths[0])):
        times = (start + np.arange(lengths[episode])) / FPS
        found = numbers_in(dataset.frames(episode, VIEWS[0], range(lengths[episode])))
        assert found == nearest(film, times)
    (problem,) = dataset.problems()
    assert (problem.severity, problem.field) == ("warning", VIEWS[0])
    assert "pictures a second, the table 10 rows" in problem.message


def test_uneven_rows_have_the_pictures_written_for_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    uneven = [np.cumsum(rng.choice([0.09, 0.1, 0.16], n)) for n in (30, 25)]
    uneven = [times - times[0] for times in uneven]
    states = [helix(times, 0.0).astype(np.float32) for times in uneven]
    films = [np.stack([picture(k) for k in range(n)]) for n in (30, 55)]
    records = [
        EpisodeRecord(
            task="lift",
            columns={"observation.state": states[e], "action": states[e]},
            frames={VIEWS[0]: films[e][-len(uneven[e]) :]},
            times=uneven[e],
        )
        for e in (0, 1)
    ]
    write_dataset(
        tmp_path / "set",
        fps=10,
        robot_type="x",
        views={VIEWS[0]: (SIDE, SIDE)},
        episodes=records,
        splits={"train": 2},
    )
    dataset = open_dataset(tmp_path / "set")
    for episode, first in enumerate((0, 30)):
        times = dataset.episode(episode).times
        np.testing.assert_allclose(times, uneven[episode], atol=1e-6)
        found = numbers_in(dataset.frames(episode, VIEWS[0], range(len(times))))
        assert found == list(range(first, first + len(times)))
