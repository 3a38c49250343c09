"""The scores of a generator on people it has never seen, each with its interval by person and its floor: real slices of other people."""

import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch

from stylegan import distributed
from stylegan.config import Config
from stylegan.data.subjects import people_of
from stylegan.dataset import SliceDataset
from stylegan.files import write_json
from stylegan.networks import Generator
from stylegan.predict import generate, styles
from stylegan.scores import memorisation, metrics
from stylegan.scores.evidence import Evidence, open_evidence, read_answers
from stylegan.scores.features import PIXEL_SCORES, as_pixels, blurred, features, noised, spectrum, style_participation
from stylegan.scores.intervals import Interval, clipped, floors_of, interval_of, leave_out, spread_of
from stylegan.scores.memorisation import copies_of, memory_of, pairs_sheet
from stylegan.scores.metrics import NEIGHBOUR_SCORES, PICTURES, SHARES, Comparison, Side, Variety

KID_SEED = 1_000_000  # fakes for the scores while training; far from the seeds that people look at
# What stands in `splits` of an evaluation; all other scores stand in `further` and `variety`.
SPLIT_SCORES = ("n", "subjects", "kid", "kid_floor", "fd", "fd_floor", *NEIGHBOUR_SCORES[:6], "ms_ssim", "ms_ssim_real")


def evaluate(
    path: str | Path,
    data: SliceDataset | str | Path | None = None,
    *,
    fakes: int = 5000,
    controls: bool = True,
    all: bool = False,
    projections: int = 24,
    answers: Sequence[str | Path] = (),
    out: str | Path | None = None,
    **options: object,
) -> dict:
    """Score the generator of a run folder or .safetensors file on people it has never seen; the result can be written as JSON.

    ``data`` and ``options`` as in `open_evidence`. Fakes are drawn at psi = 1, each with noise drawn from its seed, in the
    split's classes where the generator is conditional; as many as the least of ``num``, the split's slices and those of other
    people. ``fakes``: so many, and no more than twice the training slices, are compared with all training slices. ``controls``:
    also score sets with a known fault. ``all``: also what `everything_of` returns, minutes more. ``answers``: files of
    `read_answers`, for ``people``. ``out``: a folder for ``evaluation.json`` and, with ``all``, two sheets. A run keeps the
    generator that was best on its validation subjects, so 'test' is the honest split. ValueError where nothing can be scored.

    Returns ``{feature_space, noise_mode, n, seconds, model_hash, data, subjects_known, warnings, memorisation, splits, further, variety,
    style_participation, controls}``. A score is ``{value, low, high}`` with a 95 % interval by person; the outer n is the
    smallest. ``memorisation``: `memorisation.memory`, all None without training slices. ``splits{name: {...}}`` holds
    `SPLIT_SCORES`, ``further`` all other scores and floors; ``variety``: `compare_variety`, ``controls``: `score_controls`.
    """
    begin = time.perf_counter()
    evidence = open_evidence(path, data, **options)
    if not evidence.scored:
        raise ValueError(" ".join(evidence.warnings))
    told = {"people": read_answers(answers, evidence.info)} if answers else {}
    found = scores_of(evidence, fakes=fakes, controls=controls) | told
    found |= everything_of(evidence, fakes=fakes, projections=projections) if all else {}
    found["seconds"] = round(time.perf_counter() - begin, 1)
    if out is not None and distributed.rank() == 0:
        _write(evidence, found, fakes, Path(out))
    return found


def scores_of(evidence: Evidence, *, fakes: int = 5000, controls: bool = True) -> dict:
    """What `evaluate` returns, without the seconds; ``splits`` is empty where nobody is held out, and ``warnings`` say so."""
    if fakes < 2:
        raise ValueError(f"fakes is {fakes}; a search for copies takes at least 2.")
    found, various = {}, {}
    for part in evidence.scored:
        sides = evidence.side(part.slices), evidence.fakes(part.slices), evidence.side(part.others)
        found[part.name] = {"n": len(part.slices), "subjects": len(set(part.people)), **compare(*sides, part.draws)}
        various[part.name] = compare_variety(*sides, evidence.fixed_noise(part.slices))
    return {
        "feature_space": evidence.space,
        "noise_mode": "random",
        "n": min((entry["n"] for entry in found.values()), default=0),
        "seconds": 0.0,
        "model_hash": evidence.info.get("model_hash", ""),
        "data": evidence.about,
        "subjects_known": evidence.slices.subjects_known,
        "warnings": evidence.warnings,
        "memorisation": copies_of(evidence, fakes)[0],
        "splits": {name: {key: entry[key] for key in SPLIT_SCORES} for name, entry in found.items()},
        "further": {name: {k: v for k, v in entry.items() if k not in SPLIT_SCORES} for name, entry in found.items()},
        "variety": various,
        "style_participation": style_participation(evidence.G, styles(evidence.G, range(PICTURES))),
        "controls": score_controls(evidence) if controls and evidence.scored else {},
    }


def everything_of(evidence: Evidence, *, fakes: int = 5000, projections: int = 24) -> dict:
    """``{memory, duplicates, spectra, failures}``: what `evaluate` adds with ``all``; ``memory`` is {} where `copies_of` finds
    nothing. ``projections``: people on either side, 0 for none."""
    distances = copies_of(evidence, fakes)[1]
    memory = memory_of(evidence, distances) if distances else {}
    if memory and projections:
        memory["projection"] = memorisation.projection_gap(evidence.G, evidence.train, evidence.held, projections)
    found = {"memory": memory, "duplicates": memorisation.duplicates(evidence.slices)}
    return found | {"spectra": spectra_of(evidence), "failures": failures_of(evidence)}


def compare(real: Side, fake: Side, others: Side, draws: list[np.ndarray]) -> dict[str, Interval]:
    """All scores but variety and their floors, each {value, low, high}; KID times 1000.

    Of features ``kid, fd``, the `NEIGHBOUR_SCORES` and ``classifier`` (share put right by `told_apart`), of pixels
    `PIXEL_SCORES`, and each again with ``_floor``. n real slices against n fakes; the floor is the real ones against n slices
    at a time of as many *other* people (``draws``, rows of ``others``), its value the mean over the draws, low to high the
    range of 95 % of them: too narrow where there are hardly more other people than one draw takes. ``ms_ssim``: random pairs of
    fakes, ``ms_ssim_real``: pairs of two people; ``best_ssim``: of fakes, ``best_ssim_real``: of other people.
    """
    found = leave_out(Comparison(real, fake).scores, real.people, len(fake))
    found |= {name: clipped(found[name], high=np.inf if name in ("fd", "density") else 1) for name in ("fd", *NEIGHBOUR_SCORES)}
    strangers = [others.rows(rows) for rows in draws]
    found |= floors_of([Comparison(real, side).scores() for side in strangers])
    again = [_classifier(real, side)["value"] for side in strangers]
    found |= {"classifier": _classifier(real, fake), "classifier_floor": spread_of(again)}
    found["ms_ssim"] = metrics.similarity_of_pairs(fake.images)
    found["ms_ssim_real"] = metrics.similarity_of_pairs(real.images, real.people)
    for name, (describe, gap) in PIXEL_SCORES.items():
        a, b, c = (describe(side.images) for side in (real, fake, others))
        found[name] = interval_of(lambda r, f: gap(a[r], b[f]), real.people, len(fake))  # noqa: B023
        found |= floors_of([{name: gap(a, c[rows])} for rows in draws])
    found["best_ssim"] = metrics.best_similarity(real.images, fake.images)
    return found | {"best_ssim_real": metrics.best_similarity(real.images, strangers[0].images)}


def _classifier(real: Side, fake: Side) -> Interval:
    """Share of slices put right, real and fake weighing the same."""
    a, b = metrics.told_apart(real, fake)
    return interval_of(lambda r, f: (a[r].mean() + b[f].mean()) / 2, real.people, len(fake), high=1)


def compare_variety(real: Side, fake: Side, others: Side, fixed: np.ndarray) -> dict:
    """How various fakes are where people are: ``{n, name: {value, low, high, real, floor{...}, ratio{...}}}``.

    Fakes are strangers to each other, so people are counted as strangers too: one slice of each (`strangers`), n of n people,
    against n fakes. The names are those of `Variety.numbers`, and again with ``_fixed_noise`` for ``fixed``, the same w under
    the generator's fixed noise, which leaves what W varies. ``value`` is the mean over as many sets of n as there are fakes
    for, ``floor`` and its mean ``real`` people's over 20 draws of their slices, ``ratio`` fake over real; intervals by person.
    """
    most = min(PICTURES, len(fake))
    drawn = [strangers(real, others, most, draw) for draw in range(20)]  # of the same people, in the same order
    theirs, people = [Variety(images) for images, _ in drawn], drawn[0][1]
    n, sets = len(people), max(1, min(20, len(fake) // len(people)))
    rows = np.linspace(0, len(fake) - 1, n * sets).astype(int).reshape(n, sets).T  # each set spread over all classes
    ours = {"": [Variety(fake.images[some]) for some in rows], "_fixed_noise": [Variety(fixed[some]) for some in rows]}

    def compared(r: np.ndarray, f: np.ndarray) -> dict[str, float]:
        found, there = {}, floors_of([various.numbers(r) for various in theirs])
        for end, made in ours.items():
            for name, entry in floors_of([various.numbers(f) for various in made]).items():
                key = name.removesuffix("_floor") + end
                found |= {key: entry["value"], f"{key}/": entry["value"] / max(there[name]["value"], 1e-12)}
        return found

    entries, floors = leave_out(compared, people, n), floors_of([various.numbers() for various in theirs])
    found = {"n": n}
    for name in (f"{name}{end}" for end in ours for name in (*SHARES, "spread")):
        floor = floors[f"{name.removesuffix('_fixed_noise')}_floor"]
        found[name] = {**clipped(entries[name]), "real": floor["value"], "floor": floor, "ratio": clipped(entries[f"{name}/"])}
    return found


def strangers(real: Side, others: Side, n: int, draw: int) -> tuple[np.ndarray, np.ndarray]:
    """One slice of each person of both sides, of n people at most: (uint8 [n, R, R], people [n])."""
    people = np.concatenate([real.people, others.people])
    order = np.random.default_rng(draw).permutation(len(people))
    first = order[np.unique(people[order], return_index=True)[1]]
    chosen = first[np.sort(np.random.default_rng(0).permutation(len(first))[:n])]
    return np.stack([real.images[i] if i < len(real) else others.images[i - len(real)] for i in chosen]), people[chosen]


def score_controls(evidence: Evidence) -> dict[str, dict[str, float]]:
    """All scores of the last split and the memory ratio, without intervals, of sets that a score should find fault with.

    They are made of slices of other people: 'blurred' and 'noised', their detail gone or drowned; 'collapsed', one in 24 of
    them again and again, a grey level off; 'memorised', the slices themselves, which memory alone finds fault with.
    """
    part = evidence.scored[-1]
    real, rows = evidence.side(part.slices), part.draws[0]
    chosen, people, result = np.array(part.others.images[rows]), people_of(part.others)[rows], {}
    sets, various = spoiled(chosen), spoiled(strangers(real, evidence.side(part.others), min(PICTURES, len(real)), 0)[0])
    for name, images in sets.items():
        made = Side(images, evidence.features(images), np.arange(len(rows)) if name == "collapsed" else people)
        result[name] = {
            **Comparison(real, made).scores(),
            "classifier": _classifier(real, made)["value"],
            "ms_ssim": metrics.similarity_of_pairs(images)["value"],
            **{key: gap(describe(real.images), describe(images)) for key, (describe, gap) in PIXEL_SCORES.items()},
            **Variety(various[name]).numbers(),
            "best_ssim": metrics.best_similarity(real.images, images)["value"],
        }
        if evidence.train is not None:
            near = [np.median(memorisation.nearest(side.at, evidence.at_train)[0]) for side in (made, real)]
            result[name]["memory"] = float(near[0] / max(near[1], 1e-12))
    return result


def spoiled(images: np.ndarray) -> dict[str, np.ndarray]:
    """The sets that `score_controls` scores, made of these slices: uint8 [n, R, R] each."""
    few = np.resize(images[:: max(len(images) // max(len(images) // 24, 2), 1)], images.shape)
    return {"blurred": blurred(images), "noised": noised(images), "collapsed": noised(few, 0.7), "memorised": images}


def spectra_of(evidence: Evidence) -> dict[str, list[float]]:
    """Mean spectra of the last split in dB: real, generated, and the range of real slices of other people."""
    part = evidence.scored[-1]
    real, others, fake = (spectrum(x) for x in (part.slices.images, part.others.images, evidence.fakes(part.slices).images))
    draws = np.stack([others[rows].mean(axis=0) for rows in part.draws])
    lines = {"real": real.mean(axis=0), "generated": fake.mean(axis=0), "low": draws.min(axis=0), "high": draws.max(axis=0)}
    return {name: line.round(3).tolist() for name, line in lines.items()}


def failures_of(evidence: Evidence) -> list[dict]:
    """The 8 least realistic fakes of the last split, ``{seed, class, realism}`` each (`Comparison.realism`), worst first."""
    part = evidence.scored[-1]
    drawn = evidence.fakes(part.slices).rows(slice(2000))
    realism = Comparison(evidence.side(part.slices), drawn).realism()
    return [{**evidence.origin(drawn, row), "realism": float(realism[row])} for row in np.argsort(realism)[:8].tolist()]


def _write(evidence: Evidence, found: dict, fakes: int, out: Path) -> None:
    """evaluation.json, failures.png and pairs.png, which shows real training slices."""
    from stylegan import plots

    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "evaluation.json", found)
    if cases := found.get("failures"):
        note = f"the least realistic of model {evidence.info['model_hash']}, ψ = 1"
        told = {"Description": "Generated slices, synthetic. Not for diagnosis."}
        plots.strip(evidence.drawn_again(cases), caption=note).savefig(out / "failures.png", metadata=told)
    if found.get("memory"):
        sheet = pairs_sheet(evidence, copies_of(evidence, fakes)[1])
        told = {"Description": "Upper rows: generated. Lower rows: their nearest real training slices. Not for diagnosis."}
        plots.grid(*sheet, row_titles=("generated", "nearest training") * 2).savefig(out / "pairs.png", metadata=told)


def validation_scorer(val: SliceDataset, config: Config, device: str | torch.device) -> Callable[[Generator, bool], dict]:
    """``score(G_ema, full)`` against validation slices: at every tick how various the pictures are, with ``full`` their scores too.

    Always ``{dimensions, spread}`` (`Variety.numbers`) of 256 fakes (or as many as there are validation slices) with noise
    drawn from their seeds, ``{dimensions, spread}_fixed_noise`` of the same w under the generator's fixed noise, ``{dimensions,
    spread}_real``, and ``style_participation``, a list with a number for each convolution. With ``full`` also ``kid`` (times
    1000) of ``kid_samples`` fakes, and ``precision``, ``recall`` and ``coverage`` of equally many of either side.
    """
    people, order = people_of(val), np.random.default_rng(0).permutation(len(val))
    few = np.sort(order[:PICTURES])
    variety = Variety(val.images[few], people[few]).numbers()
    real_side = cache(lambda: Side(val.images, features(val.images, device=device), people))  # when first asked

    def draw(G: Generator, n: int, noise: str) -> np.ndarray:
        classes = val.labels[np.resize(order, n)].tolist() if config.c_dim else None
        return as_pixels(generate(G, range(KID_SEED, KID_SEED + n), noise_mode=noise, class_index=classes))

    def score(G: Generator, full: bool) -> dict[str, float | list[float]]:
        made = draw(G, max(len(few), config.kid_samples if full else 0), "random")
        fixed = Variety(draw(G, len(few), "const")).numbers()
        numbers = {"": Variety(made[: len(few)]).numbers(), "_fixed_noise": fixed, "_real": variety}
        found = {f"{name}{suffix}": some[name] for suffix, some in numbers.items() for name in ("dimensions", "spread")}
        found["style_participation"] = list(style_participation(G, styles(G, range(PICTURES))).values())
        if full and len(val) > 1:
            made, real = made[: config.kid_samples], real_side()
            fake = Side(made, features(made, device=device), np.arange(len(made)))
            n = min(len(real), len(fake))
            near = Comparison(real.rows(np.linspace(0, len(real) - 1, n).round().astype(int)), fake.rows(slice(n))).neighbours()
            found["kid"] = 1000 * metrics.kernel_distance(real.at, fake.at)
            found |= {key: near[key] for key in ("precision", "recall", "coverage")}
        return found

    return score
