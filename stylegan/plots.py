"""Sheets of slices: arrays in, Figure out. Nothing here samples, trains or shows (`charts` holds curves, bars and maps).

Slices keep one fixed grey window ([-1, 1] is black to white) and are enlarged by whole numbers only, so that what looks
different is different. Each Figure carries a sentence for those who cannot see it in ``alt_text``.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import matplotlib.figure
import matplotlib.text
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.textpath import TextPath
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torchvision.utils import make_grid

from stylegan.predict import Images, to_uint8

ACCENT = "#E69F00"  # of the marks on slices; Okabe and Ito's orange
INK, DPI = "#333333", 130
WIDTH, HEIGHT, GAP = 1240, 1000, 2  # pixels that a sheet should not pass (an HTML column, a screen), and between slices


class Figure(matplotlib.figure.Figure):
    """A figure outside pyplot (so that none is left open), shown by Jupyter with its alt text."""

    alt_text = ""

    def __init__(self, width: float = 9.0, height: float = 3.4, **kwargs):
        super().__init__(figsize=(width, height), dpi=DPI, facecolor="white", **kwargs)
        FigureCanvasAgg(self)

    def draw(self, renderer) -> None:
        """Draw every text as it is: what stands between two dollars is no formula, and may be the name of any folder."""
        for text in self.findobj(matplotlib.text.Text):
            text.set_parse_math(False)
        with matplotlib.rc_context({"text.parse_math": False}):  # of ticks that are made while drawing
            super().draw(renderer)

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        png = io.BytesIO()
        self.savefig(png, format="png", metadata={"Description": self.alt_text})
        data = {"image/png": _base64(png.getvalue()), "text/plain": self.alt_text or repr(self)}
        return data, {"image/png": {"alt": self.alt_text}}


def set_alt_text(figure: matplotlib.figure.Figure, text: str) -> matplotlib.figure.Figure:
    """Give a figure its alt text."""
    figure.alt_text = text
    return figure


def save(path: Path, picture: np.ndarray | Sequence[np.ndarray] | Figure, text: Mapping[str, str]) -> Path:
    """Write a figure, a slice (uint8 [R, R] or [R, R, 3]) or the slices of a .gif, one pixel for one, with entries that say what it is."""
    if isinstance(picture, matplotlib.figure.Figure):
        picture.savefig(path, metadata=dict(text))
    elif path.suffix == ".gif":
        first, *others = map(Image.fromarray, picture)
        comment = "; ".join(f"{key}: {value}" for key, value in text.items() if value)
        first.save(path, save_all=True, append_images=others, duration=60, loop=0, comment=comment.encode())
    else:
        png = PngInfo()
        for key, value in text.items():
            png.add_text(key, value)
        Image.fromarray(picture).save(path, pnginfo=png)
    return path


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
    notes: Sequence[str] = (),
    title: str = "",
    caption: str = "",
    alt: str = "",
    margin: int = 0,
) -> Figure:
    """A sheet of slices [n, ...] (see `to_uint8`), row by row, or of a tensor [rows, columns, C, R, R]; blank places stay white.

    scale: whole-number enlargement, None for the largest (up to 4) that fits a page. marks: what lies at the (top, bottom,
    left, right) of a slice, such as ('A', 'P', 'R', 'L'), written on the first one. notes: one for each slice, in its corner.
    margin: pixels kept free at the right.
    """
    if images.ndim == 5:
        columns, images = images.shape[1], images.flatten(0, 1)
    tiles = to_uint8(images)
    columns = columns or min(len(tiles), 8)
    rows, size = -(-len(tiles) // columns), tiles.shape[1]
    left = 6 + max((14 + _text_width(text, 8) for text in row_titles), default=0)
    scale = scale or int(np.clip(min((WIDTH - left - columns * GAP) // (columns * size), HEIGHT // (rows * size)), 1, 4))
    step = scale * size + GAP
    height, width = rows * step, columns * step
    top, bottom = 6 + 24 * bool(title) + 18 * bool(column_titles), 6 + 20 * bool(caption)
    full_width = left + 8 + max(width + margin, min(_text_width(caption, 8), WIDTH - left))
    figure = Figure(full_width / DPI, (height + top + bottom) / DPI)
    axes = _place(figure, left, top, width, height)
    _show(axes, _mosaic(enlarge(tiles, scale), rows, columns))
    for i, text in enumerate(column_titles):
        axes.text((i + 0.5) * step, -4, text, ha="center", va="bottom", fontsize=8, color=INK)
    for i, text in enumerate(row_titles):
        axes.text(-6, (i + 0.5) * step, text, ha="right", va="center", fontsize=8, color=INK)
    places = ((0.5, 0.02, "center", "top"), (0.5, 0.98, "center", "bottom"),
              (0.03, 0.5, "left", "center"), (0.97, 0.5, "right", "center"))  # fmt: skip
    for text, (x, y, ha, va) in zip(marks or (), places, strict=False):
        axes.text(x * scale * size, y * scale * size, text, ha=ha, va=va, fontsize=7, color=ACCENT, fontweight="bold")
    for i, text in enumerate(notes):  # where no head reaches
        place = (i % columns) * step + 4, (i // columns + 1) * step - 4
        axes.text(*place, text, ha="left", va="bottom", fontsize=8, color="white")
    if title:
        figure.text(left / figure.bbox.width, 1 - 6 / figure.bbox.height, title, va="top", fontsize=10.5, color=INK)
    if caption:
        figure.text(left / figure.bbox.width, 5 / figure.bbox.height, caption, va="bottom", fontsize=8, color="#555555")
    return set_alt_text(figure, alt or f"Sheet of {len(tiles)} slices, {columns} in a row. {title} {caption}".strip())


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


def strip(images: Images, titles: Sequence[str] = (), **kwargs) -> Figure:
    """Slices [n, ...] in one row, such as a walk or a time-lapse."""
    return grid(images, len(images), column_titles=titles, **{"alt": f"{len(images)} slices from left to right.", **kwargs})


def compare(real: Images, drawn: Images, name: str = "generated", *, difference: bool = False, **kwargs) -> Figure:
    """Real slices above, as many others below, both [n, ...]; with ``difference`` also |a - b|: black is equal, white is half of 255 or more."""
    rows = {"real": to_uint8(real), name: to_uint8(drawn)}
    if rows["real"].shape != rows[name].shape:
        raise ValueError(
            f"Compare as many slices of one size: {list(rows['real'].shape)} real, {list(rows[name].shape)} {name}."
        )
    if difference:
        away = np.abs(rows["real"].astype(int) - rows[name])
        rows["difference"] = (away * 255 / 128).clip(0, 255).round().astype(np.uint8)
    alt = f"{len(real)} slices in each row, from above: {', '.join(rows)}."
    return grid(np.concatenate(list(rows.values())), len(real), row_titles=list(rows), **{"alt": alt, **kwargs})


def class_pairs(
    pairs: Tensor, classes: Sequence[str], titles: Sequence[str] = (), *, notes: Sequence[str] = (), caption: str = ""
) -> Figure:
    """Each seed [n, 2, C, R, R] as the first class, as the second, and second minus first in grey levels: red is brighter.

    pairs: as returned by `predict.class_sweep` with two classes. titles: one above each seed; notes: one in the corner of each
    slice, the n of the first class before those of the second.
    """
    first, second = (to_uint8(pairs[:, i]) for i in (0, 1))
    away = second.astype(int) - first
    away = away.mean(axis=3) if away.ndim == 4 else away  # [n, R, R]
    most = max(float(np.abs(away).max()), 1.0)
    scale = ScalarMappable(Normalize(-most, most), "RdBu_r")
    grey = np.concatenate([first, second])
    rgb = grey if grey.ndim == 4 else grey[..., None].repeat(3, axis=3)
    tiles, rows = np.concatenate([rgb, scale.cmap(scale.norm(away), bytes=True)[..., :3]]), [*classes, "difference"]
    text = f"Upper row: {classes[0]}. Middle row: the same seeds as {classes[1]}. Lower row: what changes"
    text += f", at most {most:.0f} of 255 grey levels, {np.abs(away).mean():.1f} on average."
    figure = grid(tiles, len(first), row_titles=rows, column_titles=titles, notes=notes, caption=caption, alt=text, margin=60)
    box, width = figure.axes[0].get_position(), figure.bbox.width
    bar = figure.colorbar(scale, cax=figure.add_axes((box.x1 + 8 / width, box.y0, 12 / width, box.height / 3)))
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, colors=INK)
    return figure


def matched(*sheets: Images) -> list[np.ndarray]:
    """Sheets of slices of different sizes enlarged by whole numbers to that of the largest; sizes are powers of two."""
    pixels = [to_uint8(sheet) for sheet in sheets]
    size = max(sheet.shape[1] for sheet in pixels)
    return [enlarge(sheet, size // sheet.shape[1]) for sheet in pixels]


def mixing_matrix(
    mixed: Tensor, rows: Tensor, cols: Tensor, row_seeds: Sequence[int], col_seeds: Sequence[int], **kwargs
) -> Figure:
    """``mixed`` [n, m, C, R, R] as returned by `latent.style_mixing`, bordered by the rows' [n, ...] and the columns' [m, ...] own slices."""
    body = torch.cat([rows[:, None], mixed], dim=1)
    top = torch.cat([torch.ones_like(cols[:1]), cols])
    names = {
        "column_titles": ["", *(f"fine: {seed}" for seed in col_seeds)],
        "row_titles": ["", *(f"coarse: {seed}" for seed in row_seeds)],
    }
    alt = f"Style mixing: {len(rows)} seeds in the left column give coarse styles, {len(cols)} in the top row fine ones."
    return grid(torch.cat([top[None], body]), **{**names, "alt": alt, **kwargs})


def deviation(off: Tensor, mean: Tensor, std: Tensor, *, scale: int = 4, title: str = "") -> Figure:
    """A slice [1, R, R] without noise, and its mean and pixel-wise standard deviation over noise draws."""
    size, gap, top = scale * mean.shape[-1], 12, 56 if title else 30
    figure = Figure((3 * (size + gap) + 80) / DPI, (size + top + 10) / DPI)
    places = [_place(figure, gap + i * (size + gap), top, size, size) for i in range(3)]
    grey_levels = std.detach().cpu().mean(dim=0).numpy() * 127.5
    for axes, image in zip(places, (off, mean), strict=False):
        _show(axes, enlarge(to_uint8(image[None]), scale)[0])
    drawn = places[2].imshow(
        grey_levels, interpolation="nearest", cmap="viridis", vmin=0, vmax=max(float(grey_levels.max()), 1e-3)
    )
    for axes, name in zip(places, ("noise off", "mean over noise draws", "standard deviation, of 255"), strict=True):
        axes.set_axis_off()
        axes.set_title(name, fontsize=9, color=INK)
    bar = figure.colorbar(drawn, cax=_place(figure, gap + 3 * (size + gap), top, 12, size))
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.outline.set_visible(False)
    figure.suptitle(title, fontsize=10.5, color=INK, x=gap / figure.bbox.width, ha="left")
    text = f"at most {grey_levels.max():.1f} of 255 grey levels, {grey_levels.mean():.2f} on average."
    return set_alt_text(figure, f"{title + '. ' if title else ''}Where noise changes the slice: {text}")


# --- Moving pictures ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MovingPicture:
    """An animation as notebooks show it: its last frame stands still in print and for readers who ask for reduced motion."""

    webp: bytes
    still: bytes  # PNG
    size: tuple[int, int]
    alt_text: str

    def html(self) -> str:
        """A <picture> that needs no other file."""
        still, webp = (f"data:image/{kind};base64,{_base64(x)}" for kind, x in (("png", self.still), ("webp", self.webp)))
        media, (width, height) = "(prefers-reduced-motion: reduce), print", self.size
        image = f'<img src="{webp}" width="{width}" height="{height}" alt="{escape(self.alt_text)}" style="max-width:100%;height:auto">'
        return f'<picture><source media="{media}" srcset="{still}">{image}</picture>'

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        data = {"text/html": self.html(), "image/png": _base64(self.still), "text/plain": self.alt_text}
        return data, {"image/png": {"alt": self.alt_text}}


def progress(run_dir: str | Path, count: int = 40, most_bytes: int = 1_000_000) -> MovingPicture:
    """The sample grids of a run, the same z in each, as one animation of at most ``count`` frames and about ``most_bytes`` bytes.

    Raises FileNotFoundError where there are no grids.
    """
    files = sample_grids(run_dir, count)
    kimg = [int(path.stem[5:]) / 1000 for path in files]
    frames = [_frame(path, at, kimg[-1]) for path, at in zip(files, kimg, strict=True)]
    for quality in (90, 75, 50, 25):
        moving, still = io.BytesIO(), io.BytesIO()
        durations = [*[160] * (len(frames) - 1), 2500]
        frames[0].save(moving, "webp", save_all=True, append_images=frames[1:], duration=durations, loop=0, quality=quality)
        if moving.tell() <= most_bytes:
            break
    frames[-1].convert("L" if Image.open(files[-1]).mode == "L" else "RGB").save(still, "png", optimize=True)
    text = f"The same seeds in {len(files)} moments of the training, from {kimg[0]:g} to {kimg[-1]:g} kimg."
    return MovingPicture(moving.getvalue(), still.getvalue(), frames[0].size, text)


def sample_grids(run_dir: str | Path, count: int) -> list[Path]:
    """The sample grids of at most ``count`` ticks of a run, evenly over it. Raises FileNotFoundError where there are none."""
    files = sorted((Path(run_dir) / "samples").glob("fakes*.png"))
    if not files:
        raise FileNotFoundError(f"{run_dir} holds no sample grids; train there first.")
    return [files[i] for i in np.unique(np.linspace(0, len(files) - 1, count).round().astype(int))]


def _frame(path: Path, kimg: float, total: float) -> Image.Image:
    """A sample grid, as many of its eight columns as fit, enlarged by a whole number, above a bar of how far training was."""
    sheet = Image.open(path, formats=("PNG",)).convert("RGB")
    size, scale = sheet.width // 8, max(1, 640 // sheet.width)
    sheet = sheet.crop((0, 0, size * min(8, max(2, 1024 // size)), sheet.height))
    sheet = sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST)
    frame = Image.new("RGB", (sheet.width, sheet.height + 20), "white")
    frame.paste(sheet)
    draw, done = ImageDraw.Draw(frame), round(sheet.width * kimg / max(total, 1e-9))
    draw.rectangle((0, sheet.height, done, sheet.height + 3), fill=ACCENT)
    draw.text((2, sheet.height + 4), f"{kimg:g} of {total:g} kimg", fill=INK, font=ImageFont.load_default(12))
    return frame


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _text_width(text: str, size: float) -> int:
    """Width in pixels of the longest line of a text of this size in points."""
    lines = [TextPath((0, 0), line.replace("$", r"\$"), size=size) for line in text.splitlines() if line.strip()]
    return int(max((line.get_extents().width for line in lines), default=0) * DPI / 72)


def _mosaic(tiles: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """uint8 [n, H, W(, 3)] -> [rows (H + GAP), columns (W + GAP), 3], each slice in the middle of its place."""
    x = torch.from_numpy(tiles).reshape(*tiles.shape[:3], -1).permute(0, 3, 1, 2)  # [n, C, H, W]
    blank = x.new_full((rows * columns + 1 - len(x), *x.shape[1:]), 255)  # one more: of a single slice make_grid makes no grid
    sheet = make_grid(torch.cat([x, blank]), nrow=columns, padding=GAP, pad_value=255).permute(1, 2, 0).numpy()
    start, height, width = GAP // 2, rows * (x.shape[2] + GAP), columns * (x.shape[3] + GAP)
    return sheet[start : start + height, start : start + width]


def _place(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at these pixels, counted from the upper left corner, so that one picture pixel is one figure pixel."""
    full_width, full_height = figure.get_size_inches() * DPI
    return figure.add_axes((left / full_width, 1 - (top + height) / full_height, width / full_width, height / full_height))


def _show(axes: Axes, pixels: np.ndarray) -> None:
    """uint8 [H, W(, 3)] as they are; grey ones as three channels, since a colour map may round them by one level."""
    rgb = pixels if pixels.ndim == 3 else pixels[..., None].repeat(3, axis=2)
    axes.imshow(rgb, interpolation="nearest", extent=(0, pixels.shape[1], pixels.shape[0], 0))
    axes.set_axis_off()
