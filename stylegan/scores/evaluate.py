"""The scores of a generator on people it has never seen, each with its interval by person and its floor: real slices of other people."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from stylegan import distributed
from stylegan.checkpoint import load_discriminator
from stylegan.config import Config
from stylegan.data.subjects import people_of
from stylegan.dataset import SliceDataset
from stylegan.files import write_json
from stylegan.networks import Generator, pick_device
from stylegan.predict import generate, styles
from stylegan.scores import memorisation
from stylegan.scores.evidence import Evidence, Part, open_evidence, read_answers
from stylegan.scores.features import DEFAULT, as_pixels, features
from stylegan.scores.metrics import (
    NEIGHBOUR_SCORES,
    Neighbourhood,
    compare_features,
    compare_pictures,
    compare_variety,
    control_sets,
    floor_draws,
    frechet_distance,
    kernel_distance,
    score_control,
)
from stylegan.scores.pixels import PICTURES, Variety, spectrum, style_participation

KID_SEED = 1_000_000  # fakes for the scores while training; far from the seeds that people look at
# What stands in `splits` of an evaluation; all other scores stand in `further` and `variety`.
SPLIT_SCORES = ("n", "subjects", "kid", "kid_floor", "fd", "fd_floor", *NEIGHBOUR_SCORES[:6], "ms_ssim", "ms_ssim_real")


def evaluate(
    path: str | Path,
    data: SliceDataset | str | Path | None = None,
    *,
    split: str = "all",
    train_data: SliceDataset | str | Path | None = None,
    num: int = 1000,
    fakes: int = 5000,
    controls: bool = True,
    all: bool = False,
    projections: int = 24,
    answers: Sequence[str | Path] = (),
    out: str | Path | None = None,
    seed: int = 0,
    space: str = DEFAULT,
    device: str = "auto",
    subjects_csv: str | Path | None = None,
    levels: str | tuple[int, int] | None = None,
    contrast: str | None = None,
    cache_dir: str | Path | None = None,
) -> dict:
    """Score the generator of a run folder or .safetensors file on people it has never seen; the result can be written as JSON.

    ``data``: a folder or .zip, by default what it was trained on, or a set as `dataset.slices_of` returns it; ``subjects_csv``,
    ``levels`` and ``contrast`` by default as in its training. ``split``: 'val', 'test', 'train', or 'all' for val and test, each by
    itself, and as many of the people it was trained on, where these are in the data; 'test' is the honest one, because a run keeps
    the generator that was best on 'val'. Fakes are drawn at psi = 1 from n seeds, each with noise drawn from its seed, in the
    split's classes where the generator is conditional; n is the least of ``num``, the split's slices and those of other people.
    ``train_data``: the training set where that is another one. ``fakes``: so many, and no more than twice the training slices, are
    compared with all training slices. ``controls``: also score sets that must fail. ``all``: also `everything_of`, minutes more.
    ``answers``: files saved by the quiz of a report, for ``people`` (`read_answers`). ``out``: a folder for the result.

    Returns ``{feature_space, noise_mode, n, seconds, model_hash, data, warnings, memorisation, splits, further, variety,
    style_participation, controls}``. A score is ``{value, low, high}`` with a 95 % interval by person. ``memorisation``:
    `memorisation.memory`, all None where no training slices are at hand. ``splits{name: {...}}`` holds `SPLIT_SCORES`, ``further``
    all other scores and floors, ``variety`` what `compare_variety` returns, ``controls{name: {score: number}}`` the scores of
    `control_sets` on the last split. Raises ValueError for subjects the generator was trained on, with names, and for too few slices.
    """
    begin = time.perf_counter()
    evidence = open_evidence(path, data, split=split, train_data=train_data, num=num, seed=seed, space=space, device=device,
                             cache_dir=cache_dir, subjects_csv=subjects_csv, levels=levels, contrast=contrast)  # fmt: skip
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
    slices, found = evidence.slices, {part.name: _scores_on(part, evidence) for part in evidence.scored}
    return {
        "feature_space": evidence.space,
        "noise_mode": "random",
        "n": min((entry["n"] for entry in found.values()), default=0),
        "seconds": 0.0,
        "model_hash": evidence.info.get("model_hash", ""),
        "data": {"title": slices.title, "layout": slices.layout, "key": slices.key},
        "warnings": evidence.warnings,
        "memorisation": copies_of(evidence, fakes)[0],
        "splits": {name: {key: entry[key] for key in SPLIT_SCORES} for name, entry in found.items()},
        "further": {name: {k: v for k, v in entry.items() if k not in SPLIT_SCORES} for name, entry in found.items()},
        "variety": {part.name: variety_on(part, evidence) for part in evidence.scored},
        "style_participation": style_participation(evidence.G, styles(evidence.G, range(PICTURES))),
        "controls": _score_controls(evidence.scored[-1], evidence) if controls and evidence.scored else {},
    }


def _scores_on(part: Part, evidence: Evidence) -> dict:
    """All scores and floors of one split but for its variety."""
    real, others, fakes = np.array(part.slices.images), np.array(part.others.images), evidence.fakes(part.slices)
    at_real, at_others = evidence.features(real), evidence.features(others)
    draws = floor_draws(part.people, part.other_people, evidence.seed)
    return {
        "n": len(real),
        "subjects": len(set(part.people)),
        **compare_features(at_real, part.people, fakes.vectors, at_others, part.other_people, seed=evidence.seed),
        **compare_pictures(real, part.people, fakes.pictures, others, draws, seed=evidence.seed),
    }


def variety_on(part: Part, evidence: Evidence) -> dict:
    """`compare_variety` of one split, with noise drawn for each fake and with the generator's fixed noise, which leaves what W varies."""
    real, others = np.array(part.slices.images), np.array(part.others.images)
    fakes = {"": evidence.fakes(part.slices).pictures, "_fixed_noise": evidence.fixed_noise(part.slices)}
    draws = floor_draws(part.people, part.other_people, evidence.seed)
    return compare_variety(real, part.people, fakes, others, part.other_people, draws, seed=evidence.seed)


def _score_controls(part: Part, evidence: Evidence) -> dict[str, dict[str, float]]:
    """The scores of the split for each of `control_sets`, without intervals, and its memory ratio."""
    others, real, result = np.array(part.others.images), np.array(part.slices.images), {}
    rows, at_real = floor_draws(part.people, part.other_people, evidence.seed)[0], evidence.features(real)
    at_train = None if evidence.train is None else evidence.features(evidence.train.images)
    for name, control in control_sets(others, rows, evidence.seed).items():
        at_control, whose = evidence.features(control), None if name == "collapsed" else part.other_people[rows]
        result[name] = score_control((real, at_real, part.people), (control, at_control, whose))
        if at_train is not None:
            near = [np.median(memorisation.nearest(vectors, at_train)[0]) for vectors in (at_control, at_real)]
            result[name]["memory"] = float(near[0] / max(near[1], 1e-12))
    return result


def score_truncated(evidence: Evidence, psi: float) -> dict[str, float]:
    """``{fd, precision, recall}`` of fakes at this truncation_psi on the last split, without intervals."""
    part = evidence.scored[-1]
    real, made = evidence.features(part.slices.images), evidence.fakes(part.slices, psi=psi).vectors
    near = Neighbourhood(real, part.people, made).scores()
    return {"fd": frechet_distance(real, made), "precision": near["precision"], "recall": near["recall"]}


# --- Copies, attacks and everything else that takes minutes --------------------------------------------------------------------------


def copies_of(evidence: Evidence, fakes: int) -> tuple[dict[str, float | None], dict]:
    """Are fakes nearer to training slices than people it never saw? (`memorisation.memory` of all held-out splits, the distances).

    The distances: ``{drawn, fake, row, heldout, people}``, the fakes, of each the nearest training slice and its row, of each
    held-out slice the distance and the person. Without training or held-out slices all numbers are None and there are no distances.
    """
    if evidence.train is None or evidence.held is None:
        return dict(memorisation.UNKNOWN), {}
    at_train, drawn = (
        evidence.features(evidence.train.images),
        evidence.fakes(evidence.train, min(fakes, 2 * len(evidence.train))),
    )
    near, row = memorisation.nearest(drawn.vectors, at_train)
    heldout, people = memorisation.nearest(evidence.features(evidence.held.images), at_train)[0], people_of(evidence.held)
    found = {"drawn": drawn, "fake": near, "row": row, "heldout": heldout, "people": people}
    return memorisation.memory(near, heldout, people, seed=evidence.seed), found


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


def memory_of(evidence: Evidence, distances: dict, projections: int = 0) -> dict:
    """``{copied, people, attack, logits, pairs, projection}``: training against held-out people; ``distances`` from `copies_of`.

    ``pairs``: the closest fakes and training slices, ``{seed, class, subject, level, ratio}`` each. ``logits`` is None where a
    generator's discriminator is not at hand, ``projection`` stands there for ``projections`` above 0.
    """
    train, held, drawn = evidence.train, evidence.held, distances["drawn"]
    at_train, at_held, people, others = (
        evidence.features(train.images),
        evidence.features(held.images),
        people_of(train),
        people_of(held),
    )
    whose, member = np.concatenate([people, others]), np.arange(len(train) + len(held)) < len(train)
    near = memorisation.nearest(np.concatenate([at_train, at_held]), drawn.vectors)[0]
    found = {
        "copied": memorisation.copied(distances["fake"], distances["heldout"]),
        "people": memorisation.nearest_people(drawn.vectors, at_train, people, at_held, others),
        "attack": memorisation.membership(-near, member, whose),
        "logits": _attack_by_logits(evidence, member, whose),
        "pairs": [
            {**evidence.origin(drawn, fake), "subject": str(train.subjects[row]), "level": int(train.levels[row]),
             "ratio": distance / max(float(np.median(distances["heldout"])), 1e-12)}
            for fake, row, distance in memorisation.closest_pairs(distances["fake"], distances["row"])
        ],
    }  # fmt: skip
    return found | ({"projection": memorisation.projection_gap(evidence.G, train, held, projections)} if projections else {})


def _attack_by_logits(evidence: Evidence, member: np.ndarray, whose: np.ndarray) -> dict | None:
    """Only a run folder keeps its discriminator; whoever gets the generator alone cannot attack in this way."""
    try:
        D, config, _ = load_discriminator(evidence.path, evidence.device)
    except FileNotFoundError:
        return None
    found = [memorisation.logits(D, config, side) for side in (evidence.train, evidence.held)]
    return memorisation.membership(np.concatenate(found), member, whose)


def spectra_of(evidence: Evidence) -> dict[str, list[float]]:
    """Mean spectra of the last split in dB: real, generated, and the range of real slices of other people."""
    part = evidence.scored[-1]
    real, others = spectrum(np.array(part.slices.images)), spectrum(np.array(part.others.images))
    draws = np.stack([others[rows].mean(axis=0) for rows in floor_draws(part.people, part.other_people)])
    fake = spectrum(evidence.fakes(part.slices).pictures)
    lines = {"real": real.mean(axis=0), "generated": fake.mean(axis=0), "low": draws.min(axis=0), "high": draws.max(axis=0)}
    return {name: line.round(3).tolist() for name, line in lines.items()}


def failures_of(evidence: Evidence, count: int = 8, most: int = 2000) -> list[dict]:
    """The least realistic of the fakes drawn for the last split, ``{seed, class, realism}`` each (`Neighbourhood.realism`), worst first."""
    part = evidence.scored[-1]
    drawn = evidence.fakes(part.slices).first(most)
    realism = Neighbourhood(evidence.features(part.slices.images), part.people, drawn.vectors).realism()
    return [{**evidence.origin(drawn, row), "realism": float(realism[row])} for row in np.argsort(realism)[:count].tolist()]


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
    real = Variety(np.array(val.images[few]), people[few]).numbers()
    at_real: list[np.ndarray] = []  # features of all validation slices, taken when the first score is due

    def draw(G: Generator, n: int, noise: str) -> np.ndarray:
        classes = val.labels[np.resize(order, n)].tolist() if config.c_dim else None
        return as_pixels(generate(G, range(KID_SEED, KID_SEED + n), noise_mode=noise, class_index=classes))

    def score(G: Generator, full: bool) -> dict[str, float | list[float]]:
        made = draw(G, max(len(few), config.kid_samples if full else 0), "random")
        numbers = {
            "": Variety(made[: len(few)]).numbers(),
            "_fixed_noise": Variety(draw(G, len(few), "const")).numbers(),
            "_real": real,
        }
        found = {f"{name}{suffix}": some[name] for suffix, some in numbers.items() for name in ("dimensions", "spread")}
        found["style_participation"] = list(style_participation(G, styles(G, range(PICTURES))).values())
        if full:
            at_real[:] = at_real or [features(val.images, device=device)]
            found |= _scores_of_tick(at_real[0], people, features(made[: config.kid_samples], device=device))
        return found

    return score


def _scores_of_tick(at_real: np.ndarray, people: np.ndarray, at_fake: np.ndarray) -> dict[str, float]:
    """KID of all slices; precision, recall and coverage of min(n, m) of either."""
    n = min(len(at_real), len(at_fake))
    rows = np.linspace(0, len(at_real) - 1, n).round().astype(int)
    near = Neighbourhood(at_real[rows], people[rows], at_fake[:n]).scores()
    return {
        "kid": 1000 * kernel_distance(at_real, at_fake),
        **{name: near[name] for name in ("precision", "recall", "coverage")},
    }


# --- Sheets --------------------------------------------------------------------------------------------------------------------------


def pairs_sheet(evidence: Evidence, distances: dict, count: int = 16) -> tuple[np.ndarray, int]:
    """(slices, columns): the closest pairs, generated above training, in two double rows."""
    pairs = memorisation.closest_pairs(distances["fake"], distances["row"], count)
    half, rows = -(-len(pairs) // 2), []
    for part in (pairs[:half], pairs[half:]):
        blank = [np.full_like(distances["drawn"].pictures[0], 255)] * (half - len(part))
        rows += [*(distances["drawn"].pictures[fake] for fake, _, _ in part), *blank]
        rows += [*(evidence.train.images[row] for _, row, _ in part), *blank]
    return np.stack(rows), half


def drawn_again(evidence: Evidence, cases: list[dict]) -> torch.Tensor:
    """The pictures [n, 1, R, R] of cases ``{seed, class}``, from these two alone."""
    names = evidence.info.get("classes", [])
    classes = [names.index(case["class"]) for case in cases] if evidence.G.c_dim else None
    return generate(evidence.G, [case["seed"] for case in cases], noise_mode="random", class_index=classes)


def _write(evidence: Evidence, found: dict, fakes: int, out: Path) -> None:
    """evaluation.json, failures.png and pairs.png, which shows real training slices."""
    from stylegan import plots

    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "evaluation.json", found)
    if cases := found.get("failures"):
        sheet = plots.strip(
            drawn_again(evidence, cases), caption=f"the least realistic of model {evidence.info['model_hash']}, ψ = 1"
        )
        sheet.savefig(out / "failures.png", metadata={"Description": "Generated slices, synthetic. Not for diagnosis."})
    if found.get("memory"):
        sheet = plots.grid(
            *pairs_sheet(evidence, copies_of(evidence, fakes)[1]), row_titles=("generated", "nearest training") * 2
        )
        told = "Upper rows: generated slices. Lower rows: their nearest real training slices. Not for diagnosis."
        sheet.savefig(out / "pairs.png", metadata={"Description": told})
