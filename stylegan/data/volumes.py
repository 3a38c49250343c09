"""Raw volumes (NIfTI, Analyze 7.5) to axial slices: front of the head up, pixels square, one grey scale per subject.

What Analyze 7.5 leaves open, and what is assumed here. Its header has no affine, only the byte `orient` of the Mayo convention;
nibabel ignores that byte and takes the voxels to run towards left, front and top (LAS). The atlas-registered T88 volumes of
OASIS-1 (176 x 208 x 176, 16-bit big-endian, often 4-D) run across, from the back to the front and from bottom to top: the slice
pictures published from them, written row by row, have the front at the bottom and climb through the head. Whether a row begins
at the left or at the right cannot be seen in a picture and the files do not say it: there left and right stay unmarked.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation
from scipy import ndimage

ENDINGS = (".nii.gz", ".nii", ".hdr")
LABEL_WORDS = frozenset("fseg seg aseg dseg aparc parc label labels labelmap mask probseg tissue lesion pveseg atlas".split())
MAYO_ORIENT = {0: "LAS", 1: "LSA", 2: "ASL", 3: "LPS", 4: "LIA", 5: "AIL"}  # direction of growing voxel index, by header byte
T88_SHAPE = (176, 208, 176)
MAX_VOXELS = 2**28  # 645 a side: a damaged header must not ask for all the memory there is
# Where the 32 levels around the lateral ventricles lie, in lengths of the brain from back to front: their middle below its top,
# and from first to last. Taken on the ICBM152 template; counted from the top because necks and cut cerebella blur the bottom.
CENTRE_BELOW_TOP, LEVEL_SPAN = 0.363, 0.183


class VolumeFile(NamedTuple):
    """A volume and whose it is."""

    path: Path
    subject: str


def find_volumes(root: str | Path) -> list[VolumeFile]:
    """The T1 volumes under a folder, in order of their paths.

    OASIS-1: the best processed volume of each scan (brain-masked T88 before anything else), subject `OAS1_NNNN_MR1`.
    BIDS: `*_T1w`, subject `sub-XX`. Otherwise every volume that is no label map; the subject is the file's name without its
    ending, or the folder where names repeat. Raises FileNotFoundError where there is no such folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {root}; give the folder that holds the volumes.")
    paths = sorted(path for path in root.rglob("*") if is_volume(path) and not is_label_volume(path))
    paths = _best_of_each_oasis_scan([path for path in paths if _is_t1(path)])
    stems = Counter(_stem(path) for path in paths)
    return [VolumeFile(path, _subject(path, root, unique=stems[_stem(path)] == 1)) for path in paths]


def is_volume(path: str | Path) -> bool:
    """Whether the name is that of a volume; of an Analyze pair the .hdr counts, and only with its .img beside it."""
    path = Path(path)
    name = path.name.lower()
    if name.startswith(".") or not name.endswith(ENDINGS):
        return False
    return not name.endswith(".hdr") or any(path.with_suffix(ending).exists() for ending in (".img", ".IMG", ".img.gz"))


def is_label_volume(path: str | Path) -> bool:
    """Whether the name says segmentation, mask or label map (`_fseg`, `_aseg`, `_mask`...; `_masked_` is a picture)."""
    return not LABEL_WORDS.isdisjoint(re.split(r"[^a-z0-9]+", _stem(Path(path)).lower()))


def read_volume(path: str | Path, said: list[str] | None = None) -> np.ndarray:
    """One volume as float32 [X, Y, Z] towards right, front and top (nibabel's closest canonical), in cubic voxels.

    Unequal voxels are resampled linearly to cubes of the finer in-plane spacing, so that no picture is stretched. Much thicker
    slices, and values that are not finite (read as 0), give a warning, or a sentence in ``said``. Raises FileNotFoundError, or
    ValueError with one sentence naming the file: unreadable or cut short, several frames, not three-dimensional, constant,
    nothing finite, colour, a header that cannot be true.
    """
    tell = warnings.warn if said is None else said.append
    image = _open(path)
    data = _squeezed(image, path)
    orientation = _orientation(image, path)
    spacing = np.array([zoom if np.isfinite(zoom) and zoom > 0 else 1.0 for zoom in image.header.get_zooms()[:3]])
    data = apply_orientation(_finite(data, path, tell), orientation)
    spacing = spacing[np.argsort(orientation[:, 0])]
    return np.ascontiguousarray(_cubic(data, spacing, path, tell), np.float32)


def volume_sides(path: str | Path) -> tuple[str, str, str, str]:
    """Marks at the top, bottom, left, right of its slices: neurological where the header knows left from right, else blank."""
    return ("A", "P", "L", "R") if _knows_left(_open(path)) else ("A", "P", "", "")


def axial_slices(volume: np.ndarray, levels: tuple[int, int] | None = None, count: int = 32) -> np.ndarray:
    """Axial slices float32 [L, H, W] of a volume [X, Y, Z], front of the head up, from the bottom to the top.

    `levels=(a, b)` takes levels a to b, both of them. By default `count` levels around the lateral ventricles: adjacent in a
    brain of 1 mm voxels, every second one at 0.5 mm. Raises ValueError where the volume has no such levels.
    """
    if volume.ndim != 3:
        raise ValueError(f"Slices are cut from a volume of three dimensions, not from an array of shape {volume.shape}.")
    depth = volume.shape[2]
    if levels is None:
        chosen = _ventricle_levels(volume, count)
    elif 0 <= levels[0] <= levels[1] < depth:
        chosen = np.arange(levels[0], levels[1] + 1)
    else:
        raise ValueError(f"Levels {levels[0]} to {levels[1]} are not in this volume; it has levels 0 to {depth - 1}.")
    return np.ascontiguousarray(volume[:, ::-1, chosen].transpose(2, 1, 0), np.float32)


def to_uint8(slices: np.ndarray) -> np.ndarray:
    """One subject's slices on one grey scale, uint8: black at the background, white at the foreground's percentile 99.5.

    The percentile keeps a few hot voxels from darkening everything; one scale per subject keeps its levels comparable.
    """
    low, high = np.percentile(slices, 0.5), np.percentile(slices[_foreground(slices)], 99.5)
    return np.clip((slices - low) / (high - low) * 255 + 0.5, 0, 255).astype(np.uint8)


# -------- whose


def _stem(path: Path) -> str:
    return re.sub(r"(\.nii)?(\.gz)?$|\.hdr$", "", path.name, flags=re.IGNORECASE)


def _is_t1(path: Path) -> bool:
    """BIDS names say what they hold in their last word; other names are taken as they come."""
    return not path.name.startswith("sub-") or _stem(path).endswith("_T1w")


def _oasis_scan(path: Path) -> str | None:
    found = re.search(r"OAS[12]_\d{4}_MR\d", str(path))
    return found.group() if found else None


def _best_of_each_oasis_scan(paths: list[Path]) -> list[Path]:
    """OASIS-1 holds each head up to eight times: raw repeats, their mean, in atlas space, masked. Keep the last stage."""
    stages = ("t88_masked_gfc", "t88_gfc", "sbj_111")

    def rank(path: Path) -> int:
        return next((i for i, stage in enumerate(stages) if stage in path.name), len(stages))

    best: dict[str, Path] = {}
    for path in paths:
        scan = _oasis_scan(path) or str(path)
        if scan not in best or rank(path) < rank(best[scan]):
            best[scan] = path
    return sorted(best.values())


def _subject(path: Path, root: Path, unique: bool) -> str:
    relative = path.relative_to(root)
    bids = next((part for part in relative.parts[:-1] if part.startswith("sub-")), path.name.split("_")[0])
    if bids.startswith("sub-"):
        return bids
    return _oasis_scan(path) or (_stem(path) if unique else relative.parent.as_posix())


# -------- reading


def _open(path: str | Path) -> nib.spatialimages.SpatialImage:
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no volume {path}.")
    try:
        return nib.load(path)
    except Exception as e:  # nibabel raises whatever a damaged header makes it stumble over
        raise ValueError(
            f"{path} cannot be read as a NIfTI or Analyze volume ({_one_line(e)}); leave it out or fetch it again."
        ) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _squeezed(image: nib.spatialimages.SpatialImage, path: str | Path) -> np.ndarray:
    """The voxels as float32 [X, Y, Z]; a fourth axis of length 1 is dropped."""
    shape = image.shape
    if len(shape) < 3 or min(shape[:3]) < 8:
        raise ValueError(f"{path} has shape {shape}; a head needs three dimensions of at least 8 voxels.")
    if np.prod(shape[3:]) > 1:
        raise ValueError(f"{path} has {np.prod(shape[3:])} frames; give a T1 volume, which has one.")
    if np.prod(shape, dtype=float) > MAX_VOXELS:
        raise ValueError(f"{path} claims shape {shape}, more than a head can need; its header seems damaged.")
    if image.get_data_dtype().kind not in "iufb":
        raise ValueError(f"{path} holds {image.get_data_dtype()} values; give a volume of plain grey values.")
    try:
        return np.asarray(image.dataobj, np.float32).reshape(shape[:3])
    except Exception as e:
        raise ValueError(f"{path} is damaged or cut short ({_one_line(e)}); fetch it again.") from None


def _is_plain_analyze(image: nib.spatialimages.SpatialImage) -> bool:
    """Analyze 7.5 without the affine that SPM keeps in a .mat file beside it."""
    header = image.header
    analyze = isinstance(image, nib.AnalyzeImage) and not isinstance(image, nib.Nifti1Pair)
    return analyze and np.allclose(image.affine, header.get_best_affine())


def _knows_left(image: nib.spatialimages.SpatialImage) -> bool:
    if isinstance(image, nib.Nifti1Pair):
        return bool(image.header["sform_code"] or image.header["qform_code"])
    return not _is_plain_analyze(image)


def _orientation(image: nib.spatialimages.SpatialImage, path: str | Path) -> np.ndarray:
    """nibabel orientation [3, 2] that takes the stored voxels to right, front, top."""
    if not _is_plain_analyze(image):
        turn = image.affine[:3, :3]
        if not np.isfinite(turn).all() or np.linalg.matrix_rank(turn) < 3:
            raise ValueError(f"{path} has an affine that leads nowhere (not finite, or two axes alike); its header is damaged.")
        return io_orientation(image.affine)
    byte = image.header["orient"].tobytes()[0]
    return axcodes2ornt("LAS" if image.shape[:3] == T88_SHAPE else MAYO_ORIENT.get(byte, "LAS"))


def _finite(data: np.ndarray, path: str | Path, tell: Callable[[str], None]) -> np.ndarray:
    bad = ~np.isfinite(data)
    if bad.all():
        raise ValueError(f"{path} holds no finite value; leave it out or fetch it again.")
    if bad.any():
        tell(f"{path}: {bad.sum()} voxels that are not finite are read as 0.")
        data = np.where(bad, np.float32(0), data)
    if data.max() == data.min():
        raise ValueError(f"{path} is constant ({data.max():g} everywhere); leave it out.")
    return data


def _cubic(data: np.ndarray, spacing: np.ndarray, path: str | Path, tell: Callable[[str], None]) -> np.ndarray:
    """The volume in cubes of the finer in-plane spacing."""
    factors = spacing / spacing[:2].min()
    if factors.max() > 20 or np.prod(factors * data.shape) > MAX_VOXELS:
        raise ValueError(f"{path} has voxels of {' x '.join(f'{s:g}' for s in spacing)} mm; its header seems damaged.")
    if factors[2] > 2.5:
        tell(f"{path}: slices {spacing[2]:g} mm thick are interpolated; neighbouring levels are alike.")
    return data if np.abs(factors - 1).max() < 0.01 else ndimage.zoom(data, factors, order=1)


# -------- levels


def _foreground(values: np.ndarray) -> np.ndarray:
    """Voxels above a tenth of the bright ones (percentile 99), counted from the background."""
    low, high = np.percentile(values, (0.5, 99))
    if high <= low:
        low, high = values.min(), values.max()
    if high <= low:
        raise ValueError("The slices are constant; there is nothing to see.")
    return values > low + 0.1 * (high - low)


def _extent(mask: np.ndarray, axis: int) -> tuple[int, int]:
    """First and last plane along an axis that hold a tenth of the fullest plane's foreground: specks do not count."""
    counts = mask.sum(tuple(i for i in range(3) if i != axis))
    planes = np.flatnonzero(counts >= 0.1 * counts.max())
    return int(planes[0]), int(planes[-1])


def _ventricle_levels(volume: np.ndarray, count: int) -> np.ndarray:
    """Indices [count] of evenly spaced levels around the lateral ventricles."""
    depth = volume.shape[2]
    if depth < count:
        raise ValueError(f"The volume has {depth} levels, {count} are wanted; ask for fewer.")
    mask = _foreground(volume)
    (back, front), (_, top) = _extent(mask, 1), _extent(mask, 2)
    length = front - back + 1
    step = max(1, min(round(LEVEL_SPAN * length / count), depth // count))
    first = round(top - CENTRE_BELOW_TOP * length - step * (count - 1) / 2)
    first = min(max(first, 0), depth - 1 - step * (count - 1))
    return first + step * np.arange(count)
