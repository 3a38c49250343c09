"""A generator, the people it saw, those it is judged by, and its pictures: everything that is needed before anything is scored."""

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from stylegan import distributed
from stylegan.checkpoint import load_generator
from stylegan.config import Config
from stylegan.data.subjects import people_of, person
from stylegan.dataset import SPLITS, SliceDataset, mirror_axis, slices_of
from stylegan.files import cache_folder, read_json
from stylegan.networks import Generator, pick_device
from stylegan.predict import generate, has_noise
from stylegan.scores.features import DEFAULT, as_pixels, features
from stylegan.scores.intervals import draw_people, share
from stylegan.scores.metrics import Side

MOST_TRAINING = 12_000  # slices among which the nearest is looked for


@dataclass(frozen=True)
class Part:
    """One split, thinned to n slices, and slices of people who are not in it, for the floor."""

    name: str
    slices: SliceDataset
    others: SliceDataset

    @cached_property
    def people(self) -> np.ndarray:
        return people_of(self.slices)

    @cached_property
    def draws(self) -> list[np.ndarray]:
        """Rows [n] of ``others`` of each of 20 draws for the floor: as many slices and people as the split has."""
        rng, others, count = np.random.default_rng(0), people_of(self.others), len(set(self.people))
        return [draw_people(others, count, len(self.people), rng) for _ in range(20)]


@dataclass(frozen=True)
class Evidence:
    """A generator, real slices sorted by who saw them, and generated slices with their features, drawn when they are asked for."""

    G: Generator
    info: dict  # as returned by `load_generator`
    path: Path
    slices: SliceDataset  # all that were given
    train: SliceDataset | None  # the slices the generator saw, where they are at hand
    held: SliceDataset | None  # all slices of the held-out splits asked for
    scored: list[Part]  # what fakes are compared with; the last is the split that counts
    warnings: list[str]
    space: str
    device: torch.device
    drawn: dict = field(default_factory=dict, repr=False)  # (psi, classes): Side
    known: dict = field(default_factory=dict, repr=False)  # content of a picture: its features

    @property
    def about(self) -> dict[str, str]:
        """{title, layout, key} of the slices."""
        return {name: getattr(self.slices, name) for name in ("title", "layout", "key")}

    def features(self, images: np.ndarray) -> np.ndarray:
        """Feature vectors [n, D] of real pictures, each taken once: the same people stand on many sides. Kept in the cache."""
        keys = [hashlib.blake2b(np.ascontiguousarray(picture), digest_size=16).digest() for picture in images]
        new = {key: row for row, key in enumerate(keys) if key not in self.known}
        if new:
            chosen = images if len(new) == len(images) else images[list(new.values())]
            found = features(chosen, self.space, device=self.device, cache_dir=cache_folder())
            self.known.update(zip(new, found, strict=True))
        return np.stack([self.known[key] for key in keys])

    def features_once(self, images: np.ndarray | torch.Tensor) -> np.ndarray:
        """Feature vectors [n, D] of pictures that nobody will ask for again."""
        return features(images, self.space, device=self.device)

    def side(self, slices: SliceDataset) -> Side:
        """Real slices with their features and people."""
        return Side(slices.images, self.features(slices.images), people_of(slices), slices.labels)

    @property
    def train_images(self) -> list[np.ndarray]:
        """The training slices as D saw them, uint8 [n, R, R]: in a run that mirrors also each of them mirrored."""
        config, images = Config.from_dict(self.info["config"]), self.train.images
        return [images, *([np.flip(images, mirror_axis(config, self.train) - 1)] if config.mirror else [])]

    @cached_property
    def at_train(self) -> np.ndarray:
        """Features of `train_images`, one kind after the other: [n, D] or [2n, D]."""
        return np.concatenate([self.features(images) for images in self.train_images])

    def fakes(self, real: SliceDataset, n: int | None = None, *, psi: float = 1.0) -> Side:
        """The slices of the first n seeds (by default as many as real ones) in the classes of real ones; labels are G's own
        numbers. ``generate(G, [people[i]], class_index=[labels[i]], noise_mode="random")`` draws picture i again."""
        n = len(real) if n is None else n
        classes = self._classes(real, n)
        key = psi, None if classes is None else classes.tobytes()
        if key not in self.drawn or len(self.drawn[key]) < n:
            pictures = self.pictures(real, n, psi)
            vectors = distributed.split_across_processes(lambda a, b: self.features_once(pictures[a:b]), n)
            self.drawn[key] = Side(pictures, vectors, np.arange(n), classes)
        return self.drawn[key].rows(slice(n))

    def pictures(self, real: SliceDataset, n: int | None = None, psi: float = 1.0, noise_mode: str = "random") -> np.ndarray:
        """What `fakes` draws, without features: uint8 [n, R, R]."""
        n = len(real) if n is None else n
        classes = self._classes(real, n)

        def draw(first: int, last: int) -> np.ndarray:
            options = {"truncation_psi": psi, "noise_mode": noise_mode}
            chosen = None if classes is None else classes[first:last].tolist()
            return as_pixels(generate(self.G, range(first, last), class_index=chosen, **options))

        return distributed.split_across_processes(draw, n)

    def fixed_noise(self, real: SliceDataset) -> np.ndarray:
        """The same w as those of `fakes`, all under the generator's fixed noise maps, so that only W varies: uint8 [n, R, R]."""
        return self.pictures(real, noise_mode="const") if has_noise(self.G) else self.fakes(real).images

    def origin(self, drawn: Side, row: int) -> dict:
        """{seed, class} of a fake, with which it can be drawn again; class None for a generator without classes."""
        name = None if drawn.labels is None else self.info["classes"][drawn.labels[row]]
        return {"seed": int(drawn.people[row]), "class": name}

    def drawn_again(self, cases: Sequence[Mapping]) -> torch.Tensor:
        """The pictures [n, 1, R, R] of cases ``{seed, class}``, from these two alone."""
        classes = [self.info["classes"].index(case["class"]) for case in cases] if self.G.c_dim else None
        return generate(self.G, [case["seed"] for case in cases], noise_mode="random", class_index=classes)

    def _classes(self, real: SliceDataset, n: int) -> np.ndarray | None:
        """The generator's number of the class of n slices, evenly over the real ones: int64 [n]; None without classes."""
        if not self.G.c_dim:
            return None
        rows = np.linspace(0, len(real) - 1, n).round().astype(int)
        number = {name: index for index, name in enumerate(self.info["classes"])}
        names = [real.classes[label] if label >= 0 else "(unlabelled)" for label in real.labels]
        if strange := ", ".join(sorted(set(names) - set(number))):
            raise ValueError(f"The generator draws the classes {', '.join(number)}, and this data also holds {strange}.")
        return np.array([number[name] for name in names])[rows]


def open_evidence(
    path: str | Path,
    data: SliceDataset | str | Path | None = None,
    *,
    split: str = "all",
    train_data: SliceDataset | str | Path | None = None,
    num: int = 1000,
    space: str = DEFAULT,
    device: str = "auto",
    **taken: object,
) -> Evidence:
    """Everything that is needed to judge the generator of a run folder or .safetensors file, before the first slice is drawn.

    ``data``: a folder or .zip, by default what it was trained on, or a set as `dataset.slices_of` returns it; ``taken``
    (subjects_csv, levels, contrast) by default as in its training. ``split``: 'val', 'test', 'train', or 'all' for val and
    test, each by itself, and as many of the people it was trained on, where these are in the data; one that cannot be scored is
    then left out with a warning. ``train_data``: the training set where that is another one, for the floor, the search for
    copies and, where the generator's file names no subjects, whom to keep out. ``num``: slices of each kind at most. Raises
    ValueError, with names, for subjects the generator was trained on, and where slices or subjects are too few.
    """
    if num < 2:
        raise ValueError(f"num is {num}; a score takes at least 2 slices, and hundreds to mean something.")
    if split not in ("all", *SPLITS):
        raise ValueError(f"split is {split!r}; choose one of {', '.join(SPLITS)}, or all for val and test.")
    chosen, names = pick_device(device), ("val", "test") if split == "all" else (split,)
    G, info = load_generator(path, chosen)
    slices = slices_of(info, data, **taken)
    reference = slices if train_data is None else slices_of(info, train_data, **taken).split("train")
    trained_on = {person(name) for name in info.get("train_subjects", ())}
    if not trained_on and train_data is not None:
        trained_on = set(people_of(reference))
    parts, reasons = _parts(slices, reference, names, trained_on, num)
    if reasons and split != "all":
        raise ValueError(reasons[0])
    saw = np.flatnonzero(np.isin(people_of(reference), list(trained_on)) if trained_on else reference.splits == "train")
    some, held = np.sort(np.random.default_rng(0).permutation(saw)[:MOST_TRAINING]), np.isin(slices.splits, names)
    train = reference.select(some) if len(saw) else None
    seen = _seen(train, parts[-1]) if train and split == "all" and parts else []
    return Evidence(G, info, Path(path), slices, train, slices.select(held) if held.any() else None, seen + parts,
                    _doubts(slices, trained_on) + reasons, space, chosen)  # fmt: skip


def read_answers(files: Sequence[str | Path], info: Mapping) -> dict[str, float]:
    """``{value, low, high, n, readers}``: the share of right answers in the quiz of a report, all files together, as if one
    reader gave them (so the interval is narrow). ValueError for files not of the quiz, or about another generator."""
    right = []
    for path in files:
        found = read_json(path)
        try:
            own, model = [answer["real"] == answer["said_real"] for answer in found["answers"]], found["model_hash"]
        except (TypeError, KeyError):
            raise ValueError(f"{path} holds no answers of the quiz; give files that its page saved.") from None
        if model != info.get("model_hash") or not own:
            raise ValueError(f"{path} holds answers about the generator {model}, and this is {info.get('model_hash')}.")
        right += own
    return {**share(sum(right), len(right)), "n": len(right), "readers": len(files)}


def _parts(
    slices: SliceDataset, reference: SliceDataset, names: Sequence[str], trained_on: set[str], num: int
) -> tuple[list[Part], list[str]]:
    """(the splits that can be scored, why the others cannot). ValueError for people the generator was trained on."""
    parts, reasons = [], []
    for name in names:
        real = slices.select(slices.splits == name)
        people = set(people_of(real))
        if both := sorted(people & trained_on):
            shown = ", ".join(both[:5]) + (", ..." if len(both) > 5 else "")
            seen = f"The generator was trained on {len(both)} of the {len(people)} subjects of split {name!r} ({shown})"
            raise ValueError(f"{seen}: a score on them would measure memory; evaluate on subjects it has not seen.")
        try:
            parts.append(_part(name, real, reference, num))
        except ValueError as error:
            counts = ", ".join(f"{split} {np.sum(slices.splits == split)}" for split in SPLITS)
            reasons.append(f"{slices.title} cannot be scored on split {name!r} ({counts} slices): {error}")
    return parts, reasons


def _part(name: str, real: SliceDataset, reference: SliceDataset, num: int) -> Part:
    people, rng = people_of(real), np.random.default_rng(0)
    if len(set(people)) < 2:
        raise ValueError(f"{'one subject is' if len(people) else 'nobody is'} in it, and an interval takes at least 2.")
    others = reference.select(~np.isin(people_of(reference), people))
    n = min(num, len(real), len(others))
    if n < 2:
        raise ValueError(f"the floor takes other subjects' slices, here {len(others)}; give the training set as --train-data.")
    real = real.select(np.sort(rng.choice(len(real), n, replace=False)))
    slices_each = np.unique(people_of(real), return_counts=True)[1]
    if (count := len(slices_each)) < 2 or n - slices_each.max() < 2:  # what an interval leaves is compared too
        raise ValueError(f"{n} slices of {count} subjects are too few for an interval by subject.")
    # Four times what one draw for the floor takes: enough for unlike draws, where all of a large set would take minutes.
    return Part(name, real, others.select(draw_people(people_of(others), 4 * count, min(4 * n, len(others)), rng)))


def _seen(train: SliceDataset, held: Part) -> list[Part]:
    """As many training people and slices as the held-out split has, against the other training people; [] where they are too few."""
    count, n, people = len(set(held.people)), len(held.slices), people_of(train)
    if len(set(people)) < 2 * count or len(people) < 2 * n:
        return []
    rows = draw_people(people, count, n, np.random.default_rng(0))
    rest = train.select(~np.isin(people, people[rows]))
    with contextlib.suppress(ValueError):  # chance may draw people with too unlike numbers of slices
        return [_part("train", train.select(rows), rest, n)] if len(rest) >= n else []
    return []


def _doubts(slices: SliceDataset, trained_on: set[str]) -> list[str]:
    """What the reader of the scores should know about who is who."""
    found = []
    if not trained_on:
        found.append("The generator's file does not name its training subjects, so nothing tells whether they are scored on.")
    elif not trained_on & set(people_of(slices)):
        same = "if the same people are in it under other names, the scores flatter the generator."
        found.append(f"No training subject of the generator occurs in this data under its name: {same}")
    if not slices.subjects_known:
        both = "one person may stand on both sides of the split and of the floor, and the intervals are too narrow"
        found.append(f"This layout hides who is who: {both}; a table of subjects (--subjects) restores people.")
    return found
