"""Raw volumes (NIfTI, Analyze 7.5, FreeSurfer's .mgz) to axial slices: front of the head up, pixels square, one grey scale per scan.

What Analyze 7.5 leaves open, and what is assumed here. Its header has no affine, only the byte `orient` of the Mayo convention;
nibabel ignores that byte and takes the voxels to run towards left, front and top (LAS). The atlas-registered T88 volumes of
OASIS-1 (176 x 208 x 176, 16-bit big-endian, often 4-D) run across, from the back to the front and from bottom to top: the slice
pictures published from them, written row by row, have the front at the bottom and climb through the head. Whether a row begins
at the left or at the right cannot be seen in a picture and the files do not say it: there left and right stay unmarked.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation
from scipy import ndimage

from stylegan.data.pictures import LeftOut, on_black, why_unreadable

ENDINGS = (".nii.gz", ".nii", ".hdr", ".mgz", ".mgh")
MAYO_ORIENT = {0: "LAS", 1: "LSA", 2: "ASL", 3: "LPS", 4: "LIA", 5: "AIL"}  # direction of growing voxel index, by header byte
T88_SHAPE = (176, 208, 176)
MAX_VOXELS = 2**28  # 645 a side: a damaged header must not ask for all the memory there is
# Where the 32 levels around the lateral ventricles lie, in lengths of the brain from back to front: their middle below its top,
# and from first to last. Taken on the ICBM152 template; counted from the top because necks and cut cerebella blur the bottom.
CENTRE_BELOW_TOP, LEVEL_SPAN, LEVELS = 0.363, 0.183, 32
NO_MARKS = ("", "", "", "")
Marks = tuple[str, str, str, str]  # at the top, bottom, left, right of a slice; '' where unknown


class Scan(NamedTuple):
    """The slices of one file."""

    pictures: np.ndarray  # uint8 [L, H, W]; of a file with a single plane float32 [1, H, W] in its own units
    levels: np.ndarray | None  # int [L]; None for a single plane
    marks: Marks
    mm: float = 0  # width of a pixel; 0 for a single plane


class Unusable(ValueError):  # noqa: N818 - as LeftOut
    """What is wrong with a volume, to be said of its file."""


def read_scan(path: Path, levels: tuple[int, int] | None, said: list[str]) -> Scan:
    """The slices of a volume: those of the planes ``levels``, both ends included, else `LEVELS` around the ventricles, counted from 0.

    A file of one plane is one slice. Values that are not finite (read as 0) and thick slices are told in ``said``, a sentence each.
    Raises ``LeftOut`` with one sentence naming the file: unreadable or cut short, several frames, not three-dimensional, constant,
    nothing finite, colour, a header that cannot be true.
    """
    try:
        image = nib.load(path)
        if len(image.shape) == 2 or 1 in image.shape[:3]:
            return _single_plane(image)
        volume = upright(image, lambda sentence: said.append(f"{path}: {sentence}"))
        slices, numbers = axial_slices(volume, levels)
        return Scan(to_uint8(slices), numbers, _marks(image), float(_spacing(image)[:2].min()))
    except Unusable as error:
        raise LeftOut("unusable volume", f"{path} {error}") from None
    except Exception as error:  # nibabel raises whatever a damaged file makes it stumble over
        if why_unreadable(path, error) == "Git LFS pointer":
            raise LeftOut("Git LFS pointer") from None
        why = " ".join(str(error).split()).rstrip(".")
        sentence = f"{path} is no volume that can be read, damaged or cut short ({why}); fetch it again."
        raise LeftOut("unusable volume", sentence) from None


def upright(image: nib.spatialimages.SpatialImage, tell: Callable[[str], None]) -> np.ndarray:
    """float32 [X, Y, Z] towards right, front and top, in cubes of the finer in-plane spacing, so that no picture is stretched."""
    if len(image.shape) < 3 or min(image.shape[:3]) < 8:
        raise Unusable(f"has shape {image.shape}; a head needs three dimensions of at least 8 voxels.")
    data = on_black(_values(image, tell))
    spacing = _spacing(image)
    factors = spacing / spacing[:2].min()  # to cubes of the finer in-plane spacing
    if factors.max() > 20 or np.prod(factors * image.shape[:3]) > MAX_VOXELS:
        raise Unusable(f"has voxels of {' x '.join(f'{s:g}' for s in spacing)} mm; its header seems damaged.")
    if factors[2] > 2.5:
        tell(f"slices {spacing[2]:g} mm thick are interpolated; neighbouring levels are alike.")
    data = apply_orientation(data, _orientation(image))
    return np.ascontiguousarray(data if np.abs(factors - 1).max() < 0.01 else ndimage.zoom(data, factors, order=1), np.float32)


def _single_plane(image: nib.spatialimages.SpatialImage) -> Scan:
    """Of a file that holds one plane; the front is up where the header says that it is axial."""
    data, marks = _values(image, lambda _: None), _marks(image)
    if data.squeeze().ndim < 2:
        raise Unusable(f"has shape {image.shape}; a slice needs two dimensions.")
    if data.ndim == 3 and any(marks):
        turned = apply_orientation(data, _orientation(image))
        if turned.shape[2] == 1:
            return Scan(np.ascontiguousarray(turned[:, ::-1, 0].T)[None], None, marks)
    return Scan(np.ascontiguousarray(data.squeeze().T)[None], None, NO_MARKS)


def axial_slices(volume: np.ndarray, levels: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Axial slices float32 [L, H, W] of a volume [X, Y, Z], front of the head up, from the bottom to the top, and their levels [L].

    By default `LEVELS` around the lateral ventricles: adjacent in a brain of 1 mm voxels, every second one at 0.5 mm; at 2 mm
    every second level has no plane and is left out. Raises `Unusable` where the volume has no such levels.
    """
    depth = volume.shape[2]
    if levels and not 0 <= levels[0] <= levels[1] < depth:
        raise Unusable(f"has levels 0 to {depth - 1}, not {levels[0]} to {levels[1]}; ask for others.")
    planes = np.arange(levels[0], levels[1] + 1) if levels else _ventricle_levels(volume)
    planes, first = np.unique(planes, return_index=True)
    return np.ascontiguousarray(volume[:, ::-1, planes].transpose(2, 1, 0), np.float32), planes if levels else first


def to_uint8(slices: np.ndarray) -> np.ndarray:
    """One scan's slices on one grey scale, uint8: black at the background, white at the foreground's percentile 99.5.

    The percentile keeps a few hot voxels from darkening everything; one scale per scan keeps its levels comparable.
    """
    low, high = np.percentile(slices, 0.5), np.percentile(slices[_foreground(slices)], 99.5)
    return np.clip((slices - low) / (high - low) * 255 + 0.5, 0, 255).astype(np.uint8)


def _values(image: nib.spatialimages.SpatialImage, tell: Callable[[str], None]) -> np.ndarray:
    """The values as finite float32 [X, Y] or [X, Y, Z]; a fourth axis of length 1 is dropped."""
    shape = image.shape
    if np.prod(shape[3:]) > 1:
        raise Unusable(f"has {np.prod(shape[3:])} frames; give a T1 volume, which has one.")
    if np.prod(shape, dtype=float) > MAX_VOXELS:
        raise Unusable(f"claims shape {shape}, more than a head can need; its header seems damaged.")
    if image.get_data_dtype().kind not in "iufb":
        raise Unusable(f"holds {image.get_data_dtype()} values; give a volume of plain grey values.")
    data = np.asarray(image.dataobj, np.float32).reshape(shape[:3])
    bad = ~np.isfinite(data)
    if bad.all():
        raise Unusable("holds no finite value; leave it out or fetch it again.")
    if bad.any():
        tell(f"{bad.sum()} voxels that are not finite are read as 0.")
        data = np.nan_to_num(data, nan=0, posinf=0, neginf=0)
    if data.max() == data.min():
        raise Unusable(f"is constant ({data.max():g} everywhere); leave it out.")
    return data


def _is_plain_analyze(image: nib.spatialimages.SpatialImage) -> bool:
    """Analyze 7.5 without the affine that SPM keeps in a .mat file beside it."""
    analyze = isinstance(image, nib.AnalyzeImage) and not isinstance(image, nib.Nifti1Pair)
    return analyze and np.allclose(image.affine, image.header.get_best_affine())


def _marks(image: nib.spatialimages.SpatialImage) -> Marks:
    """Neurological where the header says which way the voxels run: NIfTI without codes does not, plain Analyze says front and back."""
    if isinstance(image, nib.Nifti1Pair) and not (image.header["sform_code"] or image.header["qform_code"]):
        return NO_MARKS
    return ("A", "P", "", "") if _is_plain_analyze(image) else ("A", "P", "L", "R")


def _orientation(image: nib.spatialimages.SpatialImage) -> np.ndarray:
    """nibabel orientation [3, 2] that takes the stored voxels to right, front, top."""
    if not _is_plain_analyze(image):
        turn = image.affine[:3, :3]
        if not np.isfinite(turn).all() or np.linalg.matrix_rank(turn) < 3:
            raise Unusable("has an affine that leads nowhere (not finite, or two axes alike); its header is damaged.")
        return io_orientation(image.affine)
    byte = image.header["orient"].tobytes()[0]
    return axcodes2ornt("LAS" if image.shape[:3] == T88_SHAPE else MAYO_ORIENT.get(byte, "LAS"))


def _spacing(image: nib.spatialimages.SpatialImage) -> np.ndarray:
    """Distances [3] of voxels towards right, front and top, in mm; 1 where the header does not know."""
    zooms = np.array([zoom if np.isfinite(zoom) and zoom > 0 else 1.0 for zoom in image.header.get_zooms()[:3]])
    return zooms[np.argsort(_orientation(image)[:, 0])]


def _foreground(values: np.ndarray) -> np.ndarray:
    """Voxels above a tenth of the bright ones (percentile 99), counted from the background."""
    low, high = np.percentile(values, (0.5, 99))
    if high <= low:
        low, high = values.min(), values.max()
        if high <= low:
            raise Unusable("is constant; there is nothing to see.")
    return values > low + 0.1 * (high - low)


def _ventricle_levels(volume: np.ndarray) -> np.ndarray:
    """The planes [`LEVELS`] nearest to levels around the lateral ventricles: the same part of a brain whatever its voxels."""
    depth = volume.shape[2]
    mask = _foreground(volume)
    counts = mask.sum((0, 2)), mask.sum((0, 1))
    rows, planes = (np.flatnonzero(filled >= 0.1 * filled.max()) for filled in counts)  # specks do not count
    top, length = planes[-1], rows[-1] - rows[0] + 1
    step = LEVEL_SPAN * length / LEVELS
    whole = max(round(step), 1)
    if abs(step / whole - 1) < 0.15 or step < 0.45:  # all planes rather than most; beyond 2 mm there are too few
        step = whole
    span = step * (LEVELS - 1)
    if depth <= span:
        raise Unusable(f"has {depth} levels, {span + 1:.0f} are wanted; ask for others.")
    first = round(top - CENTRE_BELOW_TOP * length - span / 2)
    return np.rint(min(max(first, 0), depth - 1 - span) + step * np.arange(LEVELS)).astype(int)
