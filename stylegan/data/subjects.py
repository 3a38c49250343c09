"""Who is who: the person in a path, the subjects of the four-class upload, and splits that keep every person on one side."""

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

# ------------------------------------------------------------------------------------------------------- the person in a path
# The ids that public collections give to people, and how they are written here: the most particular ones first.
IDS = tuple(
    (re.compile(pattern, re.I), written)
    for pattern, written in (
        (r"OAS([12])[-_ ]?([A-Z]*\d{3,4})(?!\d)", "OAS{}_{}"),  # OASIS-1, OASIS-2
        (r"OAS([34]\d{4})(?!\d)", "OAS{}"),  # OASIS-3, OASIS-4
        (r"(?<!\d)(\d{3})(?:[-_ ]S[-_ ]|S)(\d{4,5})(?!\d)", "{}_S_{}"),  # ADNI, also as sub-ADNI002S0295
        (r"TCGA[-_]([A-Z0-9]{2})[-_]([A-Z0-9]{4})(?![A-Z0-9])", "TCGA_{}_{}"),
        (r"(IXI\d{3})(?!\d)", "{}"),
        (r"(?<![A-Z0-9])([A-Z]{3,6}-[A-Z]{2,4}-\d{4,5})(?!\d)", "{}"),  # BraTS-GLI-00002-000, UPENN-GBM-00001_11
        (r"(BraTS\d{2,4}(?:_(?:2013|[A-Z][A-Z0-9]*))?_(?:\d+|[A-Z]{3}))(?![A-Z0-9])", "{}"),  # BraTS2021_00007, Brats18_CBICA_AAM_1
        (r"(?<!\d)(\d{7})_\d{5}_\d_\d(?!\d)", "{}"),  # UK Biobank: person, field, visit, repeat
        (r"(?<![A-Z0-9])(miriad_\d{3}|HC[ADP]\d{7}|A\d{8})(?!\d)", "{}"),
        (r"(?<![A-Z0-9])sub-((?=[A-Z]*\d)[A-Z0-9]+)", "sub-{}"),  # BIDS; without a digit (sub-sampled) it may be any word
        (r"(?<![A-Z])(subj?(?:ect)?|pat(?:ient)?|participant|person|volunteer|case|pid|ptid)[-_ ]?(?:id[-_ ]?)?([A-Z]{0,3}\d+)(?![A-Z0-9])",
         "{}_{}"),
    )
)  # fmt: skip
# What tells scans of one person apart: taken out of a name before it is compared with others.
_EDGE, _END = r"(?<![A-Za-z0-9])", r"(?![A-Za-z0-9])"
CONTRASTS = {
    "T1CE": r"t1c|t1ce|t1gd\w*|t1post\w*|t1contrast|t1km|gadolinium", "T1": r"t1[a-z]*|3?dt1[a-z]*|t13d|unit1|mpr\d*|m[ep]*2?rage\d*|rage|i?r?f?spgr|bravo",
    "FLAIR": r"flair[a-z0-9]*|t2f|t2flair\w*", "T2*": r"t2star\w?|t2s", "T2": r"t2[a-z]*|inplanet2", "PD": r"pdw|pdt2", "DWI": r"dwi|dti|adc|b1000",
    "BOLD": r"bold|sbref|fmri|epi", "SWI": r"swi|minip", "ASL": r"asl|cbf|m0scan", "MRA": r"mra|tof|angio", "PET": r"pet|fdg|av45|pib",
    "field map": r"fmap|magnitude\d?|phasediff|fieldmap",
}  # fmt: skip
LAST_ONLY = {
    "PD": "pd",
    "CT": "ct",
    "DWI": "fa|md|trace",
    "BOLD": "rest|func",
}  # contrasts only as a name's last word: PD is a disease too
STAGES = (  # versions of one scan, the one to be used first
    "t88_masked", r"aligned_norm", r"(?:skull)?-?strip(?:ped)?|brain|masked|bet", "norm", "t88", "sbj_111|restore|preproc|nu|n4|n3",
)  # fmt: skip
VERSION = r"t88|masked|gfc|sbj|111|aligned|norm|orig|raw|rawavg|skull|strip(?:ped)?|brain|brainmask|bet|restore|preproc|acpc|dc|nu|n[34]|scaled|" \
    r"gradwarp|b1|correction|anon|affine|mni|warped|reg|registered|resampled|bias|corrected|processed|3t|1\.5t|7t|nii|std|reorient"  # fmt: skip
VISIT = "|".join((
    r"(?:ses|acq|desc|space|rec|run|task|dir|res|den|echo|part|inv|ce|mod)-[A-Za-z0-9.+]+",
    r"(?:session|sess|ses|visit|vis|run|scan|series|mpr|mprage|anat|rest|tp|timepoint|time|wave|year|yr|month|mon|week|wk|day|fu|follow[-_ ]?up|"
    r"repeat|rep|acq|mr|exam|study|v|m|y)[-_ ]?\d+(?:\.\d+)?",
    r"(?:19|20)\d\d[-_.]?(?:0\d|1[0-2])[-_.]?[0-3]\d(?:[-_T ]\d\d[-_:]?\d\d[-_:]?\d\d(?:\.\d+)?)?",
    r"I\d{4,}|S\d{5,}|d\d{4}|br|\d{12,}|baseline|base|bl|sc|screening|follow[-_ ]?up|pre|post|retest|test|repeat|mr|ses|session|axial|ax|sag|sagittal|cor|"
    r"coronal|tra|2d|3d|gre|anat|struct(?:ural)?",
))  # fmt: skip
_CONTRAST = "|".join(CONTRASTS.values())
NOISE = re.compile(rf"{_EDGE}(?:{VISIT}|(?:{_CONTRAST})(?P<n>[-_ ]\d\d?)?|{VERSION}){_END}", re.I)
HASH = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}|[0-9a-f]{16}", re.I)
# Words that number files, not people.
GENERIC = re.compile(
    r"(?:im|img|image|slice|sl|scan|pic|picture|photo|brain|head|mri?|vol|volume|file|data|frame|axial|nii|nifti|anat|struct\w*|series|sample|"
    r"output|item|unnamed|copy|z|id|train|val|valid|validation|tr|te|va|dcm|export|fake|seed|plane|layer|level)?", re.I)  # fmt: skip


def plain(name: str) -> str:
    """The name with forward slashes: archives made on Windows leave backslashes inside file names."""
    return name.replace("\\", "/")


def stem(name: str) -> str:
    """The last part of a name without its endings (``.nii.gz``, ``.nii.png``, ``.hdr``)."""
    return re.sub(r"(\.nii)?\.[a-z]{1,5}\d?(\.gz)?$", "", plain(name).rpartition("/")[2], flags=re.I)


def find_id(path: str) -> tuple[str, str, int]:
    """(person, scan, where the id ends) of the first collection's id in a path; ('', '', 0) where there is none.

    The scan is the person with the visit, as OASIS writes it: ``OAS2_0001_MR2``, ``OAS30001_MR_d0129``; else the person.
    """
    for pattern, written in IDS:
        found = list(pattern.finditer(path))
        if not found:
            continue
        who, end = written.format(*found[0].groups()), found[-1].end()
        if not who[:3].upper() == "OAS":
            return who.replace("_s_", "_S_"), who, end
        who = who.upper()
        visit = re.search(r"[-_]MR[-_ ]?(\d+)" if who[4] == "_" else r"(?<![A-Za-z0-9])(d\d{4})(?!\d)", path, re.I)
        mark = ("_MR" if who[4] == "_" else "_MR_") + visit[1].lower() if visit else ""
        return who, who + mark, end
    return "", "", 0


def core(name: str) -> str:
    """A file's or folder's name without visits, repeats, dates, contrasts and versions: equal for all scans of one person."""
    while NOISE.search(name):
        name = re.sub(r"[-_ .]*~[-_ .~]*", "_", NOISE.sub("~", name)).strip("_-. ")
    return name.strip("_-. ")


def is_generic(name: str) -> bool:
    """Whether a core numbers files rather than people (``img_12``, ``scan (3)``), or is nothing at all."""
    words = re.findall(r"[^\W\d_]+", name)
    return not re.sub(r"[\W_]+", "", name) or (bool(words) and all(GENERIC.fullmatch(word) for word in words))


def person(subject: str) -> str:
    """The person behind a subject id: OASIS scans OAS1_0061_MR1 and OAS1_0061_MR2 show the same one."""
    return re.sub(r"_MR(?:\d+|_d\d+)$", "", subject, flags=re.I)


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


def choose_split(
    subjects: Sequence[str], labels: Sequence[int], folders: Sequence[str], seed: int, classes: Sequence[str], known: bool
) -> tuple[np.ndarray, list[str]]:
    """The folder's own split where people are ``known`` and nobody is on two of its sides, else one by subject."""
    leaks = count_leaks(subjects, folders)
    if known and not leaks and all(folders) and "train" in folders and len(set(folders)) > 1:
        return complete_split(subjects, labels, folders, seed, classes)
    splits, said = split_by_subject(subjects, labels, seed, classes)
    if leaks:
        said = [*said, f"The folder's own split shows {leaks} subjects on both sides; it is replaced by a split by subject."]
    return splits, said
