"""How far synthetic slices lie from real ones, each number beside its interval and its floor: real slices of other people.

All distances are taken between feature vectors (`features.py`) of equally many real and synthetic slices. People, not
slices, are the independent observations: neighbouring levels of one head are nearly one picture, so intervals and floors
draw whole people.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from threadpoolctl import threadpool_limits

from stylegan.cache import cache_folder
from stylegan.checkpoint import load_generator
from stylegan.dataset import SliceDataset, load_slices
from stylegan.features import features
from stylegan.networks import Generator, pick_device
from stylegan.predict import generate
from stylegan.reading.subjects import person

Distance = Callable[[np.ndarray, np.ndarray], float]  # [n, D], [m, D] -> distance
GROUPS = 24  # of people in the jackknife: with at most so many people each is left out alone
DRAWS = 20  # of other people for the floor

# ------------------------------------------------------------------------------------------------------------- distances


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Kernel distance of x [n, D] and y [m, D]: KID in the given feature space, usually reported times 1000.

    The unbiased squared maximum mean discrepancy under k(a, b) = (a.b / D + 1)^3 (Binkowski et al. 2018, arXiv:1801.01401,
    sections 2.1 and 4): mean of k over pairs within x, plus within y, minus twice across. It may be slightly negative. n
    and m may differ.
    """
    x, y = _as_samples(x, y)

    def mean_within(a: np.ndarray) -> float:
        kernel = _cubic_kernel(a, a)
        return (kernel.sum() - np.trace(kernel)) / (len(a) * (len(a) - 1))  # without k(a_i, a_i): unbiased

    return float(mean_within(x) + mean_within(y) - 2 * _cubic_kernel(x, y).mean())


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Squared Frechet distance of Gaussians fitted to x [n, D] and y [m, D] (Heusel et al. 2017, arXiv:1706.08500, eq. 6).

    |mx - my|^2 + tr Sx + tr Sy - 2 tr (Sx Sy)^(1/2). With Sx = A^T A (A: centred rows over sqrt(n - 1)) and Sy = B^T B the
    last trace is the sum of the singular values of A B^T. They come from a symmetric eigenvalue problem of min(n, m, D)
    rows in double precision, so that singular covariances (n < D) do no harm, as they do to a matrix square root. Biased
    upwards at small n: compare only at equal n.
    """
    x, y = _as_samples(x, y)
    a, b = _covariance_root(x), _covariance_root(y)
    product = a @ b.T
    small = product @ product.T if len(a) <= len(b) else product.T @ product
    with threadpool_limits(1):  # LAPACK's threads wait for each other: two on a busy machine took forty times as long
        overlap = np.sqrt(np.linalg.eigvalsh(small).clip(0)).sum()
    shift = np.square(x.mean(axis=0) - y.mean(axis=0)).sum()
    return float(max(shift + np.square(a).sum() + np.square(b).sum() - 2 * overlap, 0))


def kid_against(real_features: np.ndarray, fake_images: torch.Tensor, **kwargs) -> float:
    """Kernel distance (not times 1000) of pictures [n, 1, R, R] in [-1, 1] to ``features(...)`` of real slices: cheap, for training.

    Further arguments are those of `features`; the space must be that of ``real_features``.
    """
    return kernel_distance(real_features, features(fake_images, **kwargs))


def _as_samples(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(
            f"Distances take samples [n, D] and [m, D] with n, m >= 2; these are {list(x.shape)} and {list(y.shape)}."
        )
    return x.astype(np.float64), y.astype(np.float64)


def _cubic_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _covariance_root(x: np.ndarray) -> np.ndarray:
    """A with A^T A = the covariance of x, of min(n, D) rows."""
    a = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
    return a if len(a) <= a.shape[1] else np.linalg.qr(a, mode="r")


# Every score is one row: its name, the distance, what it is multiplied by when reported.
DISTANCES: tuple[tuple[str, Distance, float], ...] = (("kid", kernel_distance, 1000.0), ("fd", frechet_distance, 1.0))


# ------------------------------------------------------------------------------------------------- intervals and floors


def jackknife(distance: Distance, real: np.ndarray, people: np.ndarray, fake: np.ndarray, *, seed: int = 0) -> dict[str, float]:
    """{value, low, high}: the distance of real [n, D] and fake [m, D] with its 95 % interval by person.

    ``people`` [n] names the person of each real slice. They are dealt into g = min(people, 24) groups; the distance is
    taken g times, each time without one group and without one g-th of the fakes, and its variance is (g-1)/g times the
    summed squared deviations from their mean (the delete-a-group jackknife, Kott 2001; Student's t with g-1 degrees of
    freedom). So the interval holds both sources of chance, who was scanned and which fakes were drawn, and the bias at
    small n, being the same in all g, stays out of its width. A bootstrap is no alternative: drawing with replacement puts a
    slice beside itself, where distances are 0 and k(x, x) enters. Raises ValueError for fewer than two people.
    """
    names, index = np.unique(people, return_inverse=True)
    groups = min(len(names), GROUPS)
    if groups < 2:
        raise ValueError(f"An interval by subject needs slices of at least 2 subjects; these are of {len(names)}.")
    real_group = np.random.default_rng(seed).permutation(len(names))[index] % groups
    fake_group = np.arange(len(fake)) % groups
    without = np.array([distance(real[real_group != g], fake[fake_group != g]) for g in range(groups)])
    error = np.sqrt((groups - 1) / groups * np.square(without - without.mean()).sum())
    return _interval(distance(real, fake), error * stats.t.ppf(0.975, groups - 1))


def floor(distance: Distance, real: np.ndarray, draws: Sequence[np.ndarray]) -> dict[str, float]:
    """{value, low, high}: mean and central 95 % of the distances between real [n, D] and each draw [n, D] of other people."""
    values = np.array([distance(real, draw) for draw in draws])
    low, high = np.quantile(values, [0.025, 0.975])
    return {"value": float(values.mean()), "low": float(low), "high": float(high)}


def draw_people(people: np.ndarray, count: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of n slices of ``count`` random people, thinned at random; of more people where these have too few."""
    names, index, slices = np.unique(people, return_inverse=True, return_counts=True)
    order = rng.permutation(len(names))
    enough = int(np.searchsorted(np.cumsum(slices[order]), n)) + 1
    chosen = np.flatnonzero(np.isin(index, order[: max(count, enough)]))
    return np.sort(rng.choice(chosen, n, replace=False))


def score(
    real: np.ndarray, people: np.ndarray, fake: np.ndarray, others: np.ndarray, other_people: np.ndarray, *, seed: int = 0
) -> dict[str, dict[str, float]]:
    """``{kid, kid_floor, fd, fd_floor}``, each {value, low, high}, from feature vectors alone; KID times 1000.

    ``real`` [n, D] of ``people`` [n] against ``fake`` [n, D]; the floor is ``real`` against n slices at a time of as many
    *other* people (``others`` [m, D], m >= n), its value the mean over 20 draws, low to high the range of 95 % of them.
    Score and floor share ``real`` and n, and differ only in what stands on the other side.

    Two cautions. Where there are hardly more other people than one draw takes, draws resemble each other and their range is
    too narrow. And slices of one person resemble each other, which raises the floor from both sides and the score from one:
    unrelated slices of a perfect generator score *below* the floor.
    """
    if not len(real) == len(fake) <= len(others):
        counts = f"{len(real)} real, {len(fake)} fake and {len(others)} of others"
        raise ValueError(f"Scores take equally many real and fake slices and at least as many of other people, not {counts}.")
    if set(people) & set(other_people):
        raise ValueError("The floor compares disjoint people, and some stand on both sides.")
    rng, count = np.random.default_rng(seed), len(set(people))
    draws = [others[draw_people(other_people, count, len(real), rng)] for _ in range(DRAWS)]
    result = {}
    for name, distance, unit in DISTANCES:
        found = {name: jackknife(distance, real, people, fake, seed=seed), f"{name}_floor": floor(distance, real, draws)}
        result |= {key: {bound: unit * value for bound, value in entry.items()} for key, entry in found.items()}
    return result


def _interval(value: float, half_width: float) -> dict[str, float]:
    return {"value": float(value), "low": float(value - half_width), "high": float(value + half_width)}


# ---------------------------------------------------------------------------------------------------------- a generator


def evaluate(
    path: str | Path,
    data: SliceDataset | str | Path | None = None,
    *,
    split: str = "all",
    train_data: SliceDataset | str | Path | None = None,
    num: int = 1000,
    seed: int = 0,
    space: str = "efficientnet-lite0",
    device: str = "auto",
    cache_dir: str | Path | None = None,
) -> dict:
    """Score the generator of a run folder or .safetensors file on people it has never seen; the result can be written as JSON.

    ``data``: a data set, a folder or .zip, or the simulated slices by default. ``split``: 'val', 'test', 'train', or 'all'
    for val and test, each by itself. Fakes are drawn at psi = 1 from n seeds, in the split's classes where the generator is
    conditional; n is the least of ``num``, the split's slices and those of other people. ``train_data``: the training set
    where that is another one; its training slices then make the floor and, where the generator's file names no subjects,
    say whom to keep out. A run keeps the generator that was best on its validation subjects, so 'test' is the honest split.

    Returns ``{feature_space, n, seconds, model_hash, data, warnings, splits{name: score(...) and n, subjects}}``; the outer
    n is the smallest. Raises ValueError, with names, for subjects the generator was trained on, and where slices or
    subjects are too few.
    """
    begin = time.perf_counter()
    if num < 2:
        raise ValueError(f"num is {num}; a score takes at least 2 slices, and hundreds to mean something.")
    chosen_device = pick_device(device)
    G, info = load_generator(path, chosen_device)
    dataset = _as_dataset(data, info, cache_dir)
    reference = dataset if train_data is None else _as_dataset(train_data, info, cache_dir).split("train")
    trained_on = {person(name) for name in info.get("train_subjects", ())}
    if not trained_on and train_data is not None:
        trained_on = set(_people(reference))
    parts = {name: dataset.split(name) for name in (("val", "test") if split == "all" else (split,))}
    for name, real in parts.items():
        _refuse_training_subjects(set(_people(real)), trained_on, name)
    settings = {"space": space, "device": chosen_device, "cache_dir": cache_folder(cache_dir)}
    splits = {name: _score_split(G, info, real, reference, num, seed, settings) for name, real in parts.items()}
    return {
        "feature_space": space,
        "n": min(entry["n"] for entry in splits.values()),
        "seconds": round(time.perf_counter() - begin, 1),
        "model_hash": info.get("model_hash", ""),
        "data": {"title": dataset.title, "layout": dataset.layout, "key": dataset.key},
        "warnings": _doubts(dataset, trained_on),
        "splits": splits,
    }


def _score_split(
    G: Generator, info: dict, real: SliceDataset, reference: SliceDataset, num: int, seed: int, settings: dict
) -> dict:
    others = reference.select(~np.isin(_people(reference), _people(real)))
    n = min(num, len(real), len(others))
    if n < 2:
        raise ValueError(
            f"{real.title}: the floor compares the split with slices of other subjects, and there are {len(others)} of those "
            f"beside {len(real)} in the split; give more data, or the training set as train_data (--train-data)."
        )
    rng = np.random.default_rng(seed)
    real = real.select(np.sort(rng.choice(len(real), n, replace=False)))
    people = _people(real)
    # Four times what one draw for the floor takes: enough for unlike draws, where all of a large set would take minutes.
    others = others.select(draw_people(_people(others), 4 * len(set(people)), min(4 * n, len(others)), rng))
    at_real, at_others = features(real.images, **settings), features(others.images, **settings)
    at_fake = features(_fakes(G, info, real, seed), **settings | {"cache_dir": None})
    return {"n": n, "subjects": len(set(people)), **score(at_real, people, at_fake, at_others, _people(others), seed=seed)}


def _fakes(G: Generator, info: dict, real: SliceDataset, seed: int) -> torch.Tensor:
    """As many pictures as real slices; a conditional generator draws each in the class of one of them."""
    seeds = range(seed * 1_000_000, seed * 1_000_000 + len(real))
    if not G.c_dim:
        return generate(G, seeds)
    known = {name: index for index, name in enumerate(info["classes"])}
    names = [real.classes[label] if label >= 0 else "(unlabelled)" for label in real.labels]
    strange = sorted(set(names) - set(known))
    if strange:
        raise ValueError(f"The generator draws the classes {', '.join(known)}, and this data also holds {', '.join(strange)}.")
    return generate(G, seeds, class_index=[known[name] for name in names])


def _as_dataset(data: SliceDataset | str | Path | None, info: dict, cache_dir: str | Path | None) -> SliceDataset:
    """The slices at the generator's resolution."""
    config = info["config"]
    if config["img_channels"] != 1:
        raise ValueError(f"Scores are for grey slices, and this generator draws {config['img_channels']} channels.")
    if not isinstance(data, SliceDataset):
        return load_slices(data, config["img_resolution"], cache_dir=cache_dir)
    if data.images.shape[1] != config["img_resolution"]:
        size = f"{data.images.shape[1]} px, and the generator draws {config['img_resolution']} px"
        raise ValueError(f"The slices have {size}; load them at its size.")
    return data


def _people(dataset: SliceDataset) -> np.ndarray:
    return np.array([person(str(subject)) for subject in dataset.subjects])


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
    elif not trained_on & set(_people(dataset)):
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
