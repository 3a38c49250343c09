"""Figures of `groundtruth`: its numbers in, Figure out. Nothing here samples, reads or shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes

from stylegan.charts import COLOURS, LINES, MARKERS, dress
from stylegan.plots import INK, Figure, describe, grid


def confusions(found: Mapping) -> matplotlib.figure.Figure:
    """Confusion matrices of `groundtruth.recognise`: held-out people, and fakes beside them where they claim a class."""
    shown = {"held-out people": found["real"]} | ({"fakes, by the class asked for": found["fake"]} if "fake" in found else {})
    names = found["classes"]
    figure = Figure(0.9 + (1.5 + 0.72 * len(names)) * len(shown), 1.7 + 0.62 * len(names), layout="constrained")
    for i, (ax, (title, one)) in enumerate(zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True)):
        _matrix(ax, np.array(one["confusion"]), names, labelled=i == 0)
        entry = one["slices"]
        ax.set_title(
            f"{title}\nright {entry['value']:.0%} ({entry['low']:.0%} to {entry['high']:.0%})",
            fontsize=9,
            loc="left",
            color=INK,
        )
    told = "; ".join(f"{title}: {one['slices']['value']:.0%} right" for title, one in shown.items())
    return describe(figure, f"Confusion matrices of {len(names)} classes. {told}; chance {found['chance']:.0%}.")


def _matrix(ax: Axes, shares: np.ndarray, names: Sequence[str], *, labelled: bool) -> None:
    ax.imshow(shares, cmap="Greys", vmin=0, vmax=1.3)  # up to a grey on which black is still read
    for (row, column), share in np.ndenumerate(shares):
        ax.text(column, row, f"{share:.0%}", ha="center", va="center", fontsize=9, color="black")
    ax.set_xticks(range(len(names)), names, rotation=20, ha="right", fontsize=8, color=INK)
    ax.set_yticks(range(len(names)), names if labelled else [""] * len(names), fontsize=8, color=INK)
    ax.set_xlabel("read by the classifier", fontsize=8.5, color=INK)
    if labelled:
        ax.set_ylabel("truth", fontsize=8.5, color=INK)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


def readings(found: Mapping[str, Mapping], axes: Sequence[Axes] | None = None) -> matplotlib.figure.Figure:
    """Histograms of what each reader of `groundtruth.read_all` reads off held-out real slices and off fakes."""
    if axes is None:
        columns = min(3, len(found))
        rows = -(-len(found) // columns)
        axes = Figure(9, 0.3 + 2.5 * rows, layout="constrained").subplots(rows, columns, squeeze=False).ravel()
        for spare in axes[len(found) :]:
            spare.remove()
    for ax, (name, one) in zip(axes, found.items(), strict=False):
        bins = one["histogram"]
        for i, (kind, label) in enumerate((("real", "held-out people"), ("fake", "generated"))):
            ax.stairs(bins[kind], bins["edges"], color=COLOURS[i], linestyle=LINES[i], linewidth=1.6, label=label)
        r = one["held_out"]["r"]["value"]
        dress(ax, f"{name} ({one['origin']}), r = {r:.2f}", one["unit"], legend=ax is axes[0])
        ax.set_yticks([])
    told = "; ".join(
        f"{name}: {one['distance']['value']:.2f} apart, floor {one['floor']['value']:.2f}" for name, one in found.items()
    )
    return describe(axes[0].figure, f"Readings on held-out people and on generated slices, in deviations. {told}.")


def growth_strip(
    pictures: np.ndarray, readings: np.ndarray, seeds: Sequence[int], strengths: Sequence[float], unit: str, **kwargs
) -> matplotlib.figure.Figure:
    """Pictures uint8 [seeds, strengths, R, R] along a direction, with the reading [seeds, strengths] written in each."""
    titles = {"column_titles": [f"{s:+g}" if s else "0" for s in strengths], "row_titles": [f"seed {seed}" for seed in seeds]}
    size = pictures.shape[-1]
    scale = max(1, min(4, 1100 // (size * len(strengths))))
    ends = f"readings go from {readings[:, 0].mean():.1f} to {readings[:, -1].mean():.1f} {unit}"
    alt = f"{len(seeds)} seeds in rows, steps along the direction in columns; {ends}."
    figure = grid(pictures.reshape(-1, size, size), len(strengths), scale=scale, **{**titles, "alt": alt, **kwargs})
    step = scale * size + 2
    for (row, column), value in np.ndenumerate(readings):  # in the corner, where no head reaches
        place = column * step + 4, (row + 1) * step - 4
        figure.axes[0].text(*place, f"{value:.1f}", ha="left", va="bottom", fontsize=8, color="white")
    return figure


def transfers(found: Mapping[str, Mapping]) -> matplotlib.figure.Figure:
    """Each arm of `transfer.learn_groups` and `learn_levels` on held-out people, with its interval and with chance."""
    shown = {name: one for name, one in found.items() if one}
    figure = Figure(9, 1.0 + 0.42 * max(len(one["arms"]) for one in shown.values()), layout="constrained")
    for ax, (name, one) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        for y, (arm, entry) in enumerate(one["arms"].items()):
            ends = np.clip([[entry["value"] - entry["low"]], [entry["high"] - entry["value"]]], 0, None)
            i = int(arm.startswith("synthetic"))
            ax.errorbar(entry["value"], y, xerr=ends, fmt=MARKERS[i], color=COLOURS[i], capsize=3, markersize=6)
        chance, words = (
            (one["chance"], "balanced accuracy")
            if "chance" in one
            else (one["guess_the_mean"], "error in levels, less is better")
        )
        ax.axvline(chance, color=INK, linestyle=":", linewidth=1.2)
        ax.text(chance, -0.75, "chance", fontsize=7.5, color=INK, ha="center", va="bottom")
        ax.set_yticks(range(len(one["arms"])), one["arms"], fontsize=8)
        ax.set_ylim(len(one["arms"]) - 0.5, -0.8)
        dress(ax, f"{name}: {words}", f"learnt from {one['n']} slices, tried on held-out people", legend=False, grid="x")
        ax.xaxis.get_major_locator().set_params(integer=False)
    told = "; ".join(f"{name} {arm} {entry['value']:.2f}" for name, one in shown.items() for arm, entry in one["arms"].items())
    return describe(figure, f"Train on synthetic, test on real. {told}.")
