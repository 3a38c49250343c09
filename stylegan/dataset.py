"""Slices with all that is known of them: load a folder, a .zip or the simulated default, split by person, draw batches, report."""

from __future__ import annotations

import csv
import functools
import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stylegan.config import Config
from stylegan.data import subjects as who
from stylegan.data import tables
from stylegan.data.listing import parse_levels
from stylegan.data.pack import pack_folder, pack_simulated, unpack_once
from stylegan.data.pictures import RULES, min_max, percentiles, standardise_then_unit  # noqa: F401, offered here too
from stylegan.data.subjects import SPLITS, split_by_subject  # noqa: F401, likewise
from stylegan.files import cache_folder, checkout, printable, replacing

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class SliceDataset:
    """N slices of R x R pixels and their labels; every array has one entry per slice."""

    images: np.ndarray  # uint8 [N, R, R], grey, front of the head up where known; memory-mapped out of the cache
    labels: np.ndarray  # int64 [N], index into classes, -1 where unknown
    classes: tuple[str, ...]
    subjects: np.ndarray  # str [N]; where people are hidden, the narrowest group known to belong together
    levels: np.ndarray  # int64 [N], -1 where unknown
    splits: np.ndarray  # str [N]: 'train' | 'val' | 'test'
    columns: dict[str, np.ndarray]  # float [N] (NaN unknown) or str [N] ('' unknown)
    layout: str
    title: str
    key: str  # same key = same pictures in the same order
    subjects_known: bool = True
    sides: tuple[str, str, str, str] = ("", "", "", "")  # marks at top, bottom, left, right; '' where unknown
    warnings: tuple[str, ...] = ()
    paths: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype="<U1"))  # str [N] files; empty for simulated slices
    left_out: dict[str, tuple[str, ...]] = field(default_factory=dict)  # reason: files
    published_split_leaks: int | None = 0  # subjects in two folders of the folder's own split; None where nobody can tell
    size: str = ""  # of the files, 'width x height'
    grey: str = "fixed"  # the rule of `RULES` that the grey values have been through
    shelf: dict = field(default_factory=dict, init=False, repr=False, compare=False)  # device: the slices there

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, where: np.ndarray | Sequence[int]) -> SliceDataset:
        """The slices of a bool mask or of indices, in that order."""
        rows = np.arange(len(self))[np.asarray(where)].reshape(-1)
        arrays = {name: getattr(self, name)[rows] for name in ("images", "labels", "subjects", "levels", "splits")}
        key = hashlib.sha256(self.key.encode() + rows.tobytes()).hexdigest()
        columns = {name: values[rows] for name, values in self.columns.items()}
        return replace(self, **arrays, columns=columns, key=key, paths=self.paths[rows] if len(self.paths) else self.paths)

    def split(self, name: str) -> SliceDataset:
        """The slices of 'train', 'val' or 'test'. ValueError where there is no such slice."""
        if name not in self.splits:
            counts = ", ".join(f"{split} {np.sum(self.splits == split)}" for split in SPLITS)
            raise ValueError(f"{self.title} has no slice in split {name!r}; the splits hold {counts} slices.")
        return self.select(self.splits == name)

    def tensor(self, where: object = slice(None), device: str | torch.device = "cpu") -> torch.Tensor:
        """float32 [n, 1, R, R] in [-1, 1] of the chosen slices, on the device."""
        import torch  # loading pictures and reporting on them needs no torch, and it takes seconds to import

        if torch.device(device).type == "cpu":
            images = torch.from_numpy(np.array(self.images[where], ndmin=3))
        else:  # a device with memory of its own holds all slices as bytes: 10,000 of 256 px are 655 MB
            if str(device) not in self.shelf:
                self.shelf[str(device)] = torch.from_numpy(np.array(self.images)).to(device)
            images = self.shelf[str(device)][torch.as_tensor(where, device=device)]
        return images[:, None].float().div_(127.5).sub_(1)

    def describe(self) -> dict:
        """What the set holds, as JSON values; ``subjects`` is None where the layout hides who is who."""
        return {
            **{name: getattr(self, name) for name in ("layout", "title", "size")},
            **self._count(self.labels >= -1),
            "splits": {split: self._count(self.splits == split) for split in SPLITS},
            "left_out": {reason: len(names) for reason, names in self.left_out.items()},
            "left_out_files": {reason: list(names[:20]) for reason, names in self.left_out.items()},
            "published_split_leaks": self.published_split_leaks,
            "warnings": list(self.warnings),
        }

    def _count(self, where: np.ndarray, by_class: bool = True) -> dict:
        """Slices and subjects of a mask, and those of each class."""
        people = {who.person(str(subject)) for subject in np.unique(self.subjects[where])}
        count = {"slices": int(where.sum()), "subjects": len(people) if self.subjects_known else None}
        classes = {name: self._count(where & (self.labels == i), False) for i, name in enumerate(self.classes) if by_class}
        return count | ({"classes": classes} if by_class else {})


# ------------------------------------------------------------------------------------------------------------------ loading


def load_slices(
    data: str | Path | None = None,
    resolution: int = 64,
    *,
    subjects_csv: str | Path | None = None,
    levels: str | tuple[int, int] | None = None,
    contrast: str | None = None,
    seed: int = 0,
    cache_dir: str | Path | None = None,
) -> SliceDataset:
    """Slices of a folder or .zip in any layout of data/README.md, or the simulated ones without ``data``.

    ``resolution``: pixels per side, 8 to 1024. ``levels``: 'A-B' or (A, B), both included. ``contrast``: 'T2', 'FLAIR', ... where names
    tell contrasts apart; T1 by default. ``subjects_csv``: table joined by id; without it one is looked for in the folder and beside it.
    ``seed`` draws the splits. Slices are packed into the cache at first, then mapped. FileNotFoundError or ValueError say what is wrong.
    """
    if not 8 <= resolution <= 1024:
        raise ValueError(f"resolution is {resolution}; take 8 to 1024 pixels.")
    chosen, cache = parse_levels(levels), cache_folder(cache_dir)
    if data is None:
        images, index = pack_simulated(resolution, cache)
        joined = tables.Joined({name: np.array(values) for name, values in index["columns"].items()})
    else:
        data = Path(os.path.expanduser(data))
        root = unpack_once(data, cache) if data.suffix.lower() == ".zip" and not data.is_dir() else data
        images, index = pack_folder(root, resolution, chosen, contrast, cache)
        joined = tables.join_index(data, root, subjects_csv, index)
    dataset = _label(images, index, joined, seed)
    if data is not None or chosen is None:
        return dataset
    where = (dataset.levels >= chosen[0]) & (dataset.levels <= chosen[1])
    if not where.any():
        there = f"there are {dataset.levels.min()} to {dataset.levels.max()}"
        raise ValueError(f"No slice has a level from {chosen[0]} to {chosen[1]}; {there}.")
    return dataset.select(where)


def _label(images: np.ndarray, index: dict, joined: tables.Joined, seed: int) -> SliceDataset:
    """Decide people, classes and splits."""
    people, folders, hidden = (index[name] for name in ("subjects", "folders", "hidden"))
    warnings = [*index["warnings"], *joined.warnings]
    told = [] if joined.people is None else [name or group for name, group in zip(joined.people.tolist(), people, strict=True)]
    if told and (hidden or len(set(told)) < len(set(people))):  # names may number scans, of which two are of one person
        unnamed = sorted({group for name, group in zip(joined.people, people, strict=True) if not name})
        people, hidden = told, hidden if unnamed else ""
        warnings += [f"The table names no person for {len(unnamed)} images ({', '.join(unnamed[:3])})."] if unnamed else []
    labels, classes = tables.classes_of(index["labels"], joined)
    changed = 0 if hidden else who.count_leaks(people, [classes[label] if label >= 0 else "" for label in labels])
    sentence = "{} people have slices in several classes: right where a diagnosis changed, wrong where each class numbers its people anew."
    warnings += [sentence.format(changed)] if changed else []
    leaks = who.count_leaks(people, folders)
    splits, said = who.choose_split(people, labels, folders, seed, classes, known=not hidden)
    warnings += said + ([hidden] if hidden else [])
    return SliceDataset(
        images=images, labels=labels, classes=classes, subjects=np.array(people), splits=splits, columns=joined.columns,
        levels=np.array(index["levels"], dtype=np.int64), layout=index["layout"], title=index["title"], key=index["key"],
        subjects_known=not hidden, sides=tuple(index["sides"]), warnings=tuple(map(printable, warnings)), paths=np.array(index["files"], dtype=str),
        left_out={reason: tuple(names) for reason, names in index["left_out"].items()}, size=index["size"],
        published_split_leaks=None if hidden and any(folders) and not leaks else leaks,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------------- reports


def write_csv(dataset: SliceDataset, out: str | Path) -> None:
    """One line per slice: path, class, subject, level, split; what is not known stays empty."""
    labels = [dataset.classes[label] if label >= 0 else "" for label in dataset.labels]
    levels = [level if level >= 0 else "" for level in dataset.levels.tolist()]
    paths = dataset.paths if len(dataset.paths) else [""] * len(dataset)
    rows = zip(paths, labels, dataset.subjects, levels, dataset.splits, strict=True)
    with replacing(Path(out)) as new, open(new, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([("path", "class", "subject", "level", "split"), *rows])


def render_report(report: dict) -> str:
    """The report of ``SliceDataset.describe`` as plain text for a terminal."""
    groups = [report, *(report["splits"][split] for split in SPLITS)]
    classes = {f"  {name}": [group["classes"][name] for group in groups] for name in report["classes"]}
    rows = [["", "all", *SPLITS]]
    for name, parts in [("slices (subjects)", groups), *classes.items()]:
        rows.append([name, *(f"{part['slices']} ({'?' if part['subjects'] is None else part['subjects']})" for part in parts)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{report['title']}: layout {report['layout']}, files of {report['size']} pixels", ""]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for reason, number in report["left_out"].items():
        names = ", ".join(report["left_out_files"][reason][:3])
        lines.append(f"left out: {number} x {reason} ({names}{', ...' if number > 3 else ''})")
    lines += [f"warning: {warning}" for warning in report["warnings"]]
    return "\n".join(map(printable, lines))


def similarity(slices: SliceDataset) -> dict[str, float]:
    """Mean correlation of pixels by kind of pair: 'same person, 1 level apart' (2, 4, 8 levels) and 'other person, same level'.
    Up to 2000 slices have their partners looked up; a kind of pair that the set does not hold is left out."""
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(slices))[:2000]
    ids = list(zip(slices.subjects.tolist(), slices.levels.tolist(), strict=True))
    place = {name: i for i, name in enumerate(ids)}
    people = rng.permutation(np.unique(slices.subjects))
    other = dict(zip(people.tolist(), np.roll(people, 1).tolist(), strict=True))
    partners = {f"same person, {n} level{'s' * (n > 1)} apart": [(s, k + n) for s, k in ids] for n in (1, 2, 4, 8)}
    partners["other person, same level"] = [(other[s], k) for s, k in ids]
    found = {}
    for kind, partner in partners.items():
        pairs = [(slices.images[i], slices.images[place[partner[i]]]) for i in rows if partner[i] in place]
        if pairs:
            found[kind] = float(np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs]))
    return found


# ------------------------------------------------------------------------------------------------- the slices of a generator


def slices_of(info: Mapping, data: SliceDataset | str | Path | None = None, **reading: object) -> SliceDataset:
    """The slices for a generator, ``info`` being its config.json or what `load_generator` returns: at its resolution, under its grey rule.

    ``data``: a set, a folder or a .zip; None takes what it was trained on. ``reading``: ``subjects_csv``, ``levels`` and ``contrast`` as
    in `load_slices`, by default as in its training. A note on stderr says where the slices are not those of its training. ValueError or
    FileNotFoundError with one sentence, also where the people of the training set could be told by its table alone and that is gone.
    """
    config, known = info["config"], info.get("data") or {}
    size, rule = config["img_resolution"], config.get("normalise", "fixed")
    if config.get("img_channels", 1) != 1:
        raise ValueError("Only grey slices are scored, mapped and projected, and this generator draws 3 channels.")
    if isinstance(data, SliceDataset):
        if data.images.shape[1] != size:
            raise ValueError(f"The slices have {data.images.shape[1]} px, the generator draws {size} px; load them so.")
        return normalised(data, rule)
    asked = dict.fromkeys(("subjects_csv", "levels", "contrast")) | reading
    usual = known | {"subjects_csv": found_again(known.get("subjects_csv"))}
    options = {name: usual.get(name) if value is None else value for name, value in asked.items()}
    source = _place(known) if data is None else Path(data)
    try:
        slices = load_slices(source, size, **options)
    except (ValueError, FileNotFoundError):
        if data is None or options == asked:
            raise
        options = asked  # other slices: what the run was trained with is not for them
        slices = load_slices(source, size, **options)
        if slices.key == known.get("key"):
            raise
    other = f"These slices ({slices.title}) are not those that the generator was trained on ({known.get('title', 'unknown')})."
    notes = [other] if known.get("key", slices.key) != slices.key else []
    for name, value in options.items():
        before, now = known.get(name), value and str(value)
        if before != now and not (name == "subjects_csv" and before and Path(before).name == Path(now or "").name):
            notes.append(f"The generator was trained with {name} {before or 'not given'}; here it is {now or 'not given'}.")
    for note in notes if os.environ.get("RANK", "0") == "0" else ():  # of several processes one speaks
        print(f"Note: {printable(note)}", file=sys.stderr)
    return normalised(slices, rule)


def _place(known: Mapping) -> Path | None:
    """Where the slices of a training lie, None for simulated ones. FileNotFoundError where they cannot be found."""
    source = found_again(known.get("path"))
    if known.get("layout", "simulated") == "simulated" or (source and source.exists()):
        return source
    lay = f"lay in {source}, which is not there" if source else "lie where its file does not say"
    raise FileNotFoundError(f"The slices of its training ({known.get('title')}) {lay}; give their place with --data.")


def found_again(path: str | None) -> Path | None:
    """Where a path of a run's config.json lies: a relative one counts from the working directory, else from the checkout."""
    if path is None:
        return None
    beside = checkout() / os.path.expanduser(path)
    return beside if not Path(path).exists() and beside.exists() else Path(path)


# ------------------------------------------------------------------------------------------------------------- grey values


def normalised(data: SliceDataset, rule: str) -> SliceDataset:
    """The slices under one of `RULES`, subject by subject; those that have been through it stay. ValueError for another name."""
    if rule not in RULES:
        raise ValueError(f"normalise is {rule!r}; choose one of {', '.join(RULES)}.")
    if rule in ("fixed", data.grey):
        return data
    images = np.empty(data.images.shape, dtype=np.uint8)
    for subject in np.unique(data.subjects):
        rows = np.flatnonzero(data.subjects == subject)
        images[rows] = np.rint(RULES[rule](data.images[rows].astype(np.float64)) * 255)
    key = hashlib.sha256(f"{data.key} {rule}".encode()).hexdigest()
    return replace(data, images=images, key=key, grey=rule)


# ----------------------------------------------------------------------------------------------------------------- batches


def draw_batch(
    data: SliceDataset, config: Config, cur_nimg: int, device: torch.device, n: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """(real [n, C, H, W] in [-1, 1], one-hot c [n, c_dim] or None): n slices from position cur_nimg of the endless order."""
    import torch

    which = order(len(data) * (2 if config.mirror else 1), config.seed, cur_nimg, n or config.batch_size)
    rows, flip = which % len(data), torch.from_numpy(which >= len(data)).to(device)
    real = data.tensor(rows, device)
    real = torch.where(flip[:, None, None, None], real.flip(mirror_axis(config, data)), real)
    return real.expand(-1, config.img_channels, -1, -1), one_hot(data.labels[rows], config.c_dim, device)


def mirror_axis(config: Config, data: SliceDataset) -> int:
    """The axis of [N, C, H, W] whose reversal exchanges left and right: the columns, unless the data say L or R at top or bottom."""
    upright = config.mirror_axis == "vertical" or (config.mirror_axis == "auto" and {"L", "R"} & set(data.sides[:2]))
    return 2 if upright else 3


def one_hot(labels: np.ndarray, c_dim: int, device: torch.device) -> Tensor | None:
    """[N] class indices -> float [N, c_dim]; None without classes."""
    import torch

    return torch.nn.functional.one_hot(torch.from_numpy(np.asarray(labels)), c_dim).float().to(device) if c_dim else None


def order(length: int, seed: int, start: int, count: int) -> np.ndarray:
    """``count`` indices from position ``start`` of an endless sequence that shuffles 0..length-1 anew in each epoch."""
    positions = np.arange(start, start + count)
    return np.array([_epoch(length, seed, int(p // length))[p % length] for p in positions])


@functools.lru_cache(maxsize=4)
def _epoch(length: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(length)
