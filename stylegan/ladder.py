"""What the ladder says: every run scored on people that none has seen, one table, one sheet, and the seeds' claims decided.

All rows are scored on the same people and the same number of fakes, with the last averaged generator of each run, so that nothing was
chosen by the score.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats

from stylegan.cache import cache_folder, read_json, replacing, write_json
from stylegan.checkpoint import load_generator
from stylegan.compare import Run
from stylegan.dataset import SliceDataset, load_slices
from stylegan.intensity import normalised
from stylegan.networks import count_parameters, pick_device
from stylegan.plots import Figure, grid
from stylegan.predict import generate
from stylegan.scoring.distances import DISTANCES, kernel_distance
from stylegan.scoring.features import DEFAULT, named_space
from stylegan.scoring.findings import markdown_table
from stylegan.scoring.intervals import draw_people, floor, jackknife
from stylegan.scoring.memorisation import people_of
from stylegan.scoring.metrics import Fakes, Setting
from stylegan.scoring.neighbours import Neighbourhood
from stylegan.scoring.scores import floor_draws
from stylegan.summary import describe_loss

NOTICE = "Generated slices are synthetic: they show no real person and are not for diagnosis."
SHOWN = 16  # slices of each row on the sheet
NEIGHBOUR_SCORES = ("precision", "recall", "coverage")


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
    Claim("Style mixing does better.", "StyleGAN", "oasis64", "oasis64+style_mixing_prob=0"),
    Claim("Mirrored slices do better.", "seeds 000, 001", "oasis64", "oasis64+mirror=false"),
    Claim("Adaptive augmentation does better.", "StyleGAN2-ADA", "oasis64", "oasis64+augment=none"),
    Claim("Relativistic loss, R1 + R2 at every step do better than logistic loss and lazy R1.", "R3GAN", "modern", "oasis64"),
)  # fmt: skip
CLAIM_ROWS = tuple(dict.fromkeys(row for claim in CLAIMS for row in (claim.row, claim.other)))
CURVES = ("stylegan1", "stylegan1+grow_from=0")  # rows that are scored at every tick: does growing save time?


# --- Scores -----------------------------------------------------------------------------------------------------------------------


class Judge:
    """Held-out people, validation and test together, and what every generator is compared with. One for each rule of grey values."""

    def __init__(self, data: SliceDataset, rule: str, num: int, device: str = "auto"):
        data = normalised(data, rule)
        chosen = pick_device(device)
        self.setting = Setting(named_space(DEFAULT, str(chosen)), chosen, cache_folder(None), 0)
        held = data.select(data.splits != "train")
        rows = np.sort(np.random.default_rng(0).permutation(len(held))[:num])
        self.real, train = held.select(rows), data.split("train")
        self.people, n = people_of(self.real), len(rows)
        self.others = train.select(draw_people(people_of(train), 4 * len(set(self.people)), min(4 * n, len(train)),
                                               np.random.default_rng(0)))  # fmt: skip
        self.at_real = self.setting.features(self.real.images)
        self.floors = self._floors()

    def _floors(self) -> dict:
        at_others, names = self.setting.features(self.others.images), people_of(self.others)
        draws = floor_draws(self.people, names)
        found = {name: _times(floor(distance, self.at_real, [at_others[rows] for rows in draws]), unit)
                 for name, distance, unit in DISTANCES}  # fmt: skip
        near = [Neighbourhood(self.at_real, self.people, at_others[rows], names[rows]).scores() for rows in draws[:5]]
        return found | {name: float(np.mean([scores[name] for scores in near])) for name in NEIGHBOUR_SCORES}

    def score(self, path: Path) -> dict:
        """KID times 1000 and FD with their intervals by person, precision, recall and coverage of one generator."""
        _, at_fake = self._fakes(path)
        found = {name: _times(jackknife(distance, self.at_real, self.people, at_fake), unit)
                 for name, distance, unit in DISTANCES}  # fmt: skip
        near = Neighbourhood(self.at_real, self.people, at_fake).scores()
        return found | {name: near[name] for name in NEIGHBOUR_SCORES}

    def kid(self, path: Path) -> float:
        return 1000 * kernel_distance(self.at_real, self._fakes(path)[1])

    def _fakes(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        G, info = load_generator(path, self.setting.device)
        return Fakes(G, info, self.setting).like(self.real)


def _times(interval: Mapping[str, float], unit: float) -> dict[str, float]:
    return {name: unit * value for name, value in interval.items()}


def score_runs(runs: Sequence[Run], data: str | Path | None, num: int = 1000) -> list[dict]:
    """One entry per finished run; those scored before are read from their folders. Runs that broke down stand there without scores."""
    judges: dict[tuple[int, str], Judge] = {}
    found = []
    for run in runs:
        if run.failure():
            found.append(_entry(run) | {"failed": run.failure()})
        elif run.is_done():
            found.append(_scored(run, data, num, judges))
    return found


def _scored(run: Run, data: str | Path | None, num: int, judges: dict) -> dict:
    path = run.folder / "generator_last.safetensors"
    _, info = load_generator(path)
    known = read_json(run.folder / "score.json") or {}
    if known.get("model_hash") == info["model_hash"] and known.get("num") == num:
        return known["entry"]
    key = run.config.img_resolution, run.config.normalise
    if key not in judges:
        judges[key] = Judge(load_slices(data, key[0]), key[1], num)
    judge = judges[key]
    snapshots = sorted((run.folder / "snapshots").glob("*.safetensors"))
    entry = _entry(run) | judge.score(path) | {"floors": judge.floors, "n": len(judge.real), "people": len(set(judge.people))}
    entry["curve"] = [{"kimg": int(p.stem) / 1000, "kid": judge.kid(p), **_seconds_at(run, int(p.stem))} for p in snapshots]
    write_json(run.folder / "score.json", {"model_hash": info["model_hash"], "num": num, "entry": entry})
    print(f"{run.row} seed {run.seed}: KID {entry['kid']['value']:.0f}, FD {entry['fd']['value']:.0f}", flush=True)
    return entry


def _entry(run: Run) -> dict:
    """What is known of a run without looking at its pictures."""
    last, config = run.metrics(), run.config
    found = {"row": run.row, "preset": config.preset, "seed": run.seed, "loss": describe_loss(config)}
    found |= {"resolution": config.img_resolution, "batch_size": config.batch_size, "kimg": last.get("kimg", 0.0)}
    seconds = last.get("seconds", 0.0)
    found |= {"seconds": seconds, "img_s": last["cur_nimg"] / seconds if seconds else None}
    found["peak_memory_mb"] = last.get("peak_memory_mb")
    return found | {"parameters_g": _parameters(run)}


def _parameters(run: Run) -> int | None:
    path = run.folder / "generator_last.safetensors"
    return count_parameters(load_generator(path)[0].requires_grad_(True)) if path.is_file() else None


def _seconds_at(run: Run, cur_nimg: int) -> dict:
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return {"seconds": next((line["seconds"] for line in lines if line["cur_nimg"] == cur_nimg), None)}


# --- The table --------------------------------------------------------------------------------------------------------------------


def summarise(entries: Sequence[dict], budget: dict) -> dict:
    """{budget, floors, rows, claims, growing, runs}: the ladder as JSON values, rows from the best mean KID to the worst."""
    rows = [_row(name, [e for e in entries if e["row"] == name]) for name in dict.fromkeys(e["row"] for e in entries)]
    rows.sort(key=lambda row: row["kid"]["value"] if row["kid"] else math.inf)
    plain = [e for e in entries if "floors" in e]
    return {
        "budget": budget,
        "n": plain[0]["n"] if plain else 0,
        "people": plain[0]["people"] if plain else 0,
        "floors": plain[0]["floors"] if plain else {},
        "rows": rows,
        "claims": [decide(claim, entries) for claim in CLAIMS],
        "growing": growing_pays(entries),
        "runs": [{k: v for k, v in e.items() if k not in ("floors", "n", "people")} for e in entries],
    }


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
    keys = ("precision", "recall", "coverage", "kimg", "img_s", "parameters_g", "peak_memory_mb", "seconds")
    return found | {key: mean(key) for key in keys}


def decide(claim: Claim, entries: Sequence[dict]) -> dict:
    """Whether the row beats the other: the 95 % interval over seeds of log(KID / KID of the other), seed by seed.

    'held' where it lies below 0, 'not held' above, 'undecided' where it includes 0 or fewer than two seeds have both rows.
    """
    by_row = [
        {e["seed"]: e["kid"]["value"] for e in entries if e["row"] == row and "kid" in e} for row in (claim.row, claim.other)
    ]
    seeds = sorted(set(by_row[0]) & set(by_row[1]))
    logs = np.log(
        [max(by_row[0][s], 1.0) / max(by_row[1][s], 1.0) for s in seeds]
    )  # KID x 1000 may be 0: 1 is below all floors
    result = {**claim._asdict(), "seeds": seeds, "ratio": None, "low": None, "high": None, "verdict": "undecided"}
    if len(seeds):
        result["ratio"] = float(np.exp(logs.mean()))
    if len(seeds) >= 2:
        half = stats.t.ppf(0.975, len(seeds) - 1) * logs.std(ddof=1) / np.sqrt(len(seeds))
        low, high = logs.mean() - half, logs.mean() + half
        result |= {"low": float(np.exp(low)), "high": float(np.exp(high))}
        result["verdict"] = "held" if high < 0 else "not held" if low > 0 else "undecided"
    return result


def growing_pays(entries: Sequence[dict]) -> dict:
    """Time and slices until the KID that the fixed network ends with, or the growing one where that is worse, for each seed.

    {seeds: [{seed, kid, growing{kimg, seconds}, fixed{kimg, seconds}}], ratio_kimg, ratio_seconds}: ratios below 1 say that growing
    gets there first. Between ticks log KID is taken as straight.
    """
    curves = [{e["seed"]: e["curve"] for e in entries if e["row"] == row and e.get("curve")} for row in CURVES]
    found = []
    for seed in sorted(set(curves[0]) & set(curves[1])):
        grown, fixed = curves[0][seed], curves[1][seed]
        level = max(min(p["kid"] for p in grown), min(p["kid"] for p in fixed))
        found.append({"seed": seed, "kid": level, "growing": _reached(grown, level), "fixed": _reached(fixed, level)})
    ratios = {
        f"ratio_{unit}": _mean_ratio([(f["growing"][unit], f["fixed"][unit]) for f in found]) for unit in ("kimg", "seconds")
    }
    return {"seeds": found, **ratios}


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


def _mean_ratio(pairs: Sequence[tuple[float, float]]) -> float | None:
    return float(np.exp(np.mean([math.log(a / b) for a, b in pairs]))) if pairs else None


def render(ladder: dict) -> str:
    """The ladder as Markdown: its budget, the table, the claims, and whether growing paid."""
    head = f"{ladder['budget']['text']}; {ladder['n']} fakes against as many slices of {ladder['people']} held-out people."
    return "\n\n".join([head, render_rows(ladder), render_claims(ladder), growing_sentence(ladder["growing"])]) + "\n"


def render_rows(ladder: dict) -> str:
    """The table of rows, real people last."""
    floors = ladder["floors"]
    rows = [_cells(row) for row in ladder["rows"]]
    if floors:
        rows.append({"system": "*real people*", "KID × 1000": _with(floors["kid"]), "FD": _with(floors["fd"]),
                     "precision": f"{floors['precision']:.2f}", "recall": f"{floors['recall']:.2f}"})  # fmt: skip
    columns = list(rows[0]) if rows else []
    return markdown_table([{column: row.get(column, "") for column in columns} for row in rows]) if rows else ""


def render_claims(ladder: dict) -> str:
    """The claims whose rows were run, with their verdicts."""
    run = [_claim_cells(claim) for claim in ladder["claims"] if claim["ratio"] is not None]
    return markdown_table(run) if run else "The rows of no claim were run."


def _cells(row: dict) -> dict[str, str]:
    seeds = ", ".join(map(str, row["seeds"])) + (
        f" (broke down: {', '.join(map(str, row['failed']))})" if row["failed"] else ""
    )
    if row["kid"] is None:
        return {"system": f"`{row['row']}`", "seeds": seeds}
    return {
        "system": f"`{row['row']}`",
        "KID × 1000": _with(row["kid"]),
        "FD": _with(row["fd"]),
        "precision": f"{row['precision']:.2f}",
        "recall": f"{row['recall']:.2f}",
        "kimg": f"{row['kimg']:.0f}",
        "img/s": f"{row['img_s']:.0f}",
        "G, M": f"{row['parameters_g'] / 1e6:.2f}",
        "MiB": f"{row['peak_memory_mb']:.0f}",
        "seeds": seeds,
    }


def _with(interval: Mapping[str, float]) -> str:
    return "{value:.0f} ({low:.0f} to {high:.0f})".format(**interval)


def _claim_cells(claim: dict) -> dict[str, str]:
    ratio = "not run" if claim["ratio"] is None else f"{claim['ratio']:.2f}"
    ratio += "" if claim["low"] is None else f" ({claim['low']:.2f} to {claim['high']:.2f})"
    pair = f"`{claim['row']}` / `{claim['other']}`"
    return {"claim": claim["text"], "of": claim["source"], "KID of": pair, "ratio": ratio, "verdict": claim["verdict"]}


def growing_sentence(growing: dict) -> str:
    """In plain words, and honest where it did not pay."""
    if growing["ratio_kimg"] is None:
        return "Growing was not compared."
    n = len(growing["seeds"])
    verdict = "Growing paid" if growing["ratio_seconds"] < 1 else "Growing did not pay"
    return (
        f"{verdict}: to the same KID it took {growing['ratio_seconds']:.2f} times the time and {growing['ratio_kimg']:.2f} times the "
        f"slices of the fixed network (mean of {n} seed{'s'[: n != 1]})."
    )


# --- The sheet --------------------------------------------------------------------------------------------------------------------


def sheet(runs: Sequence[Run], data: str | Path | None, order: Sequence[str]) -> Figure:
    """One line of fakes per row of the ladder, seeds 0 to 15 of its first finished run, below a line of real slices."""
    first = {run.row: run for run in reversed(runs) if run.is_done()}
    rows = [row for row in order if row in first]
    real = load_slices(data, first[rows[0]].config.img_resolution).split("train")
    pictures = [real.tensor(np.linspace(0, len(real) - 1, SHOWN).round().astype(int))]
    for row in rows:
        G, _ = load_generator(first[row].folder / "generator_last.safetensors")
        pictures.append(generate(G, range(SHOWN)).clamp(-1, 1))
    caption = f"Below the real slices: seeds 0 to {SHOWN - 1} of each system, nothing picked, from the lowest KID down."
    alt = f"Sheet of {SHOWN} slices in each of {len(rows) + 1} rows: real slices, then {', '.join(rows)}."
    return grid(torch.cat(pictures), SHOWN, scale=2 if real.images.shape[1] <= 32 else 1, row_titles=["real slices", *rows],
                caption=caption, alt=alt)  # fmt: skip


def film(run: Run, seeds: Sequence[int] = range(12)) -> Figure | None:
    """The same seeds at every tick of a growing run, each at the resolution that it had; None where no generators were kept."""
    paths = sorted((run.folder / "snapshots").glob("*.safetensors"))
    if not paths:
        return None
    titles, pictures = [], []
    for path in paths:
        G, info = load_generator(path)
        now = G.synthesis.now
        fading = f", alpha {now.alpha:.2f}" if now.fading else ""
        titles.append(f"{info['cur_nimg'] / 1000:.1f} kimg: {now.resolution} px{fading}")
        pictures.append(generate(G, seeds).clamp(-1, 1))
    alt = f"The same {len(seeds)} seeds at {len(paths)} moments of a growing network: {'; '.join(titles)}."
    return grid(torch.cat(pictures), len(seeds), scale=2, row_titles=titles, alt=alt)


def judge(runs: Sequence[Run], data: str | Path | None, budget: dict, num: int, out: Path) -> dict:
    """Score what is finished and write ladder.json, ladder.md, ladder.png and, of a growing run, growing.png into ``out``; returns the ladder."""
    entries = score_runs(runs, data, num)
    if not any("kid" in entry for entry in entries):
        raise ValueError(f"No run in {out} is finished yet; run the same command again, without --no-train.")
    found = summarise(entries, budget)
    grown = next((run for run in runs if run.row == CURVES[0] and run.is_done()), None)
    pictures = {"ladder": sheet(runs, data, [row["row"] for row in found["rows"]]), "growing": film(grown) if grown else None}
    write(found, pictures, out)
    return found


def write(ladder: dict, pictures: Mapping[str, Figure | None], out: Path) -> None:
    """ladder.json, ladder.md and the pictures that there are."""
    write_json(out / "ladder.json", ladder)
    with replacing(out / "ladder.md") as temporary:
        temporary.write_text(render(ladder), encoding="utf-8")
    for name, figure in pictures.items():
        if figure is not None:
            with replacing(out / f"{name}.png") as temporary:
                figure.savefig(temporary, format="png", metadata={"Description": figure.alt_text, "Comment": NOTICE})
