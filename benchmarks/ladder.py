"""What `compare.py` concludes: claims decided over seeds, one table, one sheet of pictures; and whether growing pays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats

from stylegan.checkpoint import load_generator
from stylegan.dataset import slices_of
from stylegan.files import replacing, write_json
from stylegan.notebook import markdown_table
from stylegan.plots import Figure, grid
from stylegan.predict import generate

NOTICE = "Generated slices are synthetic: they show no real person and are not for diagnosis."
SHOWN = 16  # slices of each row on the sheet


class Claim(NamedTuple):
    """A sentence that a comparison of two rows can hold or break."""

    text: str
    source: str
    row: str  # what the claim is for
    other: str  # the same without it


CLAIMS = (
    Claim("Progressive growing gives better pictures for the same number of slices.", "seed 003", "stylegan1", "stylegan1+grow_from=0"),
    Claim("Spectral normalisation in D helps.", "seed 003", "seed003-progressive", "seed003-progressive+spectral_norm=false"),
    Claim("Spectral normalisation in D helps StyleGAN2 too.", "seed 003", "oasis64+spectral_norm=true", "oasis64"),
    Claim("Self-attention gives better pictures.", "seed 003", "seed003-progressive", "seed003-progressive+attention=none"),
    Claim("Self-attention gives better pictures in StyleGAN2 too.", "seed 003", "oasis64+attention=16", "oasis64"),
    Claim("The square of real scores (drift) adds to the result.", "seeds 000, 003", "seed000-stylegan2", "seed000-stylegan2+drift=0"),
    Claim("A leaky ReLU slope of .01 does better than .2.", "seed 004", "seed004-course", "seed004-course+leaky_slope=0.2"),
    Claim("Adam at 5e-4 does better than at 2e-3.", "seed 004", "seed004-course", "seed004-course+lr=0.002"),
    Claim("Standardising first does better than dividing by 255.", "seed 004", "seed004-course", "seed004-course+normalise=fixed"),
    Claim("An average of the generator's weights (EMA) does better.", "StyleGAN", "oasis64", "oasis64+ema_kimg=0"),
    Claim("Style mixing does better.", "StyleGAN", "oasis64+style_mixing_prob=0.9", "oasis64"),
    Claim("Mirrored slices do better.", "seeds 000, 001", "oasis64", "oasis64+mirror=false"),
    Claim("Adaptive augmentation does better.", "StyleGAN2-ADA", "oasis64", "oasis64+augment=none"),
    Claim("Relativistic loss, R1 + R2 at every step do better than logistic loss and lazy R1.", "R3GAN",
          "oasis64+loss=relativistic+r2_gamma=0.1+d_reg_interval=1", "oasis64"),
)  # fmt: skip
VARIETY = {"dimensions": "dimensions", "dimensions_fixed_noise": "noise fixed", "spread": "spread"}  # score: column
MEMORY = "nearest training"  # distance to the nearest training slice, over that of held-out people: 0 for copies
CURVES = ("stylegan1", "stylegan1+grow_from=0")  # rows that are scored at every tick: does growing save time?


def describe_budget(kimg: float, minutes: float, settings: Sequence[str], jobs: int) -> dict:
    """What a reader of the table has to know of its budget: {kimg, minutes, settings, jobs, text}."""
    parts = [f"{kimg:g} kimg"] * bool(kimg) + [f"{minutes:g} minutes"] * bool(minutes)
    changed = ", ".join(settings) or "no field changed"
    text = f"Each run: {' or '.join(parts) or 'as its preset says'}, {changed}, {jobs} at a time"
    return {"kimg": kimg, "minutes": minutes, "settings": list(settings), "jobs": jobs, "text": text}


# --- Claims ---------------------------------------------------------------------------------------------------------------------------


def decide(claim: Claim, entries: Sequence[dict]) -> dict:
    """Whether the row beats the other: the 95 % interval over seeds of log(KID / KID of the other), seed by seed.

    'held' where it lies below 0, 'not held' above, 'undecided' where it includes 0 or fewer than two seeds have both rows.
    """
    rows = claim.row, claim.other
    ours, other = ({e["seed"]: max(e["kid"]["value"], 1.0) for e in entries if e["row"] == row and "kid" in e} for row in rows)
    seeds = sorted(set(ours) & set(other))  # KID x 1000 may be 0: 1 is below all floors
    pairs = [(ours[seed], other[seed]) for seed in seeds]
    return {**claim._asdict(), "seeds": seeds, **ratio_over_seeds(pairs)}


def ratio_over_seeds(pairs: Sequence[tuple[float, float]]) -> dict:
    """{ratio, low, high, verdict} of a / b, each pair one seed: geometric mean and 95 % interval; below 1 is 'held', above 'not held'."""
    if not pairs:
        return {"ratio": None, "low": None, "high": None, "verdict": "undecided"}
    logs = np.log([a / b for a, b in pairs])
    mean = logs.mean()
    found = {"ratio": float(np.exp(mean)), "low": None, "high": None, "verdict": "undecided"}
    if len(pairs) >= 2:
        half = stats.t.ppf(0.975, len(pairs) - 1) * logs.std(ddof=1) / np.sqrt(len(pairs))
        found |= {"low": float(np.exp(mean - half)), "high": float(np.exp(mean + half))}
        found["verdict"] = "held" if mean + half < 0 else "not held" if mean - half > 0 else "undecided"
    return found


def growing_pays(entries: Sequence[dict]) -> dict:
    """Time and slices until the KID that the fixed network ends with, or the growing one where that is worse, for each seed.

    {seeds: [{seed, kid, growing{kimg, seconds}, fixed{kimg, seconds}}], kimg, seconds}, the last two as `ratio_over_seeds` returns them:
    below 1 growing gets there first. Between ticks log KID is taken as straight.
    """
    curves = [{e["seed"]: e["curve"] for e in entries if e["row"] == row and e.get("curve")} for row in CURVES]
    found = []
    for seed in sorted(set(curves[0]) & set(curves[1])):
        grown, fixed = curves[0][seed], curves[1][seed]
        level = max(min(p["kid"] for p in grown), min(p["kid"] for p in fixed))
        found.append({"seed": seed, "kid": level, "growing": _reached(grown, level), "fixed": _reached(fixed, level)})
    pairs = {unit: [(f["growing"][unit], f["fixed"][unit]) for f in found] for unit in ("kimg", "seconds")}
    return {"seeds": found, **{unit: ratio_over_seeds(both) for unit, both in pairs.items()}}


def _reached(curve: Sequence[dict], level: float) -> dict:
    """Where the curve first comes down to the level."""
    before = None
    for point in curve:
        if point["kid"] <= level * (1 + 1e-9):
            if before is None:
                return {"kimg": point["kimg"], "seconds": point["seconds"]}
            a, b, c = (math.log(max(x, 1.0)) for x in (before["kid"], point["kid"], level))
            t = 1.0 if a == b else (a - c) / (a - b)
            return {unit: before[unit] + t * (point[unit] - before[unit]) for unit in ("kimg", "seconds")}
        before = point
    raise ValueError("The curve never comes down to the level.")


# --- The table --------------------------------------------------------------------------------------------------------------------


def summarise(entries: Sequence[dict], budget: dict) -> dict:
    """{budget, floors, rows, claims, growing, runs}: the ladder as JSON values, rows from the best mean KID to the worst."""
    rows = [_row(name, [e for e in entries if e["row"] == name]) for name in dict.fromkeys(e["row"] for e in entries)]
    rows.sort(key=lambda row: row["kid"]["value"] if row["kid"] else math.inf)
    first = next((e for e in entries if "floors" in e), {"n": 0, "people": 0, "floors": {}})
    common = {key: first[key] for key in ("n", "people", "floors")}
    runs = [{k: v for k, v in e.items() if k not in common} for e in entries]
    told = [decide(claim, entries) for claim in CLAIMS]
    return {"budget": budget, **common, "rows": rows, "claims": told, "growing": growing_pays(entries), "runs": runs}


def _row(name: str, entries: Sequence[dict]) -> dict:
    """Means over seeds; an interval reaches from the lowest to the highest bound by person of its seeds."""
    good = [e for e in entries if "kid" in e]

    def mean(key: str) -> float | None:
        values = [e[key] for e in good if e.get(key) is not None]
        return float(np.mean(values)) if values else None

    def interval(key: str) -> dict | None:
        if not good:
            return None
        low, high = min(e[key]["low"] for e in good), max(e[key]["high"] for e in good)
        return {"value": float(np.mean([e[key]["value"] for e in good])), "low": low, "high": high}

    found = {"row": name, "loss": entries[0]["loss"], "seeds": [e["seed"] for e in good]}
    found |= {"failed": [e["seed"] for e in entries if "failed" in e], "kid": interval("kid"), "fd": interval("fd")}
    keys = "precision recall coverage dimensions dimensions_fixed_noise spread memory kimg parameters_g peak_memory_mb seconds"
    pace = max((e["img_s"] for e in good), default=None)  # what else ran beside can only slow a run
    return found | {key: mean(key) for key in keys.split()} | {"img_s": pace}


def render(ladder: dict) -> str:
    """The ladder as Markdown: its budget, the table, the claims, and whether growing paid."""
    head = f"{ladder['budget']['text']}; {ladder['n']} fakes against as many slices of {ladder['people']} held-out people."
    run = [_claim_cells(claim) for claim in ladder["claims"] if claim["ratio"] is not None]
    claims = markdown_table(run) if run else "Claims: see claims.md."
    return "\n\n".join([head, render_rows(ladder), claims, growing_sentence(ladder["growing"])]) + "\n"


def render_rows(ladder: dict) -> str:
    """The table of rows, real people last."""
    floors, rows = ladder["floors"], [_cells(row) for row in ladder["rows"]]
    if floors:
        rows.append({"system": "*real people*", "KID × 1000": _with(floors["kid"]), "FD": _with(floors["fd"]),
                     "precision": f"{floors['precision']:.2f}", "recall": f"{floors['recall']:.2f}",
                     **{title: f"{floors[name]:.0f}" for name, title in VARIETY.items() if name in floors}, MEMORY: "1"})  # fmt: skip
    columns = list(rows[0]) if rows else []
    return markdown_table([{column: row.get(column, "") for column in columns} for row in rows]) if rows else ""


def _cells(row: dict) -> dict[str, str]:
    seeds = ", ".join(map(str, row["seeds"])) + f" (broke down: {', '.join(map(str, row['failed']))})" * bool(row["failed"])
    if row["kid"] is None:
        return {"system": f"`{row['row']}`", "seeds": seeds}
    return {
        "system": f"`{row['row']}`", "KID × 1000": _with(row["kid"]), "FD": _with(row["fd"]),
        "precision": f"{row['precision']:.2f}", "recall": f"{row['recall']:.2f}",
        **{title: f"{row[name]:.0f}" for name, title in VARIETY.items() if row.get(name) is not None},
        **({} if row.get("memory") is None else {MEMORY: f"{row['memory']:.2f}"}),
        "img/s": f"{row['img_s']:.0f}", "seeds": seeds,
    }  # fmt: skip


def _with(interval: Mapping[str, float]) -> str:
    return "{value:.0f} ({low:.0f} to {high:.0f})".format(**interval)


def _claim_cells(claim: dict) -> dict[str, str]:
    ratio = f"{claim['ratio']:.2f}" + ("" if claim["low"] is None else f" ({claim['low']:.2f} to {claim['high']:.2f})")
    pair = f"`{claim['row']}` / `{claim['other']}`"
    return {"claim": claim["text"], "of": claim["source"], "KID of": pair, "ratio": ratio, "verdict": claim["verdict"]}


def growing_sentence(growing: dict) -> str:
    """In plain words, and honest where it did not pay."""
    n, seconds, kimg = len(growing["seeds"]), growing["seconds"], growing["kimg"]
    if not n:
        return "Growing was not compared."
    words = {"held": "Growing paid", "not held": "Growing did not pay", "undecided": "Whether growing paid is undecided"}
    between = "" if seconds["low"] is None else f" ({seconds['low']:.2f} to {seconds['high']:.2f})"
    return (
        f"{words[seconds['verdict']]}: to the same KID it took {seconds['ratio']:.2f} times the time{between} and {kimg['ratio']:.2f} times "
        f"the slices of the fixed network (mean of {n} seed{'s'[: n != 1]})."
    )


# --- The sheet --------------------------------------------------------------------------------------------------------------------


def sheet(runs: Sequence, data: Path | None, order: Sequence[str]) -> Figure:
    """One line of fakes per row of the ladder, seeds 0 to 15 of its first finished run, below a line of real slices."""
    first = {run.row: run for run in reversed(runs) if run.is_done()}
    rows = [row for row in order if row in first]
    opened = {row: load_generator(first[row].folder / "generator_last.safetensors") for row in rows}
    real = slices_of(opened[rows[0]][1], data).split("train")
    pictures = [real.tensor(np.linspace(0, len(real) - 1, SHOWN).round().astype(int))]
    for G, _ in opened.values():
        pictures.append(generate(G, range(SHOWN)).clamp(-1, 1))
    caption = f"Below the real slices: seeds 0 to {SHOWN - 1} of each system, nothing picked, from the lowest KID down."
    alt = f"Sheet of {SHOWN} slices in each of {len(rows) + 1} rows: real slices, then {', '.join(rows)}."
    return grid(torch.cat(pictures), SHOWN, scale=2 if real.images.shape[1] <= 32 else 1, row_titles=["real slices", *rows],
                caption=caption, alt=alt)  # fmt: skip


def film(run) -> Figure | None:
    """Twelve seeds at every tick of a growing run, each at the resolution that it had; None where no generators were kept."""
    paths = sorted((run.folder / "snapshots").glob("*.safetensors"))
    if not paths:
        return None
    seeds, titles, pictures = range(12), [], []
    for path in paths:
        G, info = load_generator(path)
        now = G.synthesis.now
        fading = f", alpha {now.alpha:.2f}" if now.fading else ""
        titles.append(f"{info['cur_nimg'] / 1000:.1f} kimg: {now.resolution} px{fading}")
        pictures.append(generate(G, seeds).clamp(-1, 1))
    alt = f"The same {len(seeds)} seeds at {len(paths)} moments of a growing network: {'; '.join(titles)}."
    return grid(torch.cat(pictures), len(seeds), scale=2, row_titles=titles, alt=alt)


def write(runs: Sequence, entries: Sequence[dict], data: Path | None, budget: dict, out: Path) -> str:
    """Write ladder.json, ladder.md, ladder.png and, of a growing run, growing.png into ``out``; returns the table."""
    if not any("kid" in entry for entry in entries):
        raise ValueError(f"No run in {out} is finished yet; run the same command again, without --no-train.")
    found = summarise(entries, budget)
    write_json(out / "ladder.json", found)
    with replacing(out / "ladder.md") as temporary:
        temporary.write_text(render(found), encoding="utf-8")
    grown = next((run for run in runs if run.row == CURVES[0] and run.is_done()), None)
    pictures = {"ladder": sheet(runs, data, [row["row"] for row in found["rows"]]), "growing": film(grown) if grown else None}
    for name, figure in pictures.items():
        if figure is not None:
            with replacing(out / f"{name}.png") as temporary:
                figure.savefig(temporary, format="png", metadata={"Description": figure.alt_text, "Comment": NOTICE})
    return render(found)
