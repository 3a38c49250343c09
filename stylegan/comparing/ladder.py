"""The ladder: one table, one sheet, the claims in words.

Its numbers come from `judging` and its verdicts from `claims`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from stylegan.checkpoint import load_generator
from stylegan.comparing.claims import CLAIMS, CURVES, decide, growing_pays
from stylegan.comparing.compare import Run
from stylegan.comparing.judging import score_runs
from stylegan.dataset import load_slices
from stylegan.files import replacing, write_json
from stylegan.plots import Figure, grid
from stylegan.predict import generate
from stylegan.scores.findings import markdown_table

NOTICE = "Generated slices are synthetic: they show no real person and are not for diagnosis."
SHOWN = 16  # slices of each row on the sheet


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
