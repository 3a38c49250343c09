"""From a recognised folder to one packed array: measure every slice, find the common frame, write once, map ever after.

The second start is instant because nothing is opened but a short index: a folder whose names, sizes and times are as before
gives the same pictures. The packed file itself is named by its content.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stylegan.data import pictures, volumes
from stylegan.data.layouts import VOLUME_LEVELS, Catalogue, list_files, nothing_found, recognise
from stylegan.data.naming import Slice
from stylegan.data.pictures import LeftOut, Measure, Square
from stylegan.files import open_images, read_json, store_images, write_json

FORMAT = 2  # raise it whenever the same folder would be packed differently
TEMPLATE_SIZE = 32
SIMULATED_SUBJECTS, SIMULATED_LEVELS = 128, 32  # of the embedded default
QUIET_BELOW = 2000  # slices; smaller sets take a second or two and need no progress bar

Index = dict  # what is kept beside the packed pictures: lists of one entry per slice, and what was left out


def pack_folder(root: Path, resolution: int, levels: tuple[int, int] | None, cache: Path) -> tuple[np.ndarray, Index]:
    """The folder's slices uint8 [N, R, R], memory-mapped, front of the head up, and their index.

    The index holds per slice: files, subjects, levels, labels, folders; and for the set: key, layout, title, sides, size,
    hidden, left_out, warnings. Raises FileNotFoundError or ValueError where there is nothing to pack.
    """
    index_file = cache / f"{_fingerprint(root, resolution, levels)}.json"
    return _packed_once(index_file, resolution, lambda: _pack(recognise(root, levels), resolution, cache))


def pack_simulated(resolution: int, cache: Path) -> tuple[np.ndarray, Index]:
    """The embedded default uint8 [N, R, R], simulated once per resolution, memory-mapped ever after, and its index.

    The index holds per slice: subjects, levels, labels, columns; and for the set: key, classes, title, sides.
    """
    code = hashlib.sha256(Path(__file__).with_name("atlas.py").read_bytes()).hexdigest()  # another simulation, another cache
    index_file = cache / f"simulated-{SIMULATED_SUBJECTS}x{SIMULATED_LEVELS}-{resolution}px-{code[:8]}.json"
    shape = (SIMULATED_SUBJECTS * SIMULATED_LEVELS, resolution, resolution)
    return _packed_once(index_file, resolution, lambda: _simulate(resolution, cache, shape))


def _packed_once(index_file: Path, resolution: int, pack: Callable[[], Index]) -> tuple[np.ndarray, Index]:
    """The pictures and index that are in the cache; where one is absent or damaged, ``pack`` makes both first."""

    def opened(index: Index) -> np.ndarray | None:
        return open_images(index_file.parent, index["key"], (len(index["subjects"]), resolution, resolution))

    index = read_json(index_file)
    images = index and opened(index)
    if index is None or images is None:
        index = pack()
        write_json(index_file, index)
        images = opened(index)
        assert images is not None
    return images, index


def _simulate(resolution: int, cache: Path, shape: tuple[int, int, int]) -> Index:
    from stylegan.data import atlas  # loads torch: only the first start pays

    found = atlas.simulate(SIMULATED_SUBJECTS, SIMULATED_LEVELS, resolution)

    def fill(images: np.ndarray) -> None:
        images[:] = found.images

    return {
        "key": store_images(cache, shape, fill), "title": found.title, "sides": list(found.sides),
        "classes": list(found.classes), "labels": found.labels.tolist(), "subjects": found.subjects.tolist(),
        "levels": found.levels.tolist(), "columns": {name: values.tolist() for name, values in found.columns.items()},
    }  # fmt: skip


def _fingerprint(root: Path, resolution: int, levels: tuple[int, int] | None) -> str:
    """Names, sizes and times of all files: changes with the folder, costs a tenth of a second for 10,000 files."""
    told = repr((FORMAT, str(root.resolve()), resolution, levels, *list_files(root)))
    return hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()


def _pack(catalogue: Catalogue, resolution: int, cache: Path) -> Index:
    left_out = {reason: list(names) for reason, names in catalogue.left_out.items()}
    slices, measures, warnings = _measure_all(catalogue, left_out)
    if not slices:
        raise ValueError(" ".join([nothing_found(catalogue.root, left_out), *warnings[:1]]))
    lost = sorted({item.label for item in catalogue.slices} - {item.label for item in slices})
    warnings += [f"No slice of class {label} can be used; the class is missing." for label in lost]
    by_shape = pictures.common_squares(measures)
    squares = [by_shape[item.shape] for item in measures]
    white = pictures.common_white([item.peak for item in measures if item.peak])
    turns, sides = _find_front(catalogue, slices, squares, white, warnings)
    key = store_images(cache, (len(slices), resolution, resolution),
                       lambda images: _write(catalogue, slices, squares, white, turns, images))  # fmt: skip
    span = min(square[2] for square in squares)
    if span < resolution:
        warnings.append(f"The heads span only {span} pixels in the files; {resolution} px enlarges them.")
    return {
        "key": key, "layout": catalogue.layout, "title": catalogue.title, "hidden": catalogue.hidden,
        "files": [item.file for item in slices], "subjects": [item.subject for item in slices],
        "levels": [item.level for item in slices], "labels": [item.label for item in slices],
        "folders": [item.folder for item in slices], "left_out": left_out, "warnings": warnings,
        "sides": sides, "size": _sizes(measures),
    }  # fmt: skip


def _measure_all(catalogue: Catalogue, left_out: dict[str, list[str]]) -> tuple[list[Slice], list[Measure], list[str]]:
    """The slices that are fit to be used, in the catalogue's order, and what there is to say about the others.

    The others are added to ``left_out``; of equal pictures the first is kept.
    """
    found: dict[tuple[str, int], Measure | LeftOut] = {}
    said: list[str] = []

    def visit(item: Slice, picture: np.ndarray | LeftOut) -> None:
        try:
            found[item.file, item.level] = picture if isinstance(picture, LeftOut) else pictures.measure(picture)
        except LeftOut as reason:
            found[item.file, item.level] = reason

    _for_each(catalogue, catalogue.slices, visit, "measuring", said)
    slices, measures, warnings, digests = [], [], sorted(said), set()
    for item in catalogue.slices:
        result = found[item.file, item.level]
        reason = str(result) if isinstance(result, LeftOut) else "duplicate" if result.digest in digests else ""
        if reason:
            names = left_out.setdefault(reason, [])
            if item.file not in names[-1:]:  # a volume is left out once, not once per level
                names.append(item.file)
                warnings += [result.sentence] if isinstance(result, LeftOut) and result.sentence else []
        else:
            digests.add(result.digest)
            slices.append(item)
            measures.append(result)
    return slices, measures, warnings


def _find_front(
    catalogue: Catalogue, slices: list[Slice], squares: list[Square], white: float, warnings: list[str]
) -> tuple[int, tuple[str, str, str, str]]:
    """Quarter turns that bring the front up, and the marks (top, bottom, left, right) that may then be shown.

    Volumes whose headers know all directions are taken at their word. For everything else the mean of up to 256 slices, spread
    over the set, is compared with the template.
    """
    from stylegan.data.atlas import template_picture  # loads nilearn and torch: only the first start pays

    sides = _volume_sides(catalogue, slices)
    step = 1 + len(slices) // 256
    thumbnails = np.zeros((len(slices[::step]), TEMPLATE_SIZE, TEMPLATE_SIZE), np.uint8)
    _write(catalogue, slices[::step], squares[::step], white, 0, thumbnails)
    turns, sure = pictures.find_turns(thumbnails.mean(0), template_picture(TEMPLATE_SIZE))
    if all(sides):
        if sure and turns:
            warnings.append(
                "The volumes' headers say otherwise than their pictures where the front is; the headers were followed."
            )
        return 0, sides
    if sure:
        return turns, ("A", "P", "", "")
    if not any(sides):
        warnings.append(
            "Where the front of the head is could not be told from the pictures; they are shown as they lie in the files."
        )
    return 0, sides


def _volume_sides(catalogue: Catalogue, slices: list[Slice]) -> tuple[str, str, str, str]:
    """The marks that all volumes agree upon, '' where one does not know; four times '' for pictures."""
    if not catalogue.volumes:
        return ("", "", "", "")
    found = [volumes.volume_sides(catalogue.root / file) for file in {item.file for item in slices}]
    return tuple(marks[0] if len(set(marks)) == 1 else "" for marks in zip(*found, strict=True))


def _write(
    catalogue: Catalogue, slices: list[Slice], squares: list[Square], white: float, turns: int, images: np.ndarray
) -> None:
    """Frame the slices into uint8 [N, R, R], in their order."""
    rows = {(item.file, item.level): row for row, item in enumerate(slices)}

    def visit(item: Slice, picture: np.ndarray | LeftOut) -> None:
        if isinstance(picture, LeftOut):
            raise ValueError(f"{catalogue.root / item.file} changed while it was read; start again.")
        row = rows[item.file, item.level]
        images[row] = pictures.frame(pictures.to_bytes(picture, white), squares[row], images.shape[-1], turns)

    _for_each(catalogue, slices, visit, "packing", [])


def _for_each(
    catalogue: Catalogue,
    slices: Sequence[Slice],
    visit: Callable[[Slice, np.ndarray | LeftOut], None],
    what: str,
    said: list[str],
) -> None:
    """Read each file once, several at a time, and visit each of its slices with its picture, or the reason it has none.

    Sentences about files that are used all the same are added to ``said``.
    """
    by_file: dict[str, list[Slice]] = defaultdict(list)
    for item in slices:
        by_file[item.file].append(item)

    def work(file: str) -> None:
        for item, picture in _read(catalogue, file, by_file[file], said):
            visit(item, picture)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        quiet = True if len(slices) < QUIET_BELOW else None  # None: quiet unless a person is watching
        for _ in tqdm(pool.map(work, by_file), total=len(by_file), desc=what, unit="file", disable=quiet):
            pass


def _read(
    catalogue: Catalogue, file: str, slices: list[Slice], said: list[str]
) -> Iterator[tuple[Slice, np.ndarray | LeftOut]]:
    """Each slice of one file with its grey picture [H, W]."""
    path = catalogue.root / file
    try:
        if catalogue.volumes:
            planes = _read_planes(path, catalogue.levels, said)
            first = catalogue.levels[0] if catalogue.levels else 0
            yield from ((item, planes[item.level - first]) for item in slices)
        else:
            picture = pictures.read_picture(path)
            yield from ((item, picture) for item in slices)
    except LeftOut as reason:
        yield from ((item, reason) for item in slices)


def _read_planes(path: Path, levels: tuple[int, int] | None, said: list[str]) -> np.ndarray:
    """Slices uint8 [L, H, W] of a volume on one grey scale. Raises ``LeftOut`` for a volume that cannot be used."""
    try:
        chosen = (levels[0], levels[1] + 1) if levels else None
        return volumes.to_uint8(volumes.axial_slices(volumes.read_volume(path, said), chosen, VOLUME_LEVELS))
    except (ValueError, OSError) as error:
        if pictures.why_unreadable(path, error) == "Git LFS pointer":
            raise LeftOut("Git LFS pointer") from None
        sentence = str(error)
        raise LeftOut("unusable volume", sentence if path.name in sentence else f"{path}: {sentence}") from None


def _sizes(measures: list[Measure]) -> str:
    """'176 x 208', width first; the most frequent size and how many others."""
    counts = Counter(item.shape for item in measures).most_common()
    (height, width), _ = counts[0]
    return f"{width} x {height}" + (f" and {len(counts) - 1} other sizes" if len(counts) > 1 else "")
