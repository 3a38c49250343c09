"""The scores of a generator on people it has never seen, each with its interval by person and its floor: real slices of other people."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from stylegan import distributed
from stylegan.config import Config
from stylegan.data.subjects import people_of
from stylegan.dataset import SliceDataset
from stylegan.files import write_json
from stylegan.networks import Generator, pick_device
from stylegan.predict import generate, styles
from stylegan.scores import memorisation
from stylegan.scores.evidence import Evidence, Part, open_evidence, read_answers
from stylegan.scores.features import PIXEL_SCORES, as_pixels, blurred, features, noised, spectrum, style_participation
from stylegan.scores.intervals import Interval, clipped, floors_of, leave_out, spread_of
from stylegan.scores.memorisation import copies_of, memory_of, pairs_sheet
from stylegan.scores.metrics import (
    NEIGHBOUR_SCORES,
    PICTURES,
    Comparison,
    Side,
    Variety,
    best_similarity,
    kernel_distance,
    similarity_of_pairs,
    told_apart,
)

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

    ``data`` and ``options`` as in `open_evidence`. Fakes are drawn at psi = 1, each with noise drawn from its seed, in the split's
    classes where the generator is conditional; as many as the least of ``num``, the split's slices and those of other people.
    ``fakes``: so many, and no more than twice the training slices, are compared with all training slices. ``controls``: also score
    sets that must fail. ``all``: also what `everything_of` returns, minutes more. ``answers``: files saved by
    the quiz of a report, for ``people`` (`read_answers`). ``out``: a folder for ``evaluation.json`` and, with
    ``all``, two sheets. A run keeps the generator that was best on its validation subjects, so 'test' is the honest split.

    Returns ``{feature_space, noise_mode, n, seconds, model_hash, data, warnings, memorisation, splits, further, variety,
    style_participation, controls}``. A score is ``{value, low, high}`` with a 95 % interval by person. ``memorisation``:
    `memorisation.memory`, all None where no training slices are at hand. ``splits{name: {...}}`` holds `SPLIT_SCORES`, ``further``
    all other scores and floors, ``variety`` what `compare_variety` returns, ``controls{name: {score: number}}`` the scores of
    `control_sets` on the last split. The outer n is the smallest. Raises ValueError as `open_evidence`, and where no split can be scored.
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
    found = {part.name: _scores_on(part, evidence) for part in evidence.scored}
    return {
        "feature_space": evidence.space,
        "noise_mode": "random",
        "n": min((entry["n"] for entry in found.values()), default=0),
        "seconds": 0.0,
        "model_hash": evidence.info.get("model_hash", ""),
        "data": evidence.about,
        "warnings": evidence.warnings,
        "memorisation": copies_of(evidence, fakes)[0],
        "splits": {name: {key: entry[key] for key in SPLIT_SCORES} for name, entry in found.items()},
        "further": {name: {k: v for k, v in entry.items() if k not in SPLIT_SCORES} for name, entry in found.items()},
        "variety": {part.name: variety_on(part, evidence) for part in evidence.scored},
        "style_participation": style_participation(evidence.G, styles(evidence.G, range(PICTURES))),
        "controls": _score_controls(evidence.scored[-1], evidence) if controls and evidence.scored else {},
    }


def everything_of(evidence: Evidence, *, fakes: int = 5000, projections: int = 24) -> dict:
    """``{memory, duplicates, spectra, failures}``: what `evaluate` adds with ``all``; ``memory`` is {} where `copies_of` finds nothing.

    ``projections``: people on either side, 0 for none.
    """
    distances = copies_of(evidence, fakes)[1]
    return {
        "memory": memory_of(evidence, distances, projections) if distances else {},
        "duplicates": memorisation.duplicates(evidence.slices),
        "spectra": spectra_of(evidence),
        "failures": failures_of(evidence),
    }


# --- All scores of real slices and fakes, beside draws of other people -------------------------------------------------------------


def _scores_on(part: Part, evidence: Evidence) -> dict:
    """All scores and floors of one split but for its variety."""
    sides = evidence.side(part.slices), evidence.fakes(part.slices), evidence.side(part.others), part.draws
    counts = {"n": len(part.slices), "subjects": len(set(part.people))}
    return counts | compare_features(*sides, seed=evidence.seed) | compare_pictures(*sides, seed=evidence.seed)


def compare_features(real: Side, fake: Side, others: Side, draws: list[np.ndarray], *, seed: int = 0) -> dict[str, Interval]:
    """All scores of feature vectors and their floors, each {value, low, high}; KID times 1000.

    ``kid, fd``, the `NEIGHBOUR_SCORES`, ``classifier`` (share put right by `told_apart`), and each of them again with ``_floor``.
    n real slices against n fakes; the floor is the real ones against n slices at a time of as many *other* people (``draws``, rows
    of ``others``), its value the mean over the draws, low to high the range of 95 % of them. Score and floor share the real slices
    and n, and differ only in what stands on the other side.

    Where there are hardly more other people than one draw takes, draws resemble each other and their range is too narrow.
    """
    if not len(real) == len(fake) <= len(others):
        counts = f"{len(real)} real, {len(fake)} fake and {len(others)} of others"
        raise ValueError(f"Scores take equally many real and fake slices and at least as many of other people, not {counts}.")
    if set(real.people) & set(others.people):
        raise ValueError("The floor compares disjoint people, and some stand on both sides.")
    found = leave_out(Comparison(real, fake).scores, real.people, len(fake), seed=seed)
    found |= {name: clipped(found[name], high=np.inf if name in ("fd", "density") else 1) for name in ("fd", *NEIGHBOUR_SCORES)}
    strangers = [others.rows(rows) for rows in draws]
    found |= floors_of([Comparison(real, side).scores() for side in strangers])
    again = [_classifier(real, side, seed)["value"] for side in strangers[:5]]
    return found | {"classifier": _classifier(real, fake, seed), "classifier_floor": spread_of(again)}


def _classifier(real: Side, fake: Side, seed: int) -> Interval:
    """Share of slices put right, real and fake weighing the same."""
    a, b = told_apart(real, fake)
    return clipped(leave_out(lambda r, f: {"": (a[r].mean() + b[f].mean()) / 2}, real.people, len(fake), seed=seed)[""], high=1)


def compare_pictures(real: Side, fake: Side, others: Side, draws: list[np.ndarray], *, seed: int = 0) -> dict[str, Interval]:
    """The scores of pixels of real slices and fakes, and the floors from draws (rows of ``others``).

    ``ms_ssim`` of random pairs of fakes and ``ms_ssim_real`` of pairs of two people; ``best_ssim`` of fakes and ``best_ssim_real``
    of other people; of each row of `PIXEL_SCORES` the gap and its ``_floor``.
    """
    found = {"ms_ssim": similarity_of_pairs(fake.images, seed=seed)}
    found |= {"ms_ssim_real": similarity_of_pairs(real.images, real.people, seed=seed)}
    for name, (describe, gap) in PIXEL_SCORES.items():
        a, b, c = (describe(side.images) for side in (real, fake, others))
        found[name] = clipped(leave_out(lambda r, f: {"": gap(a[r], b[f])}, real.people, len(fake), seed=seed)[""])  # noqa: B023
        found |= floors_of([{name: gap(a, c[rows])} for rows in draws])
    best = best_similarity(real.images, fake.images), best_similarity(real.images, others.images[draws[0]])
    return found | dict(zip(("best_ssim", "best_ssim_real"), best, strict=True))


def variety_on(part: Part, evidence: Evidence) -> dict:
    """`compare_variety` of one split, with noise drawn for each fake and with the generator's fixed noise, which leaves what W varies."""
    fakes = {"": evidence.fakes(part.slices).images, "_fixed_noise": evidence.fixed_noise(part.slices)}
    return compare_variety(evidence.side(part.slices), fakes, evidence.side(part.others), part.draws, seed=evidence.seed)


def compare_variety(real: Side, fake: dict[str, np.ndarray], others: Side, draws: list[np.ndarray], *, seed: int = 0) -> dict:
    """How various fakes are where people are: ``{n, name: {value, low, high, real, floor{...}, ratio{...}}}``.

    Fake i answers to real slice i (its class). The names are those of `Variety.numbers`, each followed by a key of ``fake`` ('' for
    noise drawn, '_fixed_noise' for noise fixed). ``value`` is the fakes' with its interval by person, ``real`` the real slices',
    ``ratio`` fake over real, ``floor`` the other people's. All of n pictures, 256 or as many as there are. A perfect generator is
    *above* the floor in dimensions: its slices are strangers to each other, those of people come in families.
    """
    rng, n = np.random.default_rng(seed), min(PICTURES, len(real))
    rows = np.sort(rng.permutation(len(real))[:n])
    few = [rng.permutation(some)[:n] for some in draws]
    floors = floors_of([Variety(others.images[some], others.people[some]).numbers() for some in few])
    theirs, ours = Variety(real.images[rows], real.people[rows]), {end: Variety(made[rows]) for end, made in fake.items()}

    def compared(r: np.ndarray, f: np.ndarray) -> dict[str, float]:
        there, found = theirs.numbers(r), {}
        for end, various in ours.items():
            for name, value in various.numbers(f).items():
                found |= {name + end: value, f"{name}{end}/": value / max(there[name], 1e-12)}
        return found

    entries = {name: clipped(entry) for name, entry in leave_out(compared, real.people[rows], n, seed=seed).items()}
    return {"n": n} | {
        name + end: {**entries[name + end], "real": value, "floor": floors[f"{name}_floor"], "ratio": entries[f"{name}{end}/"]}
        for end in fake
        for name, value in theirs.numbers().items()
    }


# --- Sets that must fail, and what looks at the last split alone -------------------------------------------------------------------


def control_sets(chosen: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Sets uint8 [n, R, R] that a score should find fault with, from slices [n, R, R] of people the generator saw.

    'blurred' and 'noised': the slices with their detail gone or drowned; 'collapsed': one in 24 of them, drawn again and again
    a grey level off; 'memorised': the slices themselves, for which scores of quality have no reproach and memory has.
    """
    few = np.resize(chosen[:: max(len(chosen) // max(len(chosen) // 24, 2), 1)], chosen.shape)
    return {
        "blurred": blurred(chosen),
        "noised": noised(chosen, seed=seed),
        "collapsed": noised(few, 0.7, seed),
        "memorised": chosen,
    }


def _score_controls(part: Part, evidence: Evidence) -> dict[str, dict[str, float]]:
    """The scores of the split for each of `control_sets`, without intervals, and its memory ratio."""
    real, rows, result = evidence.side(part.slices), part.draws[0], {}
    for name, control in control_sets(np.array(part.others.images[rows]), evidence.seed).items():
        people = np.arange(len(rows)) if name == "collapsed" else part.other_people[rows]
        made = Side(control, evidence.features(control), people)
        result[name] = score_control(real, made)
        if evidence.train is not None:
            near = [np.median(memorisation.nearest(side.at, evidence.at_train)[0]) for side in (made, real)]
            result[name]["memory"] = float(near[0] / max(near[1], 1e-12))
    return result


def score_control(real: Side, made: Side) -> dict[str, float]:
    """All scores of one side against the other, without intervals."""
    few = np.random.default_rng(0).permutation(len(made))[:PICTURES]
    return {
        **Comparison(real, made).scores(),
        "classifier": float(np.mean([side.mean() for side in told_apart(real, made)])),
        "ms_ssim": similarity_of_pairs(made.images)["value"],
        **{name: gap(describe(real.images), describe(made.images)) for name, (describe, gap) in PIXEL_SCORES.items()},
        **Variety(made.images[few], made.people[few]).numbers(),
        "best_ssim": best_similarity(real.images, made.images)["value"],
    }


def score_truncated(evidence: Evidence, psi: float) -> dict[str, float]:
    """``{fd, precision, recall}`` of fakes at this truncation_psi on the last split, without intervals."""
    part = evidence.scored[-1]
    found = Comparison(evidence.side(part.slices), evidence.fakes(part.slices, psi=psi)).scores()
    return {name: found[name] for name in ("fd", "precision", "recall")}


def spectra_of(evidence: Evidence) -> dict[str, list[float]]:
    """Mean spectra of the last split in dB: real, generated, and the range of real slices of other people."""
    part = evidence.scored[-1]
    real, others, fake = (spectrum(x) for x in (part.slices.images, part.others.images, evidence.fakes(part.slices).images))
    draws = np.stack([others[rows].mean(axis=0) for rows in part.draws])
    lines = {"real": real.mean(axis=0), "generated": fake.mean(axis=0), "low": draws.min(axis=0), "high": draws.max(axis=0)}
    return {name: line.round(3).tolist() for name, line in lines.items()}


def failures_of(evidence: Evidence, count: int = 8, most: int = 2000) -> list[dict]:
    """The least realistic of the fakes drawn for the last split, ``{seed, class, realism}`` each (`Comparison.realism`), worst first."""
    part = evidence.scored[-1]
    drawn = evidence.fakes(part.slices).rows(slice(most))
    realism = Comparison(evidence.side(part.slices), drawn).realism()
    return [{**evidence.origin(drawn, row), "realism": float(realism[row])} for row in np.argsort(realism)[:count].tolist()]


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


# --- While training ------------------------------------------------------------------------------------------------------------------


def validation_scorer(
    val: SliceDataset, config: Config, device: str | torch.device | None = None
) -> Callable[[Generator, bool], dict]:
    """``score(G_ema, full)`` against validation slices: at every tick how various the pictures are, with ``full`` their scores too.

    Always ``{dimensions, spread}`` (`Variety.numbers`) of 256 fakes (or as many as there are validation slices) with noise drawn from
    their seeds, ``{dimensions, spread}_fixed_noise`` of the same w under the generator's fixed noise, ``{dimensions, spread}_real``,
    and ``style_participation``, a list with a number for each convolution. With ``full`` also ``kid`` (times 1000), ``precision``,
    ``recall`` and ``coverage`` of ``kid_samples`` fakes. A second on one core at 64 px, features aside.
    """
    device, people = pick_device(config.device) if device is None else torch.device(device), people_of(val)
    order = np.random.default_rng(0).permutation(len(val))
    few = np.sort(order[:PICTURES])
    real = Variety(val.images[few], people[few]).numbers()
    at_real: list[np.ndarray] = []  # features of all validation slices, taken when the first score is due

    def draw(G: Generator, n: int, noise: str) -> np.ndarray:
        classes = val.labels[np.resize(order, n)].tolist() if config.c_dim else None
        return as_pixels(generate(G, range(KID_SEED, KID_SEED + n), noise_mode=noise, class_index=classes))

    def score(G: Generator, full: bool) -> dict[str, float | list[float]]:
        made = draw(G, max(len(few), config.kid_samples if full else 0), "random")
        fixed = Variety(draw(G, len(few), "const")).numbers()
        numbers = {"": Variety(made[: len(few)]).numbers(), "_fixed_noise": fixed, "_real": real}
        found = {f"{name}{suffix}": some[name] for suffix, some in numbers.items() for name in ("dimensions", "spread")}
        found["style_participation"] = list(style_participation(G, styles(G, range(PICTURES))).values())
        if full:
            made = made[: config.kid_samples]
            at_real[:] = at_real or [features(val.images, device=device)]
            fake = Side(made, features(made, device=device), np.arange(len(made)))
            found |= _scores_of_tick(Side(val.images, at_real[0], people), fake)
        return found

    return score


def _scores_of_tick(real: Side, fake: Side) -> dict[str, float]:
    """KID of all slices; precision, recall and coverage of min(n, m) of either."""
    n = min(len(real), len(fake))
    near = Comparison(real.rows(np.linspace(0, len(real) - 1, n).round().astype(int)), fake.rows(slice(n))).neighbours()
    return {"kid": 1000 * kernel_distance(real.at, fake.at)} | {key: near[key] for key in ("precision", "recall", "coverage")}
