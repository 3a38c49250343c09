"""Who is who: the subjects of the four-class upload, and splits that keep every person on one side."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from stylegan.dataset import SliceDataset

FOUR_CLASSES = {"NonDemented": 100, "VeryMildDemented": 70, "MildDemented": 28, "ModerateDemented": 2}  # subjects in the upload
SPLITS = ("train", "val", "test")
FRACTIONS = {"val": 0.15, "test": 0.15}


def person(subject: str) -> str:
    """The person behind a subject id: OASIS scans OAS1_0061_MR1 and OAS1_0061_MR2 show the same one."""
    return re.sub(r"_MR\d+$", "", subject, flags=re.I)


def people_of(slices: SliceDataset) -> np.ndarray:
    """The person of each slice, str [N]: several scans of one person count as one."""
    return np.array([person(str(subject)) for subject in slices.subjects])


# -------------------------------------------------------------------------------------------- the four-class upload of OASIS-1


def recover_four_class(
    label: str, trained: set[int], tested: set[tuple[int, int]], first_level: int = 26
) -> dict[int, tuple[int, int]]:
    """Level and subject, both 1-based, of each train file number of one class: {number: (level, subject)}.

    ``trained`` holds the numbers k of the train files, ``tested`` the (level, subject) of the test files ``L (s).jpg``, and
    ``first_level`` is the lowest level that the test folder of any class holds. Train files number level by level, and within a
    level subjects come in the string order of their test names; of ``first_level`` only those without a test file are in train.
    Numbers that cannot be placed because files are missing are absent.
    """
    taken = {subject for level, subject in tested if level == first_level}
    seen = max((subject for _, subject in tested), default=0)
    for count in dict.fromkeys((seen, FOUR_CLASSES[label])):
        if not count:
            continue
        full = count * (first_level - 1)
        order = sorted(range(1, count + 1), key=lambda s: f"{first_level}.jpg" if s == 1 else f"{first_level} ({s}).jpg")
        rest = [subject for subject in order if subject not in taken]
        complete = max(trained, default=-1) + 1 == full + len(rest)
        if complete or (count == FOUR_CLASSES[label] and max(trained, default=0) < full + count):
            placed = {k: (k // count + 1, order[k % count]) for k in trained if k < full}
            if complete:
                placed |= {k: (first_level, rest[k - full]) for k in trained if k >= full}
            return placed
    return {}


# ------------------------------------------------------------------------------------------------------------------- splits


def split_by_subject(
    subjects: Sequence[str], labels: Sequence[int], seed: int = 0, classes: Sequence[str] = ()
) -> tuple[np.ndarray, list[str]]:
    """'train' | 'val' | 'test' per slice, 70/15/15 by person and stratified by class, and what has to be said about it.

    A person's place depends on the ids and the seed, not on the order of files: people of a class are drawn in the order of a
    hash, because a library's shuffle would depend on how they are listed. Classes with fewer than 3 people go to train only.
    """
    place, warnings = assign_people(_people(subjects, labels), seed, classes=classes)
    return np.array([place[person(subject)] for subject in subjects], dtype="<U5"), warnings


def _people(subjects: Sequence[str], labels: Sequence[int]) -> dict[str, int]:
    """Each person's class: the most frequent one among the slices, the lower index on a tie."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for subject, label in zip(subjects, labels, strict=True):
        counts[person(str(subject))][int(label)] += 1
    return {who: min(count, key=lambda label: (-count[label], label)) for who, count in counts.items()}


def assign_people(
    people: dict[str, int], seed: int, fractions: dict[str, float] = FRACTIONS, classes: Sequence[str] = ()
) -> tuple[dict[str, str], list[str]]:
    """{person: split} from {person: class}; at least one person per held-out split where a class has 3 or more."""
    by_class: dict[int, list[str]] = defaultdict(list)
    for who in people:
        by_class[people[who]].append(who)
    place, warnings = dict.fromkeys(people, "train"), []
    for label, members in sorted(by_class.items()):
        if len(members) < 3:
            name = classes[label] if 0 <= label < len(classes) else "What has no class" if len(by_class) > 1 else "The set"
            warnings.append(
                f"{name} has only {len(members)} subject{'s' * (len(members) > 1)}: all its slices are for training."
            )
            continue
        members.sort(key=lambda who: hashlib.sha256(f"{seed}:{who}".encode("utf-8", "surrogateescape")).digest())
        start = 0
        for split, fraction in fractions.items():
            count = max(1, math.floor(fraction * len(members) + 0.5))
            place |= dict.fromkeys(members[start : start + count], split)
            start += count
    return place, warnings


def count_leaks(subjects: Sequence[str], folders: Sequence[str]) -> int:
    """People with slices in more than one folder of a published split."""
    seen: dict[str, set[str]] = defaultdict(set)
    for subject, folder in zip(subjects, folders, strict=True):
        if folder:
            seen[person(str(subject))].add(str(folder))
    return sum(len(where) > 1 for where in seen.values())


def complete_split(
    subjects: Sequence[str], labels: Sequence[int], folders: Sequence[str], seed: int, classes: Sequence[str] = ()
) -> tuple[np.ndarray, list[str]]:
    """A published split by subject, its missing val or test carved out of train by subject, stratified by class."""
    splits = np.array(folders, dtype="<U5")
    present = {str(folder) for folder in splits}
    missing = {name: fraction for name, fraction in FRACTIONS.items() if name not in present}
    if not missing:
        return splits, []
    train = np.flatnonzero(splits == "train")
    share = 1 - sum(
        fraction for name, fraction in FRACTIONS.items() if name in present
    )  # so that val is 15 % of all, not of train
    people = _people([subjects[i] for i in train], [labels[i] for i in train])
    place, warnings = assign_people(people, seed, {name: fraction / share for name, fraction in missing.items()}, classes)
    splits[train] = [place[person(str(subjects[i]))] for i in train]
    return splits, warnings
