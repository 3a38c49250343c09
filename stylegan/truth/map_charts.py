"""Maps of real and generated slices, the test of each claim under its panel: numbers in, Figure out.

Colours are Okabe and Ito's, ordered so that they also differ in lightness; generated slices are triangles, real ones circles.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from stylegan.charts import FAINT
from stylegan.plots import INK, Figure, describe

MAP_COLOURS = ("#0072B2", "#E69F00", "#000000", "#F0E442", "#CC79A7", "#56B4E9", "#D55E00", "#009E73")
BLOCKS = 24  # groups take turns in so many blocks of the shuffled order, so that none hides another


@dataclass(frozen=True)
class Panel:
    """One colouring of a map, and what its test found."""

    title: str
    values: np.ndarray  # [N], names or numbers; '' and NaN are drawn faintly
    claim: str = ""
    order: Sequence[str] = ()  # of the names


def panel(ax: Axes, coords: np.ndarray, is_fake: np.ndarray, shown: Panel, *, size: float = 9, seed: int = 0) -> None:
    """One map [N, 2] into ``ax``; its claim stands under it."""
    blocks = np.array_split(np.random.default_rng(seed).permutation(len(coords)), BLOCKS)
    if shown.values.dtype.kind in "if":
        _numbers(ax, coords, is_fake, shown.values.astype(float), blocks, size)
        pad = 5
    else:
        names = list(shown.order) or [str(name) for name in np.unique(shown.values) if name != ""]
        _names(ax, coords, is_fake, shown.values.astype(str), names, blocks, size)
        pad = 5 + 13 * -(-len(names) // _columns(names))
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title("\n".join(textwrap.wrap(shown.title, 42)), fontsize=9.5, loc="left", color=INK)
    ax.spines[:].set_color(FAINT)
    ax.set_xlabel("\n".join(textwrap.wrap(shown.claim, 46)), fontsize=8, color=INK, loc="left", labelpad=pad)


def sheet(
    maps: Sequence[np.ndarray], is_fake: Sequence[np.ndarray], panels: Sequence[Panel], columns: int = 3, *, title: str = ""
) -> matplotlib.figure.Figure:
    """Panels [p] side by side, each on its own map [N, 2]."""
    rows = -(-len(panels) // columns)
    figure = Figure(9.2 / 3 * min(columns, len(panels)), 3.35 * rows + 0.3 * bool(title), layout="constrained")
    axes = figure.subplots(rows, min(columns, len(panels)), squeeze=False).ravel()
    for ax, coords, fake, shown in zip(axes, maps, is_fake, panels, strict=False):
        panel(ax, coords, fake, shown)
    for spare in axes[len(panels) :]:
        spare.remove()
    figure.suptitle(title, fontsize=9, color=INK, x=0.01, ha="left")
    told = "; ".join(f"{shown.title}: {shown.claim or 'no claim'}" for shown in panels)
    return describe(figure, f"{title} Maps of {len(maps[0])} slices. {told}".strip())


def seed_grid(
    maps: Sequence[Mapping], coords: Sequence[np.ndarray], is_fake: np.ndarray, title: str = ""
) -> matplotlib.figure.Figure:
    """The map with each n_neighbors (rows) and seed (columns), trustworthiness and overlap under each.

    maps: {n_neighbors, seed, trustworthiness, overlap} for each of ``coords`` [N, 2], row by row.
    """
    seeds = len({one["seed"] for one in maps})
    rows = len(maps) // seeds
    figure = Figure(9, 2.05 * rows + 0.3, layout="constrained")
    names = np.where(is_fake, "generated", "real")
    for ax, one, drawn in zip(figure.subplots(rows, seeds, squeeze=False).ravel(), maps, coords, strict=True):
        heading = f"{one['n_neighbors']} neighbours, seed {one['seed']}"
        panel(ax, drawn, is_fake, Panel(heading, names, order=("real", "generated")), size=3)
        ax.get_legend().remove()
        ax.set_title(heading, fontsize=7.5, loc="left", color=INK)
        ax.set_xlabel(
            f"trust {one['trustworthiness']:.2f}, overlap {one['overlap']:.2f}", fontsize=7, color=INK, loc="left", labelpad=3
        )
    figure.suptitle(
        f"{title} Blue circles: real; orange triangles: generated.".strip(), fontsize=9, color=INK, x=0.01, ha="left"
    )
    trust = [one["trustworthiness"] for one in maps]
    return describe(figure, f"{title} {len(maps)} maps, trustworthiness {min(trust):.2f} to {max(trust):.2f}.")


def _names(
    ax: Axes, coords: np.ndarray, is_fake: np.ndarray, values: np.ndarray, names: Sequence[str], blocks, size: float
) -> None:
    if len(names) > len(MAP_COLOURS):
        raise ValueError(f"{len(names)} names are too many to tell apart; show at most {len(MAP_COLOURS)}.")
    colours = dict(zip(names, MAP_COLOURS, strict=False))
    _scatter_rest(ax, coords, ~np.isin(values, names), size)
    for block in blocks:
        for name, colour in colours.items():
            for fake, marker in ((False, "o"), (True, "^")):
                x, y = coords[block[(values[block] == name) & (is_fake[block] == fake)]].T
                ax.scatter(x, y, s=size, color=colour, marker=marker, linewidths=0)
    fakes = {name: bool(is_fake[values == name].all()) and (values == name).any() for name in names}
    keys = [Line2D([], [], color=colours[n], marker="^" if fakes[n] else "o", linestyle="", markersize=4.5) for n in names]
    below = {"loc": "upper left", "bbox_to_anchor": (-0.03, 0.0), "ncols": _columns(names), "columnspacing": 0.8}
    ax.legend(keys, names, fontsize=7.5, frameon=False, labelcolor=INK, handletextpad=0.2, borderpad=0.2, **below)


def _columns(names: Sequence[str]) -> int:
    return max(1, min(len(names), 42 // (max(map(len, names), default=1) + 5)))


def _numbers(ax: Axes, coords: np.ndarray, is_fake: np.ndarray, values: np.ndarray, blocks, size: float) -> None:
    known = np.isfinite(values)
    low, high = np.quantile(values[known], [0.01, 0.99]) if known.any() else (0, 1)
    _scatter_rest(ax, coords, ~known, size)
    drawn = None
    for block in blocks:
        for fake, marker in ((False, "o"), (True, "^")):
            rows = block[known[block] & (is_fake[block] == fake)]
            drawn = ax.scatter(*coords[rows].T, c=values[rows], s=size, marker=marker, linewidths=0, vmin=low, vmax=high)
    bar = ax.figure.colorbar(drawn, ax=ax, pad=0.02, fraction=0.05)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7.5, colors=INK)


def _scatter_rest(ax: Axes, coords: np.ndarray, where: np.ndarray, size: float) -> None:
    ax.scatter(*coords[where].T, s=size * 0.6, color="#DDDDDD", linewidths=0)
