"""How a folder of slices is laid out, told by the names of its files alone: who, which class, which level, which published split.

Whether a file really is a slice is decided when it is read (``pack.py``). data/README.md shows the layouts that people have.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stylegan.data import subjects as who
from stylegan.data.listing import (
    Listing,
    candidates,
    channel_names,
    list_files,
    natural,
    nothing_found,
    one_contrast,
    one_version,
)
from stylegan.data.subjects import plain, stem
from stylegan.data.tree import IMAGE_ID, SPLIT_NAMES, Item, read_tree
from stylegan.files import read_json

TITLES = {
    "uq-oasis": 'UQ OASIS slices "{}"', "uq-adni": 'UQ ADNI slices "{}"', "four-class": 'four-class OASIS-1 upload "{}"',
    "class-folders": 'class folders "{}"', "stylegan": 'pictures with dataset.json "{}"', "images": 'pictures "{}"',
    "oasis1-volumes": 'OASIS-1 volumes "{}"', "nifti": 'NIfTI volumes "{}"',
}  # fmt: skip
PICTURE = r"\.(?:png|jpe?g|bmp|gif|tiff?|webp|pgm)$"
UQ_OASIS = re.compile(r"(?:^|/)(?:keras_png_slices_(train|validate|test)/)?case_(\d+)_slice_(\d+)(?:\.nii)?" + PICTURE, re.I)
FOUR_CLASS = re.compile(
    r"(?:^|/)(?P<folder>train|test)/(?P<label>NonDemented|VeryMildDemented|MildDemented|ModerateDemented)/"
    r"(?:[a-z]+(?P<number>\d+)|(?P<level>\d+)(?: ?\((?P<subject>\d+)\))?)" + PICTURE, re.I)  # fmt: skip
HIDDEN = (
    "The names do not tell which pictures show the same person: one person may be in training and in test, and held-out scores may be too "
    "good. Name the files <subject>_slice_<level>, give each person a folder, or name a table of file and subject (--subjects CSV)."
)
HIDDEN_ADNI = (
    "This layout hides who is who: names carry image ids, and one person may own several images in both folders. "
    "Splits are by image id, so held-out scores may be too good; give a table of image id and subject (--subjects CSV)."
)
HIDDEN_FOUR = (
    "Files are missing from this copy of the four-class upload, so not all subjects could be recovered: people may appear in two splits, "
    "and held-out scores may be too good."
)


@dataclass(frozen=True)
class Catalogue:
    """What a folder holds."""

    root: Path
    layout: str
    items: tuple[Item, ...]  # in natural order of their names
    left_out: dict[str, tuple[str, ...]]  # reason: files
    hidden: str = ""  # why people are not known and what that means; '' where they are
    volumes: bool = False  # a file may hold many slices
    levels: tuple[int, int] | None = None  # the chosen range, both ends included
    warnings: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return TITLES[self.layout].format(self.root.resolve().name)


def recognise(
    root: str | Path, listing: Listing | None = None, levels: tuple[int, int] | None = None, contrast: str | None = None
) -> Catalogue:
    """The layout of a folder and one record per file. ``levels``: both ends included. ``contrast``: T1 unless another is named.

    Raises FileNotFoundError where there is no such folder, ValueError where it holds no picture and no volume.
    """
    root = Path(root)
    files, no_files = listing or list_files(root)
    left_out = {reason: list(which) for reason, which in no_files.items()}
    names = [name for name, _, _ in files]
    chosen, volumes = candidates(names, left_out)
    chosen, warnings = one_contrast(chosen, contrast, channel_names(root, names), left_out)
    if volumes:
        chosen = one_version(chosen, left_out)
    layout, items, hidden = _read(root, chosen, names, volumes)
    if levels and not volumes:
        left_out[f"outside levels {levels[0]}-{levels[1]}"] = [i.file for i in items if not levels[0] <= i.level <= levels[1]]
        items = [item for item in items if levels[0] <= item.level <= levels[1]]
    strange = {item.file for item in items if not item.told}
    if layout not in ("four-class", "stylegan") and 0 < 10 * len(strange) <= len(items):  # a logo among slices
        left_out["name does not fit the layout"] = sorted(strange)
        items, hidden = [item for item in items if item.file not in strange], ""
    found = {reason: tuple(which) for reason, which in left_out.items() if which}
    if not items:
        raise ValueError(nothing_found(root, found))
    items = sorted(_one_name_each(items), key=lambda item: natural(item.file))
    return Catalogue(root, layout, tuple(items), found, hidden, volumes, levels, tuple(warnings))


def _one_name_each(items: list[Item]) -> list[Item]:
    """A person of one scan goes by the scan's name, OAS1_0001_MR1; one of several scans by the person's, OAS2_0001."""
    scans = defaultdict(set)
    for item in items:
        scans[item.subject].add(item.scan)
    one = {name: min(found) for name, found in scans.items() if len(found) == 1 and re.search(r"_MR\d+$", min(found))}
    return [replace(item, subject=one.get(item.subject, item.subject)) for item in items]


def _read(root: Path, chosen: list[str], names: list[str], volumes: bool) -> tuple[str, list[Item], str]:
    """(layout, items, why people are hidden)."""
    if not volumes:
        for layout, pattern, read in (("uq-oasis", UQ_OASIS, _read_uq_oasis), ("four-class", FOUR_CLASS, _read_four_class)):
            found = {name: m for name in chosen if (m := pattern.search(f"{root.resolve().name}/{plain(name)}"))}
            if found and 2 * len(found) >= len(chosen):
                items = read(found)
                lost = any(not item.told for item in items)
                return (
                    layout,
                    items + [Item(name, name, told=False) for name in chosen if name not in found],
                    HIDDEN_FOUR * lost,
                )
    items = read_tree(chosen, volumes)
    hidden = HIDDEN if any(not item.told for item in items) else ""
    if volumes:
        oasis = all(item.subject.startswith("OAS1_") and "t88" in stem(item.file).lower() for item in items)
        return "oasis1-volumes" if items and oasis else "nifti", items, hidden
    labels = _dataset_json(root, names)
    if labels:
        return "stylegan", [replace(item, label=labels.get(plain(item.file), "")) for item in items], hidden
    classes = {item.label.upper() for item in items} - {""}
    if (
        classes
        and classes <= {"AD", "CN", "NC", "MCI", "EMCI", "LMCI", "SMC"}
        and all(IMAGE_ID.fullmatch(stem(i.file)) for i in items)
    ):
        return "uq-adni", items, hidden and HIDDEN_ADNI
    return "class-folders" if classes else "images", items, hidden


def _dataset_json(root: Path, names: Sequence[str]) -> dict[str, str]:
    """{file: class} as the dataset.json of a StyleGAN archive says; {} without two classes."""
    path = next((name for name in sorted(names, key=len) if plain(name).rpartition("/")[2] == "dataset.json"), None)
    pairs = (read_json(root / path) or {}).get("labels") if path else None
    if not isinstance(pairs, list):
        return {}
    folder = plain(path)[: -len("dataset.json")]
    found = {
        folder + plain(str(pair[0])): str(pair[1])
        for pair in pairs
        if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[1], int)
    }
    return found if len(set(found.values())) > 1 else {}


def _read_uq_oasis(matches: dict[str, re.Match]) -> list[Item]:
    """Case NNN is OASIS-1 number NNN, so tables join by OAS1_0NNN_MR1."""
    return [
        Item(
            name,
            f"OAS1_{int(m[2]):04d}_MR1",
            int(m[3]),
            "",
            SPLIT_NAMES.get((m[1] or "").lower(), ""),
            f"OAS1_{int(m[2]):04d}_MR1",
        )
        for name, m in matches.items()
    ]


def _read_four_class(matches: dict[str, re.Match]) -> list[Item]:
    """Subjects recovered from the numbering (``subjects.recover_four_class``); levels 0-based like everywhere else."""
    labels = {label.lower(): label for label in who.FOUR_CLASSES}
    trained: dict[str, list[tuple[int, str]]] = defaultdict(list)
    tested: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for name, m in matches.items():
        label = labels[m["label"].lower()]
        if m["number"]:
            trained[label].append((int(m["number"]), name))
        else:
            tested[label].append((int(m["level"]), int(m["subject"] or 1), name))
    first_level = min((level for files in tested.values() for level, _, _ in files), default=26)
    items = []
    for label in who.FOUR_CLASSES:
        numbers, places = {number for number, _ in trained[label]}, {(level, s) for level, s, _ in tested[label]}
        found = who.recover_four_class(label, numbers, places, first_level)
        for number, name in trained[label]:
            level, s = found.get(number, (0, 0))
            items.append(
                Item(name, f"{label}-{s:03d}" if s else f"{label}-train-{number}", level - 1, label, "train", told=bool(s))
            )
        items += [Item(name, f"{label}-{s:03d}", level - 1, label, "test") for level, s, name in tested[label]]
    return items
