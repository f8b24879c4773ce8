"""Figures: functions `(ax, result) -> ax` on the plain data that `fit_study` returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours; lines differ by dash as well, so that grey prints keep their meaning.
BLUE, ORANGE, GREEN, INK, MUTED = "#0072B2", "#D55E00", "#009E73", "#222222", "#6b6b6b"
BAND = "#9ecae1"
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "svg.hashsalt": "analysis",
}
Y_LABELS = {
    "val_l1": "validation l1 error (m, rotation 6D, gripper)",
    "test_l1": "test l1 error (m, rotation 6D, gripper)",
    "val_l1_all": "validation l1 error, all domains (m, rotation 6D, gripper)",
    "val_l1_position_m": "validation position error (m)",
    "val_l1_rotation_deg": "validation rotation error (deg)",
    "test_l1_position_m": "test position error (m)",
}
# A trivial predictor further above the runs than this is named, not drawn: it would flatten them.
FARTHEST = 2.5
REFERENCES = {
    "mean_chunk": ("mean chunk", (0, (5, 2)), MUTED),
    "hold": ("hold pose", (0, (1, 1.5)), MUTED),
    "blind": ("blind run", (0, (4, 1.5, 1, 1.5)), ORANGE),
}


@contextmanager
def style():  # type: ignore[no-untyped-def]
    """Use the package's figure style inside the block, and the Agg backend."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    with matplotlib.rc_context(STYLE):
        yield


def y_label(y: str) -> str:
    """Return the axis label of an error column, with its unit where it has one."""
    return Y_LABELS.get(y, y.replace("_", " "))


def axis_fit(
    ax: Axes,
    result: Mapping[str, Any],
    *,
    y: str = "val_l1",
    references: Mapping[str, float] | None = None,
) -> Axes:
    """Draw error against one axis on log-log paper: runs, curve, band, trivial predictors.

    Args:
        ax: where to draw.
        result: one axis of `fit_study`; a refused one shows its points only.
        y: the error's column, for the label.
        references: horizontal lines by name ("mean_chunk", "hold", "blind").
    """
    x = np.array([p["x"] for p in result["points"]], dtype=float)
    v = np.array([p["y"] for p in result["points"]], dtype=float)
    ax.set_xscale("log")
    ax.set_yscale("log")
    if "curve" in result:
        _draw_curve(ax, result["curve"])
    _draw_points(ax, x, v)
    ends = [result["curve"]["x"][0], result["curve"]["x"][-1]] if "curve" in result else x
    ax.set_xlim(min(ends) / 1.12, max(ends) * 1.12)
    shown = _draw_references(ax, references or {}, v)
    _limit_y(ax, v, result.get("curve"), shown)
    _plain_x(ax, np.unique(x))
    _plain_y(ax)
    ax.set_xlabel(result.get("label", result["axis"]))
    ax.set_ylabel(y_label(y))
    return ax


def _draw_points(ax: Axes, x: np.ndarray, v: np.ndarray) -> None:
    """Draw every seed, and the range of each level as a thin bar."""
    for level in np.unique(x):
        here = v[x == level]
        ax.plot([level, level], [here.min(), here.max()], color=INK, lw=0.9, zorder=3)
    ax.scatter(x, v, s=22, facecolor="white", edgecolor=INK, lw=1.0, zorder=4, label="runs")


def _draw_curve(ax: Axes, curve: Mapping[str, Any]) -> None:
    """Draw the fit, solid over the data and dashed beyond, and its confidence band."""
    x = np.array(curve["x"])
    mean, low, high = (np.array(curve[k], dtype=float) for k in ("mean", "lower", "upper"))
    ax.fill_between(x, low, high, color=BAND, alpha=0.55, lw=0, zorder=1, label="confidence band")
    inside = x <= curve["x_last"] * (1 + 1e-9)
    ax.plot(x[inside], mean[inside], color=BLUE, lw=1.8, zorder=2, label="fitted law")
    beyond = x >= x[inside][-1]
    ax.plot(x[beyond], mean[beyond], color=BLUE, lw=1.4, ls=(0, (3, 2)), zorder=2)


def _draw_references(ax: Axes, references: Mapping[str, float], v: np.ndarray) -> list[float]:
    """Draw lines of trivial predictors; those off the scale are named at the top edge."""
    shown, far = [], []
    for name, value in references.items():
        text, dash, colour = REFERENCES.get(name, (name, (0, (2, 2)), MUTED))
        if not v.min() / FARTHEST < value < v.max() * FARTHEST:
            side = "\u2191" if value > v.max() else "\u2193"
            far.append(f"{side} {text} {value:.3g}")
            continue
        ax.axhline(value, color=colour, lw=1.1, ls=dash, zorder=1.5)
        ax.annotate(
            f"{text} {value:.3g}",
            (1.0, value),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 2),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=7.5,
            color=colour,
        )
        shown.append(value)
    if far:
        ax.set_title("off the scale: " + "  ".join(far), fontsize=7.5, color=MUTED, loc="right")
    return shown


def _limit_y(
    ax: Axes, v: np.ndarray, curve: Mapping[str, Any] | None, shown: Sequence[float]
) -> None:
    """Fit the y range to points, the curve and reference lines; a wild band does not widen it."""
    values = [v.min(), v.max(), *shown]
    if curve:
        values += [min(curve["mean"]), max(curve["mean"])]
    low, high = min(values), max(values)
    room = max((high / low) ** 0.12, 1.03)
    ax.set_ylim(low / room, high * room * (1.02 if shown else 1.0))


def _plain_x(ax: Axes, levels: np.ndarray) -> None:
    """Mark the levels that were run on a logarithmic x axis, where there is room."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    gap = np.log(ax.get_xlim()[1] / ax.get_xlim()[0]) / 9.0
    kept: list[float] = []
    for level in levels:
        if not kept or np.log(level / kept[-1]) > gap:
            kept.append(float(level))
    ax.xaxis.set_major_locator(FixedLocator(kept))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))


def _plain_y(ax: Axes) -> None:
    """Mark round numbers on a logarithmic y axis that may span less than a decade."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    low, high = ax.get_ylim()
    ticks = [t for t in MaxNLocator(6).tick_values(low, high) if low <= t <= high and t > 0]
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    ax.set_axisbelow(True)
    ax.grid(axis="y", color="#e3e3e3", lw=0.6)


def short_number(value: float) -> str:
    """Write a count briefly: 280, 1.34M, 290k, 2B."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * (10 if size == 1e3 else 1):
            return f"{value / size:.3g}{letter}"
    return f"{value:.4g}"


def residuals(ax: Axes, result: Mapping[str, Any], *, y: str = "val_l1") -> Axes:
    """Draw what the law leaves over, in percent, with one and two standard deviations."""
    x = np.array([p["x"] for p in result["points"]], dtype=float)
    v = np.array([p["y"] for p in result["points"]], dtype=float)
    curve = result["curve"]
    fitted = np.exp(np.interp(np.log(x), np.log(curve["x"]), np.log(curve["mean"])))
    left = 100 * (v / fitted - 1)
    sigma = 100 * (result["law"]["sigma"] or 0.0)
    ax.set_xscale("log")
    for width, alpha in ((2, 0.25), (1, 0.35)):
        ax.axhspan(-width * sigma, width * sigma, color=BAND, alpha=alpha, lw=0, zorder=0)
    ax.axhline(0, color=BLUE, lw=1.4, zorder=1)
    ax.scatter(x, left, s=22, facecolor="white", edgecolor=INK, lw=1.0, zorder=3)
    bound = 1.15 * max(np.abs(left).max(), 2 * sigma, 1e-3)
    ax.set_ylim(-bound, bound)
    ax.set_xlim(curve["x"][0] / 1.12, curve["x"][-1] * 1.12)
    _plain_x(ax, np.unique(x))
    ax.set_axisbelow(True)
    ax.grid(axis="y", color="#e3e3e3", lw=0.6)
    ax.set_xlabel(result.get("label", result["axis"]))
    ax.set_ylabel(f"residual of {y} (%)")
    return ax


def three_axes(
    figure: Figure,
    document: Mapping[str, Any],
    *,
    references: Mapping[str, float] | None = None,
) -> Figure:
    """Draw every axis of a study side by side, as the paper's Fig. 6."""
    shown = [a for a in document["axes"].values() if a.get("points")]
    axes = figure.subplots(1, max(len(shown), 1), squeeze=False)[0]
    for ax, result in zip(axes, shown, strict=False):
        axis_fit(ax, result, y=document["y"], references=references)
        if "law" in result:
            formula = math_formula(result)
            ax.text(0.03, 0.03, formula, transform=ax.transAxes, fontsize=9, color=BLUE)
    _share_y(axes[: len(shown)])
    for ax in axes[1:]:
        ax.set_ylabel("")
        ax.tick_params(labelleft=False)
    return figure


def _share_y(axes: Sequence[Axes]) -> None:
    """Give all panels the range that holds each one's, and room for the formulas below."""
    limits = np.array([ax.get_ylim() for ax in axes])
    low, high = limits[:, 0].min(), limits[:, 1].max()
    low = low / (high / low) ** 0.08
    for ax in axes:
        ax.set_ylim(low, high)
        _plain_y(ax)


def math_formula(result: Mapping[str, Any]) -> str:
    """Return the fitted law of one axis in mathtext."""
    params = {k: p["value"] for k, p in result["law"]["params"].items()}
    symbol = {"N": "N", "D": "D"}.get(result["axis"], "x")
    falling = rf"{_tex(params['A'])}\,{symbol}^{{{-params['alpha']:.2f}}}"
    return rf"${_tex(params['E'])} + {falling}$"


def _tex(value: float) -> str:
    """Write a number with three digits, large and small ones by powers of ten."""
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}"
    power = int(np.floor(np.log10(abs(value))))
    return rf"{value / 10.0**power:.2g}\cdot 10^{{{power}}}"


def legend(figure: Figure, level: float) -> Figure:
    """Explain the marks below the panels: runs, fit, extrapolation, band."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries = [
        Line2D([], [], ls="", marker="o", mfc="white", mec=INK, label="one run (seed)"),
        Line2D([], [], color=BLUE, lw=1.8, label="fitted law"),
        Line2D([], [], color=BLUE, lw=1.4, ls=(0, (3, 2)), label="beyond the data"),
        Patch(color=BAND, alpha=0.55, label=f"{level:.0%} confidence band"),
    ]
    figure.legend(handles=entries, loc="outside lower center", ncols=4, handlelength=1.8)
    return figure


def learning_curves(ax: Axes, curves: Any, *, metric: str = "val_l1") -> bool:
    """Draw a metric during training, one line a run; return False where none has two points."""
    rows = curves[(curves["metric"] == metric) & (curves["value"] > 0)]
    lines = [part.sort_values("step") for _, part in rows.groupby("run_id") if len(part) > 1]
    for part in lines:
        x, v = part["num_samples_seen"].to_numpy(), part["value"].to_numpy()
        ax.plot(x[x > 0], v[x > 0], color=BLUE, alpha=0.35, lw=1.0)
    if not lines:
        return False
    ax.set_yscale("log")
    ax.set_xlabel("training samples seen")
    ax.set_ylabel(y_label(metric))
    _plain_y(ax)
    return True


def save(figure: Figure, folder: Path, name: str) -> dict[str, str]:
    """Write a figure as PNG and SVG; return both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {kind: folder / f"{name}.{kind}" for kind in ("png", "svg")}
    for kind, path in paths.items():
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(path, bbox_inches="tight", metadata=metadata)
    return {kind: str(path) for kind, path in paths.items()}
