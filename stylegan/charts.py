"""Curves, bars and maps: numbers in, Figure out. Nothing here samples, trains or shows (`plots` holds the sheets of slices).

Colours are those of Okabe and Ito, safe for colour-blind readers; lines and markers differ in form too, so that a grey print
still tells them apart. Every function draws into ``axes`` where given and returns the Figure, with its ``alt_text``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from stylegan.plots import INK, Figure, Images, describe, to_uint8

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "^", "s", "X", "D", "v", "P", "*")
LINES = ("-", "--", ":", "-.")
FAINT = "#DDDDDD"

# Title of a panel -> the keys of metrics.jsonl that it shows, with their names.
PANELS = {
    "Losses": {"loss_G": "generator", "loss_D": "discriminator"},
    "Mean logits of D": {"logits_real": "training", "logits_heldout": "held-out", "logits_fake": "generated"},
    "R1 penalty": {"r1": "R1"},
    "Path length": {"path_length": "mean length"},
    "Gradient norms": {"grad_norm_G": "generator", "grad_norm_D": "discriminator"},
    "Probability of augmentation": {"augment_p": "p"},
    "KID on validation subjects (×1000)": {"kid_val": "generated"},
    "Precision and recall on validation subjects": {"precision_val": "precision", "recall_val": "recall"},
}


def losses(history: Sequence[Mapping], axes: Sequence[Axes] | None = None) -> matplotlib.figure.Figure:
    """The course of a run from the lines of metrics.jsonl: one panel for each entry of `PANELS` that has numbers."""
    panels = {title: lines for title, lines in PANELS.items() if any(_series(history, key)[0].size for key in lines)}
    if not panels:
        raise ValueError("The history holds no losses yet; train for at least one tick.")
    axes = _panels(len(panels)) if axes is None else axes
    for ax, (title, lines) in zip(axes, panels.items(), strict=True):
        _curves(ax, history, lines, title)
        if title in ("R1 penalty", "Gradient norms"):
            _log_scale(ax)
    end = history[-1]["kimg"]
    return describe(axes[0].figure, f"Training over {end:g} kimg: {', '.join(panels)}.")


def scores(history: Sequence[Mapping], axes: Axes | None = None, *, floor: float | None = None) -> matplotlib.figure.Figure:
    """KID on validation subjects against kimg on a logarithmic scale, the best tick marked; ``floor``: real against real."""
    kimg, kid = _series(history, "kid_val")
    if not kimg.size:
        raise ValueError("The history holds no kid_val yet; train on, or set kid_ticks above 0.")
    ax = axes or Figure(9, 3.4, layout="constrained").add_subplot()
    ax.plot(kimg, kid, color=COLOURS[0], marker=MARKERS[0], markersize=4, linewidth=1.6, label="generated")
    best = kid.argmin()
    ax.annotate(
        f"best {kid[best]:.0f}",
        (kimg[best], kid[best]),
        (0, -15),
        textcoords="offset points",
        ha="center",
        fontsize=9,
        color=INK,
    )
    ax.margins(y=0.15)
    if floor is not None:
        ax.axhline(floor, color=COLOURS[2], linestyle="--", linewidth=1.4, label="real against real")
    if kid.min() > 0:
        _log_scale(ax)
    dress(ax, "KID on validation subjects (×1000)", "thousand slices shown (kimg)", legend=floor is not None)
    return describe(
        ax.figure,
        f"KID on validation subjects goes from {kid[0]:.0f} to {kid[-1]:.0f}; best {kid[best]:.0f} at {kimg[best]:g} kimg.",
    )


def scatter(
    coords: np.ndarray,
    values: Sequence,
    kind: str = "category",
    title: str = "",
    axes: Axes | None = None,
    *,
    order=(),
    size=9,
    seed=0,
) -> matplotlib.figure.Figure:
    """A map of points [n, 2] coloured by ``values`` [n]: 'category' (up to 8, colour and marker) or 'number' (colour bar).

    Points are drawn in shuffled order, so that no group hides another. order: the categories in the legend's order.
    Raises ValueError for more than 8 categories or another kind.
    """
    coords, values = np.asarray(coords), np.asarray(values)
    if kind not in ("category", "number"):
        raise ValueError(f"kind is {kind!r}; choose category or number.")
    ax = axes or Figure(5.2, 4.6, layout="constrained").add_subplot()
    shuffled = np.random.default_rng(seed).permutation(len(coords))
    if kind == "number":
        drawn = ax.scatter(*coords[shuffled].T, c=values[shuffled].astype(float), s=size, cmap="viridis", linewidths=0)
        bar = ax.figure.colorbar(drawn, ax=ax, pad=0.02, fraction=0.05)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8, colors=INK)
        legend = f"from {np.nanmin(values.astype(float)):g} to {np.nanmax(values.astype(float)):g}"
    else:
        names = list(order) or [str(name) for name in np.unique(values)]
        _categories(ax, coords, values.astype(str), names, np.array_split(shuffled, 24), size)
        legend = ", ".join(names)
    _map_axes(ax, title)
    return describe(ax.figure, f"Map of {len(coords)} slices coloured by {title or 'value'}: {legend}.")


def thumbnails(
    coords: np.ndarray, images: Images, cells: int = 18, title: str = "", axes: Axes | None = None
) -> matplotlib.figure.Figure:
    """A map of points [n, 2] as slices [n, ...]: each cell of a cells x cells grid shows the slice nearest to its centre."""
    coords, tiles = np.asarray(coords, float), to_uint8(images)
    low, span = coords.min(axis=0), np.ptp(coords, axis=0).clip(1e-9)
    place = ((coords - low) / span * cells).clip(0, cells - 1e-6)  # [n, 2] in cells
    size = tiles.shape[1]
    canvas = np.full((cells * size, cells * size, *tiles.shape[3:]), 255, np.uint8)
    away = np.abs(place - np.floor(place) - 0.5).max(axis=1)
    for i in np.argsort(-away):  # the nearest to a centre is drawn last
        x, y = np.floor(place[i]).astype(int)
        top = (cells - 1 - y) * size
        canvas[top : top + size, x * size : (x + 1) * size] = tiles[i]
    ax = axes or Figure(8, 8.2, layout="constrained").add_subplot()
    ax.imshow(canvas, cmap="gray", vmin=0, vmax=255, interpolation="antialiased", aspect="auto")
    _map_axes(ax, title)
    return describe(
        ax.figure, f"Map of {len(coords)} slices, each cell showing one of the slices that lie there. {title}".strip()
    )


def class_balance(
    labels: np.ndarray,
    classes: Sequence[str],
    splits: np.ndarray,
    subjects: np.ndarray | None = None,
    axes: Sequence[Axes] | None = None,
) -> matplotlib.figure.Figure:
    """Slices (and, where known, subjects) per class and split, from labels [n] (-1: unknown), splits [n] and subjects [n]."""
    labels, splits = np.asarray(labels), np.asarray(splits)
    counted = {"slices": np.arange(len(labels))} | ({} if subjects is None else {"subjects": np.asarray(subjects)})
    names = {i: name for i, name in [*enumerate(classes), (-1, "unknown")] if np.any(labels == i)}
    if axes is None:
        figure = Figure(9, 0.9 + 0.62 * len(names), layout="constrained")
        axes = figure.subplots(1, len(counted), sharey=True, squeeze=False)[0]
    for ax, (what, ids) in zip(axes, counted.items(), strict=True):
        for j, split in enumerate(s for s in ("train", "val", "test") if np.any(splits == s)):
            counts = [len(np.unique(ids[(labels == i) & (splits == split)])) for i in names]
            bars = ax.barh(np.arange(len(names)) + 0.27 * (j - 1), counts, 0.25, color=COLOURS[j], label=split)
            ax.bar_label(bars, fontsize=7.5, padding=2, color=INK)
        ax.set_yticks(range(len(names)), names.values())
        dress(ax, f"{what.capitalize()} by class and split", "", legend=ax is axes[0], grid="x")
        ax.margins(x=0.12)
    if not axes[0].yaxis_inverted():
        axes[0].invert_yaxis()
    return describe(axes[0].figure, f"Bars of {' and '.join(counted)} per class ({', '.join(names.values())}) and split.")


def score_bars(evaluation: Mapping, axes: Sequence[Axes] | None = None) -> matplotlib.figure.Figure:
    """KID (x1000) and FD of each split beside real against real, with intervals, from the JSON of ``evaluate``."""
    splits = evaluation["splits"]
    axes = Figure(9, 1.2 + 0.7 * len(splits), layout="constrained").subplots(1, 2, sharey=True) if axes is None else axes
    distance = "FID" if evaluation["feature_space"] == "inception" else "FD"  # only there
    for ax, key, name in zip(axes, ("kid", "fd"), ("KID (×1000)", distance), strict=True):
        for j, (suffix, label) in enumerate((("", "generated"), ("_floor", "real against real"))):
            rows = [split[key + suffix] for split in splits.values()]
            value, low, high = (np.array([row.get(k, row["value"]) for row in rows], float) for k in ("value", "low", "high"))
            y = np.arange(len(rows)) + 0.3 * (j - 0.5)
            ends = np.clip([value - low, high - value], 0, None)
            ax.errorbar(value, y, xerr=ends, fmt=MARKERS[j], color=COLOURS[1 - j], capsize=3, markersize=6, label=label)
            for x, h in zip(value, y, strict=True):
                ax.annotate(f"{x:.0f}", (x, h), (0, 6), textcoords="offset points", ha="center", fontsize=8, color=INK)
        ax.set_yticks(range(len(splits)), splits)
        ax.set_xlim(left=0)
        ax.set_ylim(len(splits) - 0.4, -0.6)
        dress(ax, f"{name} on {evaluation['feature_space']}, lower is better", "", legend=ax is axes[0], grid="x")
    text = "; ".join(
        f"{name}: KID {split['kid']['value']:.0f} (floor {split['kid_floor']['value']:.0f}), "
        f"FD {split['fd']['value']:.0f} (floor {split['fd_floor']['value']:.0f})"
        for name, split in splits.items()
    )
    return describe(axes[0].figure, f"Scores beside the score of real against real slices. {text}.")


def spectra(lines: Mapping[str, Sequence[float]], axes: Axes | None = None) -> matplotlib.figure.Figure:
    """Mean power spectra [F] in dB by frequency: 'real', 'generated', and 'low' to 'high', the range of real slices of other people."""
    ax = axes or Figure(9, 3.4, layout="constrained").add_subplot()
    frequency = np.arange(1, len(lines["real"]) + 1)
    ax.fill_between(frequency, lines["low"], lines["high"], color=FAINT, label="real, other people")
    for i, name in enumerate(("real", "generated")):
        ax.plot(frequency, lines[name], color=COLOURS[i], linestyle=LINES[i], linewidth=1.6, label=name)
    dress(
        ax, "Power by frequency (dB): blur bends the right end down, a checkerboard lifts it", "waves per picture", legend=True
    )
    away = np.asarray(lines["generated"]) - np.asarray(lines["real"])
    half = len(away) // 2
    text = f"{away[:half].mean():+.1f} dB at low and {away[half:].mean():+.1f} dB at high frequencies"
    return describe(ax.figure, f"Power spectra of real and generated slices: generated are {text} from real ones.")


def distributions(
    panels: Mapping[str, tuple[np.ndarray, np.ndarray]], axes: Sequence[Axes] | None = None
) -> matplotlib.figure.Figure:
    """Histograms of real [n] and generated [m] numbers side by side, a panel for each title -> (real, generated)."""
    axes = _panels(len(panels)) if axes is None else axes
    for ax, (title, values) in zip(axes, panels.items(), strict=True):
        low, high = np.quantile(np.concatenate(values), [0.002, 0.998])
        edges = np.linspace(low, max(high, low + 1e-9), 31)
        for i, (name, x) in enumerate(zip(("real", "generated"), values, strict=True)):
            counts = np.histogram(x, edges)[0] / max(len(x), 1)
            ax.stairs(counts, edges, color=COLOURS[i], linestyle=LINES[i], linewidth=1.5, label=name)
        dress(ax, title, "", legend=ax is axes[0])
    told = "; ".join(
        f"{title}: median {np.median(a):.3g} real, {np.median(b):.3g} generated" for title, (a, b) in panels.items()
    )
    return describe(axes[0].figure, f"Histograms of real and generated slices. {told}.")


# --- Parts ------------------------------------------------------------------------------------------------------------------


def _series(history: Sequence[Mapping], key: str) -> tuple[np.ndarray, np.ndarray]:
    """(kimg, values) of the lines that have this key."""
    rows = [(row["kimg"], row[key]) for row in history if row.get(key) is not None]
    return tuple(np.array(rows, float).reshape(-1, 2).T)


def _panels(count: int) -> list[Axes]:
    rows, columns = -(-count // 3), min(count, 3)
    axes = Figure(9, 2.5 * rows, layout="constrained").subplots(rows, columns, squeeze=False).ravel()
    for spare in axes[count:]:
        spare.remove()
    return list(axes[:count])


def _curves(ax: Axes, history: Sequence[Mapping], lines: Mapping[str, str], title: str) -> None:
    present = {key: name for key, name in lines.items() if _series(history, key)[0].size}
    if len(present) == 1 < len(lines):
        title = f"{title}: {next(iter(present.values()))}"
    for i, (key, name) in enumerate(present.items()):
        ax.plot(*_series(history, key), color=COLOURS[i], linestyle=LINES[i], linewidth=1.5, label=name)
    dress(ax, title, "kimg", legend=len(present) > 1)


def dress(ax: Axes, title: str, xlabel: str, *, legend: bool, grid: str = "both") -> None:
    """One calm look for all charts."""
    ax.set_title(title, fontsize=9.5, loc="left", color=INK, pad=20)
    ax.set_xlabel(xlabel, fontsize=8.5, color=INK)
    ax.tick_params(labelsize=8, colors=INK, length=3)
    ax.grid(True, axis=grid, color=FAINT, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#999999")
    if ax.get_xscale() == "linear":
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=grid == "x"))
    if legend:
        above = {"loc": "lower left", "bbox_to_anchor": (-0.02, 0.99), "ncols": 3}  # where it hides no line
        ax.legend(fontsize=8, frameon=False, labelcolor=INK, columnspacing=1.2, handlelength=1.8, borderpad=0.1, **above)


def _log_scale(ax: Axes) -> None:
    """A logarithmic y axis labelled in plain numbers."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_locator(NullLocator())


def _map_axes(ax: Axes, title: str) -> None:
    """A map's directions and units mean nothing: no ticks."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(title, fontsize=9.5, loc="left", color=INK)
    ax.spines[:].set_color(FAINT)


def _categories(
    ax: Axes, coords: np.ndarray, values: np.ndarray, names: Sequence[str], blocks: Sequence[np.ndarray], size: float
) -> None:
    """One marker needs one call, so the groups take turns block by block."""
    if len(names) > len(COLOURS):
        raise ValueError(f"{len(names)} categories are too many to tell apart; show at most {len(COLOURS)}, or kind='number'.")
    for block in blocks:
        for name, colour, marker in zip(names, COLOURS, MARKERS, strict=False):
            x, y = coords[block[values[block] == name]].T
            ax.scatter(x, y, s=size, color=colour, marker=marker, linewidths=0, alpha=0.85)
    keys = [Line2D([], [], color=c, marker=m, linestyle="", markersize=5) for c, m in zip(COLOURS, MARKERS, strict=True)]
    below = {"loc": "upper left", "bbox_to_anchor": (-0.02, 0), "ncols": 2 if max(map(len, names)) > 10 else 4}
    ax.legend(keys[: len(names)], names, fontsize=8, frameon=False, labelcolor=INK, **below)
