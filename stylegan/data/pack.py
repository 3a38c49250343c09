"""From a folder to one packed array: list it once, read each file once, measure, find the common frame, save; map ever after.

The second start is instant because nothing is opened but a short index: a folder whose names, sizes and times are as before
gives the same pictures. The packed file itself is named by its content.
"""

import functools
import hashlib
import os
import re
import stat
import sys
import tempfile
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from stylegan.data import pictures, volumes
from stylegan.data.layouts import Catalogue, recognise
from stylegan.data.listing import list_files, nothing_found
from stylegan.data.pictures import LeftOut, Measure
from stylegan.data.subjects import Item
from stylegan.data.volumes import NO_MARKS, Marks
from stylegan.files import read_json, replacing, write_json

FORMAT = 10  # raise it whenever the same folder would be packed differently
TEMPLATE_SIZE = 32
SIMULATED_SUBJECTS, SIMULATED_LEVELS = 128, 32  # of the embedded default
QUIET_BELOW = 2000  # files; smaller sets take a second or two and need no progress bar
MAX_BYTES, MAX_FILES = 64 << 30, 2_000_000  # of an archive: more is a decompression bomb, the largest known set has under 5 GB

Index = dict  # what is kept beside the packed pictures: lists of one entry per slice, and what was left out
Slices = Iterable[np.ndarray]  # uint8 [R, R] each


def pack_folder(
    root: Path, resolution: int, levels: tuple[int, int] | None, contrast: str | None, cache: Path
) -> tuple[np.ndarray, Index]:
    """The folder's slices uint8 [N, R, R], memory-mapped, front of the head up where that is known, and their index.

    The index holds per slice: files, subjects, scans, levels, labels, folders; and for the set: key, layout, title, sides, size,
    hidden, left_out, warnings. Raises FileNotFoundError or ValueError where there is nothing to pack.
    """
    listed = list_files(root)
    told = repr((FORMAT, str(root.resolve()), resolution, levels, contrast, *listed))
    path = cache / f"{hashlib.sha256(told.encode('utf-8', 'surrogateescape')).hexdigest()}.json"
    return _packed_once(path, resolution, lambda: _pack(recognise(root, listed, levels, contrast), resolution))


def pack_simulated(resolution: int, cache: Path) -> tuple[np.ndarray, Index]:
    """The embedded default uint8 [N, R, R], simulated once per resolution, memory-mapped ever after, and its index.

    The index is that of a folder, and holds the ``columns`` that a table would bring.
    """
    code = hashlib.sha256(Path(__file__).with_name("simulate.py").read_bytes()).hexdigest()  # another simulation, another cache
    index_file = cache / f"simulated-{SIMULATED_SUBJECTS}x{SIMULATED_LEVELS}-{resolution}px-{code[:8]}.json"

    def simulated() -> tuple[Index, Slices]:
        from stylegan.data import simulate  # loads torch: only the first start pays

        found = simulate.simulate(SIMULATED_SUBJECTS, SIMULATED_LEVELS, resolution)
        return {
            "layout": "simulated", "title": found.title, "hidden": "", "files": [], "subjects": found.subjects.tolist(),
            "levels": found.levels.tolist(), "labels": [found.classes[label] for label in found.labels],
            "folders": [""] * len(found.labels), "left_out": {}, "warnings": [], "sides": list(found.sides),
            "size": f"{resolution} x {resolution}", "columns": {name: values.tolist() for name, values in found.columns.items()},
        }, found.images  # fmt: skip

    return _packed_once(index_file, resolution, simulated)


def _packed_once(index_file: Path, resolution: int, pack: Callable[[], tuple[Index, Slices]]) -> tuple[np.ndarray, Index]:
    """The pictures and index that are in the cache; where one is absent or damaged, ``pack`` makes both first."""
    cache, index = index_file.parent, read_json(index_file)
    images = index and _opened(cache, index, resolution)
    if images is not None:
        return images, index
    index, slices = pack()
    shape = (len(index["subjects"]), resolution, resolution)
    key = hashlib.sha256(repr(shape).encode())  # of the content, which names the file
    with replacing(cache / f"packing-{os.urandom(4).hex()}.npy") as temporary:
        with open(temporary, "wb") as file:  # one by one: all together may be more than the memory holds
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for picture in slices:
                file.write(picture.tobytes())
                key.update(picture.tobytes())
            file.flush()
            os.fsync(file.fileno())  # or a power cut may leave the name without the content
        index["key"] = key.hexdigest()
        os.replace(temporary, cache / f"{index['key']}.npy")
    write_json(index_file, index)
    return _opened(cache, index, resolution), index


def _opened(cache: Path, index: Index, resolution: int) -> np.ndarray | None:
    """The packed pictures of an index, memory-mapped; None where they are absent or damaged."""
    try:
        images = np.load(cache / f"{index['key']}.npy", mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return images if images.shape == (len(index["subjects"]), resolution, resolution) and images.dtype == np.uint8 else None


# ------------------------------------------------------------------------------------------------------------------- packing


class Found(NamedTuple):
    """A slice with its picture, or why it has none."""

    item: Item
    picture: np.ndarray | LeftOut
    marks: Marks = NO_MARKS
    said: Sequence[str] = ()  # warnings
    mm: float = 0  # width of a pixel, where known


def _pack(catalogue: Catalogue, resolution: int) -> tuple[Index, Slices]:
    left_out = defaultdict(list, {reason: list(names) for reason, names in catalogue.left_out.items()})
    warnings = list(catalogue.warnings)
    found, measures = _fit(_read_all(catalogue), left_out, warnings)
    if not found:
        raise ValueError(" ".join([nothing_found(catalogue.root, left_out), *warnings[:1]]))
    items = [one.item for one in found]
    lost = sorted({item.label for item in catalogue.items} - {item.label for item in items} - {""})
    warnings += [f"No slice of class {label} can be used; the class is missing." for label in lost]
    squares, scale = pictures.common_squares(measures), pictures.common_scale(measures)

    def framed(one: Found, size: int, turns: int = 0) -> np.ndarray:
        picture = pictures.to_bytes(one.picture, *scale)
        return pictures.frame(picture, squares[picture.shape, one.mm], size, turns)

    mean = np.mean([framed(one, TEMPLATE_SIZE) for one in found[:: 1 + len(found) // 256]], 0)
    turns, sides = _front(mean, [one.marks for one in found], warnings)
    pictured = sides[0] and not any(one.marks[0] for one in found)  # which way is up was seen, not read in headers
    apart = _other_turns(found, functools.partial(framed, size=TEMPLATE_SIZE), turns, warnings) if pictured else {}
    span = min(side for _, _, side in squares.values())
    if span < resolution:
        warnings.append(f"The heads span only {span} pixels in the files; {resolution} px enlarges them.")
    widths = sorted({round(item.mm, 2) for item in measures})
    sizes = [f"{width} x {height}" for (height, width), _ in Counter(item.shape for item in measures).most_common()]
    return {
        "layout": catalogue.layout, "title": catalogue.title, "hidden": catalogue.hidden,
        "files": [item.file for item in items], "subjects": [item.subject for item in items],
        "scans": [item.scan or item.subject for item in items], "levels": [item.level for item in items],
        "labels": [item.label for item in items], "folders": [item.folder for item in items],
        "left_out": left_out, "warnings": warnings, "sides": list(sides),
        "size": sizes[0] + (f" and {len(sizes) - 1} other sizes" if len(sizes) > 1 else "")
        + (f" of {widths[0]:g} to {widths[-1]:g} mm" if len(widths) > 1 and widths[0] else ""),
    }, (framed(one, resolution, apart.get(one.item.subject, turns)) for one in found)  # fmt: skip


def _read_all(catalogue: Catalogue) -> list[Found]:
    """Every slice of every file, several files at a time, in the catalogue's order."""
    count = len(catalogue.items)
    if catalogue.volumes:  # takes minutes where there are hundreds
        endings = ", ".join(sorted({re.sub(r".*?(\.[a-z]+(\.gz)?)$", r"\1", item.file.lower()) for item in catalogue.items}))
        print(f"Reading {count} volumes ({endings[:40]}); the next start takes a second.", file=sys.stderr)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        read = pool.map(lambda item: _read(catalogue, item), catalogue.items)
        quiet = True if count < QUIET_BELOW else None  # None: quiet unless a person is watching
        return [one for found in tqdm(read, total=count, desc="reading", unit="file", disable=quiet) for one in found]


def _read(catalogue: Catalogue, item: Item) -> list[Found]:
    """The slices of one file."""
    path, said = catalogue.root / item.file, []
    try:
        if not catalogue.volumes:
            return [Found(item, pictures.read_picture(path, said), said=said)]
        scan = volumes.read_scan(path, catalogue.levels, said)
        if scan.levels is None and catalogue.levels and not catalogue.levels[0] <= item.level <= catalogue.levels[1]:
            raise LeftOut("outside levels {}-{}".format(*catalogue.levels))
        items = [item] if scan.levels is None else [replace(item, level=level) for level in scan.levels.tolist()]
        return [Found(one, picture, scan.marks, said, scan.mm) for one, picture in zip(items, scan.pictures, strict=True)]
    except LeftOut as reason:
        return [Found(item, reason, said=said)]


def _fit(everything: list[Found], left_out: dict[str, list[str]], warnings: list[str]) -> tuple[list[Found], list[Measure]]:
    """The slices that are fit to be used; the others are added to ``left_out``. Of equal pictures the first is kept."""
    found, measures, first, two_classes = [], [], {}, []
    for one in everything:
        item = one.item
        warnings += [sentence for sentence in one.said if sentence not in warnings]
        try:
            if isinstance(one.picture, LeftOut):
                raise one.picture
            measured = pictures.measure(one.picture, one.mm)
            twin = first.setdefault(measured.digest, item)
            if twin is not item:
                two_classes += [(twin, item)] if item.label != twin.label else []
                raise LeftOut("duplicate")
            found.append(one)
            measures.append(measured)
        except LeftOut as reason:
            if item.file not in left_out[str(reason)][-1:]:  # a volume is left out once, not once per level
                left_out[str(reason)].append(item.file)
                warnings += [reason.sentence] if reason.sentence and len(left_out[str(reason)]) <= 3 else []  # more say no more
    if two_classes:
        one, other = two_classes[0]
        warnings.append(
            f"{len(two_classes)} pictures lie in two classes at once, such as {one.file} and {other.file}: which label is right is "
            "not known; the first one counts."
        )
    return found, measures


def _front(mean: np.ndarray, marks: list[Marks], warnings: list[str]) -> tuple[int, Marks]:
    """Quarter turns that bring the front up, and the marks (top, bottom, left, right) that may then be shown.

    Volumes whose headers know front and back are taken at their word; everything else is turned only where the mean of up to 256
    slices, spread over the set, is surely an axial one.
    """
    sides = tuple(which[0] if len(set(which)) == 1 else "" for which in zip(*marks, strict=True))
    turns = pictures.find_turns(mean)
    if sides[0]:
        other_way = "The volumes' headers say otherwise than their pictures where the front is; the headers were followed."
        warnings += [other_way] if turns else []
        return 0, sides
    if turns is None:
        warnings.append(
            "Which plane the slices show, or where the front of the head is, could not be told for sure; they are shown as they lie in "
            "the files, without marks."
        )
        return 0, NO_MARKS
    return turns, ("A", "P", "", "")


def _other_turns(found: list[Found], framed: Callable, turns: int, warnings: list[str]) -> dict[str, int]:
    """Quarter turns of the people whose heads lie otherwise than those of most, as in folders of two sources.

    Told by what each head resembles most in the mean of all. Of OASIS-1's 160 people it turns nobody.
    """
    groups, others = defaultdict(list), {}
    for one in found:
        groups[one.item.subject].append(one)
    own = {subject: np.mean([framed(one) for one in of[:: 1 + len(of) // 8]], 0) for subject, of in groups.items()}
    own = {subject: pictures.stretched(picture) for subject, picture in own.items() if picture.std()}  # wherever the head lies
    mean = np.mean([*own.values()], 0)
    for least in (0, 0.02):  # a clearer mean first
        alike = {who: [np.corrcoef(np.rot90(one, k).ravel(), mean.ravel())[0, 1] for k in range(4)] for who, one in own.items()}
        others = {who: int(np.argmax(r)) for who, r in alike.items() if max(r) > max(0.8, r[0] + least)}
        mean = np.mean([np.rot90(one, others.get(who, 0)) for who, one in own.items()], 0)
    if others:
        who = f"{len(others)} people ({', '.join(sorted(others)[:3])}{', ...' if len(others) > 3 else ''})"
        warnings.append(f"The heads of {who} lie another way round in their files than those of the others; they were turned.")
    return {subject: turns + more for subject, more in others.items()}


# ------------------------------------------------------------------------------------------------------------------ archives


def unpack_once(archive: Path, cache: Path) -> Path:
    """The folder a .zip was unpacked to below ``cache``, unpacking it the first time (keyed by name, size and time).

    It appears complete or not at all. All names are checked before anything is written: an archive with an absolute name, '..', a
    link or a device is refused as a whole, as is one beyond ``MAX_BYTES`` or ``MAX_FILES``. No member gives more bytes than it says:
    zipfile checks that.
    """
    if not archive.is_file():
        raise FileNotFoundError(f"There is no archive {archive}.")
    status = archive.stat()
    mark = hashlib.sha256(repr((str(archive.resolve()), status.st_size, status.st_mtime_ns)).encode()).hexdigest()[:16]
    out = cache / f"unpacked-{mark}" / (archive.stem.strip(".") or "archive")  # the name is a stranger's: ".." leads elsewhere
    if out.is_dir():
        return out
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(archive) as opened, tempfile.TemporaryDirectory(prefix=".unpack-", dir=cache) as scratch:
            everything = Path(scratch) / "all"
            everything.mkdir()
            opened.extractall(everything, _members(archive, opened))
            os.replace(everything, out)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        if not out.is_dir():  # else another process was faster
            raise ValueError(f"{archive.name} is no .zip that can be unpacked: {error}.") from error
    return out


def _members(archive: Path, opened: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files of an archive. Raises ValueError where one is locked, a link or would leave the folder, and where they are too large."""
    for info in opened.infolist():
        info.filename = info.filename.replace("\\", "/")  # as Windows writes it
    members = [info for info in opened.infolist() if not info.filename.endswith("/")]
    if any(info.flag_bits & 1 for info in members):
        raise ValueError(f"{archive.name} is locked with a password; unpack it and give the folder.")
    size = sum(info.file_size for info in members)
    if size > MAX_BYTES or len(members) > MAX_FILES:
        raise ValueError(f"{archive.name} holds {len(members)} files of {size / 2**30:.0f} GB; that is refused.")
    for info in members:
        path, kind = PurePosixPath(info.filename), stat.S_IFMT(info.external_attr >> 16)
        inside = path.parts and not path.is_absolute() and ".." not in path.parts and ":" not in path.parts[0]
        if not inside or kind not in (0, stat.S_IFREG):
            raise ValueError(f"{archive.name} is not safe to unpack ({info.filename!r} leads outside or is a link): refused.")
    return members
