"""Who is who: what names tell of people, classes and splits, the subjects of the four-class upload, and splits that leave nobody on two sides."""

import functools
import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from stylegan.dataset import SliceDataset

FOUR_CLASSES = {"NonDemented": 100, "VeryMildDemented": 70, "MildDemented": 28, "ModerateDemented": 2}  # subjects in the upload
SPLITS = ("train", "val", "test")
FRACTIONS = {"val": 0.15, "test": 0.15}

# ------------------------------------------------------------------------------------------------------- the person in a path
IDS = {  # the ids that public collections give to people, and how they are written here: the most particular ones first
    r"OAS([12])[-_ ]?([A-Z]*\d{3,4})(?!\d)": "OAS{}_{}",  # OASIS-1, OASIS-2
    r"OAS([34]\d{4})(?!\d)": "OAS{}",  # OASIS-3, OASIS-4
    r"(?<!\d)(\d{3})(?:[-_ ]S[-_ ]|S)(\d{4,5})(?!\d)": "{}_S_{}",  # ADNI, also as sub-ADNI002S0295
    r"TCGA[-_]([A-Z0-9]{2})[-_]([A-Z0-9]{4})(?![A-Z0-9])": "TCGA_{}_{}",
    r"(IXI\d{3})(?!\d)": "{}",
    r"(?<![A-Z0-9])((?:BraTS|UPENN|UCSF)-[A-Z]{2,4}-\d{4,5})(?!\d)": "{}",  # BraTS-GLI-00002-000, UPENN-GBM-00001_11
    r"(BraTS\d{2,4}(?:_(?:2013|[A-Z][A-Z0-9]*))?_(?:\d+|[A-Z]{3}))(?![A-Z0-9])": "{}",  # BraTS2021_00007, Brats18_CBICA_AAM_1
    r"(?<!\d)(\d{7})_\d{5}_\d_\d(?!\d)": "{}",  # UK Biobank: person, field, visit, repeat
    r"(?<![A-Z0-9])(miriad_\d{3}|HC[ADP]\d{7}|A\d{8})(?!\d)": "{}",
    r"(?<![A-Z0-9])(?:PPMI|AIBL)_(\d+)_MR(?![A-Z0-9])": "{}",  # as LONI calls files
    r"(?<![A-Z0-9])sub-((?=[A-Z]*\d)[A-Z0-9]+)": "sub-{}",  # BIDS; without a digit (sub-sampled) it may be any word
    r"(?<![A-Z])(sub(?!set)j?(?:ect)?|patient|(?<!sag.)(?<!tra.)(?<!cor.)(?<!iso.)(?<!rage.)pat|participant|person|volunteer|case|pid|ptid)[-_ ]?"
    r"(?:id[-_ ]?)?([A-Z]{0,3}\d+)(?![A-Z0-9])": "{}_{}",  # t1_mpr_sag_pat2 is Siemens' GRAPPA factor
}  # fmt: skip
CONTRASTS = {
    "T1CE": r"t1c|t1ce|t1gd\w*|t1post\w*|t1contrast|t1km|gadolinium", "T1": r"t1[a-z]*|3?dt1[a-z]*|t13d|unit1|mpr\d*|m[ep]*2?rage\d*|rage|i?r?f?spgr|bravo",
    "FLAIR": r"flair[a-z0-9]*|t2f|t2flair\w*", "T2*": r"t2star\w?|t2s", "T2": r"t2[a-z]*|inplanet2", "PD": r"pdw|pdt2", "DWI": r"dwi|dti|adc|b1000",
    "BOLD": r"bold|sbref|fmri|epi", "SWI": r"swi|minip", "ASL": r"asl|cbf|m0scan", "MRA": r"mra|tof|angio", "PET": r"pet|fdg|av45|pib",
    "field map": r"fmap|magnitude\d?|phasediff|fieldmap",
}  # fmt: skip
LAST_ONLY = {"PD": "pd", "CT": "ct", "DWI": "fa|md|trace", "BOLD": "rest|func"}  # as a name's last word: PD is a disease too
STAGES = ("t88_masked", "aligned_norm", "(?:skull)?-?strip(?:ped)?|brain|masked|bet", "norm", "t88",
          "sbj_111|restore|preproc|nu|n4|n3")  # versions of one scan, the one to be used first  # fmt: skip
# What tells scans of one person apart: taken out of a name before it is compared with others.
NOISE = re.compile("(?<![A-Za-z0-9])(?:" + "|".join((
    r"(?:ses|acq|desc|space|rec|run|task|dir|res|den|echo|part|inv|ce|mod)-[A-Za-z0-9.+]+",
    r"(?:session|sess|ses|visit|vis|run|scan|series|mpr|mprage|anat|rest|tp|timepoint|time|wave|year|yr|month|mon|week|wk|day|fu|follow[-_ ]?up|"
    r"repeat|rep|acq|mr|exam|study|v|m|y)[-_ ]?\d+(?:\.\d+)?",
    r"(?:19|20)\d\d[-_.]?(?:0\d|1[0-2])[-_.]?[0-3]\d(?:[-_T ]\d\d[-_:]?\d\d[-_:]?\d\d(?:\.\d+)?)?|[0-3]?\d[-.][0-3]?\d[-.](?:19|20)\d\d",
    r"I\d{4,}|S\d{5,}|d\d{4}|br|\d{12,}|\d+(?:\.\d+){5,}|baseline|base|bl|sc|screening|follow[-_ ]?up|pre|post|retest|test|repeat|mr|ses|session|"
    r"first|second|third|axial|ax|sag|sagittal|cor|coronal|tra|left|right|resized?|crop(?:ped)?|gr[ae]y|2d|3d|gre|anat|struct(?:ural)?",
    r"(?:aug(?:mented)?|rot(?:ated?)?|[hv]?flip(?:ped)?|mirror(?:ed)?|zoom|shift|nois[ey]|copy)[-_ ]?\d*",  # copies of a slice
    rf"(?:{'|'.join(CONTRASTS.values())})(?P<n>[-_ ]\d\d?)?",
    r"t88|masked|gfc|sbj|111|aligned|norm|orig|raw|rawavg|skull|strip(?:ped)?|brain|brainmask|bet|restore|preproc|acpc|dc|nu|n[34]|scaled|gradwarp|b1|"
    r"correction|anon|affine|mni|warped|reg|registered|resampled|bias|corrected|processed|3t|1\.5t|7t|nii|std|reorient",
)) + ")(?![A-Za-z0-9])", re.I)  # fmt: skip
HASH = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}|[0-9a-f]{16}", re.I)
GENERIC = re.compile(  # words that number files, not people
    r"(?:im|img|image|slice|sl|scan|pic|picture|photo|brain|head|mri?|vol|volume|file|data|frame|axial|nii|nifti|anat|struct\w*|series|sample|output|item|"
    r"unnamed|copy|z|id|train|val|valid|validation|tr|te|va|dcm|export|fake|seed|plane|layer|level)?", re.I)  # fmt: skip
# Words of folders: classes, published splits, and what says nothing of either.
HEALTHY_TO_ILL = (  # the known order of classes, as patterns on names without spaces and signs
    "healthy|normal|controls?|hc|nc|cn|ctrl?", "smc|scd", "non-?demented|nondementia", "notumou?r|no", "converted", "emci", "mci|smci", "lmci|pmci",
    "verymild(?:dement\\w*)?", "mild(?:dement\\w*)?", "moderate(?:dement\\w*)?", "severe(?:dement\\w*)?", "demented", "ad|alzheimers?(?:disease)?", "yes",
)  # fmt: skip
CLASS_NAME = re.compile("|".join(HEALTHY_TO_ILL) + (
    r"|patients?|sick|ill|(?:ab)?normal|disease\w*|dement\w*|tumou?rs?|glioma\w*|meningioma\w*|pituitary\w*|[hl]gg|positive|negative|(?:fe)?males?|young|old|"
    r"elderly|(?:class|grade|stage|group|label|cdr|type|category|cohort|site|center|centre)[\d.a-z]{1,4}|asd|td|tdc|adhd|pd|ms|ftd|stroke"), re.I)  # fmt: skip
SPLIT_NAMES = {"train": "train", "training": "train", "tr": "train", "trn": "train", "validate": "val", "validation": "val", "valid": "val",
               "val": "val", "va": "val", "dev": "val", "test": "test", "testing": "test", "ts": "test", "tst": "test"}  # fmt: skip
WRAPPER = re.compile(
    r"(?:(?:keras|png|jpe?g|tiff?|nii|nifti|gz|slices?|images?|imgs?|pictures?|pics?|dataset|data|raw\w*|(?:un|pre)?processed|proc|orig\w*|volumes?|scans?|mri?s?|"
    r"brains?|heads?|oasis\d?|adni\d?|brats\d*|miccai|asnr|gli|challenge|anat|func|dwi|perf|fmap|axial|coronal|sagittal|[23]d|all|output|export|files|derivatives|"
    r"rawdata|sourcedata|skull\w*|subjects|patients|people|persons|cropped|resized|normali[sz]ed|registered|"
    r"(?:slices?|level|axial|z|fold|shard|chunk)[-_ ]?\d+|\d+px|\d+x\d+)[\W_]*)+", re.I)  # fmt: skip
SERIES = re.compile(
    r"(?<![a-z])(?:mp-?rage|mpr|ir-?[f]?spgr|fspgr|gradwarp|b1|n3|scaled|localizer|accelerated|t1w?|t2w?|flair)(?![a-z0-9])", re.I)  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One file as the names tell it; what they do not tell is '' or -1."""

    file: str  # relative to the root
    subject: str  # where people are hidden: the narrowest group that is known to belong together
    level: int = -1
    label: str = ""
    folder: str = ""  # published split: 'train' | 'val' | 'test' | ''
    scan: str = ""  # the subject with its visit, where visits have names of their own
    told: bool = True  # whether the subject is a person


def plain(name: str) -> str:
    """The name with forward slashes: archives made on Windows leave backslashes inside file names."""
    return name.replace("\\", "/")


def stem(name: str) -> str:
    """The last part of a name without its endings (``.nii.gz``, ``.nii.png``, ``.hdr``)."""
    return re.sub(r"(\.nii)?\.[a-z]{1,5}\d?(\.gz)?$", "", plain(name).rpartition("/")[2], flags=re.I)


def find_id(path: str) -> tuple[str, str, int]:
    """(person, scan, where the id ends) of the first collection's id in a path; ('', '', 0) where there is none. The scan is
    the person with the visit, as OASIS writes it: ``OAS2_0001_MR2``, ``OAS30001_MR_d0129``; else the person."""
    for pattern, written in IDS.items():
        found = list(re.finditer(pattern, path, re.I))
        if not found:
            continue
        who, end = written.format(*found[0].groups()), found[-1].end()
        if not written.startswith("OAS"):
            who = who.lower() if written == "{}_{}" else who
            return who, who, end
        who = who.upper()
        mark, visit = ("_MR", r"[-_]MR[-_ ]?(\d+)") if who[4] == "_" else ("_MR_", r"(?<![A-Za-z0-9])(d\d{4})(?!\d)")
        visited = re.search(visit, path, re.I)
        return who, who + mark + visited[1].lower() if visited else who, end
    return "", "", 0


@functools.lru_cache(maxsize=1 << 17)  # asked of the same names by persons, levels and classes
def core(name: str) -> str:
    """A file's or folder's name without visits, repeats, dates, contrasts and versions: equal for all scans of one person."""
    image = re.search(r"(?<![A-Za-z0-9])I\d{4,}(?!\d)", name, re.I)
    name = name.partition(".long.")[0]  # FreeSurfer: P1_tp1.long.P1_base
    while NOISE.search(name):
        name = re.sub(r"[-_ .]*~[-_ .~]*", "_", NOISE.sub("~", name)).strip("_-. ")
    name = name.strip("_-. ")
    return "" if image and not re.search(r"\d", name) else name  # AD_I45108 is an image of somebody, not AD


def is_generic(name: str) -> bool:
    """Whether a core numbers files rather than people (``img_12``, ``scan (3)``), or is nothing at all."""
    words = re.findall(r"[^\W\d_]+", name)
    return not re.sub(r"[\W_]+", "", name) or (bool(words) and all(GENERIC.fullmatch(word) for word in words))


def is_class_name(name: str, pattern: re.Pattern = CLASS_NAME) -> bool:
    """Whether a name, with its spaces and signs or without, is one that is known for classes."""
    return bool(pattern.fullmatch(re.sub(r"[\W_]+", "", name)) or pattern.fullmatch(name))


def is_technical(name: str) -> bool:
    """Whether a folder's name says nothing of people or classes: wrappers, visits, series, contrasts, dates."""
    rest = core(name)
    return bool(WRAPPER.fullmatch(name) or not rest or (SERIES.search(name) and not re.search(r"\d\d", rest)))


def split_name(name: str) -> str:
    """'train' | 'val' | 'test' from a folder's name such as ``Training``, ``train_images``, ``Test set`` or ``imagesTr``; '' otherwise."""
    words = [word for word in re.split(r"[\W_]+|(?<=images)(?=t[rs]$|va$)|(?<=ing|ion)(?=data$)", name.casefold()) if word]
    found = [SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES]
    known = all(word in SPLIT_NAMES or word in ("set", "split", "folder") or WRAPPER.fullmatch(word) for word in words)
    return found[0] if len(found) == 1 and known else ""


def natural(name: str) -> list:
    """Sorting key that puts slice 9 before slice 10."""
    return [int(part) if i % 2 else part.lower() for i, part in enumerate(re.split(r"(\d+)", name))]


def class_order(name: str) -> tuple:
    """Sorting key of classes: from healthy to ill where that is known, then by name."""
    known = (i for i, pattern in enumerate(HEALTHY_TO_ILL) if is_class_name(name, re.compile(pattern, re.I)))
    return next(known, len(HEALTHY_TO_ILL)), natural(name)


def person(subject: str) -> str:
    """The person behind a subject id: OASIS scans OAS1_0061_MR1 and OAS1_0061_MR2 show the same one."""
    return re.sub(r"_MR(?:\d+|_d\d+)$", "", subject, flags=re.I)


def people_of(slices: "SliceDataset") -> np.ndarray:
    """The person of each slice, str [N]: several scans of one person count as one."""
    return np.array([person(str(subject)) for subject in slices.subjects])


# -------------------------------------------------------------------------------------------- the four-class upload of OASIS-1

PICTURE = r"\.(?:png|jpe?g|jfif|bmp|gif|tiff?|webp|pgm)$"
FOUR_CLASS = re.compile(
    r"(?:^|/)(?P<folder>train|test)/(?P<label>NonDemented|VeryMildDemented|MildDemented|ModerateDemented)/"
    r"(?:[a-z]+(?P<number>\d+)|(?P<level>\d+)(?: ?\((?P<subject>\d+)\))?)" + PICTURE, re.I)  # fmt: skip


def read_four_class(matches: dict[str, re.Match]) -> list[Item]:
    """Subjects recovered from the numbering; levels 0-based like everywhere else.

    Test files are called ``L (s).jpg``: level L and subject s, both from 1. Train files of a class are numbered level by level, and
    within a level subjects come in the string order of their test names; of the lowest level that the test folder of any class holds
    only those without a test file are in train. Numbers that cannot be placed because files are missing tell nobody.
    """
    trained, tested, items = defaultdict(dict), defaultdict(set), []
    for name, m in matches.items():
        label = next(label for label in FOUR_CLASSES if label.lower() == m["label"].lower())
        if m["number"]:
            trained[label][name] = int(m["number"])
        else:
            level, s = int(m["level"]), int(m["subject"] or 1)
            tested[label].add((level, s))
            items.append(Item(name, f"{label}-{s:03d}", level - 1, label, "test"))
    first_level = min((level for places in tested.values() for level, _ in places), default=26)
    for label, numbers in trained.items():
        found = _place_numbers(max(numbers.values()), tested[label], first_level, FOUR_CLASSES[label])
        for name, number in numbers.items():
            level, s = found[number] if number < len(found) else (0, 0)
            who = f"{label}-{s:03d}" if s else f"{label}-train-{number}"
            items.append(Item(name, who, level - 1, label, "train", told=bool(s)))
    return items


def _place_numbers(last: int, tested: set[tuple[int, int]], first_level: int, published: int) -> list[tuple[int, int]]:
    """(level, subject) of the train files 0, 1, ... of one class as far as they can be placed; ``last`` is their highest number.

    The class has as many subjects as were tested, where the numbers bear that out, else those of the ``published`` upload.
    """
    taken = {subject for level, subject in tested if level == first_level}
    for count in (max((subject for _, subject in tested), default=0), published):
        order = sorted(range(1, count + 1), key=lambda s: f"{first_level}.jpg" if s == 1 else f"{first_level} ({s}).jpg")
        places = [(level, subject) for level in range(1, first_level) for subject in order]
        rest = [(first_level, subject) for subject in order if subject not in taken]
        if last + 1 == len(places) + len(rest):
            return places + rest
        if count == published and last < len(places) + count:
            return places
    return []


# ------------------------------------------------------------------------------------------------------------------- splits


def split_by_subject(
    subjects: Sequence[str], labels: Sequence[int], seed: int = 0, classes: Sequence[str] = (), fractions: dict = FRACTIONS
) -> tuple[np.ndarray, list[str]]:
    """'train' | 'val' | 'test' per slice, 70/15/15 by person and stratified by class, and what has to be said about it.

    A person's place depends on the ids and the seed, not on the order of files: people of a class are drawn in the order of a
    hash, because a library's shuffle would depend on how they are listed. A person's class is the commonest one among the slices.
    Classes with fewer than 3 people go to train only; of the others at least one person goes to each held-out split.
    """
    people = [person(str(subject)) for subject in subjects]
    counts, by_class = defaultdict(Counter), defaultdict(list)
    for who, label in zip(people, labels, strict=True):
        counts[who][int(label)] += 1
    for who, count in counts.items():
        by_class[min(count, key=lambda label: (-count[label], label))].append(who)
    place, warnings = dict.fromkeys(counts, "train"), []
    for label, members in sorted(by_class.items()):
        if len(members) < 3:
            name = classes[label] if 0 <= label < len(classes) else "What has no class" if len(by_class) > 1 else "The set"
            few = f"only {len(members)} subject{'s' * (len(members) > 1)}"
            warnings.append(f"{name} has {few}: all its slices are for training.")
            continue
        members.sort(key=lambda who: hashlib.sha256(f"{seed}:{who}".encode("utf-8", "surrogateescape")).digest())
        start = 0
        for split, fraction in fractions.items():
            count = max(1, math.floor(fraction * len(members) + 0.5))
            place |= dict.fromkeys(members[start : start + count], split)
            start += count
    return np.array([place[who] for who in people], dtype="<U5"), warnings


def count_leaks(subjects: Sequence[str], folders: Sequence[str]) -> int:
    """People with slices in more than one folder of a published split."""
    places = {(person(str(subject)), str(folder)) for subject, folder in zip(subjects, folders, strict=True) if folder}
    return sum(times > 1 for times in Counter(who for who, _ in places).values())


def leaks_of_random_split(subjects: np.ndarray) -> int:
    """Subjects that would have slices in more than one split if slices, not subjects, were dealt at random, 70/15/15."""
    split = np.random.default_rng(0).choice(3, size=len(subjects), p=(0.7, 0.15, 0.15))
    return sum(len(set(split[subjects == subject])) > 1 for subject in np.unique(subjects))


def choose_split(
    subjects: Sequence[str], labels: Sequence[int], folders: Sequence[str], seed: int, classes: Sequence[str], known: bool
) -> tuple[np.ndarray, list[str]]:
    """The folder's own split where people are ``known`` and nobody is on two of its sides, else one by subject. A missing val
    or test is carved out of train by subject, as large a part of the whole set as it would otherwise be."""
    splits, leaks = np.array(folders, dtype="<U5"), count_leaks(subjects, folders)
    if not known or leaks or not all(folders) or "train" not in folders or len(set(folders)) < 2:
        drawn, said = split_by_subject(subjects, labels, seed, classes)
        if leaks:
            said.append(f"The folder's own split shows {leaks} subjects on both sides; it is replaced by a split by subject.")
        return drawn, said
    share = 1 - sum(fraction for name, fraction in FRACTIONS.items() if name in folders)
    fractions = {name: fraction / share for name, fraction in FRACTIONS.items() if name not in folders}
    if not fractions:
        return splits, []
    train = np.flatnonzero(splits == "train")
    splits[train], said = split_by_subject([subjects[i] for i in train], [labels[i] for i in train], seed, classes, fractions)
    return splits, said
