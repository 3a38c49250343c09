"""Any tree of folders read level by level: who, which class, which level, which published split, by the names alone.

A level of folders is a split, a class or a person, or it says nothing of these: wrappers, visits, contrasts, shards. A class level has
few names that each hold several people. A person is an id of a collection wherever it stands, else the folder below the class, else the
file's name without all that tells one scan of a person from another.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from stylegan.data.listing import natural
from stylegan.data.subjects import HASH, NOISE, core, find_id, is_generic, plain, stem

IMAGE_ID = re.compile(r"I?(\d{4,})[_-](\d{1,3})", re.I)  # UQ ADNI: <image id>_<slice>
SLICE = re.compile(r"(?<![a-z])(?:slice|axial|ax|sl|z)[_\- ]?(\d+)(?![a-z0-9])", re.I)
SCAN_WORDS = re.compile(r"im|img|image|scan|series|mri?|acquisition|t1|file|data", re.I)  # numbered, they still name no person
SPLIT_NAMES = {"train": "train", "training": "train", "tr": "train", "trn": "train", "validate": "val", "validation": "val", "valid": "val",
               "val": "val", "va": "val", "dev": "val", "test": "test", "testing": "test", "ts": "test", "tst": "test"}  # fmt: skip
HEALTHY_TO_ILL = (  # the known order of classes, as patterns on names without spaces and signs
    "healthy|normal|controls?|hc|nc|cn|ctrl?", "smc|scd", "non-?demented|nondementia", "notumou?r|no", "converted", "emci", "mci|smci", "lmci|pmci",
    "verymild(?:dement\\w*)?", "mild(?:dement\\w*)?", "moderate(?:dement\\w*)?", "severe(?:dement\\w*)?", "demented", "ad|alzheimers?(?:disease)?", "yes",
)  # fmt: skip
CLASS_NAME = re.compile(
    "|".join(HEALTHY_TO_ILL) + r"|patients?|sick|ill|(?:ab)?normal|disease\w*|dement\w*|tumou?rs?|glioma\w*|meningioma\w*|pituitary\w*|[hl]gg|positive|"
    r"negative|males?|females?|young|old|elderly|(?:class|grade|stage|group|label|cdr|type|category|cohort)[\d.a-z]{1,4}|asd|td|"
    r"tdc|adhd|pd|ms|ftd|stroke", re.I)  # fmt: skip
WRAPPER = re.compile(
    r"(?:(?:keras|png|jpe?g|tiff?|nii|nifti|gz|slices?|images?|imgs?|pictures?|pics?|dataset|data|raw\w*|(?:un|pre)?processed|proc|orig\w*|volumes?|scans?|mri?s?|"
    r"brains?|heads?|oasis\d?|adni\d?|anat|func|dwi|perf|fmap|axial|coronal|sagittal|[23]d|all|output|export|files|derivatives|rawdata|sourcedata|skull\w*|"
    r"subjects|patients|people|persons|cropped|resized|normali[sz]ed|registered|slices?\d+|\d+px|\d+x\d+)[\W_]*)+", re.I)  # fmt: skip
SERIES = re.compile(
    r"(?<![a-z])(?:mp-?rage|mpr|ir-?[f]?spgr|fspgr|gradwarp|b1|n3|scaled|localizer|accelerated|t1w?|t2w?|flair)(?![a-z0-9])",
    re.I,
)
SHARD = re.compile(r"0\d{4}|(?:shard|chunk|batch|disc|disk|part|archive|bin)[-_ ]?\d+", re.I)


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


class Tree:
    """The folders of some files, level by level below the folder that all of them share."""

    def __init__(self, names: Sequence[str], volumes: bool):
        self.names, self.volumes = list(names), volumes
        parts = [plain(name).split("/")[:-1] for name in names]
        shared = 0
        while all(len(part) > shared for part in parts) and len({part[shared] for part in parts}) == 1:
            shared += 1
        self.shared = "/".join(parts[0][:shared]) if parts else ""
        self.parts = [part[shared:] for part in parts]
        self.stems = [stem(name) for name in names]
        self.ids = [find_id("/".join([*part, base])) for part, base in zip(self.parts, self.stems, strict=True)]
        self.depth = max(map(len, self.parts), default=0)
        self.splits = next((d for d in range(self.depth) if self._is_split(d)), None)
        self.open = [d for d in range(self.depth) if d != self.splits and not self._says_nothing(d)]

    def at(self, depth: int) -> list[str]:
        """The folder of each file at a depth, without case; '' where the file lies higher."""
        return [part[depth].casefold() if len(part) > depth else "" for part in self.parts]

    def _is_split(self, depth: int) -> bool:
        """A level is the published split only if all its names are names of splits: a class may be called "test"."""
        return all(_split_name(name) for name in set(self.at(depth)) - {""})

    def _says_nothing(self, depth: int) -> bool:
        names = set(self.at(depth)) - {""}
        if len(names) < 2:
            return not any(find_id(name)[0] for name in names)
        told = [name for name in names if _sign_free(CLASS_NAME, name) or not _is_technical(name)]
        return 5 * len(told) < len(names) or self._is_storage(depth, names)

    def _is_storage(self, depth: int, names: set[str]) -> bool:
        """Folders of so many files each: named alike, while the files in them are numbered through."""
        if not all(SHARD.fullmatch(name) for name in names):
            return False
        return self.volumes is False and len(set(self.stems)) == len(self.stems)

    def people_like(self, depth: int) -> bool:
        """Whether a level's names are those of people: many, or alike but for their numbers."""
        names = set(self.at(depth)) - {""}
        if len(names) > 10 or sum(bool(find_id(name)[0]) for name in names) > len(names) / 2:
            return True
        if all(
            re.fullmatch(r"\d", name) for name in names
        ):  # 0, 1, 2 are classes; 1, 2, 3 people where each has the same levels
            files = defaultdict(set)
            for name, base in zip(self.at(depth), self.stems, strict=True):
                files[name].add(base)
            files.pop("", None)
            return "0" not in names and 2 * len(set.intersection(*files.values())) > max(map(len, files.values()))
        alike = len({re.sub(r"\d+", "#", name) for name in names}) <= max(1, len(names) // 3)
        return alike and all(re.search(r"\d", name) for name in names)

    def find_class(self) -> int | None:
        """The level of classes: few names that each hold several people, the names known for it first."""
        known = [d for d in self.open if all(_sign_free(CLASS_NAME, name) for name in set(self.at(d)) - {""})]
        people = next((d for d in self.open if self.people_like(d)), self.depth)
        for d in [*known, *(d for d in self.open if d not in known and d < people)]:
            here = self.at(d)
            names = set(here) - {""}
            if not 2 <= len(names) <= (20 if d in known else 10):
                continue
            if d in known and not any(find_id(name)[0] for name in names):
                return d
            owners = defaultdict(set)
            for name, somebody in zip(here, self._roughly(d), strict=True):
                owners[name].add(somebody)
            owners.pop("", None)
            everybody = Counter(one for some in owners.values() for one in some)
            several = sum(len(some) > 1 for some in owners.values())
            if 2 * several >= len(names) and 2 * sum(n > 1 for n in everybody.values()) < len(everybody):
                return d
        return None

    def _roughly(self, depth: int) -> list[str]:
        """Somebody for each file, as far as can be told without knowing whether the level at this depth is the class."""
        inner = next((d for d in self.open if d > depth), None)
        folders = self.at(inner) if inner is not None else [""] * len(self.names)
        return [
            known or folder or (core(base) if self.volumes else base)
            for (known, _, _), folder, base in zip(self.ids, folders, self.stems, strict=True)
        ]

    def group(self, i: int, at_class: int | None) -> str:
        """The visits, image ids and series that a file lies in: what surely belongs together where people cannot be told."""
        above = max((d for d in (at_class, self.splits) if d is not None), default=-1)
        below = self.parts[i][above + 1 :]
        told = [d for d, name in enumerate(below) if not core(name) and not WRAPPER.fullmatch(name)]
        return "/".join([*self.parts[i][: above + 1], *below[: told[-1] + 1]]) if told else ""

    def find_person(self, at_class: int | None) -> int | None:
        """The level of people's folders: the first one below the class that can be it."""
        below = [d for d in self.open if at_class is None or d > at_class]
        for d in below:
            if self.people_like(d) or (at_class is not None and self._apart(d, at_class)) or self._one_scan_each(d):
                return d
        return next(
            (d for d in self.open if d not in below and d != at_class and self.people_like(d)), None
        )  # classes of slices

    def _apart(self, depth: int, at_class: int) -> bool:
        """Whether hardly any name of a level lies in two classes, as those of sites or visits would."""
        owners = defaultdict(set)
        for name, label in zip(self.at(depth), self.at(at_class), strict=True):
            owners[name].add(label)
        owners.pop("", None)
        return 2 * sum(len(labels) > 1 for labels in owners.values()) < len(owners)

    def _one_scan_each(self, depth: int) -> bool:
        scans = defaultdict(set)
        for name, base in zip(self.at(depth), self.stems, strict=True):
            scans[name].add(core(base))
        return self.volumes and all(len(found) == 1 for found in scans.values())


def read_tree(names: Sequence[str], volumes: bool = False) -> list[Item]:
    """What the names tell of each file of any tree."""
    tree = Tree(names, volumes)
    at_class = tree.find_class()
    at_person = tree.find_person(at_class)
    labels, folders = _spelt(tree, at_class), _spelt(tree, at_person, core)
    shared = find_id(tree.shared)[0] if at_class is None and not any(found[0] for found in tree.ids) else ""
    marks = tree.at(tree.splits) if tree.splits is not None else [""] * len(tree.names)
    of = {mark: _split_name(mark) for mark in set(marks)}
    splits, items = [of[mark] for mark in marks], []
    for i, name in enumerate(tree.names):
        person, scan, end = tree.ids[i]
        level, rest, explicit = _level(tree.stems[i], end - len("/".join([*tree.parts[i], ""])) if person else 0, volumes)
        told = True
        if not person and (folders[i] or shared):
            person = folders[i] or shared
        elif not person:
            person, told = _from_stem(tree.stems[i], rest, explicit, volumes, labels[i])
            person = person or tree.group(i, at_class) or name
            level = level if told or explicit or person != name else -1
        items.append(Item(name, person, level, labels[i], splits[i], scan or person, told))
    return _numbered_anew(tree, _join_repeats(_doubt_lone(items, volumes), [not found[0] for found in tree.ids]), at_class)


def _spelt(tree: Tree, depth: int | None, change: Callable[[str], str] = str) -> list[str]:
    """The folder of each file at a depth as it is first spelt; '' without one."""
    if depth is None:
        return [""] * len(tree.names)
    spelt: dict[str, str] = {}
    names = [change(part[depth]) or part[depth] if len(part) > depth else "" for part in tree.parts]
    return [spelt.setdefault(name.casefold(), name) for name in names]


def _level(base: str, start: int, volumes: bool) -> tuple[int, str, bool]:
    """(level, the name without it, whether it is called one); what stands before ``start`` is an id."""
    text = base[max(0, start) :]
    found = SLICE.search(text)
    if found:
        return int(found[1]), (text[: found.start()] + "_" + text[found.end() :]).strip("_-. "), True
    if volumes:
        return -1, re.sub(r"_000\d$", "", text), False
    numbers = list(re.finditer(r"\d+", NOISE.sub(lambda m: "~" * (len(m[0]) - len(m["n"] or "")) + (m["n"] or ""), text)))
    if not numbers or len(numbers[-1][0]) > 9:
        return -1, text, False
    at = numbers[-1]
    return int(at[0]), (text[: at.start()] + "_" + text[at.end() :]).strip("_-. ()"), False


def _from_stem(base: str, rest: str, explicit: bool, volumes: bool, label: str) -> tuple[str, bool]:
    """(the person or narrowest group in a file's name or '', whether it is a person)."""
    if HASH.search(base):
        return "", False
    image = None if volumes else IMAGE_ID.fullmatch(base)
    if image:
        return image[1], False
    name = core(rest)
    words = re.findall(r"[^\W\d_]+", name)
    numbered = bool(re.search(r"\d", name))
    if volumes:
        return ("", False) if is_generic(name) else (name, True)
    if explicit:
        told = bool(name) and (not is_generic(name) or (numbered and bool(words) and not any(map(SCAN_WORDS.fullmatch, words))))
        return (name, True) if told else (rest if re.search(r"\d", rest) else "", False)
    own = numbered and bool(words) and not is_generic(name) and label.casefold() not in map(str.casefold, words)
    return (name, True) if own else ("", False)


def _doubt_lone(items: list[Item], volumes: bool) -> list[Item]:
    """Names that each stand on one picture only are no people's: P1_3 is slice 3 of P1 where P1_4 is there as well."""
    count = Counter(item.subject for item in items)
    lone = {i.file for i in items if i.told and count[i.subject] == 1 and stem(i.file).startswith(i.subject)}
    if volumes or 2 * len(lone) < len(items) or any(SLICE.search(stem(name)) for name in lone):
        return items
    return [replace(i, subject=i.file, scan=i.file, level=-1, told=False) if i.file in lone else i for i in items]


def _join_repeats(items: list[Item], without_id: Sequence[bool]) -> list[Item]:
    """P01_1 and P01_2 are two scans of P01 where nobody has more than a few."""
    short = {item.subject: m[1] for item, alone in zip(items, without_id, strict=True)
             if alone and item.told and (m := re.fullmatch(r"(.*[^\W\d].*\d.*)[_-](?:\d{1,2}|[a-d])", item.subject))}  # fmt: skip
    scans = Counter(short.values())
    if not scans or max(scans.values()) > 4 or len(scans) < 3:
        return items
    return [replace(item, subject=short.get(item.subject, item.subject)) for item in items]


def _numbered_anew(tree: Tree, items: list[Item], at_class: int | None) -> list[Item]:
    """Where each class numbers its people from 1, AD/patient_01 and CN/patient_01 are two."""
    if at_class is None or any(found[0] and not _is_counter(found[0]) for found in tree.ids):
        return items
    labels = defaultdict(set)
    for item in items:
        labels[item.subject].add(item.label)
    if 2 * sum(len(found) > 1 for found in labels.values()) < len(labels):
        return items
    return [replace(item, subject=f"{item.label}/{item.subject}", scan=f"{item.label}/{item.subject}") for item in items]


def _is_counter(person: str) -> bool:
    """Whether an id is a mere number with a word for people."""
    return bool(
        re.fullmatch(
            r"(?:sub|subj|subject|pat|patient|participant|person|volunteer|case|pid|ptid)[-_]\D{0,3}\d{1,3}", person, re.I
        )
    )


def _sign_free(pattern: re.Pattern, name: str) -> bool:
    return bool(pattern.fullmatch(re.sub(r"[\W_]+", "", name)) or pattern.fullmatch(name))


def _is_technical(name: str) -> bool:
    """Whether a folder's name says nothing of people or classes: wrappers, visits, series, contrasts, dates."""
    rest = core(name)
    return bool(WRAPPER.fullmatch(name) or not rest or (SERIES.search(name) and not re.search(r"\d\d", rest)))


def _split_name(name: str) -> str:
    """'train' | 'val' | 'test' from a folder's name such as ``Training``, ``train_images``, ``Test set`` or ``imagesTr``; '' otherwise."""
    words = [word for word in re.split(r"[\W_]+|(?<=images)(?=t[rs]$|va$)", name.casefold()) if word]
    found = [SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES]
    others = [word for word in words if word not in SPLIT_NAMES]
    return (
        found[0]
        if len(found) == 1 and all(WRAPPER.fullmatch(word) or word in ("set", "split", "folder") for word in others)
        else ""
    )


def class_order(name: str) -> tuple:
    """Sorting key of classes: from healthy to ill where that is known, then by name."""
    known = next(
        (i for i, pattern in enumerate(HEALTHY_TO_ILL) if _sign_free(re.compile(pattern, re.I), name)), len(HEALTHY_TO_ILL)
    )
    return known, natural(name)
