"""Do generated slices show what they claim? Class, level, ventricles and brain, read by models trained on real people only.

Four questions: does an independent classifier recognise the class that a conditional generator was asked for; are ventricles,
brains and levels spread as in real people; is there a direction in W along which ventricles grow; and can one learn from
synthetic slices what holds for real ones. Each answer stands next to what the same reader does on real people it has not
seen, to chance, and to a control that must fail. A null result is a result and is stated as one.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from stylegan import charts, plots
from stylegan.data import simulate as atlas
from stylegan.data.subjects import people_of
from stylegan.dataset import SliceDataset
from stylegan.files import write_json
from stylegan.latent import Gauge, held_on_fresh_seeds, make_gauges
from stylegan.predict import NOTICE, styles
from stylegan.scores.evidence import open_evidence
from stylegan.scores.intervals import Interval, clipped, p_value, spread_of
from stylegan.scores.metrics import Side
from stylegan.truth import readers
from stylegan.truth.embedding import deal_people
from stylegan.truth.readers import Reader, Target, balanced_accuracy, correlation, fit_classifier, interval

SHUFFLES, BINS = 5, 24  # classifiers of shuffled people; of the histograms


def ground_truth(
    path: str | Path, data: SliceDataset | str | Path | None = None, *, num: int = 2000, **options: object
) -> tuple[dict, readers.Strip]:
    """(result, strip): all four answers for the generator of a run folder or file; the result can be written as JSON.

    ``data`` and ``options`` as in `open_evidence`; readers learn from the people it was trained on and are tried on validation and
    test people. ``num`` slices are generated at psi = 1. ``strip`` holds pictures along the direction in which ventricles grow.
    Raises ValueError as `open_evidence`, for a ``num`` below 50, and with fewer than two people on either side.
    """
    begin = time.perf_counter()
    if num < 50:
        raise ValueError(f"num is {num}; take at least 50 generated slices, and 1000 or more to mean something.")
    e = open_evidence(path, data, **options)
    count = [0 if side is None else len(set(people_of(side))) for side in (e.train, e.held)]
    if min(count) < 2:
        people = f"{count[0]} training and {count[1]} held-out people"
        raise ValueError(f"{e.slices.title} has {people}; readers learn from two or more and are tried on two or more others.")
    train, held, made = e.side(e.train), e.side(e.held), e.fakes(e.train, num)
    asked = None if made.labels is None else made.labels.tolist()
    own = [e.slices.classes.index(name) if name in e.slices.classes else -1 for name in e.info.get("classes", ())]
    labels = np.full(num, -1) if asked is None else np.array(own)[made.labels]  # as the data numbers them
    fake = replace(made, labels=labels, people=np.array([f"seed {seed}" for seed in made.people]))
    gauges, models, readings = {"level": make_gauges(e.slices).get("level")}, {}, {}
    for target in readers.targets(e.train, e.held):
        values = target.of(e.train)
        model = models[target.name] = readers.fit_reader(train.at, values, train.people).predict
        gauge = target.gauge or gauges.get(target.name)
        readings[target.name] = reading(target, model, values, target.of(e.held), held, fake, gauge)
    w = styles(e.G, made.people.tolist(), class_index=asked)[:, 0]
    growth, strip = readers.grow(e, w, fake, models["ventricles"], models.get("level"))
    result = {
        "feature_space": e.space, "n": num, "model_hash": e.info.get("model_hash", ""),
        "kimg": e.info.get("cur_nimg", 0) / 1000, "data": e.about, "warnings": e.warnings,
        "subjects_known": e.slices.subjects_known, "people": dict(zip(("train", "held_out"), count, strict=True)),
        "measures": measures(e.slices), "classes": recognise(train, held, fake, e.slices.classes), "readings": readings,
        "direction": growth, "transfer": {"group": learn_groups(train, held, fake)},
    }  # fmt: skip
    return {**result, "seconds": round(time.perf_counter() - begin, 1)}, strip


def measures(slices: SliceDataset) -> dict[str, float]:
    """How far what is measured in pixels is true: correlations of ventricles with the true area on simulated slices of this
    size, and of brain with the table's brain volume fraction by person, where there is one (nWBV of OASIS)."""
    known = atlas.simulate(24, 8, max(slices.images.shape[1], 16))
    found = {"ventricles, simulated": correlation(readers.ventricle_share(known.images), known.columns["ventricle_area"])}
    volume = slices.columns.get("nWBV")
    if volume is not None and volume.dtype.kind == "f" and np.isfinite(volume).any():
        some = slices.select(np.isfinite(volume))
        both = readers.brain_share(some.images), some.columns["nWBV"]
        found["brain, nWBV by person"] = correlation(*(readers.means_by_person(x, people_of(some)) for x in both))
    return found


# --- Classes, readings, transfer ------------------------------------------------------------------------------------------


def usable_classes(*sides: Side) -> list[int]:
    """The classes with two people or more on each side."""
    people = [[set(side.people[side.labels == i]) for side in sides] for i in range(max(sides[0].labels, default=-1) + 1)]
    return [i for i, both in enumerate(people) if min(map(len, both)) >= 2]


def recognise(train: Side, held: Side, fake: Side, classes: Sequence[str]) -> dict:
    """An independent classifier on held-out people and on fakes; {} where there are no two classes to learn.

    {classes, left_out, chance, people, real{slices, by_person, confusion, p_value}, shuffled, predicted{real, fake}, fake{slices,
    confusion, p_value}}: balanced accuracies with intervals by person (fakes: by seed). ``by_person``: each person is guessed
    once in each class that she has slices of, from the mean over these. ``shuffled``: of classifiers fitted to training people
    whose classes were exchanged. 'fake' only where the generator is conditional: there the truth is the class asked for.
    """
    names = usable_classes(train, held)
    if len(names) < 2:
        return {}
    own, tried, claimed = (side.rows(np.isin(side.labels, names)) for side in (train, held, fake))
    model = fit_classifier(own.at, own.labels, own.people)
    chances, seen = model.predict_proba(tried.at), model.predict(fake.at)
    guess = model.classes_[chances.argmax(axis=1)]
    whose = np.unique(tried.people, return_inverse=True)[1] * (tried.labels.max() + 1) + tried.labels
    whom, truth = np.divmod(np.unique(whose), tried.labels.max() + 1)
    by_person = _accuracy(whom, truth, model.classes_[readers.means_by_person(chances, whose).argmax(axis=1)])
    strength, rng = tuple(model.best_params_.values()), np.random.default_rng(0)
    dealt = [deal_people(own.people)(own.labels, rng) for _ in range(SHUFFLES)]
    models = [fit_classifier(own.at, labels, own.people, strength) for labels in dealt]
    result = {
        "classes": [classes[i] for i in names], "left_out": [name for i, name in enumerate(classes) if i not in names],
        "chance": 1 / len(names), "people": len(set(tried.people)),
        "real": _recognised(tried, guess, names) | {"by_person": by_person},
        "shuffled": spread_of([balanced_accuracy(tried.labels, one.predict(tried.at)) for one in models]),
        "predicted": {"real": _shares(guess, names), "fake": _shares(seen, names)},
    }  # fmt: skip
    return result | ({"fake": _recognised(claimed, model.predict(claimed.at), names)} if len(claimed.at) else {})


def _recognised(side: Side, guess: np.ndarray, names: Sequence[int]) -> dict:
    """{slices, confusion [truth][guess] in shares of the truth, p_value}."""
    rows = [_shares(guess[side.labels == name], names) for name in names]
    chance = p_value(lambda truth: balanced_accuracy(truth, guess), side.labels, deal_people(side.people))
    return {"slices": _accuracy(side.people, side.labels, guess), "confusion": rows, "p_value": chance.p_value}


def _accuracy(people: np.ndarray, truth: np.ndarray, guess: np.ndarray) -> Interval:
    return clipped(interval(balanced_accuracy, people, truth, guess), high=1)


def _shares(guess: np.ndarray, names: Sequence[int]) -> list[float]:
    return [float(np.mean(guess == name)) if len(guess) else 0.0 for name in names]


def reading(
    target: Target, reader: Reader, taught: np.ndarray, truth: np.ndarray, held: Side, fake: Side, gauge: Gauge | None
) -> dict:
    """What a reader of one target finds on held-out people and on fakes.

    {origin, unit, held_out{error, guess_the_mean, r, r_people, people}, real{mean, sd}, fake{mean, sd}, distance, floor,
    histogram{edges, real, fake}, second{real, fake}}. Fakes are compared with what is *read* off real slices, not with the
    truth: a regression draws all readings towards the mean. ``second``: correlation with a ``gauge`` of pixels, which tells
    whether the reader still reads what it should where it has never been, on fakes. taught, truth: the target on either side.
    """
    read, drawn = reader(held.at), reader(fake.at)
    far, floor = readers.spread_apart(read, held.people, drawn)
    edges = np.histogram_bin_edges(np.concatenate([read, drawn]), BINS)
    shares = {name: (np.histogram(x, edges)[0] / len(x)).tolist() for name, x in (("real", read), ("fake", drawn))}
    known = np.isfinite(truth)
    people, seen, true = held.people[known], read[known], truth[known]
    found = {
        "error": clipped(interval(lambda a, b: np.abs(a - b).mean(), people, seen, true)),
        "guess_the_mean": float(np.abs(np.nanmean(taught) - true).mean()),
        "r": clipped(interval(correlation, people, seen, true), -1, 1),
        "r_people": correlation(*(readers.means_by_person(x, people) for x in (seen, true))), "people": len(set(people)),
    }  # fmt: skip
    result = {
        "origin": target.origin, "unit": target.unit, "held_out": found,
        "real": {"mean": interval(np.mean, held.people, read), "sd": clipped(interval(np.std, held.people, read))},
        "fake": {"mean": interval(np.mean, fake.people, drawn), "sd": clipped(interval(np.std, fake.people, drawn))},
        "distance": far, "floor": floor, "histogram": {"edges": edges.tolist(), **shares},
    }  # fmt: skip
    if gauge is not None:
        result["second"] = {"real": correlation(read, gauge(held.images)), "fake": correlation(drawn, gauge(fake.images))}
    return result


def learn_groups(train: Side, held: Side, fake: Side) -> dict:
    """Balanced accuracy on held-out people of classifiers that learnt from real, from synthetic, from both, from shuffled slices.

    {arms{name: {value, low, high}}, synthetic_minus_real, chance, n}; {} without a conditional generator or two classes. Each
    arm learns from n slices (both: 2n); what counts is the difference to real ones (Esteban et al. 2017, arXiv:1706.02633,
    section 4.2). 'synthetic, shuffled': of five shuffles, which teach nothing; one may tell classes apart by chance.
    """
    names, rng = usable_classes(train, held), np.random.default_rng(0)
    if len(names) < 2 or not np.isin(fake.labels, names).any():
        return {}
    real, drawn, tried = (side.rows(np.isin(side.labels, names)) for side in (train, fake, held))
    n = min(len(real.at), len(drawn.at))
    real, drawn = (side.rows(np.sort(rng.choice(len(side.at), n, replace=False))) for side in (real, drawn))

    def learn(sides: Sequence[Side], labels: np.ndarray | None = None) -> np.ndarray:
        """What a classifier of these slices says of held-out people."""
        at, people, own = (np.concatenate([getattr(side, name) for side in sides]) for name in ("at", "people", "labels"))
        return fit_classifier(at, own if labels is None else labels, people).predict(tried.at)

    guesses = {name: learn(sides) for name, sides in (("real", [real]), ("synthetic", [drawn]), ("both", [real, drawn]))}
    arms = {name: _accuracy(tried.people, tried.labels, guess) for name, guess in guesses.items()}
    shuffled = [balanced_accuracy(tried.labels, learn([drawn], rng.permutation(drawn.labels))) for _ in range(SHUFFLES)]
    apart = interval(
        lambda truth, a, b: balanced_accuracy(truth, a) - balanced_accuracy(truth, b),
        tried.people, tried.labels, guesses["synthetic"], guesses["real"],
    )  # fmt: skip
    arms["synthetic, shuffled"] = spread_of(shuffled)
    return {"arms": arms, "synthetic_minus_real": apart, "chance": 1 / len(names), "n": n}


# --- In words and files ---------------------------------------------------------------------------------------------------


def conclusions(result: Mapping) -> list[str]:
    """What was found, one sentence or two for each question, null results among them."""
    who = "held-out people" if result.get("subjects_known", True) else "held-out slices"
    told = [*result["warnings"], _on_classes(result["classes"], who)]
    told += [_on_reading(name, found, who) for name, found in result["readings"].items()]
    found, unit = result["direction"], result["readings"]["ventricles"]["unit"]
    level = "" if found["level_per_step"] is None else f", the level by {found['level_per_step']:+.2f}"
    text = f"A step along the direction changes the ventricles by {found['per_step']:+.2f} {unit}{level}; on {found['agreed']:.0%} of"
    text += f" fresh seeds they grow from -2 to +2 steps; a random step of that length changes them by {found['random']['value']:.2f}"
    told.append(f"{text}: {'there is such a direction' if held_on_fresh_seeds(found) else 'no direction was found'}.")
    return told + [_on_transfer(found) for found in result["transfer"].values() if found]


def _on_classes(found: Mapping, who: str) -> str:
    if not found:
        return "Groups: there are no two classes with people on both sides of the split, so none can be checked."
    real, fake, share = found["real"], found.get("fake"), "{value:.0%} ({low:.0%} to {high:.0%})"
    text = f"Groups ({', '.join(found['classes'])}): on {found['people']} {who} the classifier is right in {share.format(**real['slices'])}"
    text += f" of slices, chance is {found['chance']:.0%}, with shuffled people {found['shuffled']['value']:.0%}"
    if real["p_value"] > 0.05:
        return f"{text}: it has learnt nothing (p = {real['p_value']:.3f}), so it can say nothing of fakes."
    if fake is None:
        return f"{text}. The generator is not conditional: no fake claims a group."
    text += f". It agrees with the class asked for on {share.format(**fake['slices'])} of fakes (p = {fake['p_value']:.3f})"
    if fake["p_value"] > 0.05:
        return f"{text}: the class asked for does not show."
    if fake["slices"]["low"] > real["slices"]["high"]:
        return f"{text}, more often than on people: fakes are more typical of their group than people are."
    if fake["slices"]["high"] < real["slices"]["low"]:
        return f"{text}, less often than on people: the class shows in part."
    return f"{text}, as often as on people."


def _on_reading(name: str, found: Mapping, who: str) -> str:
    held, far, floor, real, fake = (found[part] for part in ("held_out", "distance", "floor", "real", "fake"))
    text = f"{name} ({found['origin']}): read with an error of {held['error']['value']:.3g} {found['unit']} on {who}"
    text += f", guessing the mean costs {held['guess_the_mean']:.3g} (r = {held['r']['value']:.2f})"
    if held["r"]["low"] < 0.2:
        return f"{text}: too little to say anything of fakes."
    near = far["value"] <= floor["high"]
    words = "as far as two halves of the real people" if near else "**further** than real people differ"
    text += f". On fakes the readings lie {far['value']:.2f} deviations apart, real halves {floor['value']:.2f} (up to {floor['high']:.2f}): {words}"
    mean, spread = fake["mean"]["value"] - real["mean"]["value"], fake["sd"]["value"] / max(real["sd"]["value"], 1e-12)
    way = "higher" if mean > 0 else "lower"
    return f"{text}; their mean is {abs(mean):.3g} {way}, their spread {spread:.2f} times the real."


def _on_transfer(found: Mapping) -> str:
    arms, apart = {name: f"{arm['value']:.0%}" for name, arm in found["arms"].items()}, found["synthetic_minus_real"]
    words = f"synthetic slices teach {'better' if apart['value'] > 0 else 'worse'}"
    between = "no difference is shown" if apart["low"] <= 0 <= apart["high"] else words
    return (
        f"A classifier that learnt groups from {found['n']} synthetic slices is right in {arms['synthetic']} of held-out real slices, one "
        f"that learnt from as many real ones in {arms['real']}, from both in {arms['both']}; chance is {found['chance']:.0%}: {between} "
        f"({apart['low']:.0%} to {apart['high']:.0%})."
    )


def write_ground_truth(result: Mapping, strip: readers.Strip, out: str | Path) -> list[Path]:
    """Write groundtruth.json and its figures into the folder; returns the paths. Figures hold no real slice."""
    out, model, unit = Path(out), result["model_hash"], result["readings"]["ventricles"]["unit"]
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "groundtruth.json", {**result, "conclusions": conclusions(result)})
    pictures, found = strip  # seeds in rows, steps in columns
    note = f"synthetic · ventricles as read, {unit} · ψ = {readers.PSI:g} · step: 1 standard deviation of w"
    alt = f"Seeds in rows, steps along a direction in columns; readings {found[:, 0].mean():.1f} to {found[:, -1].mean():.1f}"
    titles = {
        "column_titles": [f"{step:+g}" if step else "0" for step in readers.STEPS],
        "row_titles": [f"seed {readers.FRESH + i}" for i in range(len(pictures))],
        "notes": [f"{x:.1f}" for x in found.ravel()],
        "caption": f"{note} · model {model}",
        "alt": f"{alt} {unit}.",
    }
    figures = {"ventricles": plots.grid(pictures.reshape(-1, *pictures.shape[2:]), len(readers.STEPS), **titles)}
    if result["classes"]:
        figures["confusion"] = charts.confusions(result["classes"])
    if result["transfer"]["group"]:
        figures["transfer"] = charts.transfers(result["transfer"]["group"])
    about = {"Description": NOTICE, "synthetic": "true", "model_hash": model}
    return [out / "groundtruth.json", *(plots.save(out / f"{name}.png", figure, about) for name, figure in figures.items())]
