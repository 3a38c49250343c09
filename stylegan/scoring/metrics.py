"""How far synthetic slices lie from real ones, each number beside its interval and its floor: real slices of other people.

Here all scores of a generator come together: `distances` (KID and FD), `neighbours` (who lies beside whom), `picture_scores`
(pixels), `memorisation` (copies), each with `intervals` by person.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from stylegan import distributed
from stylegan.cache import cache_folder
from stylegan.checkpoint import load_generator
from stylegan.dataset import SliceDataset, load_slices
from stylegan.intensity import normalised
from stylegan.networks import Generator, pick_device
from stylegan.predict import generate
from stylegan.reading.subjects import person
from stylegan.scoring import memorisation, neighbours
from stylegan.scoring.distances import frechet_distance, kernel_distance
from stylegan.scoring.features import DEFAULT, Space, as_pixels, features
from stylegan.scoring.intervals import draw_people, floor, jackknife
from stylegan.scoring.memorisation import people_of
from stylegan.scoring.scores import best_similarity, control_sets, floor_draws, score, score_control, score_pictures
from stylegan.scoring.spaces import find_space

__all__ = ["draw_people", "evaluate", "floor", "frechet_distance", "jackknife", "kernel_distance", "kid_against", "score"]

MOST_TRAINING = 12_000  # slices among which the nearest is looked for
# What stands in `splits` of an evaluation; all other scores stand in `further`.
SPLIT_SCORES = ("n", "subjects", "kid", "kid_floor", "fd", "fd_floor", *neighbours.SCORES, "ms_ssim", "ms_ssim_real")


def kid_against(real_features: np.ndarray, fake_images: torch.Tensor, **kwargs) -> float:
    """Kernel distance (not times 1000) of pictures [n, 1, R, R] in [-1, 1] to ``features(...)`` of real slices: cheap, for training.

    Further arguments are those of `features`; the space must be that of ``real_features``.
    """
    return kernel_distance(real_features, features(fake_images, **kwargs))


def scores_while_training(
    real_features: np.ndarray, people: np.ndarray, fake_images: torch.Tensor, **kwargs
) -> dict[str, float]:
    """``{kid, precision, recall}`` (KID times 1000) of pictures [m, 1, R, R] in [-1, 1] against ``features(...)`` of real slices.

    The real features [n, D] are of ``people`` [n]; precision and recall compare min(n, m) of either. Arguments of `features` as
    in `kid_against`. A second on the CPU: what a tick can afford.
    """
    at_fake = features(fake_images, **kwargs)
    n = min(len(real_features), len(at_fake))
    rows = np.linspace(0, len(real_features) - 1, n).round().astype(int)
    near = neighbours.Neighbourhood(real_features[rows], people[rows], at_fake[:n]).scores()
    return {"kid": 1000 * kernel_distance(real_features, at_fake), "precision": near["precision"], "recall": near["recall"]}


# ---------------------------------------------------------------------------------------------------------- a generator


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


def evaluate(
    path: str | Path,
    data: SliceDataset | str | Path | None = None,
    *,
    split: str = "all",
    train_data: SliceDataset | str | Path | None = None,
    num: int = 1000,
    fakes: int = 5000,
    controls: bool = True,
    seed: int = 0,
    space: str = DEFAULT,
    device: str = "auto",
    cache_dir: str | Path | None = None,
) -> dict:
    """Score the generator of a run folder or .safetensors file on people it has never seen; the result can be written as JSON.

    ``data``: a data set, a folder or .zip, or the simulated slices by default. ``split``: 'val', 'test', 'train', or 'all' for
    val and test, each by itself, and beside them as many of the people it was trained on, where these are in the data. Fakes
    are drawn at psi = 1 from n seeds, in the split's classes where the generator is conditional; n is the least of ``num``, the
    split's slices and those of other people. ``train_data``: the training set where that is another one; its training slices
    then make the floor and, where the generator's file names no subjects, say whom to keep out. ``fakes``: so many, and no more
    than twice the training slices, are compared with all training slices in the search for copies. ``controls``: also score
    sets that must fail. ``space``: a name of `spaces.NAMES`. A run keeps the generator that was best on its validation
    subjects, so 'test' is the honest split.

    Returns ``{feature_space, n, seconds, model_hash, data, warnings, memorisation, splits, further, controls}``. A score is
    ``{value, low, high}`` with a 95 % interval by person. ``memorisation``: ``{ratio, low, high, p_value}`` of
    `memorisation.memory`, all None where no training slices are at hand. ``splits{name: {...}}`` holds `SPLIT_SCORES`,
    ``further{name: {...}}`` all other scores and floors of that split, ``controls{name: {score: number}}`` those of the sets of
    `control_sets` on the last split. The outer n is the smallest. Raises ValueError, with names, for subjects the generator was
    trained on, and where slices or subjects are too few.
    """
    begin = time.perf_counter()
    case = open_case(
        path, data, split=split, train_data=train_data, num=num, seed=seed, space=space, device=device, cache_dir=cache_dir
    )
    found = score_case(case, fakes=fakes, controls=controls)
    return {**found, "seconds": round(time.perf_counter() - begin, 1)}


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
    """Everything `evaluate` needs before it draws the first slice; arguments and errors are its."""
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


def score_case(case: Case, *, fakes: int = 5000, controls: bool = True) -> dict:
    """What `evaluate` returns, without the seconds."""
    if fakes < 2:
        raise ValueError(f"fakes is {fakes}; a search for copies takes at least 2.")
    copies = copies_of(case, fakes)[0]
    found = {part.name: _score_split(part, case.fakes) for part in case.scored}
    return {
        "feature_space": case.setting.space.name,
        "n": min(entry["n"] for entry in found.values()),
        "seconds": 0.0,
        "model_hash": case.info.get("model_hash", ""),
        "data": {"title": case.dataset.title, "layout": case.dataset.layout, "key": case.dataset.key},
        "warnings": _doubts(case.dataset, case.trained_on),
        "memorisation": copies,
        "splits": {name: {key: entry[key] for key in SPLIT_SCORES} for name, entry in found.items()},
        "further": {name: {k: v for k, v in entry.items() if k not in SPLIT_SCORES} for name, entry in found.items()},
        "controls": _score_controls(case.scored[-1], case.train, case.setting) if controls else {},
    }


def copies_of(case: Case, fakes: int) -> tuple[dict[str, float | None], dict]:
    """Are fakes nearer to training slices than people it never saw? (`memorisation.memory` of all held-out splits, the distances).

    The distances: ``{fake, row, heldout, people}``, of each fake the nearest training slice and its row, of each held-out slice
    the distance and the person. Without training slices all numbers are None and there are no distances.
    """
    if case.train is None:
        return dict.fromkeys(("ratio", "low", "high", "p_value")), {}
    at_train = case.setting.features(case.train.images)
    near, row = memorisation.nearest(case.fakes.like(case.train, min(fakes, 2 * len(case.train)))[1], at_train)
    unseen = np.concatenate([case.setting.features(part.images) for part in case.unseen])
    people = np.concatenate([people_of(part) for part in case.unseen])
    heldout = memorisation.nearest(unseen, at_train)[0]
    found = {"fake": near, "row": row, "heldout": heldout, "people": people}
    return memorisation.memory(near, heldout, people, seed=case.setting.seed), found


def score_truncated(case: Case, psi: float) -> dict[str, float]:
    """``{fd, precision, recall}`` of fakes at this truncation_psi on the last split, without intervals."""
    part = case.scored[-1]
    real, made = case.setting.features(np.array(part.slices.images)), case.fakes.like(part.slices, psi=psi)[1]
    near = neighbours.Neighbourhood(real, people_of(part.slices), made).scores()
    return {"fd": frechet_distance(real, made), "precision": near["precision"], "recall": near["recall"]}


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


def _score_split(part: Held, drawn: Fakes) -> dict:
    setting, people = drawn.setting, people_of(part.slices)
    real, others, other_people = np.array(part.slices.images), np.array(part.others.images), people_of(part.others)
    fake, at_fake = drawn.like(part.slices)
    at_real, at_others = setting.features(real), setting.features(others)
    draws = floor_draws(people, other_people, setting.seed)
    return {
        "n": len(real),
        "subjects": len(set(people)),
        **score(at_real, people, at_fake, at_others, other_people, seed=setting.seed),
        **score_pictures(real, people, fake, others, draws, seed=setting.seed),
        "best_ssim": best_similarity(real, fake),
        "best_ssim_real": best_similarity(real, np.random.default_rng(0).permutation(others[draws[0]])),
    }


def _score_controls(part: Held, train: SliceDataset | None, setting: Setting) -> dict[str, dict[str, float]]:
    """The scores of the split for each of `control_sets`, without intervals, and its memory ratio."""
    others, names, people = np.array(part.others.images), people_of(part.others), people_of(part.slices)
    rows = floor_draws(people, names, setting.seed)[0]
    real, result = np.array(part.slices.images), {}
    at_real = setting.features(real)
    at_train = None if train is None else setting.features(train.images)
    for name, control in control_sets(others, rows, setting.seed).items():
        at_control, whose = setting.features(control), None if name == "collapsed" else names[rows]
        result[name] = score_control((real, at_real, people), (control, at_control, whose))
        if at_train is not None:
            near = [np.median(memorisation.nearest(vectors, at_train)[0]) for vectors in (at_control, at_real)]
            result[name]["memory"] = float(near[0] / max(near[1], 1e-12))
    return result


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


def _doubts(dataset: SliceDataset, trained_on: set[str]) -> list[str]:
    """What the reader of the scores should know about who is who."""
    doubts = []
    if not trained_on:
        doubts.append("The generator's file does not name its training subjects, so nothing tells whether they are scored on.")
    elif not trained_on & set(people_of(dataset)):
        doubts.append(
            "No training subject of the generator occurs in this data under its name: if the same people are in it under "
            "other names, the scores flatter the generator."
        )
    if not dataset.subjects_known:
        doubts.append(
            "This layout hides who is who: one person may stand on both sides of the split and of the floor, and the "
            "intervals are too narrow; a table of subjects (--subjects) restores people."
        )
    return doubts
