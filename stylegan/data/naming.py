"""What file names tell, layout by layout: who, which level, which class, which published split.

The trees of the layouts are drawn in data/README.md.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stylegan.data import subjects
from stylegan.files import printable as shown  # noqa: F401 - the old name, until all callers know the new one

SPLIT_NAMES = {"train": "train", "training": "train", "validate": "val", "validation": "val", "valid": "val", "val": "val",
               "test": "test", "testing": "test"}  # fmt: skip


@dataclass(frozen=True)
class Slice:
    """One slice as the names tell it; what they do not tell is '' or -1."""

    file: str  # relative to the root; all slices of a volume share its file
    subject: str  # where people are hidden: the narrowest group that is known to belong together
    level: int
    label: str = ""
    folder: str = ""  # published split: 'train' | 'val' | 'test' | ''


@dataclass
class Reading:
    """What one layout makes of the names."""

    slices: list[Slice] = field(default_factory=list)
    misfits: dict[str, list[str]] = field(default_factory=dict)  # reason: files
    hidden: str = ""  # why people are not known and what that means; '' where they are


PICTURE = r"\.(?:png|jpe?g|bmp|gif|tiff?|webp|pgm)$"
LABEL_MAP = re.compile(r"(?:^|/)seg_\d+_slice_|keras_png_slices_seg_", re.I)
UQ_OASIS = re.compile(
    r"(?:^|/)(?:keras_png_slices_(?P<folder>train|validate|test)/)?case_(?P<subject>\d+)_slice_(?P<level>\d+)(?:\.nii)?"
    + PICTURE,
    re.I,
)
UQ_ADNI = re.compile(r"(?:^|/)(?:(?P<folder>train|test)/)?(?P<label>AD|NC)/(?P<subject>\d+)_(?P<level>\d+)" + PICTURE, re.I)
FOUR_CLASS = re.compile(
    r"(?:^|/)(?P<folder>train|test)/(?P<label>NonDemented|VeryMildDemented|MildDemented|ModerateDemented)/"
    r"(?:[a-z]+(?P<number>\d+)|(?P<level>\d+)(?: ?\((?P<subject>\d+)\))?)" + PICTURE,
    re.I,
)
NAMED_SLICE = re.compile(r"(?P<subject>[^/]+?)[_-]slice[_-]?(?P<level>\d+)(?:\.nii)?" + PICTURE, re.I)
CLASS_FOLDERS = re.compile(r"/[^/]+/" + NAMED_SLICE.pattern, re.I)
SUBJECT_ID = re.compile(r"OAS\d_[A-Z]*\d+(?:_MR\d+)?|sub-[A-Za-z0-9]+|\d{3}_S_\d{4}")


def plain(name: str) -> str:
    """The name with forward slashes: archives made on Windows leave backslashes inside file names."""
    return name.replace("\\", "/")


def _read_uq_oasis(matches: dict[str, re.Match]) -> Reading:
    """Case NNN is OASIS-1 number NNN, so tables join by OAS1_0NNN_MR1."""
    return Reading([
        Slice(name, f"OAS1_{int(m['subject']):04d}_MR1", int(m["level"]), "", SPLIT_NAMES.get((m["folder"] or "").lower(), ""))
        for name, m in matches.items()
    ])  # fmt: skip


def _read_uq_adni(matches: dict[str, re.Match]) -> Reading:
    slices = [Slice(name, m["subject"], int(m["level"]), m["label"].upper(), (m["folder"] or "").lower())
              for name, m in matches.items()]  # fmt: skip
    return Reading(
        slices,
        hidden="This layout hides who is who: names carry image ids, and one person may own several images in both folders. "
        "Splits are by image id, so held-out scores may be too good; give a table of image id and subject (--subjects CSV).",
    )


def _read_four_class(matches: dict[str, re.Match]) -> Reading:
    """Subjects recovered from the numbering (``subjects.recover_four_class``); levels 0-based like everywhere else."""
    labels = {label.lower(): label for label in subjects.FOUR_CLASSES}
    trained: dict[str, list[tuple[int, str]]] = defaultdict(list)
    tested: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for name, m in matches.items():
        label = labels[m["label"].lower()]
        if m["number"]:
            trained[label].append((int(m["number"]), name))
        else:
            tested[label].append((int(m["level"]), int(m["subject"] or 1), name))
    first_level = min((level for files in tested.values() for level, _, _ in files), default=26)
    reading = Reading()
    for label in subjects.FOUR_CLASSES:
        found = subjects.recover_four_class(
            label, {number for number, _ in trained[label]}, {(level, s) for level, s, _ in tested[label]}, first_level
        )
        for number, name in trained[label]:
            level, subject = found.get(number, (0, 0))
            who = f"{label}-{subject:03d}" if subject else f"{label}-train-{number}"
            reading.slices.append(Slice(name, who, level - 1, label, "train"))
            if not subject:
                reading.hidden = (
                    "Files are missing from this copy of the four-class upload, so not all subjects could be recovered: people "
                    "may appear in two splits, and held-out scores may be too good."
                )
        reading.slices += [Slice(name, f"{label}-{s:03d}", level - 1, label, "test") for level, s, name in tested[label]]
    return reading


def _read_class_folders(matches: dict[str, re.Match]) -> Reading:
    folders = _folders(list(matches))
    return Reading([
        Slice(name, m["subject"], int(m["level"]), label, split)
        for (name, m), (split, label) in zip(matches.items(), folders, strict=True)
    ])  # fmt: skip


def _folders(names: Sequence[str]) -> list[tuple[str, str]]:
    """(published split, class folder) of each file.

    A folder level is the published split only if all its names are names of splits: a class may be called "test".
    """
    parts = [plain(name).split("/")[:-1] for name in names]
    depth = max((len(part) for part in parts), default=0)
    is_split = [all(part[i].lower() in SPLIT_NAMES for part in parts if len(part) > i) for i in range(depth)]
    at = is_split.index(True) if True in is_split else None
    found = []
    for part in parts:
        split = SPLIT_NAMES[part[at].lower()] if at is not None and len(part) > at else ""
        found.append((split, part[-1] if part and len(part) - 1 != at else ""))
    return found


def class_folders(names: Sequence[str]) -> list[tuple[str, str]]:
    """(published split, class) of each file, the class being its folder where there are 2 to 10 of them that name no person."""
    folders = _folders(names)
    leaves = {leaf for _, leaf in folders}
    classes = {leaf for leaf in leaves if not SUBJECT_ID.search(leaf)} if 1 < len(leaves) <= 10 else set()
    return [(split, leaf if leaf in classes else "") for split, leaf in folders]


def read_images(names: Sequence[str]) -> Reading:
    """Any folder of pictures: who is who from ids in the names if every name has one; else by folder, else each file alone."""
    reading = Reading()
    by_folder = len({leaf for _, leaf in _folders(names)}) > 10  # as many as that are people rather than classes
    for name, (split, label) in zip(names, class_folders(names), strict=True):
        subject, level = _identify(plain(name))
        folder = plain(name).rpartition("/")[0]
        reading.slices.append(Slice(name, subject or (folder if by_folder and folder else name), level, label, split))
        if not subject:
            reading.hidden = (
                "The names do not tell which pictures show the same person; they are split "
                f"{'by folder' if by_folder else 'picture by picture'}, so held-out scores may be too good. Name the files "
                "<subject>_slice_<level>, or give a table (--subjects CSV)."
            )
    return reading


def _identify(name: str) -> tuple[str, int]:
    """Subject and level from <subject>_slice_<level>, or an id of OASIS, BIDS or ADNI anywhere; ('', -1) without."""
    named = NAMED_SLICE.search(name)
    if named:
        return named["subject"], int(named["level"])
    found = SUBJECT_ID.search(name)
    if not found:
        return "", -1
    after = re.search(r"(\d+)(?:\.nii)?\.\w+$", name[found.end() :])
    return found[0], int(after[1]) if after else -1


NAMED: dict[str, tuple[re.Pattern, Callable[[dict[str, re.Match]], Reading]]] = {
    "uq-oasis": (UQ_OASIS, _read_uq_oasis),
    "uq-adni": (UQ_ADNI, _read_uq_adni),
    "four-class": (FOUR_CLASS, _read_four_class),
    "class-folders": (CLASS_FOLDERS, _read_class_folders),
}
