"""One picture file: read it as grey, tell whether it is a slice at all, and frame it as a square with the front of the head up.

Framing never stretches: one square per shape of picture around the foreground of the *whole* set, so that all slices keep their
common scale, black where the square leaves the picture, and one Lanczos resize.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm"})
FOREGROUND = 16 / 255  # of white: above JPEG ringing, below the faintest cortex
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # no other decoder is started: PostScript would run a program
LARGEST_SIDE = 8192  # pixels; a larger "slice" is a mistake or a decompression bomb
LFS_HEADER = b"version https://git-lfs"


class LeftOut(ValueError):  # noqa: N818 - not an error of the program
    """This file is no slice: the reason under which it is counted, and a sentence where there is more to say."""

    def __init__(self, reason: str, sentence: str = "") -> None:
        super().__init__(reason)
        self.sentence = sentence


def read_picture(path: Path) -> np.ndarray:
    """The grey picture [H, W]: uint8, or float32 in the file's own units where it has more than 8 bits.

    Raises ``LeftOut`` for whatever is not a readable picture.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if max(image.size) > LARGEST_SIDE:
                raise LeftOut(f"larger than {LARGEST_SIDE} pixels")
            if getattr(image, "is_animated", False) and image.format != "MPO":  # cameras put a small copy behind a JPEG
                raise LeftOut(
                    "several pictures in one file", f"{path} holds {image.n_frames} pictures; save each as its own file."
                )
            image.load()
            return _to_grey(image)
    except LeftOut:
        raise
    except Image.DecompressionBombError:
        raise LeftOut(f"larger than {LARGEST_SIDE} pixels") from None
    except Exception as error:  # decoders raise whatever damaged bytes make them stumble over
        raise LeftOut(why_unreadable(path, error)) from None


def why_unreadable(path: Path, error: Exception) -> str:
    """The reason in a word or two, from the first bytes of the file."""
    try:
        with open(path, "rb") as file:
            head = file.read(len(LFS_HEADER))
    except OSError:
        return "unreadable"
    if not head:
        return "empty file"
    if head == LFS_HEADER:
        return "Git LFS pointer"
    return "not an image" if isinstance(error, UnidentifiedImageError) else "unreadable"


def _to_grey(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":
        return np.nan_to_num(np.asarray(image, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0).clip(min=0)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:  # what is transparent is background
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return np.asarray(image.convert("L"))


def to_bytes(picture: np.ndarray, white: float) -> np.ndarray:
    """uint8 [H, W]; a picture of more than 8 bits is scaled so that ``white`` becomes 255, never cut off at the low byte."""
    if picture.dtype == np.uint8:
        return picture
    return np.rint(np.clip(picture * (255.0 / max(white, 1e-12)), 0, 255)).astype(np.uint8)


def common_white(peaks: list[float]) -> float:
    """One white for all deep pictures of a set; the full 16 bits where the set plainly uses them."""
    white = float(np.quantile(peaks, 0.99)) if peaks else 255.0
    return 65535.0 if white > 16383 else white


@dataclass(frozen=True)
class Measure:
    """What the framing of the whole set needs to know of one slice."""

    shape: tuple[int, int]  # height, width
    box: tuple[int, int, int, int]  # foreground: top, bottom, left, right; the ends exclusive
    peak: float  # brightest value, 0 for 8-bit pictures
    digest: str  # equal for identical pixels, whatever the file format


def measure(picture: np.ndarray) -> Measure:
    """Box, peak and digest of a grey picture [H, W]. Raises ``LeftOut`` for a blank picture or a label map."""
    deep = picture.dtype != np.uint8
    peak = float(picture.max(initial=0))
    foreground = picture > FOREGROUND * (peak if deep else 255)
    rows, columns = (_span(foreground.sum(axis)) for axis in (1, 0))
    if rows is None or columns is None or peak == picture.min():
        raise LeftOut("blank picture")
    if _is_label_map(picture):
        raise LeftOut("label map")
    digest = hashlib.blake2b(np.ascontiguousarray(picture), digest_size=16, key=repr(picture.shape).encode()).hexdigest()
    return Measure(picture.shape, (*rows, *columns), peak if deep else 0.0, digest)


def _span(counts: np.ndarray) -> tuple[int, int] | None:
    """First and last line with at least two foreground pixels, so that one hot pixel does not move the box."""
    lines = np.flatnonzero(counts >= min(2, counts.size))
    return (int(lines[0]), int(lines[-1]) + 1) if lines.size else None


def _is_label_map(picture: np.ndarray) -> bool:
    """Tissue or brain masks hold a handful of grey values (0, 85, 170, 255) in solid regions; a dithered slice is no mask."""
    few = 6
    if np.unique(picture.ravel()[:: 1 + picture.size // 512]).size > few:  # quick way out for nearly every real slice
        return False
    values = np.unique(picture).size
    dithered = values == 2 and np.mean(picture[:, 1:] != picture[:, :-1]) > 0.15
    return values <= few and not dithered


Square = tuple[int, int, int]  # top, left, side in pixels; may leave the picture


def common_squares(measures: list[Measure]) -> dict[tuple[int, int], Square]:
    """For each picture size the square to cut, around the foreground box of all slices of that aspect ratio, with no margin.

    Sizes of one aspect ratio are taken for the same field of view at different resolutions and share one box in relative units.
    A quarter of a per cent of stray slices cannot enlarge the box by more than a few pixels.
    """
    by_aspect: dict[float, list[Measure]] = {}
    for item in measures:
        by_aspect.setdefault(round(item.shape[1] / item.shape[0], 2), []).append(item)
    squares = {}
    for group in by_aspect.values():
        largest = max(item.shape for item in group)
        scale = np.array([largest[0] / item.shape[0] for item in group])
        top, bottom, left, right = np.array([item.box for item in group]).T * scale
        low = [-_outermost(-edges) for edges in (top, left)]
        high = [_outermost(edges) for edges in (bottom, right)]
        for shape in {item.shape for item in group}:
            squares[shape] = _square_around(low, high, shape[0] / largest[0])
    return squares


def _outermost(edges: np.ndarray) -> float:
    """The farthest edge that is not a stray: heads taper, so real ones go on for a few pixels beyond the quantile."""
    usual = float(np.quantile(edges, 0.9975, method="higher"))
    few = 0.03 * (usual - float(np.median(edges))) + 2
    return float(edges[edges <= usual + few].max())


def _square_around(low: list[float], high: list[float], scale: float) -> Square:
    sides = [(b - a) * scale for a, b in zip(low, high, strict=True)]
    side = max(1, round(max(sides)))
    top, left = (int(np.floor((a + b) * scale / 2 - side / 2)) for a, b in zip(low, high, strict=True))
    return top, left, side


def frame(picture: np.ndarray, square: Square, resolution: int, turns: int = 0) -> np.ndarray:
    """The square cut from uint8 [H, W] as uint8 [R, R], black outside the picture, turned counter-clockwise by quarters."""
    top, left, side = square
    cut = Image.fromarray(picture).crop((left, top, left + side, top + side))
    if side != resolution:
        cut = cut.resize((resolution, resolution), Image.Resampling.LANCZOS)
    return np.rot90(np.asarray(cut), turns)


def find_turns(mean: np.ndarray, template: np.ndarray) -> tuple[int, bool]:
    """Quarter turns that bring the set's mean picture [r, r] closest to a template with the front up, and whether it is sure.

    Both are compared by correlation; a set without a clear winner is left as it is (0, False).
    """
    assert mean.shape == template.shape and mean.ndim == 2
    if mean.std() == 0:
        return 0, False
    scores = [float(np.corrcoef(np.rot90(mean, turns).ravel(), template.ravel())[0, 1]) for turns in range(4)]
    best, second = sorted(scores, reverse=True)[:2]
    sure = best > 0.5 and best - second > 0.01
    return (int(np.argmax(scores)), True) if sure else (0, False)
