"""Make a reference generator of a run: the network in half precision, its entry in metrics.json and its card.

python tools/ship.py RUN --data DIR --name oasis1-stylegan2-64 --title "OASIS-1 slices" --terms oasis1
python tools/ship.py models/oasis1-stylegan2-64.safetensors --data DIR       # score a shipped file again and rewrite its card
python tools/ship.py models/oasis1-stylegan2-64.safetensors                  # write only the head of its card anew
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from stylegan.checkpoint import load_generator, save_generator
from stylegan.config import ARCHITECTURES, FREE_TO_CHANGE, Config
from stylegan.dataset import SliceDataset, slices_of
from stylegan.files import read_json, replacing, write_json
from stylegan.networks import count_parameters
from stylegan.notebook import markdown_table
from stylegan.predict import generate
from stylegan.run import read_metrics
from stylegan.scores import verdict
from stylegan.scores.evaluate import evaluate
from stylegan.scores.evidence import open_evidence
from stylegan.scores.features import features
from stylegan.scores.memorisation import nearest

SAMPLES = range(8)  # seeds whose nearest training slice the card tells

OASIS = """Open access under the OASIS data use agreement. "Data were provided by OASIS: Cross-Sectional: Principal Investigators: D. Marcus, R.
Buckner, J. Csernansky, J. Morris; P50 AG05681, P01 AG03991, P01 AG026276, R01 AG021910, P20 MH071616, U24 RR021382." Marcus et al. 2007,
[doi:10.1162/jocn.2007.19.9.1498](https://doi.org/10.1162/jocn.2007.19.9.1498). The only pictures of its subjects in this repository are
those of 32 x 32 pixels in the first row of `figures/ladder/ladder.png` (and where the report repeats it)."""
TERMS = {
    "oasis1": OASIS,
    "simulated": "Simulated from the ICBM 152 nonlinear template of 2009 (Fonov et al. 2009, 2011), which nilearn ships; nobody's scan.",
    "own": "Not stated. Whoever passes this generator on should say under which terms its training slices may be used.",
}

LICENCES = {"oasis1": ("other", "oasis-data-use-agreement"), "simulated": ("mit", ""), "own": ("unknown", "")}

# What the Hugging Face Hub reads of a card. JSON is YAML, so that names need no care of their own.
HEAD = """---
license: {licence}
{licence_name}library_name: stylegan
pipeline_tag: unconditional-image-generation
tags: [stylegan, gan, mri, brain, medical-imaging, synthetic]
datasets: [{dataset}]
model-index:
- name: {name}
  results:
  - task: {{type: unconditional-image-generation}}
    dataset: {{type: {dataset}, name: {data}, split: {split}}}
    metrics:
{metrics}
---

"""
METRICS = {"fd": "FD", "fd_floor": "FD between real people, the floor", "kid": "KID x 1000", "kid_floor": "KID x 1000 between real people",
           "precision": "Precision", "recall": "Recall", "density": "Density", "coverage": "Coverage"}  # fmt: skip

CARD = """# {name}

A {architecture} that draws axial brain slices of {resolution} x {resolution} pixels. **Every picture it makes is synthetic.** Written by
`tools/ship.py`; the same numbers stand in `metrics.json`.

| | |
|---|---|
| Training data | {data}, {slices:,} slices {whose} |
| Trained for | {kimg:g} kimg (thousand slices shown), {time} on {machine}; the best on validation subjects of a run of {run_kimg:g} kimg |
| Settings | preset `{preset}`, seed {seed}; {changes} |
| Parameters | {parameters:,}, stored in half precision |
| Model hash | `{model_hash}` |

## Scores and their floor

Features: {space}. The floor is the same distance between real slices of other subjects, its range that of 95 % of 20 draws of
them; intervals of generated slices are by subject (95 %). Drawn at psi = 1, each slice with noise of its own, drawn from its seed.
Some settings of the recipe were chosen by scores on these same test subjects: fresh people would give slightly worse numbers.

{scores}

On test subjects: {verdict}{minded}

## As various as people?

{various} *Dimensions*: principal components of the pixels that hold so much of the variance of {pictures} slices, real ones of as
many people. *Spread*: median distance to the third-nearest slice of somebody else, the root of the summed squares of pixels in [-1, 1].

{variety}

Participation ratio of the styles of each convolution (1: they vary along one direction): {participation}.

## The verdict

On test subjects, by rules that are the same for every generator (`stylegan/scores/verdict.py`). Slices of one person resemble each other,
which raises the floor of a distance: reaching its range is only borderline, and a pass means no further than its mean. Variety
counts only where precision does not fail. {summary}

{checks}

Floor, generator and sets with a known fault side by side (*memorised* ones have none but the last row):

{ceilings}

## Does it copy?

Distance in feature space from a slice to the nearest of all training slices. Held-out real slices of the validation and test subjects are
{heldout:.1f} away (median); the ratio is each sample's distance over that. A copy would be near 0.

{copies}

Of {fakes:,} samples {copied:.1%} are nearer than the nearest 1 % of held-out slices. {control}

## Where it fails

The least realistic of the slices that were scored on test subjects (Kynkäänniemi et al. 2019, eq. 3), from their seeds:

{failures}

## Terms of the data

{terms}

## Intended use

Teaching and research on generative models: latent spaces, scores, artefacts, memorisation. A baseline to be beaten.

## Limits

Two-dimensional slices at {resolution} pixels, from one source and prepared in one way. It gets details wrong that a radiologist would
notice. Not for diagnosis, not as a stand-in for patients in a medical claim, and no proof of privacy: copies were looked for among
{fakes:,} samples, by the measures in the table of the verdict, which is no guarantee.{limits}

## The subjects of the split

Trained on, and therefore unfit for scoring this generator: {people}.
"""


def ship(
    run_dir: str | Path,
    data: str | Path,
    name: str = "",
    *,
    title: str = "",
    terms: str = "own",
    out: str | Path = "models",
    control: dict | None = None,
    limits: str = "",
    **asked: object,
) -> Path:
    """Write ``name.safetensors`` (half precision), ``name.md`` (its card) and its entry in ``metrics.json``; returns the card.

    ``run_dir``: a run folder, or a shipped file to score it again and rewrite its card. ``data``: the slices it was trained on;
    ``title`` names them for the reader. What is scored is the shipped file. ``control``: what `benchmarks/memoriser.py` wrote, by
    default what stands in the entry already, as ``limits``, a sentence on what else is wrong with it. Further arguments and errors
    are those of `evaluate`.
    """
    if terms not in TERMS:
        raise ValueError(f"There are no terms {terms!r}; choose one of {', '.join(TERMS)}.")
    path, G, info = Path(run_dir), *load_generator(run_dir)
    slices = slices_of(info, data)  # what stops it stops it before a file is written
    if path.is_dir() and not name:
        raise ValueError(f"The generator of {path} has no name yet; give one as --name, such as oasis1-stylegan2-64.")
    if path.is_file():
        entry = (read_json(path.with_name("metrics.json")) or {}).get(path.stem)
        if entry is None or entry.get("model_hash") != info["model_hash"]:
            raise ValueError(f"metrics.json next to {path} says nothing of this generator; ship it from its run folder.")
    else:
        path = Path(out) / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden = ("path", "subjects_csv")  # where the slices lay is nobody's business
        about = {key: value for key, value in info["data"].items() if key not in hidden}
        about["title"] = title or info["data"].get("title", "")
        save_generator(path, G, {**info, "data": about}, half=True)
        entry = {**_history(Path(run_dir), path), "terms": terms}
    found = evaluate(path, slices, all=True, **asked)
    return _write(path, entry | ({"limits": limits} if limits else {}), slices, found, control)


FURTHER = ("memory", "duplicates", "spectra", "failures")  # of an evaluation; they stand in the entry's "audit"


def _write(path: Path, entry: dict, slices: SliceDataset, found: dict, control: dict | None) -> Path:
    """The entry in metrics.json and the card; returns the card."""
    audit = {name: found[name] for name in FURTHER} | {"control": control or entry.get("audit", {}).get("control")}
    scores = {name: value for name, value in found.items() if name not in FURTHER}
    entry |= {"scores": scores, "audit": audit, "nearest": nearest_training(path, slices), "changes": changes(entry["config"])}
    write_json(path.with_name("metrics.json"), {**(read_json(path.with_name("metrics.json")) or {}), path.stem: entry})
    with replacing(path.with_suffix(".md")) as temporary:
        temporary.write_text(head(path.stem, entry) + card(path.stem, entry, slices.split("train")), encoding="utf-8")
    return path.with_suffix(".md")


def head(name: str, entry: dict) -> str:
    """The YAML head of a card: terms, tags and the scores on the last split, those on test subjects."""
    split, scores = list(entry["scores"]["splits"].items())[-1]
    space, (licence, licence_name) = entry["scores"]["feature_space"], LICENCES[entry["terms"]]
    line = "    - {{type: {}, name: {}, value: {:.4g}}}"
    lines = [line.format(key, json.dumps(f"{label} ({space})"), scores[key]["value"]) for key, label in METRICS.items()]
    return HEAD.format(
        name=name, licence=licence, licence_name=licence_name and f"license_name: {licence_name}\n", dataset=entry["terms"],
        data=json.dumps(entry["data"]), split=split, metrics="\n".join(lines),
    )  # fmt: skip


def rewrite_head(path: str | Path) -> Path:
    """Write the head of a shipped generator's card anew, from its entry in metrics.json; returns the card."""
    path = Path(path)
    entry, card_path = (read_json(path.with_name("metrics.json")) or {}).get(path.stem), path.with_suffix(".md")
    if entry is None or not card_path.is_file():
        raise ValueError(f"{path} has no card and entry in metrics.json beside it; ship it from its run folder, with --data.")
    text = card_path.read_text(encoding="utf-8")
    body = text.partition("\n---\n\n")[2] if text.startswith("---\n") else text
    with replacing(card_path) as temporary:
        temporary.write_text(head(path.stem, entry) + body, encoding="utf-8")
    return card_path


def _history(run_dir: Path, path: Path) -> dict:
    """What the run tells of the shipped generator: its settings, how long it was trained, and KID on the way."""
    G, info = load_generator(path)
    config, lines = info["config"], read_metrics(run_dir)
    seconds = max((line["seconds"] for line in lines if line["cur_nimg"] <= info["cur_nimg"]), default=0.0)
    return {
        "model_hash": info["model_hash"], "data": info["data"]["title"], "train_subjects": len(info["train_subjects"]),
        "kimg": info["cur_nimg"] / 1000, "run_kimg": lines[-1]["kimg"], "hours": seconds / 3600,
        "machine": (run_dir / "environment.txt").read_text(encoding="utf-8").splitlines()[-2],
        "parameters": count_parameters(G), "config": config, "changes": changes(config),
        "kid_val": [[line["kimg"], line["kid_val"]] for line in lines if line["kid_val"] is not None],
    }  # fmt: skip


def changes(config: dict) -> dict:
    """In which fields a run's config differs from its preset as it is now; older versions knew fewer fields and some that are gone."""
    return {k: v for k, v in Config.from_dict(config).departures().items() if k not in FREE_TO_CHANGE}


def nearest_training(path: Path, slices: SliceDataset) -> dict:
    """How far samples of a generator lie from the nearest training slice, and held-out real slices: ``{heldout, samples}``.

    Distances in the space of `features`; each sample gives ``{seed, distance, ratio, subject, level}`` of its nearest slice.
    """
    train, held, at_train = slices.split("train"), slices.select(slices.splits != "train"), open_evidence(path, slices).at_train
    heldout = float(np.median(nearest(features(held.images), at_train)[0]))
    distances, rows = nearest(features(generate(load_generator(path)[0], SAMPLES, noise_mode="random")), at_train)
    rows %= len(train)  # of a mirrored one the slice itself
    found = zip(SAMPLES, distances.tolist(), train.subjects[rows].tolist(), train.levels[rows].tolist(), strict=True)
    names = ("seed", "distance", "ratio", "subject", "level")
    samples = [dict(zip(names, (seed, d, d / heldout, str(who), level), strict=True)) for seed, d, who, level in found]
    return {"heldout": heldout, "samples": samples}


def card(name: str, entry: dict, train: SliceDataset) -> str:
    """The card as Markdown."""
    config, near, scores, audit = entry["config"], entry["nearest"], entry["scores"], entry["audit"]
    checks = verdict.verdict_rows(scores, audit["memory"])
    hours, last = entry["hours"], list(scores["splits"])[-1]
    layers = ", ".join(f"{layer} {value:.1f}" for layer, value in scores["style_participation"].items())
    hidden = "in a layout that hides who is who: the same people may be in validation and test"
    known = f"of the {entry['train_subjects']} training subjects; nobody of validation or test"
    return CARD.format(
        name=name, resolution=config["img_resolution"], preset=config["preset"], seed=config["seed"], slices=len(train),
        architecture=ARCHITECTURES[config.get("architecture", "stylegan2")],
        whose=known if train.subjects_known else hidden, minded="".join(f"\n\n**Mind:** {text}" for text in scores["warnings"]),
        changes=", ".join(f"`{k} = {v}`" for k, v in entry["changes"].items()) or "nothing changed",
        space=scores["feature_space"], scores=markdown_table(verdict.score_rows(scores)), verdict=verdict.distance_sentence(scores["splits"][last]),
        copies=markdown_table([{k: f"{v:.2f}" if isinstance(v, float) else v for k, v in row.items()} for row in near["samples"]]),
        various=verdict.variety_sentence(scores), variety=markdown_table(verdict.variety_rows(scores)), pictures=scores["variety"][last]["n"],
        participation=layers or "it has no styles", heldout=near["heldout"],
        terms=TERMS[entry["terms"]], summary=verdict.summary(checks), checks=markdown_table(checks), ceilings=markdown_table(verdict.floor_table(scores)),
        fakes=min(5000, 2 * len(train)), copied=audit["memory"].get("copied", float("nan")), control=verdict.control_sentence(audit["control"]),
        failures=markdown_table(verdict.failure_rows(audit["failures"])), people=", ".join(sorted(set(train.subjects.tolist()))),
        **{key: entry[key] for key in ("data", "kimg", "run_kimg", "machine", "parameters", "model_hash")},
        limits=f" {entry['limits']}" if entry.get("limits") else "",
        time=f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run_dir", type=Path, metavar="RUN|FILE", help="a shipped file is scored again and its card rewritten")
    only = "the slices it was trained on; without it only the head is written anew"
    parser.add_argument("--data", type=Path, metavar="DIR|ZIP", help=only)
    parser.add_argument("--name", default="", help="of the files, such as oasis1-stylegan2-64")
    parser.add_argument("--title", default="", help="what the reader calls the data (default: what was recognised)")
    parser.add_argument("--terms", default="own", choices=tuple(TERMS), help="of the data")
    parser.add_argument("--out", type=Path, default=Path("models"), metavar="DIR")
    parser.add_argument("--limits", default="", metavar="TEXT", help="a sentence for the card on what else is wrong with it")
    parser.add_argument("--control", type=Path, metavar="FILE.json", help="what benchmarks/memoriser.py wrote")
    args = vars(parser.parse_args())
    if args["data"] is None:
        print(f"Wrote the head of {rewrite_head(args['run_dir'])}.")
        return
    control = read_json(args.pop("control")) if args["control"] else args.pop("control")
    print(f"Wrote {ship(**args, control=control)}.")


if __name__ == "__main__":
    main()
