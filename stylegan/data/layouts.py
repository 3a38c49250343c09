"""Recognise how a folder of slices is laid out, by the names of its files alone.

Whether a file really is a slice is decided when it is read (``packing.py``); nothing is opened here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stylegan.data.naming import LABEL_MAP, NAMED, Reading, Slice, class_folders, plain, read_images
from stylegan.data.pictures import EXTENSIONS
from stylegan.data.volumes import ENDINGS, find_volumes, is_label_volume

TITLES = {
    "uq-oasis": 'UQ OASIS slices "{}"',
    "uq-adni": 'UQ ADNI slices "{}"',
    "four-class": 'four-class OASIS-1 upload "{}"',
    "class-folders": 'class folders "{}"',
    "images": 'pictures "{}"',
    "oasis1-volumes": 'OASIS-1 volumes "{}"',
    "nifti": 'NIfTI volumes "{}"',
}
VOLUME_LAYOUTS = ("oasis1-volumes", "nifti")
VOLUME_LEVELS = 32  # taken from a volume unless a range is chosen
TABLES = (".csv", ".tsv")


@dataclass(frozen=True)
class Catalogue:
    """What a folder holds."""

    root: Path
    layout: str
    title: str
    slices: tuple[Slice, ...]  # in natural order of their names
    left_out: dict[str, tuple[str, ...]]  # reason: files
    hidden: str  # why people are not known and what that means; '' where they are
    levels: tuple[int, int] | None  # the chosen range, both ends included

    @property
    def volumes(self) -> bool:
        """Whether the files are volumes with many slices each."""
        return self.layout in VOLUME_LAYOUTS


def list_files(root: Path) -> tuple[list[tuple[str, int, int]], dict[str, list[str]]]:
    """All files below a folder as (relative name, bytes, modification time in ns), sorted, and what is no file, by reason.

    Hidden folders are skipped; linked folders are followed, each real folder once. Raises FileNotFoundError.
    """
    if root.is_file():
        raise FileNotFoundError(f"{root} is a file; give the folder that holds the slices, or a .zip of it.")
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {root}; give a folder or .zip of slices, or none for the simulated ones.")
    files: list[tuple[str, int, int]] = []
    failed: list[str] = []
    empty: list[str] = []
    seen: set[str] = set()
    todo = [(str(root), "")]
    while todo:
        folder, prefix = todo.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        try:
            entries = list(os.scandir(folder))
        except OSError:
            failed.append(prefix or ".")
            continue
        if prefix and not entries:
            empty.append(prefix.rstrip("/"))
        for entry in entries:
            _enter(entry, prefix, files, todo, failed)
    return sorted(files), {"unreadable": sorted(failed), "empty folder": sorted(empty)}


def _enter(entry: os.DirEntry, prefix: str, files: list, todo: list, failed: list[str]) -> None:
    try:
        if entry.is_dir():
            if not entry.name.startswith(".") and entry.name != "__MACOSX":
                todo.append((entry.path, f"{prefix}{entry.name}/"))
        elif entry.is_file():
            status = entry.stat()
            files.append((prefix + entry.name, status.st_size, status.st_mtime_ns))
        else:  # a pipe would wait for ever; a dangling link leads nowhere
            failed.append(prefix + entry.name)
    except OSError:
        failed.append(prefix + entry.name)


def recognise(root: str | Path, levels: tuple[int, int] | None = None) -> Catalogue:
    """The layout of a folder and one record per slice. ``levels`` chooses a range, both ends included.

    Raises FileNotFoundError where there is no such folder, ValueError where it holds no picture and no volume.
    """
    root = Path(root)
    files, no_files = list_files(root)
    names = [name for name, _, _ in files]
    layout, reading = _read_named(root, names) or _read_volumes(root, names, levels) or ("images", _read_rest(names))
    left_out = no_files | reading.misfits
    slices = reading.slices
    if levels:
        slices = [item for item in reading.slices if levels[0] <= item.level <= levels[1]]
        kept = {(item.file, item.level) for item in slices}
        others = [item.file for item in reading.slices if (item.file, item.level) not in kept]
        left_out[f"outside levels {levels[0]}-{levels[1]}"] = others
    found = {reason: tuple(which) for reason, which in left_out.items() if which}
    if not slices:
        raise ValueError(nothing_found(root, found))
    slices = sorted(slices, key=lambda item: (natural(item.file), item.level))
    title = TITLES[layout].format(root.resolve().name)
    return Catalogue(root, layout, title, tuple(slices), found, reading.hidden, levels)


def nothing_found(root: Path, left_out: dict[str, Iterable[str]]) -> str:
    """The sentence for a folder without a single slice."""
    found = {reason: tuple(names) for reason, names in left_out.items()}
    counts = ", ".join(f"{len(names)} {reason}" for reason, names in found.items()) or "the folder is empty"
    archive = next((name for names in found.values() for name in names if name.lower().endswith(".zip")), None)
    if archive:
        advice = f"it holds the archive {archive}: give its path instead of the folder's."
    elif "Git LFS pointer" in found:
        advice = "a Git LFS pointer stands for a file that was not fetched: run `git lfs pull` where the files come from."
    else:
        advice = "data/README.md shows the layouts that are recognised."
    return f"No slice was found in {root} ({counts}); {advice}"


def _not_a_picture(name: str) -> str | None:
    """Why a file is left out by its name; None for a picture, '' for what need not be counted."""
    base = name.rsplit("/", 1)[-1]
    lower = base.lower()
    if lower.endswith(TABLES):
        return ""
    if base.startswith(".") or lower in ("thumbs.db", "desktop.ini"):
        return "hidden or system file"
    if LABEL_MAP.search(plain(name)):
        return "label map"
    return None if Path(lower).suffix in EXTENSIONS else "not an image"


def natural(name: str) -> list:
    """Sorting key that puts slice 9 before slice 10."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if i % 2 else part.lower() for i, part in enumerate(parts)]


def _pictures(names: list[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The files that are pictures by name, and the others under their reason."""
    pictures, left_out = [], {}
    for name in names:
        reason = _not_a_picture(name)
        if reason is None:
            pictures.append(name)
        elif reason:
            left_out.setdefault(reason, []).append(name)
    return pictures, left_out


def _read_named(root: Path, names: list[str]) -> tuple[str, Reading] | None:
    """The first layout whose names fit at least half of the pictures."""
    pictures, left_out = _pictures(names)
    texts = {name: f"{root.resolve().name}/{plain(name)}" for name in pictures}
    for layout, (pattern, read) in NAMED.items():
        matches = {name: found for name, text in texts.items() if (found := pattern.search(text))}
        if matches and 2 * len(matches) >= len(pictures):
            reading = read(matches)
            reading.misfits = left_out | {"name does not fit the layout": [name for name in pictures if name not in matches]}
            return layout, reading
    return None


def _read_rest(names: list[str]) -> Reading:
    """A folder of pictures that fits no layout."""
    pictures, left_out = _pictures(names)
    reading = read_images(pictures)
    reading.misfits = left_out
    return reading


def _read_volumes(root: Path, names: list[str], levels: tuple[int, int] | None) -> tuple[str, Reading] | None:
    """The slices of the volumes, if there are any; levels of a chosen range are planes of the volume, else counted from 0."""
    if not any(name.lower().endswith(ENDINGS) for name in names):
        return None
    found = find_volumes(root)
    if not found:
        return None
    files = [volume.path.relative_to(root).as_posix() for volume in found]
    planes = range(levels[0], levels[1] + 1) if levels else range(VOLUME_LEVELS)
    reading = Reading([
        Slice(file, volume.subject, level, label, split)
        for file, volume, (split, label) in zip(files, found, class_folders(files), strict=True)
        for level in planes
    ])  # fmt: skip
    reading.misfits = _beside_volumes(names, set(files))
    oasis = all(volume.subject.startswith("OAS1_") and "t88" in volume.path.name.lower() for volume in found)
    return "oasis1-volumes" if oasis else "nifti", reading


def _beside_volumes(names: list[str], used: set[str]) -> dict[str, list[str]]:
    """What lies beside the chosen volumes, by reason; the .img of a .hdr is a part of it."""
    stems = {name[:-4] for name in names if name.lower().endswith(".hdr")}
    left_out: dict[str, list[str]] = {}
    for name in names:
        part = name.lower().endswith((".img", ".img.gz")) and re.sub(r"\.img(\.gz)?$", "", name, flags=re.I) in stems
        if name in used or part or name.lower().endswith(TABLES):
            continue
        left_out.setdefault(_why_beside(name, names), []).append(name)
    return left_out


def _why_beside(name: str, names: list[str]) -> str:
    """Why a file beside the chosen volumes is not one of them."""
    if not name.lower().endswith(ENDINGS):
        return "not a volume"
    if name.lower().endswith(".hdr") and not any(name[:-4] + ending in names for ending in (".img", ".IMG", ".img.gz")):
        return "header without its .img"
    return "label map" if is_label_volume(name) else "another volume of the same subject"
