"""Slices with all that is known of them: load a folder, a .zip or the simulated default, split by person, draw batches, report."""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stylegan.data import subjects as who
from stylegan.data import tables
from stylegan.data.listing import parse_levels
from stylegan.data.pack import pack_folder, pack_simulated, unpack_once
from stylegan.data.report import render_report, write_csv  # noqa: F401, offered here too
from stylegan.data.subjects import SPLITS, split_by_subject
from stylegan.files import cache_folder, checkout, printable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from stylegan.config import Config


@dataclass(frozen=True)
class SliceDataset:
    """N slices of R x R pixels and their labels; every array has one entry per slice."""

    images: np.ndarray  # uint8 [N, R, R], grey, front of the head up; memory-mapped where it comes from the cache
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
    shelf: dict = field(default_factory=dict, init=False, repr=False, compare=False)  # device: the slices there

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, where: np.ndarray | Sequence[int]) -> SliceDataset:
        """The slices of a bool mask or of indices, in that order."""
        rows = np.arange(len(self))[np.asarray(where)]
        rows = rows.reshape(-1)
        arrays = {name: getattr(self, name)[rows] for name in ("images", "labels", "subjects", "levels", "splits")}
        key = hashlib.sha256(self.key.encode() + rows.tobytes()).hexdigest()
        columns = {name: values[rows] for name, values in self.columns.items()}
        return replace(self, **arrays, columns=columns, key=key, paths=self.paths[rows] if len(self.paths) else self.paths)

    def split(self, name: str) -> SliceDataset:
        """The slices of 'train', 'val' or 'test'; 'all' is the whole set. ValueError where there is no such slice."""
        if name == "all":
            return self
        where = self.splits == name
        if not where.any():
            counts = ", ".join(f"{split} {np.sum(self.splits == split)}" for split in SPLITS)
            raise ValueError(f"{self.title} has no slice in split {name!r}; the splits hold {counts} slices.")
        return self.select(where)

    def tensor(self, where: object = slice(None), device: str | torch.device = "cpu") -> torch.Tensor:
        """float32 [n, 1, R, R] in [-1, 1] of the chosen slices, on the device."""
        import torch  # loading pictures and reporting on them needs no torch, and it takes seconds to import

        if torch.device(device).type == "cpu":
            images = torch.from_numpy(np.array(self.images[where], ndmin=3))
        else:
            images = self._all_on(str(device))[torch.as_tensor(where, device=device)]
        return images[:, None].float().div_(127.5).sub_(1)

    def _all_on(self, device: str) -> torch.Tensor:
        """All slices as bytes on a device with memory of its own, copied there once: 10,000 of 256 px are 655 MB."""
        import torch

        if device not in self.shelf:
            self.shelf[device] = torch.from_numpy(np.array(self.images)).to(device)
        return self.shelf[device]

    def describe(self) -> dict:
        """What the set holds, as JSON values; ``subjects`` is None where the layout hides who is who."""
        everything = np.ones(len(self), bool)
        return {
            "layout": self.layout,
            "title": self.title,
            "size": self.size,
            **self._count(everything),
            "classes": self._by_class(everything),
            "splits": {
                split: self._count(at) | {"classes": self._by_class(at)} for split in SPLITS for at in [self.splits == split]
            },
            "left_out": {reason: len(names) for reason, names in self.left_out.items()},
            "left_out_files": {reason: list(names[:20]) for reason, names in self.left_out.items()},
            "published_split_leaks": self.published_split_leaks,
            "warnings": list(self.warnings),
        }

    def _by_class(self, where: np.ndarray) -> dict:
        return {name: self._count(where & (self.labels == i)) for i, name in enumerate(self.classes)}

    def _count(self, where: np.ndarray) -> dict:
        people = {who.person(str(subject)) for subject in np.unique(self.subjects[where])}
        return {"slices": int(where.sum()), "subjects": len(people) if self.subjects_known else None}


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
    ``seed`` draws the splits. The first start packs the slices into the cache, later ones map it. Raises FileNotFoundError or
    ValueError with a sentence for the user.
    """
    if not 8 <= resolution <= 1024:
        raise ValueError(f"resolution is {resolution}; take 8 to 1024 pixels.")
    chosen = parse_levels(levels)
    cache = cache_folder(cache_dir)
    if data is None:
        return _choose_levels(_simulated(resolution, seed, cache), chosen)
    data = Path(data).expanduser()
    root = unpack_once(data, cache) if data.suffix.lower() == ".zip" else data
    images, index = pack_folder(root, resolution, chosen, contrast, cache)
    joined, warnings = tables.join_index(data, root, subjects_csv, index)
    return _label(images, index, joined, warnings, seed)


def _choose_levels(dataset: SliceDataset, chosen: tuple[int, int] | None) -> SliceDataset:
    where = np.ones(len(dataset), bool) if chosen is None else (dataset.levels >= chosen[0]) & (dataset.levels <= chosen[1])
    if not where.any():
        raise ValueError(
            f"No slice has a level from {chosen[0]} to {chosen[1]}; there are {dataset.levels.min()} to {dataset.levels.max()}."
        )
    return dataset if where.all() else dataset.select(where)


def _simulated(resolution: int, seed: int, cache: Path) -> SliceDataset:
    images, index = pack_simulated(resolution, cache)
    labels = np.array(index["labels"], dtype=np.int64)
    splits, warnings = split_by_subject(index["subjects"], labels, seed, index["classes"])
    columns = {name: np.array(values, dtype=float) for name, values in index["columns"].items()}
    return SliceDataset(
        images=images, labels=labels, classes=tuple(index["classes"]), subjects=np.array(index["subjects"]), splits=splits,
        levels=np.array(index["levels"], dtype=np.int64), columns=columns, layout="simulated", title=index["title"],
        key=index["key"], sides=tuple(index["sides"]), warnings=tuple(warnings), size=f"{resolution} x {resolution}",
    )  # fmt: skip


def _label(images: np.ndarray, index: dict, joined: tables.Joined | None, said: list[str], seed: int) -> SliceDataset:
    """Decide people, classes and splits."""
    people, folders, hidden, warnings = index["subjects"], index["folders"], index["hidden"], [*index["warnings"], *said]
    if hidden and joined and joined.people is not None:
        unnamed = sorted({group for name, group in zip(joined.people, people, strict=True) if not name})
        people = [name or group for name, group in zip(joined.people.tolist(), people, strict=True)]
        hidden = hidden if unnamed else ""
        warnings += [f"The table names no person for {len(unnamed)} images ({', '.join(unnamed[:3])})."] if unnamed else []
    labels, classes = tables.classes_of(index["labels"], joined)
    leaks = who.count_leaks(people, folders)
    splits, said = who.choose_split(people, labels, folders, seed, classes, known=not hidden)
    warnings += said + ([hidden] if hidden else [])
    return SliceDataset(
        images=images, labels=labels, classes=classes, subjects=np.array(people), splits=splits, columns=joined.columns if joined else {},
        levels=np.array(index["levels"], dtype=np.int64), layout=index["layout"], title=index["title"], key=index["key"],
        subjects_known=not hidden, sides=tuple(index["sides"]), warnings=tuple(map(printable, warnings)), paths=np.array(index["files"]),
        left_out={reason: tuple(names) for reason, names in index["left_out"].items()}, size=index["size"],
        published_split_leaks=None if hidden and any(folders) and not leaks else leaks,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------- the slices of a generator


def slices_of(
    info: Mapping,
    data: SliceDataset | str | Path | None = None,
    *,
    subjects_csv: str | Path | None = None,
    levels: str | tuple[int, int] | None = None,
    contrast: str | None = None,
    cache_dir: str | Path | None = None,
) -> SliceDataset:
    """The slices for a generator, ``info`` being its config.json or what `load_generator` returns: at its resolution, under its grey rule.

    ``data``: a set, a folder or a .zip; None takes what it was trained on. Its table, levels and contrast are used again where none are
    given. A note on stderr says where the slices are not those of its training. Raises ValueError or FileNotFoundError with one
    sentence, also where the people of the training set could be told by its table alone and that is gone.
    """
    config, known = info["config"], info.get("data") or {}
    size, rule = config["img_resolution"], config.get("normalise", "fixed")
    if isinstance(data, SliceDataset):
        if data.images.shape[1] != size:
            raise ValueError(f"The slices have {data.images.shape[1]} px, the generator draws {size} px; load them so.")
        return normalised(data, rule)
    asked = {"subjects_csv": subjects_csv, "levels": levels, "contrast": contrast}
    usual = {**{name: known.get(name) for name in asked}, "subjects_csv": _found_again(known.get("subjects_csv"))}
    options = {name: usual[name] if value is None else value for name, value in asked.items()}
    source = _found_again(known.get("path")) if data is None else Path(data)
    try:
        slices = load_slices(source, size, cache_dir=cache_dir, **options)
    except (ValueError, FileNotFoundError):
        if data is None or options == asked:
            raise
        slices = load_slices(
            source, size, cache_dir=cache_dir, **asked
        )  # other slices: what the run was trained with is not for them
        if slices.key == known.get("key"):
            raise
        options = asked
    _note_differences(known, slices, {name: value and str(value) for name, value in options.items()})
    return normalised(slices, rule)


def _found_again(path: str | None) -> Path | None:
    """Where a path of a run's config.json lies: a relative one counts from the working directory, else from the checkout."""
    if path is None:
        return None
    beside = checkout() / Path(path).expanduser()
    return beside if not Path(path).exists() and beside.exists() else Path(path)


def _note_differences(known: Mapping, slices: SliceDataset, options: Mapping[str, str | None]) -> None:
    notes = []
    if known.get("key", slices.key) != slices.key:
        notes.append(
            f"These slices ({slices.title}) are not those that the generator was trained on ({known.get('title', 'unknown')})."
        )
    for name, now in options.items():
        before = known.get(name)
        if before != now and not (name == "subjects_csv" and before and Path(before).name == Path(now or "").name):
            notes.append(f"The generator was trained with {name} {before or 'not given'}; here it is {now or 'not given'}.")
    if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
        for note in notes:
            print(f"Note: {printable(note)}", file=sys.stderr)


# ------------------------------------------------------------------------------------------------------------- grey values
# Pixels stay uint8; training maps 0..255 to [-1, 1] in any case. Every rule takes one subject's slices together, so that bright levels
# stay bright beside dark ones. A generator draws what its data looked like: it is compared with slices under the same rule.


def percentiles(x: np.ndarray) -> np.ndarray:
    """The 0.5th percentile becomes 0 and the 99.5th 1; what lies beyond is cut off: a few hot pixels decide nothing."""
    low, high = np.percentile(x, [0.5, 99.5])
    return ((x - low) / max(high - low, 1e-12)).clip(0, 1)


def standardise_then_unit(x: np.ndarray) -> np.ndarray:
    """(x - mean) / deviation, and the result from its least to its greatest value onto [0, 1], as two steps.

    The first step cancels out of the second: this is `min_max`, whatever the mean and the deviation are.
    """
    z = (x - x.mean()) / max(x.std(), 1e-12)
    return min_max(z)


def min_max(x: np.ndarray) -> np.ndarray:
    """(x - min) / (max - min)."""
    return (x - x.min()) / max(x.max() - x.min(), 1e-12)


RULES: dict[str, Callable[[np.ndarray], np.ndarray] | None] = {
    "fixed": None,
    "percentiles": percentiles,
    "standardise": standardise_then_unit,
}


def normalised(data: SliceDataset, rule: str) -> SliceDataset:
    """The slices under one of `RULES`, subject by subject; 'fixed' leaves them as they are. ValueError for another name."""
    if rule not in RULES:
        raise ValueError(f"normalise is {rule!r}; choose one of {', '.join(RULES)}.")
    function = RULES[rule]
    if function is None:
        return data
    images = np.empty(data.images.shape, dtype=np.uint8)
    for subject in np.unique(data.subjects):
        rows = np.flatnonzero(data.subjects == subject)
        images[rows] = np.rint(function(data.images[rows].astype(np.float64)) * 255)
    key = hashlib.sha256(f"{data.key} {rule}".encode()).hexdigest()
    return replace(data, images=images, key=key)


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
