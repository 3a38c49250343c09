"""Curves, bars and maps: numbers in, Figure out. Nothing here samples, trains or shows (`plots` holds the sheets of slices).

Colours are Okabe and Ito's, for colour-blind readers; forms differ too, for a grey print: circles are real, triangles generated.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import pandas
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba_array
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from stylegan.plots import INK, Figure, set_alt_text

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MAP_COLOURS = tuple(COLOURS[i] for i in (0, 4, 6, 7, 3, 5, 1, 2))  # neighbours differ in lightness
MARKERS = ("o", "^")  # of what is real and of what is generated
LINES = ("-", "--", ":", "-.")
FAINT = "#DDDDDD"
Arrays = Sequence[np.ndarray]
BLOCKS = 24  # of a map's points in shuffled order: real and generated ones take turns, so that none hides the other

# Title of a panel -> the keys of metrics.jsonl that it shows, with their names.
PANELS = {
    "Losses": {"loss_G": "generator", "loss_D": "discriminator"},
    "Mean logits of D": {"logits_real": "training", "logits_heldout": "held-out", "logits_fake": "generated"},
    "Gradient penalties of D": {"r1": "R1", "r2": "R2", "gp": "GP"},
    "Participation penalty of G": {"participation": "penalty"},
    "Path length": {"path_length": "mean length"},
    "Gradient norms": {"grad_norm_G": "generator", "grad_norm_D": "discriminator"},
    "Probability of augmentation": {"augment_p": "p"},
    "KID on validation subjects (×1000)": {"kid_val": "generated"},
    "Precision, recall, coverage": {"precision_val": "precision", "recall_val": "recall", "coverage_val": "coverage"},
    "Dimensions of variety": {"dimensions": "generated", "dimensions_fixed_noise": "noise fixed", "dimensions_real": "people"},
    "Spread": {"spread": "generated", "spread_fixed_noise": "noise fixed", "spread_real": "people"},
}
LOGARITHMIC = ("Gradient penalties of D", "Gradient norms", "KID on validation subjects (×1000)")


def curves(history: Sequence[Mapping]) -> Figure:
    """The course of a run from the lines of metrics.jsonl: one panel for each entry of `PANELS` that has numbers, and for the layers."""
    panels: dict[str, list[tuple]] = {}
    series = {key: line.dropna() for key, line in pandas.DataFrame(history, index=[row["kimg"] for row in history]).items()}
    for title, names in PANELS.items():
        for i, (key, name) in enumerate(names.items()):
            if len(line := series.get(key, ())):
                panels.setdefault(title, []).append((name, COLOURS[i], LINES[i], line.astype(float)))
    by_layer = series.get("style_participation", pandas.Series())
    layers = list(zip_longest(*by_layer, fillvalue=np.nan))  # [layers][ticks]; NaN before a growing network has the layer
    for layer, values in enumerate(layers):
        name = {0: "coarsest", len(layers) - 1: "finest"}.get(layer)
        line = name, colormaps["viridis"](0.9 * layer / max(len(layers) - 1, 1)), "-", pandas.Series(values, by_layer.index)
        panels.setdefault("Style participation by layer", []).append(line)
    if not panels:
        raise ValueError("The history holds no losses yet; train for at least one tick.")
    axes = _panels(len(panels))
    for ax, (title, lines) in zip(axes, panels.items(), strict=True):
        for name, colour, style, line in lines:
            ax.plot(line.index, line, color=colour, linestyle=style, linewidth=1.5, label=name)
        alone = f": {lines[0][0]}" if len(lines) == 1 < len(PANELS.get(title, ())) else ""
        style_axes(ax, title + alone, "kimg", legend=len(lines) > 1)
        if lines[0][0] == "p":  # else a hundredth looks like a steep rise
            ax.set_ylim(0, max(0.1, 1.05 * lines[0][3].max()))
        if title in LOGARITHMIC and min(line.min() for *_, line in lines) > 0:
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_locator(NullLocator())
    kid = series.get("kid_val", ())
    best = f" KID {kid.min():.0f} at best, at {kid.idxmin():g} kimg." if len(kid) else ""
    return set_alt_text(axes[0].figure, f"Training over {history[-1]['kimg']:g} kimg: {', '.join(panels)}.{best}")


def architecture(rows: Sequence[Mapping]) -> Figure:
    """Generator and discriminator as boxes on the way of a picture, higher where maps are finer; from `networks.part_rows`."""
    axes, arrow = Figure(9, 4.2, layout="constrained").subplots(2, 1), {"arrowstyle": "->", "color": INK}
    for ax, net, ends in zip(axes, "GD", (("z", "slice"), ("slice", "logit")), strict=True):
        own = [row for row in rows if row["part"][0] == net and row["parameters"] and row["part"] != "D.mapping"]
        shapes = [row["output"].split(" × ") for row in own if row["output"] and "attention" not in row["part"]]
        heights = [int(shape[-1]).bit_length() if len(shape) == 3 else 3 for shape in shapes]
        styled = len(shapes[0]) == 2  # its first part gives w, and its blocks start from a constant
        for i, (shape, height) in enumerate(zip(shapes, heights, strict=True)):
            x = i + 1 + 0.7 * (styled and i > 0)
            blocks, maps = len(shape) == 3, f"{shape[0]} maps\n{' × '.join(shape[1:])}"
            ax.bar(x, height, 0.75, -height / 2, color=COLOURS[5] if blocks else FAINT, edgecolor=INK)
            ax.text(x, 0, {2: "mapping\nnetwork", 1: "last part"}.get(len(shape), maps), ha="center", va="center", fontsize=8)
            ax.annotate("", (x - 0.38, 0), (x - 0.62, 0), arrowprops=arrow)
            if styled:
                way = {"arrowprops": arrow | {"arrowstyle": "->" if blocks else "<-"}}
                ax.annotate("w", (x, -height / 2), (x, -max(heights) / 2 - 1.7), ha="center", fontsize=8, **way)
        ax.annotate("", (x + 0.62, 0), (x + 0.38, 0), arrowprops=arrow)
        words = [(0.37, ends[0], "right"), (x + 0.63, ends[1], "left"), *[(2.07, "constant", "right")] * styled]
        for place, word, side in words:
            ax.text(place, 0, word, ha=side, va="center", fontsize=9)
        ax.set_title({"G": "generator", "D": "discriminator"}[net], fontsize=9.5, loc="left", color=INK)
        ax.set(xlim=(0, x + 1), ylim=(-max(heights) / 2 - 2, max(heights) / 2 + 0.2))
        ax.set_axis_off()
    return set_alt_text(axes[0].figure, "The parts of both networks in order, with their maps, as in the table of parts.")


# --- Scores -----------------------------------------------------------------------------------------------------------------


def score_bars(evaluation: Mapping) -> Figure:
    """KID (x1000) and FD of each split beside real against real, with intervals, from the JSON of ``evaluate``."""
    splits, distance = evaluation["splits"], "FID" if evaluation["feature_space"] == "inception" else "FD"  # FID only there
    axes = Figure(9, 1.2 + 0.7 * len(splits), layout="constrained").subplots(1, 2, sharey=True)
    for ax, key, name in zip(axes, ("kid", "fd"), ("KID (×1000)", distance), strict=True):
        _intervals(ax, {split: (found[f"{key}_floor"], found[key]) for split, found in splits.items()}, "{:.0f}")
        ax.set_xlim(0, None)
        style_axes(ax, f"{name} on {evaluation['feature_space']}, lower is better", "", legend=ax is axes[0], grid="x")
    text = "{}: KID {:.0f} (floor {:.0f}), FD {:.0f} (floor {:.0f})"
    told = [text.format(n, *(one[k]["value"] for k in ("kid", "kid_floor", "fd", "fd_floor"))) for n, one in splits.items()]
    return set_alt_text(axes[0].figure, f"Scores and those of real against real slices. {'; '.join(told)}.")


def transfers(found: Mapping) -> Figure:
    """Each arm of `groundtruth.learn_groups` on held-out people, with its interval and with chance."""
    arms = found["arms"]
    ax = Figure(5.5, 1.0 + 0.42 * len(arms), layout="constrained").add_subplot()
    _intervals(ax, {arm: (None, x) if arm.startswith("synthetic") else (x, None) for arm, x in arms.items()}, "{:.0%}")
    ax.axvline(found["chance"], color=INK, linestyle=":", linewidth=1.2)
    title = f"Balanced accuracy on held-out people; dotted: chance, {found['chance']:.0%}"
    style_axes(ax, title, f"learnt from {found['n']} slices", grid="x")
    ax.xaxis.get_major_locator().set_params(integer=False)
    told = [f"{arm} {entry['value']:.0%}" for arm, entry in arms.items()]
    return set_alt_text(ax.figure, f"Train on synthetic, test on real. {'; '.join(told)}.")


def _intervals(ax: Axes, rows: Mapping[str, tuple[Mapping | None, Mapping | None]], form: str) -> None:
    """A row for each name with {value, low, high} of what is real and of what is generated; None leaves a place empty."""
    for y, pair in enumerate(rows.values()):
        for kind, entry in enumerate(pair):
            if entry is not None:
                x, height = entry["value"], y + (0.15 - 0.3 * kind if None not in pair else 0)
                away = [[max(0, x - entry.get("low", x))], [max(0, entry.get("high", x) - x)]]
                label = ("real against real", "generated")[kind] if y == 0 else None
                ax.errorbar(x, height, xerr=away, fmt=MARKERS[kind], color=COLOURS[kind], capsize=3, markersize=6, label=label)
                ax.annotate(form.format(x), (x, height), (0, 6), textcoords="offset points", ha="center", fontsize=8, color=INK)
    ax.set_yticks(range(len(rows)), rows)
    ax.set_ylim(len(rows) - 0.4, -0.6)


def spectra(lines: Mapping[str, Sequence[float]]) -> Figure:
    """Mean power spectra [F] in dB by frequency, less that of 'real': 'generated', and 'low' to 'high', real slices of other people."""
    ax, frequency = Figure(9, 3.4, layout="constrained").add_subplot(), np.arange(1, len(lines["real"]) + 1)
    away = {name: np.subtract(line, lines["real"]) for name, line in lines.items()}
    ax.fill_between(frequency, away["low"], away["high"], color=FAINT, label="real, other people")
    ax.axhline(0, color=COLOURS[0], linewidth=1.2, label="real")
    ax.plot(frequency, away["generated"], color=COLOURS[1], linestyle=LINES[1], linewidth=1.6, label="generated")
    title = "Power by frequency, dB from real: blur bends the right end down, noise or a checkerboard lifts it"
    style_axes(ax, title, "waves per picture", legend=True)
    low, high = np.array_split(away["generated"], 2)
    text = f"{low.mean():+.1f} dB at low and {high.mean():+.1f} dB at high frequencies"
    return set_alt_text(ax.figure, f"Power spectra of real and generated slices: generated are {text} from real ones.")


def confusions(found: Mapping) -> Figure:
    """Confusion matrices of `groundtruth.recognise`: held-out people, and fakes beside them where they claim a class."""
    from sklearn.metrics import ConfusionMatrixDisplay

    shown = {"held-out people": found["real"]} | ({"fakes, by the class asked for": found["fake"]} if "fake" in found else {})
    names = found["classes"]
    figure = Figure(0.9 + (1.5 + 0.72 * len(names)) * len(shown), 1.7 + 0.62 * len(names), layout="constrained")
    axes = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for ax, (title, one) in zip(axes, shown.items(), strict=True):
        matrix = ConfusionMatrixDisplay(np.array(one["confusion"]), display_labels=names)
        matrix.plot(ax=ax, cmap="Greys", values_format=".0%", colorbar=False, xticks_rotation=20, im_kw={"vmin": 0, "vmax": 1})
        for text, share in zip(matrix.text_.flat, np.ravel(one["confusion"]), strict=True):
            text.set_color("white" if share > 0.5 else "black")  # sklearn takes the middle of the matrix's own range
        rows = "the truth" if one is found["real"] else "the class asked for"
        ax.set_xlabel(f"read by the classifier; rows: {rows}", fontsize=8.5, color=INK)
        ax.set_ylabel("")
        ax.tick_params(length=0, labelsize=8)
        right = "{value:.0%} ({low:.0%} to {high:.0%})".format(**one["slices"])
        ax.set_title(f"{title}\nright {right}", fontsize=9, loc="left", color=INK)
    told = "; ".join(f"{title}: {one['slices']['value']:.0%} right" for title, one in shown.items())
    return set_alt_text(figure, f"Confusion matrices of {len(names)} classes. {told}; chance {found['chance']:.0%}.")


# --- Maps -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """One colouring of a map, and what its test found."""

    title: str
    values: np.ndarray  # [N], names or numbers; '' and NaN are drawn faintly
    claim: str = ""
    order: Sequence[str] = ()  # of the names


def maps(
    coords: Arrays, is_fake: Arrays, panels: Sequence[Panel], columns: int = 3, *, title: str = "", size: float = 1
) -> Figure:
    """Panels [p] side by side, each on its own map [N, 2], its claim under it; below a ``size`` of 1 without a legend."""
    axes = _panels(len(panels), columns, 3.07 * size, 3.35 * size)
    for ax, points, fake, shown in zip(axes, coords, is_fake, panels, strict=False):
        _map(ax, points, fake, shown, size)
    figure = axes[0].figure
    figure.suptitle(title, fontsize=9, color=INK, x=0.01, ha="left")
    told = "; ".join(f"{shown.title}: {shown.claim}" for shown in panels)
    return set_alt_text(figure, f"{title} Maps of {len(coords[0])} slices. {told}".strip())


def _map(ax: Axes, coords: np.ndarray, is_fake: np.ndarray, shown: Panel, size: float) -> None:
    pad, fonts = 5, (9.5, 8) if size == 1 else (7.5, 7)
    if shown.values.dtype.kind in "if":
        known = np.isfinite(shown.values)
        scale = ScalarMappable(Normalize(*np.quantile(shown.values[known], [0.01, 0.99]) if known.any() else (0, 1)))
        colours = scale.to_rgba(shown.values)  # [N, 4]
        bar = ax.figure.colorbar(scale, ax=ax, pad=0.02, fraction=0.05)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=7.5, colors=INK)
    else:
        names = list(shown.order) or [str(name) for name in np.unique(shown.values) if name != ""]
        if len(names) > len(MAP_COLOURS):
            raise ValueError(f"{len(names)} names are too many to tell apart; show at most {len(MAP_COLOURS)}.")
        known, colours = np.isin(shown.values, names), np.zeros((len(coords), 4))
        for name, colour in zip(names, to_rgba_array(MAP_COLOURS), strict=False):
            colours[shown.values == name] = colour
        if size == 1:
            only_fakes = [name in shown.values and bool(is_fake[shown.values == name].all()) for name in names]
            looks = zip(MAP_COLOURS, only_fakes, strict=False)
            keys = [Line2D([], [], color=colour, marker=MARKERS[fake], ls="", ms=4.5) for colour, fake in looks]
            columns = max(1, min(len(names), 42 // (max(map(len, names), default=1) + 5)))
            below = {"loc": "upper left", "bbox_to_anchor": (-0.03, 0.0), "ncols": columns, "columnspacing": 0.8}
            ax.legend(keys, names, fontsize=7.5, frameon=False, labelcolor=INK, handletextpad=0.2, borderpad=0.2, **below)
            pad += 13 * -(-len(names) // columns)  # the claim stands below the legend
    ax.scatter(*coords[~known].T, s=5 * size, color=FAINT, linewidths=0)
    for block in np.array_split(np.random.default_rng(0).permutation(np.flatnonzero(known)), BLOCKS):
        for fake, marker in enumerate(MARKERS):
            rows = block[is_fake[block] == fake]
            ax.scatter(*coords[rows].T, c=colours[rows], s=9 * size**2, marker=marker, linewidths=0.3 * size, edgecolors=INK)
    _map_axes(ax, "\n".join(textwrap.wrap(shown.title, 42)), fonts[0])
    ax.set_xlabel("\n".join(textwrap.wrap(shown.claim, 46)), fontsize=fonts[1], color=INK, loc="left", labelpad=pad)


def thumbnails(coords: np.ndarray, images: np.ndarray, is_fake: np.ndarray, cells: int = 24, title: str = "") -> Figure:
    """Points [n, 2] as slices uint8 [n, R, R]: each cell shows the nearest to its centre, its left edge coloured by its kind."""
    tiles = images[..., None].repeat(3, axis=3)
    tiles[:, :, : max(1, tiles.shape[2] // 16)] = 255 * to_rgba_array(COLOURS)[is_fake.astype(int), None, None, :3]
    low, span = coords.min(axis=0), np.ptp(coords, axis=0).clip(1e-9)
    place = ((coords - low) / span * cells).clip(0, cells - 1e-6)  # [n, 2] in cells
    canvas = np.full((cells, tiles.shape[1], cells, *tiles.shape[2:]), 255, np.uint8)
    for i in np.argsort(-np.abs(place % 1 - 0.5).max(axis=1)):  # the nearest to a centre is drawn last
        x, y = place[i].astype(int)
        canvas[cells - 1 - y, :, x] = tiles[i]
    ax = Figure(6.6, 6.8, layout="constrained").add_subplot()
    pixels = canvas.reshape(cells * tiles.shape[1], cells * tiles.shape[2], *tiles.shape[3:])
    ax.imshow(pixels, interpolation="antialiased", aspect="auto")
    _map_axes(ax, title)
    text = f"Map of {len(coords)} slices, each cell showing one of those that lie there. {title}"
    return set_alt_text(ax.figure, text.strip())


def _map_axes(ax: Axes, title: str, fontsize: float = 9.5) -> None:
    ax.set(xticks=[], yticks=[])  # a map's directions and units mean nothing
    ax.set_title(title, fontsize=fontsize, loc="left", color=INK)
    ax.spines[:].set_color(FAINT)


def _panels(count: int, columns: int = 3, width: float = 3.0, height: float = 2.5) -> list[Axes]:
    rows, columns = -(-count // columns), min(count, columns)
    axes = Figure(width * columns, height * rows, layout="constrained").subplots(rows, columns, squeeze=False).ravel()
    for spare in axes[count:]:
        spare.remove()
    return list(axes[:count])


def style_axes(ax: Axes, title: str, xlabel: str, *, legend: bool = False, grid: str = "both") -> None:
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
        narrow = {"columnspacing": 0.8, "handlelength": 1.6, "handletextpad": 0.5, "borderpad": 0.1}  # three names fit a panel
        ax.legend(fontsize=8, frameon=False, labelcolor=INK, **narrow, **above)
