"""One picture file: read it as grey, tell whether it is a slice at all, and frame it as a square with the front of the head up.

Framing never stretches: one square per shape of picture around the foreground of the *whole* set, so that all slices keep their
common scale, black where the square leaves the picture, and one Lanczos resize without the halo that it rings around a head.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm"})
HEAD_MM = 100, 300  # what an axial head or brain may span; headers by which one spans less or more are wrong, or not of people
FOREGROUND = 16 / 255  # of white: above JPEG ringing, below the faintest cortex
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # no other decoder is started: PostScript would run a program
LARGEST_SIDE = 8192  # pixels; a larger "slice" is a mistake or a decompression bomb
LFS_HEADER = b"version https://git-lfs"
MARGIN = 0.06  # by which the axial template must win over the other planes
PLANES = {  # axis and ranges of mm of the template's mean slices
    "axial": (2, ((-2, 29), (-24, -4), (30, 50))), "coronal": (1, ((-70, -50), (-40, -10), (0, 25), (30, 50))),
    "sagittal": (0, ((-50, -35), (-25, -8), (-6, 6))),
}  # fmt: skip
IN_COLOUR = "Some pictures are in colour: their brightness is read, which is no grey value of a scan under a colour map."
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as Pillow's own conversion to grey


class LeftOut(ValueError):  # noqa: N818 - not an error of the program
    """This file is no slice: the reason under which it is counted, and a sentence where there is more to say."""

    def __init__(self, reason: str, sentence: str = "") -> None:
        super().__init__(reason)
        self.sentence = sentence


@dataclass(frozen=True)
class Measure:
    """What the framing of the whole set needs to know of one slice."""

    shape: tuple[int, int]  # height, width
    box: tuple[int, int, int, int]  # foreground: top, bottom, left, right; the ends exclusive
    floor: float  # what is black: 0, or the darkest value where some are below 0
    peak: float | None  # brightest value, None for 8-bit pictures
    digest: str  # equal for identical pixels, whatever the file format
    mm: float = 0  # width of a pixel, where the header of a volume tells it


def read_picture(path: Path, said: list[str]) -> np.ndarray:
    """The grey picture [H, W]: uint8, or float32 in the file's own units where it has more than 8 bits.

    That it is in colour is told in ``said``. Raises ``LeftOut`` for whatever is not a readable picture.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if max(image.size) > LARGEST_SIDE:
                raise LeftOut(f"larger than {LARGEST_SIDE} pixels")
            if getattr(image, "is_animated", False) and image.format != "MPO":  # cameras put a small copy behind a JPEG
                raise LeftOut("several pictures in one file", f"{path} holds {image.n_frames} pictures; save each as a file.")
            if (deep := _sixteen_bits(image, path)) is not None:
                return deep
            image.load()
            return _to_grey(ImageOps.exif_transpose(image), said)  # some writers turn a picture by a note in it
    except LeftOut:
        raise
    except Image.DecompressionBombError:
        raise LeftOut(f"larger than {LARGEST_SIDE} pixels") from None
    except Exception as error:  # decoders raise whatever damaged bytes make them stumble over
        raise LeftOut(why_unreadable(path, error)) from None


def why_unreadable(path: Path, error: Exception) -> str:
    """The reason in a word or two, from the first bytes of the file."""
    head = first_bytes(path, len(LFS_HEADER))
    if head == LFS_HEADER:
        return "Git LFS pointer"
    if head == b"":
        return "empty file"
    return "not an image" if head and isinstance(error, UnidentifiedImageError) else "unreadable"


def first_bytes(path: Path, count: int) -> bytes | None:
    """What the file begins with; None where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(count)
    except OSError:
        return None


def _sixteen_bits(image: Image.Image, path: Path) -> np.ndarray | None:
    """Colour or transparency of 16 bits as grey float32 [H, W]; None for all else, which Pillow reads in full.

    Pillow keeps only the high byte. The same bytes unpacked in the other order give the low ones; grey with transparency has four
    bytes a pixel and is unpacked as if they were four channels.
    """
    args = image.tile[0][3] if image.tile else ""
    raw = str(args[0] if isinstance(args, tuple) else args)
    if image.mode not in ("RGB", "RGBA", "LA") or not raw.endswith((";16B", ";16L", ";16N")):
        return None
    if raw.startswith("LA"):
        parts = _unpacked(path, "RGBA", "RGBA")
        values = parts[..., ::2] * 256 + parts[..., 1::2]
        grey = values[..., 0]
    else:
        other = "L" if raw[-1] == "B" else "B"
        high, low = (_unpacked(path, image.mode, f"{image.mode};16{order}") for order in (raw[-1], other))
        values = high * 256 + low
        grey = values[..., :3] @ LUMA
    alpha = 65535 if image.mode == "RGB" else values[..., -1]
    return np.rint(grey * (alpha / np.float32(65535))).astype(np.float32)


def _unpacked(path: Path, mode: str, raw: str) -> np.ndarray:
    """float32 [H, W, C] of a file decoded as another mode and order of bytes than it claims."""
    with Image.open(path, formats=FORMATS) as image:
        image._mode = mode
        for i, tile in enumerate(image.tile):
            args = (raw, *tile[3][1:]) if isinstance(tile[3], tuple) else raw
            image.tile[i] = tile._replace(args=args) if hasattr(tile, "_replace") else (*tile[:3], args)  # Pillow 10: no names
        return np.asarray(image, np.float32)


def _to_grey(image: Image.Image, said: list[str]) -> np.ndarray:
    """Grey float32 [H, W] of an image of many or broken values, the darkest for those that are not finite; else uint8."""
    if image.mode.startswith("I") or image.mode == "F":
        picture = np.asarray(image, dtype=np.float32)
        known = np.isfinite(picture)
        return np.where(known, picture, picture[known].min() if known.any() else 0)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:  # what is transparent is background
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    if image.mode not in ("L", "1") and np.mean(np.ptp(np.asarray(image.convert("RGB")), axis=2) > 48) > 0.01:
        said.append(IN_COLOUR)  # JPEG gives grey pixels a trace of a hue
    grey = np.asarray(image.convert("L"))
    background = background_within(grey) or 0  # not black on white paper, in a frame of matplotlib's or after z-scoring
    return np.where(grey == background, np.uint8(0), grey) if background > 255 * FOREGROUND else grey


def background_within(values: np.ndarray) -> float | None:
    """The most frequent value where it fills a fifth and parts of the head lie below it, as after z-scoring; else None."""
    found, count = np.unique(values.ravel()[:: 1 + values.size // 65536], return_counts=True)
    if found.size == 0 or count.max() < 0.2 * count.sum():
        return None
    background = found[count.argmax()]
    below = np.count_nonzero(values < background)
    return float(background) if below > 0.02 * np.count_nonzero(values != background) else None


def on_black(values: np.ndarray) -> np.ndarray:
    """Values of one scan with the background at their lower end: it is the most frequent value, not always the lowest one."""
    background = background_within(values)
    if background is None:
        return values
    head = values != background
    return np.where(head, values, np.percentile(values[head], 0.5)).astype(values.dtype)


def to_bytes(picture: np.ndarray, black: float, white: float) -> np.ndarray:
    """uint8 [H, W]; of a picture of more than 8 bits ``black`` becomes 0 and ``white`` 255, never cut off at the low byte."""
    if picture.dtype == np.uint8:
        return picture
    scaled = np.rint(np.clip((picture - black) * (255.0 / max(white - black, 1e-12)), 0, 255)).astype(np.uint8)
    background = background_within(picture)
    return scaled if background is None else np.where(picture == background, np.uint8(0), scaled)


def common_scale(measures: Sequence[Measure]) -> tuple[float, float]:
    """(black, white) of all deep pictures of a set; the full 16 bits where the set goes beyond 15, as no scanner does."""
    deep = [item for item in measures if item.peak is not None]
    if not deep:
        return 0.0, 255.0
    black = float(np.quantile([item.floor for item in deep], 0.01))
    white = float(np.quantile([item.peak for item in deep], 0.99))
    return black, 65535.0 if black == 0 and white > 32767 else white


# Every rule takes one subject's slices together, so that bright levels stay bright compared with dark ones. A generator draws what its
# data looked like: it is compared with slices under the same rule.


def percentiles(x: np.ndarray) -> np.ndarray:
    """The 0.5th percentile becomes 0 and the 99.5th 1; what lies beyond is cut off: a few hot pixels decide nothing."""
    low, high = np.percentile(x, [0.5, 99.5])
    return ((x - low) / max(high - low, 1e-12)).clip(0, 1)


def standardise_then_unit(x: np.ndarray) -> np.ndarray:
    """`min_max` of (x - mean) / deviation: the first step cancels out of the second, whatever the mean and the deviation are."""
    return min_max((x - x.mean()) / max(x.std(), 1e-12))


def min_max(x: np.ndarray) -> np.ndarray:
    """(x - min) / (max - min)."""
    return (x - x.min()) / max(x.max() - x.min(), 1e-12)


RULES = {"fixed": None, "percentiles": percentiles, "standardise": standardise_then_unit}


def measure(picture: np.ndarray, mm: float = 0) -> Measure:
    """Box, scale and digest of a grey picture [H, W]. Raises ``LeftOut`` for a blank picture or a label map."""
    deep = picture.dtype != np.uint8
    values = on_black(picture) if deep else picture
    floor = float(values.min()) if deep and (values is not picture or values.min(initial=0) < 0) else 0.0
    peak = float(values.max(initial=0))
    box = _box(values > floor + FOREGROUND * ((peak if deep else 255) - floor))
    if box is None or peak == values.min():
        raise LeftOut("blank picture")
    # Tissue or brain masks hold a handful of grey values (0, 85, 170, 255) in solid regions; a dithered slice is no mask.
    if np.unique(picture.ravel()[:: 1 + picture.size // 512]).size <= 6:  # a quick look, enough for nearly every real slice
        greys = np.unique(picture).size
        if greys <= 6 and not (greys == 2 and np.mean(picture[:, 1:] != picture[:, :-1]) > 0.15):
            raise LeftOut("label map")
    digest = hashlib.blake2b(np.ascontiguousarray(picture), digest_size=16, key=repr(picture.shape).encode()).hexdigest()
    return Measure(picture.shape, box, floor, peak if deep else None, digest, mm)


def _box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Top, bottom, left, right of the lines with at least two pixels of the mask [H, W], so that one hot pixel does not move the box."""
    rows, columns = (np.flatnonzero(counts >= min(2, counts.size)) for counts in (mask.sum(1), mask.sum(0)))
    return (int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1) if rows.size and columns.size else None


Square = tuple[int, int, int]  # top, left, side in pixels; may leave the picture


def common_squares(measures: list[Measure]) -> dict[tuple[tuple[int, int], float], Square]:
    """For each picture size and width of a pixel the square to cut, around the foreground box of all such slices, with no margin.

    Where headers tell how wide pixels are, and that can be true, squares span the same millimetres: a head is as large as it was,
    whatever the scanner. If none does, sizes of one aspect ratio are taken for one field of view at several resolutions and share
    a box in relative units. A quarter of a per cent of stray slices cannot enlarge the box by more than a few pixels.
    """
    by_size, by_aspect = defaultdict(list), defaultdict(list)
    for item in measures:
        by_size[item.shape, item.mm].append(item)
        by_aspect[round(item.shape[1] / item.shape[0], 2)].append(item)
    boxes = {size: _common_box(group, size[0][0]) for size, group in by_size.items()}
    spans = {size: size[1] * max(bottom - top, right - left) for size, (top, bottom, left, right) in boxes.items()}
    if true := {size for size, span in spans.items() if HEAD_MM[0] < span < HEAD_MM[1]}:
        span = _outermost(np.array([spans[item.shape, item.mm] for item in measures if (item.shape, item.mm) in true]))
        return {size: _square_around(box, side=span / size[1] if size in true else None) for size, box in boxes.items()}
    squares = {}
    for group in by_aspect.values():
        height = max(item.shape for item in group)[0]
        box = _common_box(group, height)
        squares |= {(item.shape, item.mm): _square_around(box, item.shape[0] / height) for item in group}
    return squares


def _common_box(group: list[Measure], height: int) -> list[float]:
    """Top, bottom, left and right of the foreground of all slices, in pixels of a picture of this height."""
    edges = np.array([item.box for item in group]).T * [height / item.shape[0] for item in group]
    return [sign * _outermost(sign * edge) for sign, edge in zip((-1, 1, -1, 1), edges, strict=True)]


def _outermost(edges: np.ndarray) -> float:
    """The farthest edge that is not a stray: heads taper, so real ones go on for a few pixels beyond the quantile."""
    usual = float(np.quantile(edges, 0.9975, method="higher"))
    few = 0.03 * (usual - float(np.median(edges))) + 2
    return float(edges[edges <= usual + few].max())


def _square_around(box: Sequence[float], scale: float = 1, side: float | None = None) -> Square:
    """The square about the middle of a box (top, bottom, left, right), as wide as its longer side, or ``side``, in pixels of another scale."""
    top, bottom, left, right = box
    side = max(1, round((side or max(bottom - top, right - left)) * scale))
    top, left = (int(np.floor(both * scale / 2 - side / 2)) for both in (top + bottom, left + right))
    return top, left, side


def frame(
    picture: np.ndarray, square: Square, resolution: int, turns: int = 0, resample: Image.Resampling = Image.Resampling.LANCZOS
) -> np.ndarray:
    """The square cut from [H, W] as [R, R], black outside the picture and wherever it is black itself, turned counter-clockwise by quarters.

    Beyond its main lobe Lanczos rings by up to three grey levels around every head, which networks learn. The triangle rings nowhere.
    """
    top, left, side = square
    cut = Image.fromarray(picture).crop((left, top, left + side, top + side))
    if side != resolution:
        black = np.asarray(cut.resize((resolution, resolution), Image.Resampling.BILINEAR)) == 0
        cut = np.where(black, 0, cut.resize((resolution, resolution), resample)).astype(picture.dtype)
    return np.rot90(np.asarray(cut), turns)


def find_turns(mean: np.ndarray) -> int | None:
    """Quarter turns that bring the set's mean picture [r, r] closest to the axial template; None where it is not surely axial.

    Likeness is the correlation, once as the pictures are and once stretched to fill the frame: heads differ in shape. The axial plane
    must win over the others, turned and mirrored, by a margin that no coronal or sagittal set of the template reaches, whatever its
    contrast and with or without a skull; and one turn must win.
    """
    if mean.std() == 0:
        return None
    templates = _template_pictures(len(mean))

    def likeness(plane: str, picture: np.ndarray) -> float:
        pairs = ([(picture, template), (stretched(picture), stretched(template))] for template in templates[plane])
        return max(np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pair]) for pair in pairs)

    turned = [np.rot90(mean, turns) for turns in range(4)]
    scores = [likeness("axial", picture) for picture in turned]
    views = [view for picture in turned for view in (picture, picture[:, ::-1])]
    others = max(likeness(plane, view) for plane in ("coronal", "sagittal") for view in views)
    first, second = sorted(scores, reverse=True)[:2]
    return int(np.argmax(scores)) if first > 0.5 and first - second > 0.01 and first - others > MARGIN else None


def _template_pictures(size: int) -> dict[str, list[np.ndarray]]:
    """Mean slices of the ICBM152 template by plane, float32 [size, size] each: front or top of the head up, in the square around the head."""
    from nilearn import datasets  # seconds to import: only who packs pays

    image = datasets.load_mni152_template(resolution=2)
    volume, origin = image.get_fdata(dtype=np.float32), image.affine[:3, 3]
    found = {plane: [] for plane in PLANES}
    for plane, (axis, ranges) in PLANES.items():
        for low, high in ranges:
            first, last = (round((mm - origin[axis]) / 2) for mm in (low, high))
            mean = np.ascontiguousarray(volume.take(range(first, last + 1), axis).mean(axis).T[::-1])
            rows, columns = (np.flatnonzero(mean.max(axis) > 0.05) for axis in (1, 0))
            square = _square_around((rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))
            found[plane].append(frame(mean, square, size, resample=Image.Resampling.BICUBIC).clip(0))
    return found


def stretched(picture: np.ndarray) -> np.ndarray:
    """The foreground of a mean picture [r, r] stretched to fill it."""
    box = _box(picture > 0.15 * picture.max())
    if box is None:
        return picture
    image = Image.fromarray(np.ascontiguousarray(picture, np.float32))
    return np.asarray(image.resize(image.size, Image.Resampling.BILINEAR, box=(box[2], box[0], box[3], box[1])))
