"""One self-contained HTML page of a dataset: its facts, problems, frames and trajectories."""

import base64
import io
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xvla.data.inspect import problem_lines, readable_states
from xvla.data.readers.base import Dataset, DatasetError
from xvla.data.readers.formats import open_dataset
from xvla.data.writing.targets import check_folder

EPISODES = 6  # drawn, evenly spaced over the set
PICTURES = 6  # of each view of a drawn episode
PICTURE_PX = 112
PLOT_W, PLOT_H, PAD = 300, 170, 26
AXES = (("x", "#c0392b"), ("y", "#27864b"), ("z", "#2a63b0"))
ARM_COLOURS = ("#2a63b0", "#d08a1e")
MAX_PROBLEMS = 100
STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; max-width: 1060px; margin: 2em auto; padding: 0 1em;
  color: #1d2733; background: #fff }
h1 { font-size: 1.5em; margin-bottom: .2em } h2 { font-size: 1.15em; margin: 1.8em 0 .5em }
h3 { font-size: 1em; margin: 1.6em 0 .3em } small { color: #5c6b7a; font-weight: normal }
table { border-collapse: collapse; margin: .4em 0 } td, th { padding: .15em .9em .15em 0;
  text-align: left; vertical-align: top } th { color: #5c6b7a; font-weight: 500 }
td.n { text-align: right; font-variant-numeric: tabular-nums }
.bad { background: #fdecea; border-left: 4px solid #c0392b; padding: .5em 1em }
.good { background: #eaf6ee; border-left: 4px solid #27864b; padding: .5em 1em }
.film { display: flex; gap: 3px; align-items: center; flex-wrap: wrap; margin: 2px 0 }
.film span { width: 9em; color: #5c6b7a; font-size: .85em; overflow-wrap: anywhere }
.film img { width: 112px; height: 112px; object-fit: contain; background: #eef1f4 }
.plots { display: flex; flex-wrap: wrap; gap: 12px; margin-top: 6px }
svg text { font: 10px system-ui, sans-serif; fill: #5c6b7a }
"""


def write_page(path: str | Path, document: dict[str, Any], out: str | Path) -> None:
    """Write the page of the inspected dataset `path` to the file `out`.

    `document` is what `inspect_dataset` returned. Drawn are a few episodes that can be read,
    evenly spaced; a set that cannot be opened gets its problems alone. Raises ValueError when
    `out` is a folder, or lies in a file.
    """
    out = Path(out)
    if out.is_dir():
        raise ValueError(f"{out} is a folder; give the file of the page, e.g. {out / 'page.html'}")
    check_folder(out.parent)
    parts = [_head(path, document), _problems(document), _overview(document)]
    try:
        parts += _episodes(open_dataset(path, check=False))
    except DatasetError:
        parts.append("<p>The dataset cannot be opened, so nothing is drawn.</p>")
    title = escape(Path(path).resolve().name)
    text = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n{''.join(parts)}\n</body></html>\n"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")


def _head(path: str | Path, document: dict[str, Any]) -> str:
    domain = document.get("domain", Path(path).name)
    return (
        f"<h1>{escape(str(domain))} <small>{escape(document['format'])}</small></h1>"
        f"<p>{document['episodes']} episodes, {document['frames']} frames at {document['fps']:g} "
        f"frames a second, {len(document['views'])} views</p>"
    )


def _problems(document: dict[str, Any]) -> str:
    lines = problem_lines(document)
    if not lines:
        return '<p class="good">No problems found.</p>'
    items = "".join(f"<li>{escape(line)}</li>" for line in lines[:MAX_PROBLEMS])
    more = f"<p>... and {len(lines) - MAX_PROBLEMS} more</p>" if len(lines) > MAX_PROBLEMS else ""
    return f'<div class="bad"><b>{len(lines)} problems</b><ul>{items}</ul>{more}</div>'


def _overview(document: dict[str, Any]) -> str:
    """Return the tables of facts, instructions and ranges."""
    if "action_ranges" not in document:
        return ""
    length = document["length_s"]
    rows = {
        "views": ", ".join(document["views"]),
        "splits": document["splits_note"],
        "length": f"{length['min']:.1f} to {length['max']:.1f} s, median {length['median']:.1f} s",
        "gripper closed": " and ".join(
            f"{share:.0%} (arm {arm})"
            for arm, share in enumerate(document["gripper_closed_share"], start=1)
        ),
        "sha256": document["sha256"],
    }
    facts = "".join(f"<tr><th>{k}</th><td>{escape(v)}</td></tr>" for k, v in rows.items())
    tasks = "".join(
        f'<tr><td>{escape(task) or "<i>none</i>"}</td><td class="n">{count}</td></tr>'
        for task, count in list(document["instructions"].items())[:40]
    )
    ranges = "".join(
        f'<tr><td>{name}</td><td class="n">{span[0]:.4f}</td><td class="n">{span[1]:.4f}</td></tr>'
        for name, span in document["action_ranges"].items()
        if span[0] or span[1]
    )
    return (
        f"<table>{facts}</table>"
        f"<h2>Instructions</h2><table><tr><th>text</th><th>episodes</th></tr>{tasks}</table>"
        "<h2>Pose ranges <small>dimensions that are not always zero</small></h2>"
        f"<table><tr><th></th><th>min</th><th>max</th></tr>{ranges}</table>"
    )


def _episodes(dataset: Dataset) -> list[str]:
    """Return the drawings of a few episodes."""
    ids = [number for number, _ in readable_states(dataset)]
    if not ids:
        return ["<p>No episode can be read, so nothing is drawn.</p>"]
    chosen = sorted({ids[i] for i in np.linspace(0, len(ids) - 1, EPISODES).astype(int)})
    return ["<h2>Episodes</h2>", *(_episode(dataset, index) for index in chosen)]


def _episode(dataset: Dataset, index: int) -> str:
    times, states, task = dataset.episode(index)
    split = dataset.episodes[index].split
    rows = np.unique(np.linspace(0, len(states) - 1, PICTURES).astype(int))
    films = "".join(_film(dataset, index, view, rows) for view in dataset.views)
    arms = [arm for arm in (0, 1) if states[:, 10 * arm : 10 * arm + 10].any()]
    plots = _path_plot(states, arms)
    plots += "".join(_time_plot(times, states[:, 10 * arm : 10 * arm + 10], arm) for arm in arms)
    return (
        f"<h3>Episode {index}: {escape(task)} <small>{escape(split)} {len(states)} frames, "
        f'{times[-1]:.1f} s</small></h3>{films}<div class="plots">{plots}</div>'
    )


def _film(dataset: Dataset, index: int, view: str, rows: NDArray[np.int64]) -> str:
    label = f"<span>{escape(view.removeprefix('observation.images.'))}</span>"
    try:
        pictures = dataset.frames(index, view, rows.tolist())
    except ValueError as error:
        return f'<div class="film">{label}<i>{escape(str(error))}</i></div>'
    images = "".join(
        f'<img src="data:image/jpeg;base64,{_jpeg(picture)}" alt="frame {row}" title="frame {row}">'
        for row, picture in zip(rows, pictures, strict=True)
    )
    return f'<div class="film">{label}{images}</div>'


def _jpeg(picture: NDArray[np.uint8]) -> str:
    image = Image.fromarray(picture)
    image.thumbnail((2 * PICTURE_PX, 2 * PICTURE_PX))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return base64.b64encode(stream.getvalue()).decode()


def _path_plot(states: NDArray[np.float32], arms: list[int]) -> str:
    """Return the hands' paths from above, x to the right and y up, at one scale; dots start."""
    paths = [states[:, 10 * arm : 10 * arm + 2].astype(float) for arm in arms]
    if not paths:
        return ""
    points = np.concatenate(paths)
    middle, half = (points.max(0) + points.min(0)) / 2, max(np.ptp(points, axis=0).max() / 2, 1e-3)
    side = PLOT_H - 2 * PAD
    marks = ""
    for arm, path in zip(arms, paths, strict=True):
        unit = (path - middle + half) / (2 * half)
        spots = unit * [side, -side] + [PAD, PLOT_H - PAD]
        x, y = spots[0]
        colour = ARM_COLOURS[arm]
        marks += _line(spots, colour)
        marks += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
    label = f"from above: {2 * half:.2f} m wide"
    return _svg(marks, label, width=PLOT_H)


def _time_plot(times: NDArray[np.float64], pose: NDArray[np.float32], arm: int) -> str:
    """Return x, y, z in m over time, grey where the gripper is closed."""
    xyz = pose[:, :3].astype(float)
    low, high = xyz.min(), max(xyz.max(), xyz.min() + 1e-3)
    span = max(times[-1], 1e-9)
    across = PAD + (PLOT_W - 2 * PAD) * times / span
    marks = ""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], pose[:, 9] > 0.5, [0]])))
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        left, right = across[first], across[min(last, len(across) - 1)]
        marks += (
            f'<rect x="{left:.1f}" y="{PAD}" width="{right - left:.1f}" '
            f'height="{PLOT_H - 2 * PAD}" fill="#e9edf1"/>'
        )
    for dim, (name, colour) in enumerate(AXES):
        up = PLOT_H - PAD - (PLOT_H - 2 * PAD) * (xyz[:, dim] - low) / (high - low)
        marks += _line(np.stack([across, up], axis=1), colour)
        marks += f'<text x="{PLOT_W - PAD + 4}" y="{up[-1] + 3:.1f}">{name}</text>'
    marks += f'<text x="2" y="{PAD + 4}">{high:.2f}</text>'
    marks += f'<text x="2" y="{PLOT_H - PAD}">{low:.2f}</text>'
    marks += f'<text x="{PLOT_W - PAD - 22}" y="{PLOT_H - 8}">{span:.1f} s</text>'
    return _svg(marks, f"arm {arm + 1}: m over time, grey = closed", width=PLOT_W)


def _line(points: NDArray[np.float64], colour: str) -> str:
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{text}" fill="none" stroke="{colour}" stroke-width="1.4"/>'


def _svg(marks: str, label: str, *, width: int) -> str:
    frame = (
        f'<rect x="{PAD}" y="{PAD}" width="{width - 2 * PAD}" height="{PLOT_H - 2 * PAD}" '
        'fill="none" stroke="#d5dbe1"/>'
    )
    return (
        f'<svg width="{width}" height="{PLOT_H}" role="img" aria-label="{label}">'
        f'<text x="{PAD}" y="14">{label}</text>{marks}{frame}</svg>'
    )
