"""Do generated slices show what they claim? Group, level, ventricles and brain, read by models trained on real people only.

Four questions: does an independent classifier recognise the class that a conditional generator was asked for; are ventricles,
brains and levels spread as in real people; is there a direction in W along which ventricles grow; and can one learn from
synthetic slices what holds for real ones. Each answer stands beside what the same reader does on real people it has not
seen, beside chance, and beside a control that must fail. A null result is a result and is told as one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from sklearn.model_selection import GridSearchCV

from stylegan.checkpoint import load_generator
from stylegan.data import simulate as atlas
from stylegan.dataset import SliceDataset, load_slices
from stylegan.directions import Gauge, make_gauges
from stylegan.files import write_json
from stylegan.networks import pick_device
from stylegan.samples import NOTICE
from stylegan.truth import truth_charts
from stylegan.truth.conclusions import conclusions
from stylegan.truth.evidence import Evidence, gather
from stylegan.truth.growth import PSI, Strip, grow
from stylegan.truth.readers import (
    Target,
    balanced_accuracy,
    brain_share,
    chance_p_value,
    correlation,
    fit_classifier,
    fit_reader,
    interval,
    means_by_person,
    people_of,
    shuffled_people,
    spread_apart,
    targets,
    ventricle_share,
)
from stylegan.truth.transfer import learn_groups, learn_levels

SHUFFLES = 5  # classifiers of shuffled people
LEAST_PEOPLE = 2  # on each side of the split, for a class to be learnt and tried
BINS = 24  # of the histograms


def ground_truth(
    path: str | Path,
    data: SliceDataset | str | Path | None = None,
    *,
    num: int = 2000,
    space: str = "efficientnet-lite0",
    device: str = "auto",
    cache_dir: str | Path | None = None,
) -> tuple[dict, Strip]:
    """(result, strip): all four answers for the generator of a run folder or file; the result can be written as JSON.

    ``data``: a data set, a folder or .zip, or the simulated slices; readers learn from its training split and are tried on its
    validation and test people. ``num`` slices are generated at psi = 1. ``strip`` holds pictures along the direction in which
    ventricles grow. Raises ValueError as `gather`, and for a ``num`` below 50.
    """
    begin = time.perf_counter()
    if num < 50:
        raise ValueError(f"num is {num}; take at least 50 generated slices, and 1000 or more to mean something.")
    device = str(pick_device(device))
    G, info = load_generator(path, device)
    slices = (
        data if isinstance(data, SliceDataset) else load_slices(data, info["config"]["img_resolution"], cache_dir=cache_dir)
    )
    e = gather(G, info, slices, num, space=space, device=device, cache_dir=cache_dir)
    level_gauge = make_gauges(slices).get("level")
    models, readings = read_all(e, level_gauge)
    growth, strip = grow(e, models["ventricles"].predict, models["level"].predict if "level" in models else None)
    result = {
        "feature_space": space,
        "n": num,
        "model_hash": info.get("model_hash", ""),
        "kimg": info.get("cur_nimg", 0) / 1000,
        "data": {"title": slices.title, "layout": slices.layout, "key": slices.key},
        "people": {"train": len(set(e.people[e.train])), "held_out": len(set(e.people[~e.train]))},
        "measures": measures(slices),
        "classes": recognise(e),
        "readings": readings,
        "direction": growth,
        "transfer": {"group": learn_groups(e, usable_classes(slices)), "level": learn_levels(e, level_gauge)},
    }
    return {**result, "seconds": round(time.perf_counter() - begin, 1)}, strip


def measures(slices: SliceDataset) -> dict[str, float]:
    """How far what is measured in pixels is true: correlations with what is known.

    ventricles: with the true area of simulated slices of this size, where every ventricle is known; brain: with the table's
    brain volume fraction by person, where there is one (nWBV of OASIS).
    """
    found = {"ventricles, simulated": _agreement(max(slices.images.shape[1], 16))}
    volume = slices.columns.get("nWBV")
    if volume is not None and np.isfinite(volume).any():
        some = slices.select(np.isfinite(volume))
        by_person = [means_by_person(x, people_of(some)) for x in (brain_share(some.images), some.columns["nWBV"])]
        found["brain, nWBV by person"] = correlation(*by_person)
    return found


@lru_cache(maxsize=4)
def _agreement(resolution: int) -> float:
    """Correlation of measured with true ventricles on 24 simulated people, 8 levels of each."""
    known = atlas.simulate(24, 8, resolution)
    return correlation(ventricle_share(known.images), known.columns["ventricle_area"])


# --- Is the class recognised? ---------------------------------------------------------------------------------------------


def recognise(e: Evidence) -> dict:
    """An independent classifier on held-out people and on fakes; {} where there are no two classes to learn.

    {classes, left_out, chance, people, real{slices, by_person, confusion, p_value}, shuffled, predicted{real, fake}, fake{slices,
    confusion, p_value}}: balanced accuracies with intervals by person (fakes: by seed). ``shuffled`` is that of classifiers
    fitted to training people whose classes were dealt anew, on the same held-out people. 'fake' only where the generator is
    conditional: there the truth is the class asked for.
    """
    names = usable_classes(e.slices)
    if len(names) < 2:
        return {}
    labels, usable = e.slices.labels, np.isin(e.slices.labels, names)
    own, held = e.train & usable, ~e.train & usable
    model = fit_classifier(e.at[own], labels[own], e.people[own])
    chances, fakes = model.predict_proba(e.at[held]), model.predict(e.at_fakes)
    guess = model.classes_[chances.argmax(axis=1)]
    result = {
        "classes": [e.slices.classes[i] for i in names],
        "left_out": [name for i, name in enumerate(e.slices.classes) if i not in names],
        "chance": 1 / len(names),
        "people": len(set(e.people[held])),
        "real": _recognised(labels[held], guess, e.people[held], names)
        | {"by_person": _by_person(model.classes_, chances, labels[held], e.people[held])},
        "shuffled": _shuffled(model, e, own, held),
        "predicted": {kind: _shares(found, names) for kind, found in (("real", guess), ("fake", fakes))},
    }
    if e.asked is None:
        return result
    judged = np.isin(e.asked, names)
    return result | {"fake": _recognised(e.asked[judged], fakes[judged], np.flatnonzero(judged), names)}


def usable_classes(slices: SliceDataset) -> list[int]:
    """Indices of the classes with two people or more on both sides of the split."""
    people, train = people_of(slices), slices.splits == "train"

    def smaller_side(index: int) -> int:
        own = slices.labels == index
        return min(len(set(people[own & side])) for side in (train, ~train))

    return [i for i in range(len(slices.classes)) if smaller_side(i) >= LEAST_PEOPLE]


def _recognised(truth: np.ndarray, guess: np.ndarray, units: np.ndarray, names: Sequence[int]) -> dict:
    """{slices, confusion [truth][guess] in shares of the truth, p_value}."""
    rows = [_shares(guess[truth == name], names) for name in names]
    accuracy = interval(balanced_accuracy, units, truth, guess, strata=truth)
    return {"slices": accuracy, "confusion": rows, "p_value": chance_p_value(truth, guess, units)}


def _by_person(order: np.ndarray, chances: np.ndarray, truth: np.ndarray, people: np.ndarray) -> dict[str, float]:
    """Balanced accuracy where each person is guessed once, from the mean over all slices."""
    whose = means_by_person(truth, people).round().astype(int)
    guess = order[means_by_person(chances, people).argmax(axis=1)]
    return interval(balanced_accuracy, np.arange(len(whose)), whose, guess, strata=whose)


def _shuffled(model: GridSearchCV, e: Evidence, own: np.ndarray, held: np.ndarray) -> dict[str, float]:
    """{value, low, high}: mean and range of the held-out accuracy when the training people's classes mean nothing."""
    rng, strength = np.random.default_rng(0), tuple(model.best_params_.values())
    x, labels, people = e.at[own], e.slices.labels[own], e.people[own]
    dealt = [fit_classifier(x, shuffled_people(labels, people, rng), people, strength) for _ in range(SHUFFLES)]
    found = [balanced_accuracy(e.slices.labels[held], one.predict(e.at[held])) for one in dealt]
    return {"value": float(np.mean(found)), "low": min(found), "high": max(found)}


def _shares(guess: np.ndarray, names: Sequence[int]) -> list[float]:
    return [float(np.mean(guess == name)) if len(guess) else 0.0 for name in names]


# --- Are ventricles, brains and levels spread as in real people? ----------------------------------------------------------


def read_all(e: Evidence, level_gauge: Gauge | None = None) -> tuple[dict, dict]:
    """({name: fitted reader}, {name: what it found}) for every target that the slices have."""
    models, found = {}, {}
    for target in targets(e.slices):
        if target.name == "level":
            target = replace(target, gauge=level_gauge)  # a second reader: the first one never sees 16 x 16 means
        models[target.name] = fit_reader(e.at[e.train], target.values[e.train], e.people[e.train])
        found[target.name] = reading(e, target, models[target.name])
    return models, found


def reading(e: Evidence, target: Target, model) -> dict:
    """What a reader of one target finds on held-out people and on fakes.

    {origin, unit, held_out{error, guess_the_mean, r, r_people, people}, real{mean, sd}, fake{mean, sd}, distance, floor,
    histogram{edges, real, fake}, second{real, fake}}. Fakes are compared with what is *read* off real slices, not with the
    truth: a regression draws all readings towards the mean. ``second``: correlation with another gauge, which tells whether
    the reader still reads what it should where it has never been, on fakes.
    """
    held, values = ~e.train, target.values
    read, drawn, people = model.predict(e.at[held]), model.predict(e.at_fakes), e.people[held]
    far, floor = spread_apart(read, people, drawn)
    edges = np.histogram_bin_edges(np.concatenate([read, drawn]), BINS)
    result = {
        "origin": target.origin,
        "unit": target.unit,
        "held_out": _held_out(read, values[held], people, float(np.nanmean(values[e.train]))),
        "real": _summary(read, people),
        "fake": _summary(drawn, np.arange(len(drawn))),
        "distance": far,
        "floor": floor,
        "histogram": {"edges": edges.tolist(), "real": _share_in(read, edges), "fake": _share_in(drawn, edges)},
    }
    if target.gauge is not None:
        pairs = {"real": (read, e.slices.images[held]), "fake": (drawn, e.fakes)}
        result["second"] = {kind: correlation(found, target.gauge(pixels)) for kind, (found, pixels) in pairs.items()}
    return result


def _held_out(read: np.ndarray, truth: np.ndarray, people: np.ndarray, mean: float) -> dict:
    """Error and correlation on people the reader has not seen, beside always guessing the training mean."""
    known = ~np.isnan(truth)
    read, truth, people = read[known], truth[known], people[known]

    def error(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.abs(a - b).mean())

    return {
        "error": interval(error, people, read, truth),
        "guess_the_mean": error(np.full_like(truth, mean), truth),
        "r": interval(correlation, people, read, truth),
        "r_people": correlation(means_by_person(read, people), means_by_person(truth, people)),
        "people": len(set(people)),
    }


def _summary(values: np.ndarray, units: np.ndarray) -> dict:
    return {"mean": interval(np.mean, units, values), "sd": interval(np.std, units, values)}


def _share_in(values: np.ndarray, edges: np.ndarray) -> list[float]:
    return (np.histogram(values, edges)[0] / len(values)).tolist()


# --- Written down ---------------------------------------------------------------------------------------------------------


def write_ground_truth(result: Mapping, strip: Strip, out: str | Path) -> list[Path]:
    """Write groundtruth.json and its figures into the folder; returns the paths. Figures hold no real slice."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "groundtruth.json", {**result, "conclusions": conclusions(result)})
    unit, model = result["readings"]["ventricles"]["unit"], result["model_hash"]
    caption = f"synthetic · ventricles as read, {unit} · ψ = {PSI:g} · steps of one standard deviation of w · model {model}"
    figures = {"ventricles.png": truth_charts.growth_strip(*strip, unit, caption=caption)}
    figures["readings.png"] = truth_charts.readings(result["readings"])
    if result["classes"]:
        figures["confusion.png"] = truth_charts.confusions(result["classes"])
    if any(result["transfer"].values()):
        figures["transfer.png"] = truth_charts.transfers(result["transfer"])
    about = {"Description": NOTICE, "synthetic": "true", "model_hash": model}
    for name, figure in figures.items():
        figure.savefig(out / name, metadata=about)
    return [out / "groundtruth.json", *(out / name for name in figures)]
