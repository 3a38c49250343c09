"""Curves and bars of the comparison of styles: numbers in, Figure out, in the look of `charts`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes

from stylegan.charts import COLOURS, LINES, MARKERS, style_axes
from stylegan.plots import INK, Figure, set_alt_text


def droplet(
    heights: Sequence[float], found: Mapping[str, Sequence[float]], axes: Axes | None = None
) -> matplotlib.figure.Figure:
    """How strongly the rest of a map comes out of each layer, by the height of one bright pixel; numbers of `toys.droplet`."""
    ax = Figure(6.5, 3, layout="constrained").subplots() if axes is None else axes
    for (name, values), colour, line, marker in zip(found.items(), COLOURS, LINES, MARKERS, strict=False):
        ax.plot(heights, values, color=colour, linestyle=line, marker=marker, markersize=4, label=name)
    ax.set_xscale("symlog", linthresh=10)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_ylim(bottom=0)
    style_axes(ax, "Deviation of the rest of the map", "height of the bright pixel", legend=True)
    ends = "; ".join(f"{name}: from {values[0]:.2f} to {values[-1]:.2f}" for name, values in found.items())
    return set_alt_text(ax.figure, f"Deviation of the rest of a map as one pixel grows to {heights[-1]:g}. {ends}.")


def stages(kimg: Sequence[float], sizes: Sequence[int], alphas: Sequence[float], axes: Sequence[Axes] | None = None):
    """The schedule of growing: resolution and alpha by slices shown."""
    axes = Figure(9, 2.4, layout="constrained").subplots(1, 2) if axes is None else axes
    axes[0].step(kimg, sizes, where="post", color=COLOURS[0])
    axes[0].set_yscale("log", base=2)
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[1].plot(kimg, alphas, color=COLOURS[1], linestyle=LINES[1])
    style_axes(axes[0], "Resolution, px", "kimg", legend=False)
    style_axes(axes[1], "alpha of the newest one", "kimg", legend=False)
    text = (
        f"Resolution doubles from {sizes[0]} to {sizes[-1]} px; alpha rises evenly from 0 to 1 after each doubling, and stays."
    )
    return set_alt_text(axes[0].figure, text)


def ladder_bars(ladder: Mapping, axes: Axes | None = None) -> matplotlib.figure.Figure:
    """KID of each row of the ladder with its interval, best on top, beside the floor; from ladder.json."""
    rows = [row for row in ladder["rows"] if row["kid"]]
    ax = Figure(9, 0.8 + 0.27 * len(rows), layout="constrained").subplots() if axes is None else axes
    value, low, high = (np.array([row["kid"][key] for row in rows]) for key in ("value", "low", "high"))
    low = np.maximum(low, 1)  # on a logarithmic axis
    ax.errorbar(
        value, range(len(rows)), xerr=[value - np.minimum(low, value), high - value], fmt="o", color=COLOURS[0], capsize=3
    )
    floor = ladder["floors"]["kid"]["value"]
    ax.axvline(floor, color=INK, linestyle="--", linewidth=1)
    ax.annotate("real people", (floor, len(rows) - 0.6), (4, 0), textcoords="offset points", fontsize=8, color=INK, va="bottom")
    ax.set_yticks(range(len(rows)), [row["row"] for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    style_axes(ax, "KID (×1000) on people never seen, lower is better", "", legend=False, grid="x")
    named = "; ".join(f"{row['row']} {row['kid']['value']:.0f}" for row in rows)
    return set_alt_text(ax.figure, f"KID of each system with its interval, the floor of real people being {floor:.0f}: {named}.")


def growing_curves(ladder: Mapping, names: Mapping[str, str], axes: Sequence[Axes] | None = None) -> matplotlib.figure.Figure:
    """KID while training of rows that kept their generators, by slices shown and by seconds; ``names``: row -> its name here."""
    axes = Figure(9, 3, layout="constrained").subplots(1, 2, sharey=True) if axes is None else axes
    for ax, unit, label in zip(axes, ("kimg", "seconds"), ("kimg", "seconds of training"), strict=True):
        for (row, name), colour, line, marker in zip(names.items(), COLOURS, LINES, MARKERS, strict=False):
            for i, run in enumerate(run for run in ladder["runs"] if run["row"] == row and run.get("curve")):
                points = np.array([(point[unit], point["kid"]) for point in run["curve"]])
                ax.plot(
                    *points.T,
                    color=colour,
                    linestyle=line,
                    marker=marker,
                    markersize=4,
                    alpha=0.8,
                    label=name if i == 0 else None,
                )
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("{x:g}")
        ax.tick_params(axis="y", which="minor", labelsize=8)
        style_axes(ax, "KID (×1000)", label, legend=ax is axes[0])
    return set_alt_text(
        axes[0].figure, f"KID of {' and '.join(names.values())} networks by slices shown and by seconds, a line per seed."
    )
