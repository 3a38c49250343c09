"""Making a reference generator: the network in half precision, its line in metrics.json and its card, all from one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stylegan.checkpoint import load_generator, save_generator
from stylegan.config import FREE_TO_CHANGE, PRESETS, Config, make_config
from stylegan.dataset import SliceDataset, load_slices
from stylegan.files import read_json, replacing, write_json
from stylegan.networks import count_parameters
from stylegan.predict import generate
from stylegan.run import read_metrics
from stylegan.scores.audit import FILE as AUDIT
from stylegan.scores.audit import audit
from stylegan.scores.features import features
from stylegan.scores.findings import duration, floor_table, markdown_table, score_rows, verdict
from stylegan.scores.memorisation import nearest
from stylegan.scores.verdict import control_sentence, failure_rows, summary, verdict_rows

SAMPLES = range(8)  # seeds whose nearest training slice the card tells

OASIS = """Open access under the OASIS data use agreement. "Data were provided by OASIS: Cross-Sectional: Principal Investigators: D. Marcus, R.
Buckner, J. Csernansky, J. Morris; P50 AG05681, P01 AG03991, P01 AG026276, R01 AG021910, P20 MH071616, U24 RR021382." Marcus et al. 2007,
[doi:10.1162/jocn.2007.19.9.1498](https://doi.org/10.1162/jocn.2007.19.9.1498). No slice of a subject is in this repository."""
TERMS = {
    "oasis1": OASIS,
    "simulated": "Simulated from the ICBM 152 nonlinear template of 2009 (Fonov et al. 2009, 2011), which nilearn ships; nobody's scan.",
    "own": "Not stated. Whoever passes this generator on should say under which terms its training slices may be used.",
}

CARD = """# {name}

A StyleGAN2 that draws axial brain slices of {resolution} x {resolution} pixels. **Every picture it makes is synthetic.** Written by
`python -m stylegan ship`; the same numbers stand in `metrics.json`.

| | |
|---|---|
| Training data | {data}, {slices:,} slices of the {subjects} training subjects; nobody of validation or test |
| Trained for | {kimg:g} kimg (thousand slices shown), {time} on {machine}; the best on validation subjects of a run of {run_kimg:g} kimg |
| Settings | preset `{preset}`, seed {seed}; {changes} |
| Parameters | {parameters:,}, stored in half precision |
| Model hash | `{model_hash}` |

## Scores beside the floor

Features: {space}. The floor is the same distance between real slices of other subjects; intervals are by subject (95 %). Drawn at psi = 1.

{scores}

On test subjects: {verdict}

## The verdict

On test subjects, by rules that are the same for every generator (`stylegan/scores/verdict.py`). Slices of one person resemble each other,
which raises the floor of a distance: reaching its range is only borderline, and a pass means no further than its mean. {summary}

{doubts}

Floor, generator and ceilings (sets that must fail) side by side:

{ceilings}

## Does it copy?

Distance in feature space from a slice to the nearest of all training slices. Held-out real slices of the validation and test subjects are
{heldout:.1f} away (median); the ratio is each sample's distance over that. A copy would be near 0.

{copies}

Median ratio of {count} samples: {ratio:.2f}; of {fakes:,} samples nearer than the nearest 1 % of held-out slices: {copied:.1%}. {control}

## Where it fails

The worst of 2,000 seeds by five rules; the guesses are guesses.

{failures}

## Terms of the data

{terms}

## Intended use

Teaching and research on generative models: latent spaces, scores, artefacts, memorisation. A baseline to be beaten.

## Limits

Two-dimensional slices at {resolution} pixels, from one source and prepared in one way. It draws people no more various than those it saw,
and gets details wrong that a radiologist would notice. Not for diagnosis, not as a stand-in for patients in a medical claim, and no proof
of privacy: that the nearest slices are far is a check of {count} samples, not a guarantee.

## The subjects of the split

Trained on, and therefore unfit for scoring this generator: {people}.
"""


def ship(
    run_dir: str | Path,
    data: str | Path,
    name: str,
    *,
    title: str = "",
    terms: str = "own",
    out: str | Path = "models",
    audited: str | Path | None = None,
) -> Path:
    """Write ``name.safetensors`` (half precision), ``name.md`` (its card) and its entry in ``metrics.json``; returns the card.

    ``run_dir``: a run folder, or the shipped file itself to score it again and rewrite its card. ``data``: the slices it was
    trained on, for scores on the validation and test subjects; ``title`` names them for the reader. What is scored is the shipped
    file. ``audited``: a folder in which `audit` has judged this very file already; without it that is done here, for minutes.
    Errors are those of `load_generator` and `audit`, and a ValueError where the audit is of another generator.
    """
    if terms not in TERMS:
        raise ValueError(f"There are no terms {terms!r}; choose one of {', '.join(TERMS)}.")
    run_dir, out = Path(run_dir), Path(out)
    if run_dir.is_file():
        return _score_again(run_dir, data, audited)
    G, info = load_generator(run_dir)
    slices = load_slices(data, info["config"]["img_resolution"])
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.safetensors"
    about = {key: value for key, value in info["data"].items() if key != "path"}  # where the slices lay is nobody's business
    save_generator(path, G, {**info, "data": {**about, "title": title or slices.title}}, half=True)
    return _write(path, {**_history(run_dir, path), "terms": terms}, slices, _judge(path, data, audited))


def _score_again(path: Path, data: str | Path, audited: str | Path | None) -> Path:
    """Judge a shipped file anew; what its entry tells of the training stays."""
    entry = (read_json(path.with_name("metrics.json")) or {}).get(path.stem)
    _, info = load_generator(path)
    if entry is None or entry.get("model_hash") != info["model_hash"]:
        raise ValueError(f"metrics.json beside {path} tells nothing of this generator; ship it from its run folder.")
    return _write(path, entry, load_slices(data, info["config"]["img_resolution"]), _judge(path, data, audited))


def _judge(path: Path, data: str | Path, audited: str | Path | None) -> dict:
    if audited is None:
        return audit(path, data)
    found = read_json(Path(audited) / AUDIT) or {}
    model, known = load_generator(path)[1]["model_hash"], found.get("evaluation", {}).get("model_hash")
    if known != model:
        raise ValueError(
            f"{audited} holds no audit of {path} (model {model}) but of {known}; run: python -m stylegan audit {path}"
        )
    return found


def _write(path: Path, entry: dict, slices: SliceDataset, found: dict) -> Path:
    """The entry in metrics.json, the card, and the sheet of failure cases; returns the card."""
    audited = {name: value for name, value in found.items() if name != "evaluation"}
    entry = {**entry, "scores": found["evaluation"], "audit": audited, "nearest": nearest_training(path, slices)}
    entry["changes"] = changes(entry["config"])
    write_json(path.with_name("metrics.json"), {**(read_json(path.with_name("metrics.json")) or {}), path.stem: entry})
    with replacing(path.with_suffix(".md")) as temporary:
        temporary.write_text(card(path.stem, entry, slices.split("train")), encoding="utf-8")
    return path.with_suffix(".md")


def _history(run_dir: Path, path: Path) -> dict:
    """What the run tells of the shipped generator: its settings, how long it was trained, and KID on the way."""
    G, info = load_generator(path)
    config, lines = info["config"], read_metrics(run_dir)
    seconds = max((line["seconds"] for line in lines if line["cur_nimg"] <= info["cur_nimg"]), default=0.0)
    return {
        "model_hash": info["model_hash"],
        "data": info["data"]["title"],
        "train_subjects": len(info["train_subjects"]),
        "kimg": info["cur_nimg"] / 1000,
        "run_kimg": lines[-1]["kimg"],
        "hours": seconds / 3600,
        "machine": (run_dir / "environment.txt").read_text(encoding="utf-8").splitlines()[-2],
        "parameters": count_parameters(G),
        "config": config,
        "changes": changes(config),
        "kid_val": [[line["kimg"], line["kid_val"]] for line in lines if line["kid_val"] is not None],
    }


def changes(config: dict) -> dict:
    """In which fields a run's config differs from its preset as it is now; an older version knew fewer fields."""
    config = {**Config().to_dict(), **config}
    usual = make_config(config["preset"]).to_dict() if config["preset"] in PRESETS else {}
    return {k: v for k, v in config.items() if k not in FREE_TO_CHANGE | {"c_dim"} and usual.get(k) != v}


def nearest_training(path: Path, slices: SliceDataset, seeds: Sequence[int] = SAMPLES) -> dict:
    """How far samples of a generator lie from the nearest training slice, beside held-out real slices: ``{heldout, samples}``.

    Distances in the space of `features`; each sample gives ``{seed, distance, ratio, subject, level}`` of its nearest slice.
    """
    train, held = slices.split("train"), slices.select(slices.splits != "train")
    at_train = features(train.images)
    heldout = float(np.median(nearest(features(held.images), at_train)[0]))
    distances, rows = nearest(features(generate(load_generator(path)[0], seeds)), at_train)
    found = zip(seeds, distances.tolist(), train.subjects[rows].tolist(), train.levels[rows].tolist(), strict=True)
    names = ("seed", "distance", "ratio", "subject", "level")
    samples = [dict(zip(names, (seed, d, d / heldout, str(who), level), strict=True)) for seed, d, who, level in found]
    return {"heldout": heldout, "samples": samples}


def card(name: str, entry: dict, train: SliceDataset) -> str:
    """The card as Markdown."""
    config, near = entry["config"], entry["nearest"]
    ratios, scores, audited = [row["ratio"] for row in near["samples"]], entry["scores"], entry["audit"]
    doubts, memory = verdict_rows(scores, audited["memory"]), audited["memory"]
    return CARD.format(
        name=name, resolution=config["img_resolution"], preset=config["preset"], seed=config["seed"], slices=len(train),
        subjects=entry["train_subjects"], changes=", ".join(f"`{k} = {v}`" for k, v in entry["changes"].items()) or "nothing changed",
        space=scores["feature_space"], scores=markdown_table(score_rows(scores)), verdict=verdict(scores["splits"]["test"]),
        copies=markdown_table([{k: f"{v:.2f}" if isinstance(v, float) else v for k, v in row.items()} for row in near["samples"]]),
        heldout=near["heldout"], ratio=np.median(ratios), count=len(ratios), terms=TERMS[entry["terms"]],
        summary=summary(doubts), doubts=markdown_table(doubts), ceilings=markdown_table(floor_table(scores)),
        fakes=min(5000, 2 * len(train)), copied=memory.get("copied", float("nan")), control=control_sentence(audited["control"]),
        failures=markdown_table(failure_rows(audited["failures"])), people=", ".join(sorted(set(train.subjects.tolist()))),
        **{key: entry[key] for key in ("data", "kimg", "run_kimg", "machine", "parameters", "model_hash")},
        time=duration(entry["hours"]),
    )  # fmt: skip
