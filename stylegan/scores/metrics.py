"""How far synthetic slices lie from real ones, each number beside its interval and its floor: real slices of other people.

Here all scores of a generator come together: `distances` (KID and FD), `neighbours` (who lies beside whom), `picture_scores`
(pixels), `memorisation` (copies), each with `intervals` by person.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from stylegan.dataset import SliceDataset
from stylegan.scores import memorisation, neighbours
from stylegan.scores.case import Case, Fakes, Held, Setting, doubts, open_case
from stylegan.scores.distances import frechet_distance, kernel_distance
from stylegan.scores.features import DEFAULT, features
from stylegan.scores.intervals import draw_people, floor, jackknife
from stylegan.scores.memorisation import people_of
from stylegan.scores.scores import best_similarity, control_sets, floor_draws, score, score_control, score_pictures

__all__ = [
    "draw_people",
    "evaluate",
    "floor",
    "frechet_distance",
    "jackknife",
    "kernel_distance",
    "kid_against",
    "open_case",
    "score",
]

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


# --- A generator --------------------------------------------------------------------------------------------------------------


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
        "warnings": doubts(case.dataset, case.trained_on),
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
