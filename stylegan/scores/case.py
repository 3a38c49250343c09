"""A generator, the people it saw and those it is judged by: everything that scores need before they are computed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from stylegan import distributed
from stylegan.cache import cache_folder
from stylegan.checkpoint import load_generator
from stylegan.data.subjects import person
from stylegan.dataset import SliceDataset, load_slices, normalised
from stylegan.networks import Generator, pick_device
from stylegan.predict import generate
from stylegan.scores.features import DEFAULT, Space, as_pixels, features
from stylegan.scores.intervals import draw_people
from stylegan.scores.memorisation import people_of
from stylegan.scores.spaces import find_space

MOST_TRAINING = 12_000  # slices among which the nearest is looked for


@dataclass(frozen=True)
class Held:
    """One split, thinned to n slices, and slices of people who are not in it, for the floor."""

    name: str
    slices: SliceDataset
    others: SliceDataset


@dataclass(frozen=True)
class Setting:
    """Where and how features are taken."""

    space: Space
    device: torch.device
    cache: Path
    seed: int

    def features(self, images: np.ndarray, keep: bool = True) -> np.ndarray:
        return features(images, self.space, device=self.device, cache_dir=self.cache if keep else None)


class Fakes:
    """Slices of a generator at psi = 1, each with its features, drawn once."""

    def __init__(self, G: Generator, info: dict, setting: Setting):
        self.G, self.setting, self.first = G, setting, setting.seed * 1_000_000
        self.classes = {name: index for index, name in enumerate(info.get("classes", ()))} if G.c_dim else {}
        self.pictures = self.vectors = None

    def like(self, real: SliceDataset, n: int | None = None, psi: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """(uint8 [n, R, R], features [n, D]) of the first n seeds, by default as many as real slices.

        A conditional generator draws each in the class of one of the real slices; another one draws no seed twice at psi = 1.
        """
        n = len(real) if n is None else n
        if self.classes:
            rows = np.arange(n) if n == len(real) else np.linspace(0, len(real) - 1, n).round().astype(int)
            made = self._draw(n, self._known(real)[rows].tolist(), psi)
            if psi == 1 and (self.pictures is None or len(self.pictures) < n):
                self.pictures, self.vectors = made  # the largest set, for whoever wants many
            return made
        if psi != 1:
            return self._draw(n, None, psi)
        if self.pictures is None or len(self.pictures) < n:
            self.pictures, self.vectors = self._draw(n, None, psi)
        return self.pictures[:n], self.vectors[:n]

    def _draw(self, n: int, classes: list[int] | None, psi: float) -> tuple[np.ndarray, np.ndarray]:
        def draw(first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
            given = {} if classes is None else {"class_index": classes[first:last]}
            given |= {} if psi == 1 else {"truncation_psi": psi}
            made = as_pixels(generate(self.G, range(self.first + first, self.first + last), **given))
            return made, self.setting.features(made, keep=False)

        return distributed.share_out(draw, n)

    def _known(self, real: SliceDataset) -> np.ndarray:
        """The generator's number of each slice's class: int [N]."""
        names = [real.classes[label] if label >= 0 else "(unlabelled)" for label in real.labels]
        strange = sorted(set(names) - set(self.classes))
        if strange:
            raise ValueError(
                f"The generator draws the classes {', '.join(self.classes)}, and this data also holds {', '.join(strange)}."
            )
        return np.array([self.classes[name] for name in names])


@dataclass(frozen=True)
class Case:
    """A generator, the people it saw and those it is judged by."""

    G: Generator
    info: dict  # as of `load_generator`
    dataset: SliceDataset
    trained_on: set[str]
    train: SliceDataset | None  # the slices it saw, where they are at hand
    unseen: list[SliceDataset]  # the held-out splits, whole
    scored: list[Held]  # what fakes are compared with; the last is the split that counts
    fakes: Fakes
    setting: Setting


def open_case(
    path: str | Path,
    data: SliceDataset | str | Path | None = None,
    *,
    split: str = "all",
    train_data: SliceDataset | str | Path | None = None,
    num: int = 1000,
    seed: int = 0,
    space: str = DEFAULT,
    device: str = "auto",
    cache_dir: str | Path | None = None,
) -> Case:
    """Everything `metrics.evaluate` needs before it draws the first slice; arguments and errors are its."""
    if num < 2:
        raise ValueError(f"num is {num}; a score takes at least 2 slices, and hundreds to mean something.")
    chosen = pick_device(device)
    G, info = load_generator(path, chosen)
    dataset, reference, trained_on = _who_is_who(info, data, train_data, cache_dir)
    parts = {name: dataset.split(name) for name in (("val", "test") if split == "all" else (split,))}
    for name, real in parts.items():
        _refuse_training_subjects(set(people_of(real)), trained_on, name)
    train = _training_slices(reference, trained_on)
    setting = _setting(space, train, path, chosen, cache_dir, seed)
    held = [_held(name, real, reference, num, seed) for name, real in parts.items()]
    seen = _seen(train, held[-1], seed) if split == "all" else []
    return Case(G, info, dataset, trained_on, train, list(parts.values()), seen + held, Fakes(G, info, setting), setting)


# --- Who is who ---------------------------------------------------------------------------------------------------------------


def _who_is_who(info: dict, data, train_data, cache_dir) -> tuple[SliceDataset, SliceDataset, set[str]]:
    """(what is scored on, what the floor and the training slices come from, the people the generator saw)."""
    dataset = _as_dataset(data, info, cache_dir)
    reference = dataset if train_data is None else _as_dataset(train_data, info, cache_dir).split("train")
    trained_on = {person(name) for name in info.get("train_subjects", ())}
    if not trained_on and train_data is not None:
        trained_on = set(people_of(reference))
    return dataset, reference, trained_on


def _training_slices(reference: SliceDataset, trained_on: set[str]) -> SliceDataset | None:
    """The slices the generator saw, by name or, where it names nobody, those of the training split; None where there are none."""
    where = np.isin(people_of(reference), list(trained_on)) if trained_on else reference.splits == "train"
    rows = np.flatnonzero(where)
    if not len(rows):
        return None
    return reference.select(np.sort(np.random.default_rng(0).permutation(rows)[:MOST_TRAINING]))


def _setting(space: str, train: SliceDataset | None, path: str | Path, device: torch.device, cache_dir, seed: int) -> Setting:
    run = path if Path(path).is_dir() else None
    found = find_space(space, train=train, run=run, device=device, cache_dir=cache_dir)
    return Setting(found, device, cache_folder(cache_dir), seed)


def _held(name: str, real: SliceDataset, reference: SliceDataset, num: int, seed: int) -> Held:
    others = reference.select(~np.isin(people_of(reference), people_of(real)))
    n = min(num, len(real), len(others))
    if n < 2:
        raise ValueError(
            f"{real.title}: the floor compares the split with slices of other subjects, and there are {len(others)} of those "
            f"beside {len(real)} in the split; give more data, or the training set as train_data (--train-data)."
        )
    rng = np.random.default_rng(seed)
    real = real.select(np.sort(rng.choice(len(real), n, replace=False)))
    count = len(set(people_of(real)))
    # Four times what one draw for the floor takes: enough for unlike draws, where all of a large set would take minutes.
    return Held(name, real, others.select(draw_people(people_of(others), 4 * count, min(4 * n, len(others)), rng)))


def _seen(train: SliceDataset | None, held: Held, seed: int) -> list[Held]:
    """As many training people and slices as the held-out split has, against the other training people; [] where they are too few."""
    count, n = len(set(people_of(held.slices))), len(held.slices)
    people = np.array([]) if train is None else people_of(train)
    if len(set(people)) < 2 * count or len(people) < 2 * n:
        return []
    rows = draw_people(people, count, n, np.random.default_rng(seed))
    real, rest = train.select(rows), train.select(~np.isin(people, people[rows]))
    return [_held("train", real, rest, n, seed)] if len(rest) >= n else []


def _as_dataset(data: SliceDataset | str | Path | None, info: dict, cache_dir: str | Path | None) -> SliceDataset:
    """The slices at the generator's resolution, with the grey values that it was trained on."""
    config = info["config"]
    rule = config.get("normalise", "fixed")
    if config["img_channels"] != 1:
        raise ValueError(f"Scores are for grey slices, and this generator draws {config['img_channels']} channels.")
    if not isinstance(data, SliceDataset):
        return normalised(load_slices(data, config["img_resolution"], cache_dir=cache_dir), rule)
    if data.images.shape[1] != config["img_resolution"]:
        size = f"{data.images.shape[1]} px, and the generator draws {config['img_resolution']} px"
        raise ValueError(f"The slices have {size}; load them at its size.")
    return normalised(data, rule)


def _refuse_training_subjects(people: set[str], trained_on: set[str], split: str) -> None:
    both = sorted(people & trained_on)
    if both:
        shown = ", ".join(both[:5]) + (", ..." if len(both) > 5 else "")
        raise ValueError(
            f"The generator was trained on {len(both)} of the {len(people)} subjects of split {split!r} ({shown}): "
            "a score on them would measure memory; evaluate on subjects it has not seen."
        )


def doubts(dataset: SliceDataset, trained_on: set[str]) -> list[str]:
    """What the reader of the scores should know about who is who."""
    found = []
    if not trained_on:
        found.append("The generator's file does not name its training subjects, so nothing tells whether they are scored on.")
    elif not trained_on & set(people_of(dataset)):
        found.append(
            "No training subject of the generator occurs in this data under its name: if the same people are in it under "
            "other names, the scores flatter the generator."
        )
    if not dataset.subjects_known:
        found.append(
            "This layout hides who is who: one person may stand on both sides of the split and of the floor, and the "
            "intervals are too narrow; a table of subjects (--subjects) restores people."
        )
    return found
