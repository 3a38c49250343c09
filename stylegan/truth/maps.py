"""Everything a map of real and generated slices may claim, each claim tested in feature space, each test with its control.

Colours are ground truth: what the data set tells or what is measured in the pixels of real slices; for generated slices the
class asked for, and what readers of real people (`readers.py`) see in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from stylegan.dataset import SliceDataset
from stylegan.files import cache_folder
from stylegan.networks import Generator
from stylegan.plots import to_uint8
from stylegan.predict import generate
from stylegan.scores.features import features
from stylegan.truth.embedding import (
    deal_people,
    deal_within,
    neighbour_agreement,
    neighbour_mixing,
    same_levels,
)
from stylegan.truth.map_charts import Panel
from stylegan.truth.readers import correlation, fit_reader, people_of, spread_apart, targets

LEARN = 1200  # training slices that the readers of fakes learn from, at most
HIGHLIGHTED = 6  # people in colours of their own
SURE = 0.05


@dataclass(frozen=True)
class Truth:
    """Something that is true of each slice: a name or a number."""

    name: str
    values: np.ndarray  # [n] of the real slices; '' and NaN where unknown
    units: np.ndarray  # [n], what is dealt anew as a whole if the truth meant nothing: people...
    within: bool = False  # ...or what values are shuffled within: levels within a person, people within a level
    unit: str = ""
    fakes: np.ndarray | None = None  # [n] of the generated ones: asked for, or as read
    read: np.ndarray | None = None  # [n] of the real ones as read, to judge the reader by
    order: tuple[str, ...] = ()
    apart: bool = True  # slices of one person are no neighbours; but not where the person is what is asked for

    @property
    def known(self) -> np.ndarray:
        return self.values != "" if self.is_name else np.isfinite(self.values)

    @property
    def is_name(self) -> bool:
        return self.values.dtype.kind not in "if"


@dataclass(frozen=True)
class Sample:
    """Equally many held-out and generated slices, their features, and what is true of them."""

    real: SliceDataset  # by person and level, the same levels of everybody where these are known
    fakes: np.ndarray  # uint8 [n, R, R], psi = 1, seeds 0 to n - 1
    at_real: np.ndarray  # float32 [n, D]
    at_fake: np.ndarray  # float32 [n, D]
    truths: tuple[Truth, ...]
    space: str

    @property
    def people(self) -> np.ndarray:
        return people_of(self.real)

    @property
    def both(self) -> np.ndarray:
        """Features of the real slices, then of the generated ones: [2n, D]."""
        return np.concatenate([self.at_real, self.at_fake])

    @property
    def is_fake(self) -> np.ndarray:
        return np.arange(2 * len(self.real)) >= len(self.real)

    @property
    def k(self) -> int:
        """Neighbours that tests count."""
        return max(1, min(10, len(self.real) // 4))


def take_sample(
    G: Generator,
    info: dict,
    slices: SliceDataset,
    most: int = 400,
    *,
    space: str = "efficientnet-lite0",
    device: str | torch.device = "cpu",
    cache_dir: str | Path | None = None,
) -> Sample:
    """At most ``most`` held-out slices, as many generated ones, and all that is known of both.

    Raises ValueError where nobody is held out.
    """
    rows = choose_rows(slices, slices.splits != "train", most)
    if len(rows) < 8:
        raise ValueError(f"A map takes held-out slices, and {slices.title} has {len(rows)}; give more people.")
    real = slices.select(rows)
    asked = _classes_asked(G, info, real)
    fakes = to_uint8(generate(G, range(len(real)), class_index=asked))
    settings = {"space": space, "device": device, "cache_dir": cache_folder(cache_dir)}
    at_real, at_fake = features(real.images, **settings), features(fakes, space, device=device)
    truths = [*_names(real, asked), *_numbers(slices, rows, at_real, at_fake, settings)]
    return Sample(real, fakes, at_real, at_fake, tuple(truth for truth in truths if len(np.unique(truth.values)) > 1), space)


def choose_rows(slices: SliceDataset, where: np.ndarray, most: int) -> np.ndarray:
    """At most so many of those slices, the same levels of everybody."""
    rows = np.flatnonzero(where)
    return rows[same_levels(people_of(slices)[rows], slices.levels[rows], most)] if len(rows) else rows


def _classes_asked(G: Generator, info: dict, real: SliceDataset) -> np.ndarray | None:
    """A conditional generator is asked for the classes of the real slices, where it knows them; else each seed has its own."""
    if not G.c_dim:
        return None
    known = {name: i for i, name in enumerate(info["classes"])}
    return np.array([known.get(real.classes[i] if i >= 0 else "", row % G.c_dim) for row, i in enumerate(real.labels)])


def _names(real: SliceDataset, asked: np.ndarray | None) -> list[Truth]:
    """Class and person."""
    people, names = people_of(real), np.array([*real.classes, ""])[real.labels]
    shown = np.random.default_rng(0).permutation(np.unique(people))[:HIGHLIGHTED]
    levels = np.maximum(real.levels, 0)
    return [
        Truth("class", names, people, fakes=None if asked is None else names, order=real.classes),
        Truth("person", people, levels, within=True, order=tuple(sorted(shown)), apart=False),
    ]


def _numbers(slices: SliceDataset, rows: np.ndarray, at_real: np.ndarray, at_fake: np.ndarray, settings: dict) -> list[Truth]:
    """Level, ventricles, brain and what the table tells, with what readers of training people see in the fakes."""
    learn, people, found = choose_rows(slices, slices.splits == "train", LEARN), people_of(slices), []
    at_learn = features(slices.images[learn], **settings) if len(learn) else None
    for target in targets(slices):
        if at_learn is None:
            break
        reader = fit_reader(at_learn, target.values[learn], people[learn])
        seen = {"fakes": reader.predict(at_fake), "read": reader.predict(at_real)}
        found.append(Truth(target.name, target.values[rows], people[rows], target.name == "level", target.unit, **seen))
    return found


# --- Claims and their tests -----------------------------------------------------------------------------------------------


def mixing(sample: Sample, permutations: int = 199) -> dict:
    """{value, expected, p_value}: how far real and generated slices are mixed, by person (`neighbour_mixing`)."""
    found = neighbour_mixing(sample.at_real, sample.at_fake, sample.k, real_groups=sample.people, permutations=permutations)
    return found._asdict()


def agreement(sample: Sample, truth: Truth, permutations: int = 199) -> dict:
    """{value, expected, p_value}: how little neighbours among the real slices differ in this truth (`neighbour_agreement`)."""
    known = truth.known
    deal = (deal_within if truth.within else deal_people)(truth.units[known])
    groups = sample.people[known] if truth.apart else None
    k = max(1, min(sample.k, int(known.sum()) // 4))
    found = neighbour_agreement(sample.at_real[known], truth.values[known], deal, k, groups=groups, permutations=permutations)
    return found._asdict()


def claims(sample: Sample, permutations: int = 199) -> dict[str, dict]:
    """The test of each panel by its title: {value, expected, p_value, claim, shown}.

    ``shown`` says whether it holds at 5 % shared among all of them (Bonferroni).
    """
    tests = {"real and generated": mixing(sample, permutations)}
    tests |= {truth.name: agreement(sample, truth, permutations) for truth in sample.truths}
    units = {truth.name: truth for truth in sample.truths}
    told = {}
    for name, test in tests.items():
        shown = bool(test["p_value"] < SURE / len(tests))
        told[name] = test | {"shown": shown, "claim": f"{_measured(units.get(name), test)}: {_verdict(name, shown)}."}
    return told


def _measured(truth: Truth | None, test: dict) -> str:
    value, chance, p = test["value"], test["expected"], f"p = {test['p_value']:.3f}"
    if truth is None:
        return f"{value:.0%} of neighbours are of the other kind, {chance:.0%} in one population ({p})"
    if truth.is_name:
        return f"{value:.0%} of neighbours are of another {truth.name}, {chance:.0%} by chance ({p})"
    return f"neighbours differ by {value:.3g} {truth.unit}, {chance:.3g} by chance ({p})"


def _verdict(name: str, shown: bool) -> str:
    if name == "real and generated":
        return "told apart" if shown else "not told apart"
    held = {"level": "", "person": ", within a level"}.get(name, ", levels held equal")
    return f"{'shown' if shown else 'not shown'}{held}"


def panels(sample: Sample, told: dict[str, dict]) -> list[Panel]:
    """One panel for real and generated, one for each truth, its claim under it; values of both kinds of slices [2n]."""
    n, kinds = len(sample.real), np.repeat(["real", "generated"], len(sample.real))
    found = [Panel("real and generated", kinds, told["real and generated"]["claim"], ("real", "generated"))]
    for truth in sample.truths:
        nothing = np.full(n, "") if truth.is_name else np.full(n, np.nan)
        values = np.concatenate([truth.values, nothing if truth.fakes is None else truth.fakes])
        unit = f" ({truth.unit})" if truth.unit not in ("", "levels") else ""
        order = [name for name in truth.order if name in truth.values]
        found.append(Panel(f"{truth.name}{unit}", values, told[truth.name]["claim"], order))
    return found


def reading_rows(sample: Sample) -> list[dict]:
    """The rows of a table: how well each number is read off held-out people, and how its readings on fakes compare.

    Fakes are compared with readings of real slices, not with the truth: a regression draws all readings to the mean. The
    distance is Wasserstein's, in standard deviations of the real readings; the floor that of two halves of the people.
    """
    rows = []
    for truth in sample.truths:
        if truth.read is None:
            continue
        known = truth.known
        far, floor = spread_apart(truth.read, sample.people, truth.fakes)
        r = correlation(truth.read[known], truth.values[known])
        error, spread = np.abs(truth.read - truth.values)[known].mean(), truth.values[known].std()
        rows.append({
            "read": f"{truth.name} ({truth.unit})", "error on held-out people": f"{error:.3g} (spread {spread:.3g}), r = {r:.2f}",
            "mean of real": float(truth.read.mean()), "mean of generated": float(truth.fakes.mean()),
            "apart": f"{far['value']:.2f}", "two halves of the real": f"{floor['value']:.2f} (up to {floor['high']:.2f})",
        })  # fmt: skip
    return rows


def summary(told: dict[str, dict]) -> str:
    """What passed its test, in a few sentences."""
    apart, truths = told["real and generated"], {name: test for name, test in told.items() if name != "real and generated"}
    shown = [name for name, test in truths.items() if test["shown"]]
    silent = [name for name, test in truths.items() if not test["shown"]]
    strongest = min(shown, key=lambda name: truths[name]["value"] / max(truths[name]["expected"], 1e-9), default="")
    text = f"These features know of {', '.join(shown) or 'nothing that was asked'}"
    text += f", of **{strongest}** the most: it is the axis along which slices are ordered." if strongest else "."
    if silent:
        text += f" They do not show {', '.join(silent)}: colours that seem to cluster there are chance."
    if not apart["shown"]:
        return f"{text} Generated and real slices are not told apart by their neighbours."
    share = apart["value"] / apart["expected"]
    where = (
        "in a place of their own"
        if share < 0.25
        else "among real ones in part"
        if share < 0.75
        else "among real ones, less mixed than they should be"
    )
    return f"{text} Generated slices lie **{where}**: they have {share:.0%} of the real neighbours that one population would give them."
