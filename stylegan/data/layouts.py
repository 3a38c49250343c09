"""How a folder of slices is laid out, told by the names of its files alone: who, which class, which level, which published split.

A level of folders is a split, a class or a person, or it says nothing of these: wrappers, visits, contrasts, shards. A class level has
few names that each hold several people. A person is an id of a collection wherever it stands, else the folder below the class, else the
file's name without all that tells one scan of a person from another. data/README.md shows the layouts that people have.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from stylegan.data import subjects as who
from stylegan.data.listing import Listing, choose_files, list_files, nothing_found
from stylegan.data.subjects import Item, core, find_id, is_class_name, is_generic, is_technical, plain, split_name, stem
from stylegan.files import read_json

TITLES = {
    "uq-oasis": 'UQ OASIS slices "{}"', "uq-adni": 'UQ ADNI slices "{}"', "four-class": 'four-class OASIS-1 upload "{}"',
    "class-folders": 'class folders "{}"', "stylegan": 'pictures with dataset.json "{}"', "images": 'pictures "{}"',
    "oasis1-volumes": 'OASIS-1 volumes "{}"', "nifti": 'NIfTI volumes "{}"',
}  # fmt: skip
UQ_OASIS = re.compile(
    r"(?:^|/)(?:(?:keras_png_slices_)?(train|val\w*|test)/)?case_(\d+)_slice_(\d+)(?:\.nii)?" + who.PICTURE, re.I)  # fmt: skip
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
IMAGE_ID = re.compile(r"I?(\d{4,})[_-](\d{1,3})", re.I)  # UQ ADNI: <image id>_<slice>
SLICE = re.compile(r"(?<![a-z])(?:slice|axial|ax|sl|z)[_\- ]?(\d+)(?![a-z0-9])", re.I)
LEVEL_FOLDER = re.compile(  # folders of levels that hold a file of each person: slice_60/P00, 60/NC_01; else 60 may be somebody
    rf"(?:(?:slices?|level|z)[-_ ]?(\d{{1,3}})/[^\d/]+|(\d{{1,3}})/(?:pt?|{who.CLASS_NAME.pattern})[-_ ]?)\d+", re.I)  # fmt: skip
LEVEL_FIRST = re.compile(r"(\d{1,3})[-_ ]+((?:sub-)?(?:p|(?!im|sl|le?v)[a-z]{2,})[-_ ]?\d+)", re.I)  # 60_P01, 060_sub-P01
VISIT = re.compile(r"(.*[^\W\d].*\d.*|\d{3,})[-_. ](?:[a-z]?\d{1,3}|\d{1,2}(?:mo?|yr?)|(?:19|20)\d\d|[a-d])", re.I)
SCAN_WORDS = re.compile(r"im|img|image|scan|series|mri?|acquisition|t1|file|data", re.I)  # numbered, they still name no person
SPLIT, CLASS = r"(train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?)", f"([AB]|{who.CLASS_NAME.pattern})"
FUSED = re.compile(rf"(?<![^/])(?:{SPLIT}[-_ ]?{CLASS}|{CLASS}[-_ ]{SPLIT})(?=/)", re.I)  # trainA, CN_test
SHARD = re.compile(r"0\d{4}|(?:shard|chunk|subset|fold|batch|disc|disk|part|archive|bin)[-_ ]?\d+", re.I)
# No collection's id, though `find_id` finds it.
COUNTER = re.compile(r"(?:subj?|subject|pat|patient|participant|person|volunteer|case|pid|ptid)[-_]\D{0,3}\d{1,3}", re.I)


@dataclass(frozen=True)
class Catalogue:
    """What a folder holds."""

    root: Path
    layout: str
    title: str
    items: tuple[Item, ...]  # in natural order of their names
    left_out: dict[str, tuple[str, ...]]  # reason: files
    hidden: str = ""  # why people are not known and what that means; '' where they are
    volumes: bool = False  # a file may hold many slices
    levels: tuple[int, int] | None = None  # the chosen range, both ends included
    warnings: tuple[str, ...] = ()


def recognise(
    root: str | Path, listing: Listing | None = None, levels: tuple[int, int] | None = None, contrast: str | None = None
) -> Catalogue:
    """The layout of a folder and one record per file. ``levels``: both ends included. ``contrast``: T1 unless another is named.
    Raises FileNotFoundError where there is no such folder, ValueError where it holds no picture and no volume."""
    root = Path(root)
    files, no_files = listing or list_files(root)
    left_out = defaultdict(list, {reason: list(which) for reason, which in no_files.items()})
    names = [name for name, _, _ in files]
    chosen, volumes, warnings = choose_files(root, names, contrast, left_out)
    layout, items, hidden = _read(root, chosen, names, volumes)
    if levels and not volumes:
        left_out[f"outside levels {levels[0]}-{levels[1]}"] = [i.file for i in items if not levels[0] <= i.level <= levels[1]]
        items = [item for item in items if levels[0] <= item.level <= levels[1]]
    strange = {item.file for item in items if not item.told}
    if layout not in ("four-class", "stylegan") and 0 < 10 * len(strange) <= len(items):  # a logo among slices
        left_out["name does not fit the layout"] = sorted(strange)
        items, hidden = [item for item in items if item.file not in strange], ""
    if not items:
        raise ValueError(nothing_found(root, left_out))
    scans = _gather((item.subject, item.scan) for item in items)
    warnings += _doubts(items, scans)
    lone = {name: min(found) for name, found in scans.items() if len(found) == 1 and re.search(r"_MR\d+$", min(found))}
    items = [replace(item, subject=lone.get(item.subject, item.subject)) for item in items]  # OAS1_0001_MR1, but OAS2_0001
    items.sort(key=lambda item: who.natural(item.file))
    left_out = {reason: tuple(which) for reason, which in left_out.items() if which}
    title = TITLES[layout].format(root.resolve().name)
    return Catalogue(root, layout, title, tuple(items), left_out, hidden, volumes, levels, tuple(warnings))


def _doubts(items: list[Item], scans: dict[str, set[str]]) -> list[str]:
    """What has to be said where names were read in one of two ways, and where classes and published splits do not cross."""
    merged = (of for of in scans.values() if len(of) > 1 and all(map(VISIT.fullmatch, of)))
    alike = _gather((found[1], name) for name in scans if not find_id(name)[0] and (found := VISIT.fullmatch(name))).values()
    pairs = (next(merged, ()), "scans of one person"), (next((of for of in alike if len(of) > 4), ()), "people")
    wrong = "where that is wrong, give a table of file and subject (--subjects CSV)"
    said = [f"{' and '.join(sorted(names)[:2])} are taken for two {what}; {wrong}." for names, what in pairs if names]
    folders, splits = _gather((item.label, item.folder) for item in items), {item.folder for item in items} - {""}
    if lonely := ", ".join(sorted(label for label, of in folders.items() if len(splits) > 1 and len(of) == 1)):
        said.append(f"Only one folder of {', '.join(sorted(splits))} has the class {lonely}; should it be spelt alike in all?")
    return said


def _gather(pairs: Iterable[tuple[str, object]]) -> dict[str, set]:
    """{name: all that is paired with it}; '' is no name."""
    found = defaultdict(set)
    for name, value in pairs:
        found[name].add(value)
    found.pop("", None)
    return found


def _read(root: Path, chosen: list[str], names: list[str], volumes: bool) -> tuple[str, list[Item], str]:
    """(layout, items, why people are hidden)."""
    for layout, pattern in (("uq-oasis", UQ_OASIS), ("four-class", who.FOUR_CLASS)):
        found = {name: m for name in chosen if (m := pattern.search(f"{root.resolve().name}/{plain(name)}"))}
        free = {name.rpartition("/")[0] for name, m in found.items() if layout == "uq-oasis" and not m[1]}  # may be classes
        if found and 2 * len(found) >= len(chosen) and not volumes and len(free) < 2:
            if layout == "four-class":
                items = who.read_four_class(found)
            else:  # case NNN is OASIS-1 number NNN: tables join by OAS1_0NNN_MR1
                ids = {name: f"OAS1_{int(m[2]):04d}_MR1" for name, m in found.items()}
                items = [Item(name, ids[name], int(m[3]), "", split_name(m[1] or ""), ids[name]) for name, m in found.items()]
            hidden = "" if all(item.told for item in items) else HIDDEN_FOUR
            return layout, items + [Item(name, name, told=False) for name in chosen if name not in found], hidden
    items = read_tree(chosen, volumes)
    hidden = HIDDEN if any(not item.told for item in items) else ""
    if volumes:
        oasis = items and all(item.subject.startswith("OAS1_") and "t88" in stem(item.file).lower() for item in items)
        return "oasis1-volumes" if oasis else "nifti", items, hidden
    labels = _dataset_json(root, names)
    if labels:
        return "stylegan", [replace(item, label=labels.get(plain(item.file), "")) for item in items], hidden
    classes = {item.label.upper() for item in items} - {""}
    diagnoses = bool(classes) and classes <= {"AD", "CN", "NC", "MCI", "EMCI", "LMCI", "SMC"}
    if diagnoses and all(IMAGE_ID.fullmatch(stem(item.file)) for item in items):
        return "uq-adni", items, hidden and HIDDEN_ADNI
    return "class-folders" if classes else "images", items, hidden


def _dataset_json(root: Path, names: Sequence[str]) -> dict[str, str]:
    """{file: class} as the dataset.json of a StyleGAN archive says; {} without two classes."""
    path = next((name for name in sorted(names, key=len) if plain(name).rpartition("/")[2] == "dataset.json"), None)
    pairs = (read_json(root / path) or {}).get("labels") if path else None
    if not isinstance(pairs, list):
        return {}
    folder, pairs = plain(path).removesuffix("dataset.json"), [x for x in pairs if isinstance(x, list) and len(x) == 2]
    found = {folder + plain(str(name)): str(label) for name, label in pairs if isinstance(label, int)}
    return found if len(set(found.values())) > 1 else {}


# --------------------------------------------------------------------------------------------------------------- any other tree


class Tree:
    """The folders of files, level by level below the one that all share. A level of splits has no other names: a class may be "test"."""

    def __init__(self, names: Sequence[str], volumes: bool):
        self.names, self.volumes = list(names), volumes
        parts = [FUSED.sub(r"\1\4/\2\3", plain(name)).split("/")[:-1] for name in names]
        self.stems = [stem(name) for name in names]
        found = [part and LEVEL_FOLDER.fullmatch(f"{part[-1]}/{base}") for part, base in zip(parts, self.stems, strict=True)]
        if all(found) and len(self.stems) >= 2 * len(set(self.stems)):
            parts = [part[:-1] for part in parts]
            self.stems = [f"{base}_slice_{m[1] or m[2]}" for base, m in zip(self.stems, found, strict=True)]
        first = list(map(LEVEL_FIRST.fullmatch, self.stems))
        if all(m and not is_generic(core(m[2])) for m in first) and len(first) >= 2 * len({m[2] for m in first}):
            self.stems = [f"{m[2]}_slice_{m[1]}" for m in first]
        shared = [level[0] for level in takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False))]
        self.shared = "/".join(shared)
        self.parts = [part[len(shared) :] for part in parts]
        self.ids = [find_id("/".join([*part, base])) for part, base in zip(self.parts, self.stems, strict=True)]
        depths = range(max(map(len, self.parts), default=0))
        splits = [d for d in depths if all(map(split_name, self.folders(d)))]
        self.splits = splits[0] if splits else None
        self.open = [d for d in depths if d not in splits and not self._says_nothing(d)]

    def at(self, depth: int | None, change: Callable[[str], str] = str.casefold) -> list[str]:
        """The folder of each file at a depth, without case; '' where the file lies higher or there is no such depth."""
        names = [part[depth] if depth is not None and len(part) > depth else "" for part in self.parts]
        return [change(name) or name for name in names]

    def folders(self, depth: int) -> set[str]:
        return set(self.at(depth)) - {""}

    def spelt(self, depth: int | None, change: Callable[[str], str] = str) -> list[str]:
        """The same as it is first spelt."""
        first: dict[str, str] = {}
        return [first.setdefault(name.casefold(), name) for name in self.at(depth, change)]

    def _says_nothing(self, depth: int) -> bool:
        """Whether a level is one folder, technical, or storage: so many files each, named alike, the files numbered through."""
        names = self.folders(depth)
        if len(names) < 2:
            return not any(find_id(name)[0] for name in names)
        told = [name for name in names if is_class_name(name) or not is_technical(name)]
        storage = all(map(SHARD.fullmatch, names)) and not self.volumes and len(set(self.stems)) == len(self.stems)
        return 5 * len(told) < len(names) or storage

    def people_like(self, depth: int) -> bool:
        """Whether a level's names are those of people: many, or alike but for their numbers."""
        names = self.folders(depth)
        if len(names) > 10 or sum(bool(find_id(name)[0]) for name in names) > len(names) / 2:
            return True
        if all(map(is_class_name, names)) or self._holds_people(depth):  # site_1 and site_2, or few folders of many people
            return False
        # 0, 1, 2 are classes; 1, 2, 3 people where each has the same levels.
        if all(re.fullmatch(r"\d", name) for name in names):
            files = _gather(zip(self.at(depth), self.stems, strict=True)).values()
            return "0" not in names and 2 * len(set.intersection(*files)) > max(map(len, files))
        alike = len({re.sub(r"\d+", "#", name) for name in names}) <= max(1, len(names) // 3)
        return alike and all(re.search(r"\d", name) for name in names)

    def _holds_people(self, depth: int) -> bool:
        """Whether a level is a few folders of many people each: P01, P02, ... are the folders or the files in them."""
        inner = self.at(next((d for d in self.open if d > depth), None), core)
        cores = [folder or core(_level(base, 0, self.volumes)[1]) for folder, base in zip(inner, self.stems, strict=True)]
        found = {name for name in cores if re.search(r"[^\W\d].*\d", name) and not is_generic(name)}
        alike = len({re.sub(r"\d+", "#", name) for name in found}) <= len(found) / 3
        return alike and len(found) >= 2 * len(self.folders(depth))

    def find_class(self) -> int | None:
        """The level of classes: few names that each hold several people, the names known for it first."""
        known = [d for d in self.open if all(map(is_class_name, self.folders(d)))]
        unordered = len(who.HEALTHY_TO_ILL)  # AD and CN come before male and site_1
        known.sort(key=lambda d: sum(who.class_order(name)[0] == unordered for name in self.folders(d)))
        innermost = next((d for d in self.open if self.people_like(d)), max(self.open, default=0) + 1)
        for d in [*known, *(d for d in self.open if d not in known and d < innermost)]:
            names = self.folders(d)
            if not 2 <= len(names) <= (20 if d in known else 10):
                continue
            if d in known and not any(find_id(name)[0] for name in names):
                return d
            inner = self.at(next((deeper for deeper in self.open if deeper > d), None))
            bases = list(map(core, self.stems)) if self.volumes else self.stems
            people = [told[0] or folder or base for told, folder, base in zip(self.ids, inner, bases, strict=True)]
            owners = _gather(zip(self.at(d), people, strict=True)).values()
            everybody = Counter(one for some in owners for one in some)
            several = sum(len(some) > 1 for some in owners)
            counted = "0" in names and not any(inner) and all(map(str.isdecimal, [*names, *bases]))  # 0/1.png, 1/1.png
            if 2 * several >= len(names) and (counted or 2 * sum(n > 1 for n in everybody.values()) < len(everybody)):
                return d
        return None

    def group(self, i: int, at_class: int | None) -> str:
        """The visits, image ids and series that a file lies in: what surely belongs together where people cannot be told."""
        above = max((d for d in (at_class, self.splits) if d is not None), default=-1)
        below = self.parts[i][above + 1 :]
        told = [d for d, name in enumerate(below) if not core(name) and not who.WRAPPER.fullmatch(name)]
        return "/".join([*self.parts[i][: above + 1], *below[: told[-1] + 1]]) if told else ""

    def find_person(self, at_class: int | None) -> int | None:
        """The level of people's folders: the first one below the class that can be it, else one above classes of slices."""
        for d in (d for d in self.open if at_class is None or d > at_class):
            owners = _gather(zip(self.at(d), self.at(at_class), strict=True)).values()  # sites or visits lie in several classes
            apart = at_class is not None and 2 * sum(len(labels) > 1 for labels in owners) < len(owners)
            scans = zip(self.at(d), map(core, self.stems), strict=True) if self.volumes else ()
            one_each = [len(found) == 1 for found in _gather((name or "/", scan) for name, scan in scans).values()]
            if self.people_like(d) or ((apart or (one_each and all(one_each))) and not self._holds_people(d)):
                return d
        return next((d for d in self.open if at_class is not None and d < at_class and self.people_like(d)), None)


def read_tree(names: Sequence[str], volumes: bool = False) -> list[Item]:
    """What the names tell of each file of any tree."""
    tree = Tree(names, volumes)
    at_class = tree.find_class()
    labels, folders, marks = tree.spelt(at_class), tree.spelt(tree.find_person(at_class), core), tree.spelt(tree.splits)
    shared = find_id(tree.shared)[0] if at_class is None and not any(found[0] for found in tree.ids) else ""
    splits, items = {mark: split_name(mark) for mark in set(marks)}, []
    for i, name in enumerate(tree.names):
        person, scan, end = tree.ids[i]
        level, rest, explicit = _level(tree.stems[i], end - len("/".join([*tree.parts[i], ""])) if person else 0, volumes)
        person, told = person or folders[i] or shared, True
        if not person:
            person, told = _from_stem(tree.stems[i], rest, explicit, volumes, labels[i])
            person = person or tree.group(i, at_class) or name
            level = level if told or explicit or person != name else -1
        items.append(Item(name, person, level, labels[i], splits[marks[i]], scan or person, told))
    return _settle_people(items, tree, at_class)


def _level(base: str, start: int, volumes: bool) -> tuple[int, str, bool]:
    """(level, the name without it, whether it is called one); what stands before ``start`` is an id."""
    text = base[max(0, start) :]
    found = SLICE.search(text)
    explicit = found is not None and len(found[1]) < 10
    if volumes and not explicit:
        return -1, re.sub(r"_000\d$", "", text), False
    if not explicit:
        hidden = who.NOISE.sub(lambda m: "~" * (len(m[0]) - len(m["n"] or "")) + (m["n"] or ""), text)
        found = re.search(r"(\d+)\D*$", hidden)
        if not found or len(found[1]) > 9:
            return -1, text, False
    head, tail = text[: found.start()], "_" + text[found.end(1) :]
    rest = head if explicit and not volumes and re.search(r"\d", core(head)) else head + tail  # a tail tells copies apart
    return int(found[1]), rest.strip("_-. " if explicit else "_-. ()"), explicit


def _from_stem(base: str, rest: str, explicit: bool, volumes: bool, label: str) -> tuple[str, bool]:
    """(the person or narrowest group in a file's name or '', whether it is a person)."""
    if who.HASH.search(base) or re.search(r"_\d{14}_\d+[a-z]*(?![A-Za-z0-9])", base):  # dcm2niix: protocol, time, series
        return "", False
    if not volumes and (image := IMAGE_ID.fullmatch(base)):
        return image[1], False
    name = core(rest)
    words = re.findall(r"[^\W\d_]+", name)
    told, own = not is_generic(name), bool(words) and bool(re.search(r"\d", name))  # P07 may be somebody's own, not 07
    if explicit and not volumes:
        told = told or (own and not any(map(SCAN_WORDS.fullmatch, words)))
    elif not volumes:
        told = told and own and label.casefold() not in map(str.casefold, words)
    group = rest if explicit and not volumes and re.search(r"\d", rest) else ""
    return (name, True) if told else (group, False)


def _settle_people(items: list[Item], tree: Tree, at_class: int | None) -> list[Item]:
    """The items with second thoughts on who is who, once all of them are read."""
    count = Counter(item.subject for item in items)
    lone = {i.file for i in items if i.told and count[i.subject] == 1 and stem(i.file).startswith(i.subject)}
    if not tree.volumes and 2 * len(lone) >= len(items) and not any(SLICE.search(stem(name)) for name in lone):
        # Names that stand on one picture only are no people's: P1_3 is slice 3 of P1 where P1_4 is there as well.
        items = [replace(i, subject=i.file, scan=i.file, level=-1, told=False) if i.file in lone else i for i in items]
    without_id = {item.subject for item, (known, _, _) in zip(items, tree.ids, strict=True) if item.told and not known}
    short = {name: found[1] for name in without_id if (found := VISIT.fullmatch(name))}
    scans = Counter(short.values())
    if len(scans) >= 3 and max(scans.values()) <= 4:  # P01_1 and P01_2 are two scans of P01 where nobody has more than a few
        items = [replace(item, subject=short.get(item.subject, item.subject)) for item in items]
    labels = _gather((item.subject, item.label) for item in items)
    several = sum(len(found) > 1 for found in labels.values())
    if at_class is None or 2 * several < len(labels) or any(known and not COUNTER.fullmatch(known) for known, _, _ in tree.ids):
        return items
    # Each class numbers its people from 1: AD/patient_01 and CN/patient_01 are two.
    return [replace(item, subject=f"{item.label}/{item.subject}", scan=f"{item.label}/{item.subject}") for item in items]
