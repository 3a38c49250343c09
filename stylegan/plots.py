"""Sheets of slices: arrays in, Figure out. Nothing here samples, trains or shows (`charts` holds curves, bars and maps).

Slices keep one fixed grey window ([-1, 1] is black to white) and are enlarged by whole numbers only, so that what looks
different is different. Each Figure carries a sentence for those who cannot see it in ``alt_text``.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import matplotlib.figure
import matplotlib.text
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.textpath import TextPath

from stylegan.predict import to_uint8

Images = np.ndarray | torch.Tensor
ACCENT = "#E69F00"  # of the marks on slices; Okabe and Ito's orange
INK, DPI = "#333333", 130
WIDTH, HEIGHT = 1240, 1000  # pixels that a sheet should not pass: an HTML column, a screen


class Figure(matplotlib.figure.Figure):
    """A figure outside pyplot (so that none is left open), shown by Jupyter with its alt text."""

    alt_text = ""

    def __init__(self, width: float = 9.0, height: float = 3.4, **kwargs):
        super().__init__(figsize=(width, height), dpi=DPI, facecolor="white", **kwargs)
        FigureCanvasAgg(self)

    def draw(self, renderer) -> None:
        """Draw every text as it is: what stands between two dollars is no formula, and may be the name of a stranger's folder."""
        for text in self.findobj(matplotlib.text.Text):
            text.set_parse_math(False)
        with matplotlib.rc_context({"text.parse_math": False}):  # of ticks that are made while drawing
            super().draw(renderer)

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        png = io.BytesIO()
        self.savefig(png, format="png", metadata={"Description": self.alt_text})
        data = {"image/png": base64.b64encode(png.getvalue()).decode(), "text/plain": self.alt_text or repr(self)}
        return data, {"image/png": {"alt": self.alt_text}}


def describe(figure: matplotlib.figure.Figure, text: str) -> matplotlib.figure.Figure:
    """Give a figure its alt text."""
    figure.alt_text = text
    return figure


# --- Sheets of slices ---------------------------------------------------------------------------------------------------


def enlarge(pixels: np.ndarray, scale: int) -> np.ndarray:
    """uint8 [n, R, R(, 3)] -> [n, scale R, scale R(, 3)]: every pixel becomes a square."""
    return pixels.repeat(scale, axis=1).repeat(scale, axis=2)


def grid(
    images: Images,
    columns: int | None = None,
    *,
    scale: int | None = None,
    column_titles: Sequence[str] = (),
    row_titles: Sequence[str] = (),
    marks: Sequence[str] | None = None,
    title: str = "",
    caption: str = "",
    alt: str = "",
) -> Figure:
    """A sheet of slices [n, ...] (see `to_uint8`), row by row; blank places stay white.

    scale: whole-number enlargement, None for the largest (up to 4) that fits a page. marks: what lies at the (top, bottom,
    left, right) of a slice, such as ('A', 'P', 'R', 'L'), written on the first one.
    """
    tiles = to_uint8(images)
    columns = columns or min(len(tiles), 8)
    rows, size, gap = -(-len(tiles) // columns), tiles.shape[1], 2
    left = 6 + max((14 + _text_width(text, 8) for text in row_titles), default=0)
    scale = scale or int(np.clip(min((WIDTH - left - columns * gap) // (columns * size), HEIGHT // (rows * size)), 1, 4))
    tiles = enlarge(tiles, scale)
    step = scale * size + gap
    height, width = rows * step, columns * step
    top, bottom = 6 + 24 * bool(title) + 18 * bool(column_titles), 6 + 20 * bool(caption)
    full_width = left + 8 + max(width, min(_text_width(caption, 8), WIDTH - left))
    figure = Figure(full_width / DPI, (height + top + bottom) / DPI)
    axes = _place(figure, left, top, width, height)
    _show(axes, _mosaic(tiles, rows, columns, gap))
    for i, text in enumerate(column_titles):
        axes.text((i + 0.5) * step, -4, text, ha="center", va="bottom", fontsize=8, color=INK)
    for i, text in enumerate(row_titles):
        axes.text(-6, (i + 0.5) * step, text, ha="right", va="center", fontsize=8, color=INK)
    _mark(axes, marks, scale * size)
    if title:
        figure.text(left / figure.bbox.width, 1 - 6 / figure.bbox.height, title, va="top", fontsize=10.5, color=INK)
    if caption:
        figure.text(left / figure.bbox.width, 5 / figure.bbox.height, caption, va="bottom", fontsize=8, color="#555555")
    return describe(figure, alt or f"Sheet of {len(tiles)} slices, {columns} in a row. {title} {caption}".strip())


def preview(images: Images, labels, classes: Sequence[str], levels, *, columns: int = 8, subjects=None, **kwargs) -> Figure:
    """One row per class, one column per level, lowest first; the first slices of each class where levels are unknown (-1).

    images [n, ...] (see `to_uint8`), labels [n] index into classes (-1: unknown), levels [n]. With ``subjects`` [n] each row is
    one person.
    """
    labels, levels = np.asarray(labels), np.asarray(levels)
    wanted = np.unique(np.linspace(levels.min(), levels.max(), columns).round().astype(int)) if levels.max() > 0 else []
    names = {index: name for index, name in [*enumerate(classes), (-1, "unknown")] if np.any(labels == index)}
    picked = [_one_row(np.flatnonzero(labels == index), levels, wanted, columns, subjects) for index in names]
    columns = max(len(row) for row in picked)
    tiles = [np.pad(to_uint8(images[row]), [(0, columns - len(row)), (0, 0), (0, 0)], constant_values=255) for row in picked]
    text = {"column_titles": [f"level {level}" for level in wanted], "row_titles": list(names.values())}
    alt = f"Slices by class in rows ({', '.join(names.values())}) and by level of the head in columns."
    return grid(np.concatenate(tiles), columns, **{**text, "alt": alt, **kwargs})


def _one_row(where: np.ndarray, levels: np.ndarray, wanted: Sequence[int], columns: int, subjects) -> np.ndarray:
    """Indices of one class's slices, at the wanted levels or simply the first ones."""
    if not len(wanted):
        return where[:columns]
    if subjects is not None:
        where = where[np.asarray(subjects)[where] == np.asarray(subjects)[where[0]]]
    return np.array([where[np.abs(levels[where] - level).argmin()] for level in wanted])


def compare(real: Images, fake: Images, **kwargs) -> Figure:
    """Real slices in the upper row, generated ones in the lower; both [n, ...] with the same n."""
    real, fake = to_uint8(real), to_uint8(fake)
    if real.shape != fake.shape:
        raise ValueError(f"Compare as many slices of one size: {list(real.shape)} real, {list(fake.shape)} generated.")
    alt = f"{len(real)} real slices in the upper row, {len(fake)} generated slices in the lower row."
    return grid(np.concatenate([real, fake]), len(real), row_titles=("real", "generated"), **{"alt": alt, **kwargs})


def difference(a: Images, b: Images, window: int = 128) -> np.ndarray:
    """|a - b| pixel by pixel as uint8 [n, R, R]: black is equal, white is ``window`` grey levels of 255 or more apart."""
    away = np.abs(to_uint8(a).astype(int) - to_uint8(b))
    return (away * 255 / window).clip(0, 255).round().astype(np.uint8)


def projections(target: Images, projected: Images, **kwargs) -> Figure:
    """Real slices, what `projection.project` drew of them, and where the two differ; both [n, ...]."""
    rows = [to_uint8(target), to_uint8(projected), difference(target, projected)]
    alt = f"{len(rows[0])} real slices in the upper row, their projections in the middle, the absolute difference below."
    titles = ("real", "projection", "difference")
    return grid(np.concatenate(rows), len(rows[0]), row_titles=titles, **{"alt": alt, **kwargs})


def matched(*sheets: Images) -> list[np.ndarray]:
    """Sheets of slices of different sizes enlarged by whole numbers to that of the largest; sizes are powers of two."""
    pixels = [to_uint8(sheet) for sheet in sheets]
    size = max(sheet.shape[1] for sheet in pixels)
    return [enlarge(sheet, size // sheet.shape[1]) for sheet in pixels]


def truncation(images: torch.Tensor, psis: Sequence[float], seeds: Sequence[int], **kwargs) -> Figure:
    """images [seeds, psis, C, R, R] as of `predict.truncation_sweep`."""
    alt = f"Truncation: {len(seeds)} seeds in rows, psi from {psis[0]:g} to {psis[-1]:g} in columns."
    titles = {"column_titles": [f"ψ = {psi:g}" for psi in psis], "row_titles": [f"seed {seed}" for seed in seeds]}
    return grid(images.flatten(0, 1), len(psis), **{**titles, "alt": alt, **kwargs})


def classes_at_seed(images: torch.Tensor, classes: Sequence[str], seeds: Sequence[int], **kwargs) -> Figure:
    """images [seeds, classes, C, R, R] as of `predict.class_sweep`."""
    alt = f"The same latent under each class: {len(seeds)} seeds in rows, classes {', '.join(classes)} in columns."
    titles = {"column_titles": list(classes), "row_titles": [f"seed {seed}" for seed in seeds]}
    return grid(images.flatten(0, 1), len(classes), **{**titles, "alt": alt, **kwargs})


def mixing_matrix(
    images: torch.Tensor,
    rows: torch.Tensor,
    cols: torch.Tensor,
    row_seeds: Sequence[int] = (),
    col_seeds: Sequence[int] = (),
    **kwargs,
) -> Figure:
    """images [n, m, C, R, R] of `predict.style_mixing`, bordered by the rows' [n, ...] and the columns' [m, ...] own slices."""
    blank = torch.ones_like(images[0, 0])[None]
    body = [x for row, mixed in zip(rows, images, strict=True) for x in (row[None], mixed)]
    fine = [f"fine: {seed}" for seed in col_seeds] or ["fine"] * len(cols)
    coarse = [f"coarse: {seed}" for seed in row_seeds] or ["coarse"] * len(rows)
    alt = f"Style mixing: {len(rows)} seeds in the left column give coarse styles, {len(cols)} in the top row fine ones."
    names = {"column_titles": ["", *fine], "row_titles": ["", *coarse]}
    return grid(torch.cat([blank, cols, *body]), len(cols) + 1, **{**names, "alt": alt, **kwargs})


def strip(images: Images, titles: Sequence[str] = (), **kwargs) -> Figure:
    """Slices [n, ...] in one row, as of `predict.interpolate` or a time-lapse."""
    alt = f"A strip of {len(images)} slices from left to right."
    return grid(images, len(images), column_titles=titles, **{"alt": alt, **kwargs})


def deviation(mean: torch.Tensor, std: torch.Tensor, off: torch.Tensor | None = None, *, scale=4, title: str = "") -> Figure:
    """Mean and pixel-wise standard deviation [1, R, R] of a slice over noise draws, and the slice without noise."""
    shown = {"noise off": off, "mean over noise draws": mean}
    shown = {name: image for name, image in shown.items() if image is not None}
    size, gap, top = scale * mean.shape[-1], 12, 56 if title else 30
    figure = Figure(((len(shown) + 1) * (size + gap) + 80) / DPI, (size + top + 10) / DPI)
    places = [_place(figure, gap + i * (size + gap), top, size, size) for i in range(len(shown) + 1)]
    for axes, (name, image) in zip(places, shown.items(), strict=False):
        _show(axes, enlarge(to_uint8(image[None]), scale)[0])
        axes.set_title(name, fontsize=9, color=INK)
    grey_levels = std.detach().cpu().mean(dim=0).numpy() * 127.5
    window = {"cmap": "viridis", "vmin": 0, "vmax": max(float(grey_levels.max()), 1e-3)}
    drawn = places[-1].imshow(grey_levels, interpolation="nearest", **window)
    places[-1].set_axis_off()
    places[-1].set_title("standard deviation, of 255", fontsize=9, color=INK)
    bar = figure.colorbar(drawn, cax=_place(figure, gap + len(places) * (size + gap), top, 12, size))
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.outline.set_visible(False)
    figure.suptitle(title, fontsize=10.5, color=INK, x=gap / figure.bbox.width, ha="left")
    text = f"at most {grey_levels.max():.1f} of 255 grey levels, {grey_levels.mean():.2f} on average."
    return describe(figure, f"{title + '. ' if title else ''}Where noise changes the slice: {text}")


def _text_width(text: str, size: float) -> int:
    """Width in pixels of the longest line of a text of this size in points."""
    lines = [TextPath((0, 0), line.replace("$", r"\$"), size=size) for line in text.splitlines() if line.strip()]
    return int(max((line.get_extents().width for line in lines), default=0) * DPI / 72)


def _mosaic(tiles: np.ndarray, rows: int, columns: int, gap: int) -> np.ndarray:
    blank = np.full((rows * columns - len(tiles), *tiles.shape[1:]), 255, np.uint8)
    pad = [(0, 0), (gap // 2, gap - gap // 2), (gap // 2, gap - gap // 2), *[(0, 0)] * (tiles.ndim - 3)]
    tiles = np.pad(np.concatenate([tiles, blank]), pad, constant_values=255)  # [rows columns, H, W(, 3)]
    tiles = tiles.reshape(rows, columns, *tiles.shape[1:]).swapaxes(1, 2)  # [rows, H, columns, W(, 3)]
    return tiles.reshape(rows * tiles.shape[1], columns * tiles.shape[3], *tiles.shape[4:])


def _place(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at these pixels, counted from the upper left corner, so that one picture pixel is one figure pixel."""
    full_width, full_height = figure.get_size_inches() * DPI
    return figure.add_axes((left / full_width, 1 - (top + height) / full_height, width / full_width, height / full_height))


def _show(axes: Axes, pixels: np.ndarray) -> None:
    """uint8 [H, W(, 3)] as they are; grey ones as three channels, since a colour map may round them by one level."""
    rgb = pixels if pixels.ndim == 3 else pixels[..., None].repeat(3, axis=2)
    axes.imshow(rgb, interpolation="nearest", extent=(0, pixels.shape[1], pixels.shape[0], 0))
    axes.set_axis_off()


def _mark(axes: Axes, marks: Sequence[str] | None, size: int) -> None:
    places = ((0.5, 0.02, "center", "top"), (0.5, 0.98, "center", "bottom"),
              (0.03, 0.5, "left", "center"), (0.97, 0.5, "right", "center"))  # fmt: skip
    for text, (x, y, ha, va) in zip(marks or (), places, strict=False):
        axes.text(x * size, y * size, text, ha=ha, va=va, fontsize=7, color=ACCENT, fontweight="bold")
