"""Sheets of slices: arrays in, Figure out. Nothing here samples, trains or shows (`charts` holds curves, bars and maps).

Slices keep one fixed grey window ([-1, 1] is black to white) and are enlarged by whole numbers only, so that what looks
different is different. Each Figure carries a sentence for those who cannot see it in ``alt_text``.
"""

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
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.textpath import TextPath
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from stylegan.files import replacing
from stylegan.predict import Images, to_uint8

ACCENT = "#E69F00"  # of the marks on slices; Okabe and Ito's orange
INK, DPI = "#333333", 130
BEHIND = {"facecolor": "black", "alpha": 0.6, "linewidth": 0, "pad": 1.5}  # a note on a slice
PLACES = ((0.5, 0.02, "center", "top"), (0.5, 0.98, "center", "bottom"),  # of marks on a slice
          (0.03, 0.5, "left", "center"), (0.97, 0.5, "right", "center"))  # fmt: skip
WIDTH, HEIGHT, GAP = 1240, 1000, 2  # pixels that a sheet should not pass (an HTML column, a screen), and between slices


class Figure(matplotlib.figure.Figure):
    """A figure outside pyplot (so that none is left open), shown by Jupyter with its alt text."""

    alt_text = ""

    def __init__(self, width: float = 9.0, height: float = 3.4, **kwargs):
        super().__init__(figsize=(width, height), dpi=DPI, facecolor="white", **kwargs)

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
    figure.alt_text = text
    return figure


def save(path: Path, picture: np.ndarray | Sequence[np.ndarray] | Figure, text: Mapping[str, str]) -> Path:
    """Write a figure, a slice (uint8 [R, R] or [R, R, 3]) or the slices of a .gif, one pixel for one, with entries that say what it is."""
    with replacing(path) as temporary:
        if isinstance(picture, matplotlib.figure.Figure):
            picture.savefig(temporary, format="png", metadata=dict(text))
        elif path.suffix == ".gif":
            first, *others = map(Image.fromarray, picture)
            comment = "; ".join(f"{key}: {value}" for key, value in text.items() if value)
            first.save(temporary, "GIF", save_all=True, append_images=others, duration=60, loop=0, comment=comment.encode())
        else:
            png = PngInfo()
            for key, value in text.items():
                png.add_text(key, value)
            Image.fromarray(picture).save(temporary, "PNG", pnginfo=png)
    return path


# --- Sheets of slices ---------------------------------------------------------------------------------------------------


def enlarge(pixels: np.ndarray, scale: int) -> np.ndarray:
    """uint8 [n, R, R(, 3)] -> [n, scale R, scale R(, 3)]."""
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
    caption: str = "",
    alt: str = "",
    bar: ScalarMappable | None = None,
) -> Figure:
    """A sheet of slices [n, ...] (see `to_uint8`), row by row, or of a tensor [rows, columns, C, R, R]. scale: None for the
    largest whole number that fits a page, up to 4 or what the texts take. marks: what lies at the (top, bottom, left, right),
    written on the first slice. notes: one for each, in its corner. bar: the colours of some slices."""
    if images.ndim == 5:
        columns, images = images.shape[1], images.flatten(0, 1)
    tiles = _three_channels(images)
    columns = columns or min(len(tiles), 8)
    rows, size = -(-len(tiles) // columns), tiles.shape[1]
    left = 6 + max((14 + _text_width(text, 8) for text in row_titles), default=0)
    wide = 8 + max((_text_width(text, 8) for text in (*column_titles, *notes)), default=0)  # texts of neighbours must not meet
    fitting = min((WIDTH - left - columns * GAP) // (columns * size), HEIGHT // (rows * size))
    scale = scale or int(np.clip(fitting, 1, max(4, -(-wide // size))))
    step = scale * size + GAP
    width, height, bottom = columns * step, rows * step, 6 + 20 * bool(caption)
    full_width = left + 8 + max(width + 60 * (bar is not None), min(_text_width(caption, 8), WIDTH - left))
    full_height = 6 + 18 * bool(column_titles) + height + bottom
    figure = Figure(full_width / DPI, full_height / DPI)
    axes = figure.add_axes((left / full_width, bottom / full_height, width / full_width, height / full_height))
    axes.imshow(_mosaic(enlarge(tiles, scale), rows, columns), interpolation="nearest", extent=(0, width, height, 0))
    axes.set_axis_off()
    for i, text in enumerate(column_titles):
        axes.text((i + 0.5) * step, -4, text, ha="center", va="bottom", fontsize=8, color=INK)
    for i, text in enumerate(row_titles):
        axes.text(-6, (i + 0.5) * step, text, ha="right", va="center", fontsize=8, color=INK)
    for i, text in enumerate(notes):
        axes.text((i % columns) * step + 5, (i // columns + 1) * step - 6, text, fontsize=8, color="white", bbox=BEHIND)
    for text, (x, y, ha, va) in zip(marks or (), PLACES, strict=False):
        axes.text(x * (step - GAP), y * (step - GAP), text, ha=ha, va=va, fontsize=7, color=ACCENT, fontweight="bold")
    figure.text(left / full_width, 5 / full_height, caption, va="bottom", fontsize=8, color="#555555")
    if bar is not None:
        place = (left + width + 8) / full_width, bottom / full_height, 12 / full_width, min(height, step) / full_height
        colours = figure.colorbar(bar, cax=figure.add_axes(place))
        colours.outline.set_visible(False)
        colours.ax.tick_params(labelsize=7, colors=INK)
    return set_alt_text(figure, alt or f"Sheet of {len(tiles)} slices, {columns} in a row. {caption}".strip())


def _three_channels(images: Images) -> np.ndarray:
    """Slices [n, ...] (see `to_uint8`) -> uint8 [n, R, R, 3]: a colour map may round grey ones by one level."""
    pixels = to_uint8(images)
    return pixels if pixels.ndim == 4 else pixels[..., None].repeat(3, axis=3)


def _mosaic(tiles: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """uint8 [n, H, W, 3] -> [rows (H + GAP), columns (W + GAP), 3], each slice in the middle of its place."""
    edge = (GAP // 2, GAP // 2)
    tiles = np.pad(tiles, [(0, rows * columns - len(tiles)), edge, edge, (0, 0)], constant_values=255)
    height, width = tiles.shape[1:3]
    return tiles.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)


def _text_width(text: str, size: float) -> int:
    """Width in pixels of the longest line of a text of this size in points."""
    lines = [TextPath((0, 0), line.replace("$", r"\$"), size=size) for line in text.splitlines() if line.strip()]
    return int(max((line.get_extents().width for line in lines), default=0) * DPI / 72)


def strip(images: Images, titles: Sequence[str] = (), **kwargs) -> Figure:
    """Slices [n, ...] in one row, such as a walk or a time-lapse."""
    return grid(images, len(images), column_titles=titles, alt=f"{len(images)} slices from left to right.", **kwargs)


def preview(images: Images, labels, classes: Sequence[str], levels, *, columns: int = 8, subjects=None, **kwargs) -> Figure:
    """One row per class, one column per level, lowest first; the first slices of each class where levels are unknown (-1).
    labels [n] index into classes (-1: unknown), levels [n]; with ``subjects`` [n] each row is one person."""
    wanted = np.unique(np.linspace(levels.min(), levels.max(), columns).round().astype(int)) if levels.max() > 0 else []
    rows = {}
    for index, name in [*enumerate(classes), (-1, "unknown")]:
        where = np.flatnonzero(labels == index)
        if len(wanted) and len(where) and subjects is not None:
            where = where[subjects[where] == subjects[where[0]]]
        if len(where):
            rows[name] = [where[np.abs(levels[where] - level).argmin()] for level in wanted] or where[:columns]
    columns = max(map(len, rows.values()))
    blank = [(0, 0), (0, 0), (0, 0)]
    tiles = [np.pad(_three_channels(images[r]), [(0, columns - len(r)), *blank], constant_values=255) for r in rows.values()]
    titles = {"column_titles": [f"level {level}" for level in wanted], "row_titles": list(rows)}
    alt = f"Slices by class in rows ({', '.join(rows)}) and by level of the head in columns."
    return grid(np.concatenate(tiles), columns, alt=alt, **titles, **kwargs)


def compare(
    first: Images, second: Images, names: Sequence[str] = ("real", "generated"), *, difference: bool = False, **kwargs
) -> Figure:
    """Two rows of as many slices [n, ...], the smaller ones enlarged by a whole number to the size of the others. With
    ``difference`` a third row is the second minus the first in grey levels, red where the second is brighter."""
    rows = [_three_channels(sheet) for sheet in (first, second)]
    size = max(row.shape[1] for row in rows)
    rows = [enlarge(row, size // row.shape[1]) for row in rows]
    if rows[0].shape != rows[1].shape:
        raise ValueError(f"Compare sets of one size: {list(first.shape)} {names[0]}, {list(second.shape)} {names[1]}.")
    alt, bar = f"{len(first)} slices in each row, from above: {', '.join(names)}.", None
    if difference:
        away = (rows[1].astype(int) - rows[0]).mean(axis=3)  # [n, R, R]
        most = max(float(np.abs(away).max()), 1.0)
        bar, names = ScalarMappable(Normalize(-most, most), "RdBu_r"), (*names, "difference")
        rows.append(_painted(away, bar))
        alt += f" Below, what changes: at most {most:.0f} of 255 grey levels, {np.abs(away).mean():.1f} on average."
    return grid(np.concatenate(rows), len(first), row_titles=names, bar=bar, alt=alt, **kwargs)


def deviation(off: Tensor, mean: Tensor, std: Tensor, **kwargs) -> Figure:
    """A slice [1, R, R] without noise, and its mean and pixel-wise standard deviation over noise draws."""
    away = std.detach().cpu().numpy().mean(axis=0)[None] * 127.5  # [1, R, R]
    bar = ScalarMappable(Normalize(0, max(float(away.max()), 1e-3)), "viridis")
    alt = f"Where noise changes the slice: at most {away.max():.1f} of 255 grey levels, {away.mean():.2f} on average."
    titles = "noise off", "mean over noise draws", "standard deviation, of 255"
    tiles = np.concatenate([_three_channels(torch.stack([off, mean])), _painted(away, bar)])
    return grid(tiles, 3, column_titles=titles, bar=bar, alt=alt, **kwargs)


def _painted(values: np.ndarray, colours: ScalarMappable) -> np.ndarray:
    """Numbers [n, R, R] as slices in colour: uint8 [n, R, R, 3]."""
    return colours.cmap(colours.norm(values), bytes=True)[..., :3]


def mixing_matrix(
    mixed: Tensor, rows: Tensor, cols: Tensor, row_seeds: Sequence[int], col_seeds: Sequence[int], **kwargs
) -> Figure:
    """``mixed`` [n, m, C, R, R] as returned by `predict.style_mixing`, bordered by the rows' [n, ...] and the columns' [m, ...] own slices."""
    top = torch.cat([torch.ones_like(cols[:1]), cols])
    sheet = torch.cat([top[None], torch.cat([rows[:, None], mixed], dim=1)])
    columns, left = ["", *(f"fine: {seed}" for seed in col_seeds)], ["", *(f"coarse: {seed}" for seed in row_seeds)]
    alt = f"Style mixing: {len(rows)} seeds in the left column give coarse styles, {len(cols)} in the top row fine ones."
    return grid(sheet, column_titles=columns, row_titles=left, alt=alt, **kwargs)


# --- Moving pictures ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MovingPicture:
    """An animation as notebooks show it: its last frame stands still in print and for readers who ask for reduced motion."""

    webp: bytes
    still: Image.Image
    alt_text: str

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        still, moving = data_uri(self.still), f"data:image/webp;base64,{_base64(self.webp)}"
        size = f'width="{self.still.width}" height="{self.still.height}" style="max-width:100%;height:auto"'
        html = (
            f'<picture><source media="(prefers-reduced-motion: reduce), print" srcset="{still}">'
            f'<img src="{moving}" alt="{escape(self.alt_text)}" {size}></picture>'
        )
        data = {"text/html": html, "image/png": still.partition(",")[2], "text/plain": self.alt_text}
        return data, {"image/png": {"alt": self.alt_text}}


def progress(run_dir: str | Path, count: int = 40) -> MovingPicture:
    """The grids of `sample_grids` over a bar of how far training was, as one animation of about a megabyte at most."""
    grids, frames = sample_grids(run_dir, count), []
    for kimg, sheet in grids.items():
        size, scale = sheet.width // 8, max(1, 640 // sheet.width)
        sheet = sheet.crop((0, 0, size * min(8, max(2, 1024 // size)), sheet.height))  # as many of the eight columns as fit
        sheet = sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST)
        frame = Image.new("RGB", (sheet.width, sheet.height + 20), "white")
        frame.paste(sheet)
        draw, done = ImageDraw.Draw(frame), round(sheet.width * kimg / max(*grids, 1e-9))
        draw.rectangle((0, sheet.height, done, sheet.height + 3), fill=ACCENT)
        draw.text((2, sheet.height + 4), f"{kimg:g} of {max(grids):g} kimg", fill=INK, font=ImageFont.load_default(12))
        frames.append(frame)
    looks = {"save_all": True, "append_images": frames[1:], "duration": [160] * (len(grids) - 1) + [2500], "loop": 0}
    for quality in (90, 60, 30):
        moving = io.BytesIO()
        frames[0].save(moving, "webp", quality=quality, **looks)
        if moving.tell() <= 1_000_000:
            break
    text = f"The same seeds in {len(grids)} moments of the training, from {min(grids):g} to {max(grids):g} kimg."
    return MovingPicture(moving.getvalue(), frames[-1], text)


def sample_grids(run_dir: str | Path, count: int) -> dict[float, Image.Image]:
    """kimg -> sample grid of at most ``count`` ticks of a run, evenly over it. Raises FileNotFoundError where there are none."""
    files = sorted((Path(run_dir) / "samples").glob("fakes*.png"))
    if not files:
        raise FileNotFoundError(f"{run_dir} holds no sample grids; train there first.")
    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, count).round().astype(int))]
    return {int(path.stem[5:]) / 1000: Image.open(path, formats=("PNG",)).convert("RGB") for path in chosen}


def data_uri(picture: Image.Image) -> str:
    """A picture as a link that needs no other file, its PNG as small as it gets."""
    png = io.BytesIO()
    picture.save(png, "png", optimize=True)
    return f"data:image/png;base64,{_base64(png.getvalue())}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
