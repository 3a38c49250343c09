"""What the seeds and papers claim, each as a comparison of two rows, decided by intervals over seeds; and whether growing pays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


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


def decide(claim: Claim, entries: Sequence[dict]) -> dict:
    """Whether the row beats the other: the 95 % interval over seeds of log(KID / KID of the other), seed by seed.

    'held' where it lies below 0, 'not held' above, 'undecided' where it includes 0 or fewer than two seeds have both rows.
    """
    by_row = [
        {e["seed"]: e["kid"]["value"] for e in entries if e["row"] == row and "kid" in e} for row in (claim.row, claim.other)
    ]
    seeds = sorted(set(by_row[0]) & set(by_row[1]))
    pairs = [(max(by_row[0][s], 1.0), max(by_row[1][s], 1.0)) for s in seeds]  # KID x 1000 may be 0: 1 is below all floors
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

    {seeds: [{seed, kid, growing{kimg, seconds}, fixed{kimg, seconds}}], kimg, seconds}, the last two as of `ratio_over_seeds`: below 1
    growing gets there first. Between ticks log KID is taken as straight.
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
