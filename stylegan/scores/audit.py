"""All that a reviewer may ask of a generator, computed once and kept: `python -m stylegan audit`.

`evaluate` takes a minute and a half; what stands here takes minutes more: other feature spaces, who is nearest to whom, attacks,
projections, duplicates, failure cases, and a generator that memorises as positive control. Notebook 4 reads the result.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from stylegan import plots
from stylegan.cache import read_json, write_json
from stylegan.dataset import SliceDataset, load_slices, one_hot
from stylegan.scores import memorisation
from stylegan.scores.case import Case, open_case
from stylegan.scores.encoder import judged, trained_encoder
from stylegan.scores.failures import failure_cases
from stylegan.scores.features import features
from stylegan.scores.memorisation import people_of
from stylegan.scores.memoriser import KIMG, RESOLUTION, positive_control
from stylegan.scores.metrics import copies_of, score_case
from stylegan.scores.picture_scores import spectrum
from stylegan.scores.scores import floor_draws, score
from stylegan.scores.spaces import find_space, load_discriminator

FILE = "audit.json"
OTHER_SPACES = ("pixel-pca", "own-encoder")


def audit(
    path: str | Path,
    data: SliceDataset | str | Path | None = None,
    out: str | Path | None = None,
    *,
    num: int = 1000,
    fakes: int = 5000,
    projections: int = 24,
    control_kimg: float = 0,
    device: str = "auto",
) -> dict:
    """`metrics.evaluate` and everything beyond it; with ``out`` written there as ``audit.json`` with pictures.

    ``{evaluation, memory{copied, people, attack, logits, projection, pairs}, duplicates, spaces{name: {...}}, encoder, spectra,
    failures, control, seconds}``. ``projections``: people on either side, 0 for none. ``control_kimg``: train the positive control
    for so long (60 will do); 0 keeps what an ``audit.json`` in ``out`` tells of one. The picture of the closest pairs shows real
    training slices; the others show generated ones only. Errors are those of `evaluate`.
    """
    begin, case = time.perf_counter(), open_case(path, data, num=num, device=device)
    evaluation = {**score_case(case, fakes=fakes), "seconds": round(time.perf_counter() - begin, 1)}
    distances = copies_of(case, fakes)[1]
    result = {
        "evaluation": evaluation,
        "memory": memory_of(case, distances, path, projections) if distances else {},
        "duplicates": memorisation.duplicates(case.dataset),
        "spaces": {name: _in_space(case, name, fakes) for name in OTHER_SPACES} if distances else {},
        "encoder": _encoder(case),
        "spectra": spectra_of(case),
        "failures": failures_of(case),
        "control": _control(data, control_kimg) if control_kimg else ((read_json(Path(out) / FILE) or {}).get("control") if out else None),
    }  # fmt: skip
    result["seconds"] = round(time.perf_counter() - begin, 1)
    if out is not None:
        _write(case, result, distances, Path(out))
    return result


def memory_of(case: Case, distances: dict, path: str | Path, projections: int = 0) -> dict:
    """The measures of `memorisation` beyond the ratio, training people against held-out ones; ``distances`` as of `copies_of`."""
    train, setting = case.train, case.setting
    heldout = case.dataset.select(np.isin(case.dataset.splits, [part.splits[0] for part in case.unseen]))
    at_train, at_held = setting.features(train.images), setting.features(heldout.images)
    at_fake, people, others = case.fakes.vectors, people_of(train), people_of(heldout)
    whose, member = np.concatenate([people, others]), np.arange(len(train) + len(heldout)) < len(train)
    found = {
        "copied": memorisation.copied(distances["fake"], distances["heldout"]),
        "people": memorisation.nearest_people(at_fake, at_train, people, at_held, others),
        "attack": memorisation.membership(
            -memorisation.nearest(np.concatenate([at_train, at_held]), at_fake)[0], member, whose
        ),
        "logits": _attack_by_logits(path, train, heldout, member, whose),
        "pairs": [_pair(case, *pair, distances) for pair in memorisation.closest_pairs(distances["fake"], distances["row"])],
    }
    return found | ({"projection": memorisation.projection_gap(case.G, train, heldout, projections)} if projections else {})


def _pair(case: Case, fake: int, row: int, distance: float, distances: dict) -> dict:
    train = case.train
    ratio = distance / float(np.median(distances["heldout"]))
    return {
        "seed": case.fakes.first + fake,
        "subject": str(train.subjects[row]),
        "level": int(train.levels[row]),
        "ratio": ratio,
    }


def _attack_by_logits(
    path: str | Path, train: SliceDataset, heldout: SliceDataset, member: np.ndarray, whose: np.ndarray
) -> dict | None:
    """Only a run folder keeps its discriminator; whoever gets the generator alone cannot attack in this way."""
    try:
        D, config, _ = load_discriminator(path)
    except FileNotFoundError:
        return None
    sides = [memorisation.logits(D, side, c=one_hot(side.labels, config.c_dim, "cpu")) for side in (train, heldout)]
    return memorisation.membership(np.concatenate(sides), member, whose)


def _in_space(case: Case, name: str, fakes: int) -> dict:
    """Scores of the last split and the memory ratio, seen by other features: ``{score: {value, low, high}}``."""
    space, part = find_space(name, train=case.train), case.scored[-1]
    at = {
        key: features(images, space)
        for key, images in {"real": part.slices.images, "others": part.others.images, "fake": case.fakes.pictures,
                            "train": case.train.images, "held": np.concatenate([side.images for side in case.unseen])}.items()
    }  # fmt: skip
    people, other_people = people_of(part.slices), people_of(part.others)
    found = score(at["real"], people, at["fake"][: len(at["real"])], at["others"], other_people)
    near = [memorisation.nearest(at[side], at["train"])[0] for side in ("fake", "held")]
    whose = np.concatenate([people_of(side) for side in case.unseen])
    return found | {
        "memory": memorisation.memory(near[0][:fakes], near[1], whose),
        "people": memorisation.nearest_people(at["fake"], at["train"], people_of(case.train), at["held"], whose),
    }


def _encoder(case: Case) -> dict | None:
    """How well the own encoder reads people it never saw: correlation of level, blur and noise."""
    if case.train is None:
        return None
    return judged(trained_encoder(case.train)[0], case.unseen[-1])


def spectra_of(case: Case) -> dict[str, list[float]]:
    """Mean spectra in dB: real, generated, and the range of real slices of other people."""
    part = case.scored[-1]
    real, others = spectrum(np.array(part.slices.images)), spectrum(np.array(part.others.images))
    draws = np.stack([others[rows].mean(axis=0) for rows in floor_draws(people_of(part.slices), people_of(part.others))])
    fake = spectrum(case.fakes.like(part.slices)[0]).mean(axis=0)
    low, high = draws.min(axis=0), draws.max(axis=0)
    lines = {"real": real.mean(axis=0), "generated": fake, "low": low, "high": high}
    return {name: line.round(3).tolist() for name, line in lines.items()}


def failures_of(case: Case) -> list[dict]:
    """`failures.failure_cases` among the first 2,000 fakes, each with its seed."""
    part = case.scored[-1]
    made, at_made = case.fakes.pictures, case.fakes.vectors
    real = np.array(part.slices.images)
    cases = failure_cases(made[:2000], at_made[:2000], real, case.setting.features(real), people_of(part.slices))
    return [{"seed": case.fakes.first + entry.pop("row"), **entry} for entry in cases]


def _control(data: SliceDataset | str | Path | None, kimg: float) -> dict | None:
    """The positive control on the same people at its own resolution; None for a data set that cannot be loaded at another size."""
    return None if isinstance(data, SliceDataset) else positive_control(load_slices(data, RESOLUTION), kimg=kimg)


def add_control(data: str | Path | None, out: str | Path, kimg: float = KIMG) -> dict:
    """Train the positive control and write what it gave into the ``audit.json`` of ``out``, which a later audit keeps."""
    found = _control(data, kimg)
    Path(out).mkdir(parents=True, exist_ok=True)
    write_json(Path(out) / FILE, {**(read_json(Path(out) / FILE) or {}), "control": found})
    return found


def _write(case: Case, result: dict, distances: dict, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / FILE, result)
    note = {"Description": "Generated slices, synthetic. Not for diagnosis."}
    rows = [entry["seed"] - case.fakes.first for entry in result["failures"]]
    titles = [entry["rule"] for entry in result["failures"]]
    plots.strip(case.fakes.pictures[rows], titles, caption=f"model {case.info['model_hash']}, ψ = 1").savefig(
        out / "failures.png", metadata=note
    )
    if distances:
        real = {"Description": "Upper row: generated slices. Lower row: their nearest real training slices. Not for diagnosis."}
        plots.grid(*pairs_sheet(case, distances), row_titles=("generated", "nearest training") * 2).savefig(
            out / "pairs.png", metadata=real
        )


def pairs_sheet(case: Case, distances: dict, count: int = 16) -> tuple[np.ndarray, int]:
    """(slices, columns): the closest pairs, generated above training, in two double rows."""
    pairs = memorisation.closest_pairs(distances["fake"], distances["row"], count)
    half = -(-len(pairs) // 2)
    rows = []
    for part in (pairs[:half], pairs[half:]):
        blank = [np.full_like(case.fakes.pictures[0], 255)] * (half - len(part))
        rows += [[case.fakes.pictures[f] for f, _, _ in part] + blank, [case.train.images[r] for _, r, _ in part] + blank]
    return np.stack([picture for row in rows for picture in row]), half
