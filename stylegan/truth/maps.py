"""Everything a map of real and generated slices may claim, each claim tested in feature space, each test with its control.

Colours are ground truth: known from the data set or measured in the pixels of real slices; for generated slices the class
asked for, and what readers of real people (`readers.py`) see in them.
"""

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas
from sklearn.manifold import trustworthiness

from stylegan import charts, plots
from stylegan.charts import Panel
from stylegan.data.subjects import people_of
from stylegan.dataset import SliceDataset
from stylegan.files import replacing, write_json
from stylegan.scores.evidence import Evidence, open_evidence
from stylegan.scores.intervals import Chance
from stylegan.scores.metrics import Side
from stylegan.truth import embedding
from stylegan.truth.embedding import LEAST, POWER, SURE, Control, choose_rows, embed, neighbour_agreement, neighbour_mixing
from stylegan.truth.readers import Truth, correlation, spread_apart, truths_of

SEEDS, NEIGHBOURS, USUAL = (0, 1, 2, 3, 4), (5, 15, 50, 150), 15  # of all maps; neighbours of the map that is shown large
PRIVATE = ("age", "nWBV")  # what a table knows of a person stays with the table
LEGEND = "Circles: real slices, as known or measured. Triangles: generated ones, as read or asked for. Faint: unknown, or not named here."
PERMUTATIONS = 999  # of each test in a study
KINDS, QUALITIES = ("real", "generated"), ["trustworthiness", "overlap", "mixing"]
Map = tuple[dict, np.ndarray]  # ({method, mode, n_neighbors, seed, ...}, coordinates [2n, 2]), as returned by `draw`


@dataclass(frozen=True)
class Sample:
    """Equally many real and generated slices, and what is true of them."""

    evidence: Evidence
    real: SliceDataset  # by person and level, the same levels of everybody where these are known
    people: np.ndarray  # str [n], of the real ones
    at_real: np.ndarray  # float32 [n, D], their features
    made: Side  # the generated ones, psi = 1
    truths: tuple[Truth, ...]
    note: str = ""  # what is not as it should be

    @property
    def kinds(self) -> np.ndarray:
        """'real' n times, then 'generated' n times."""
        return np.repeat(KINDS, len(self.real))

    @cached_property
    def same_levels(self) -> bool:
        """Whether everybody's slices show the same levels, so that people can be exchanged with the level held equal."""
        rows = [sorted(self.real.levels[self.people == name].tolist()) for name in np.unique(self.people)]
        return rows[0][0] >= 0 and rows.count(rows[0]) == len(rows)

    @property
    def k(self) -> int:
        """Neighbours that tests count."""
        return max(1, min(10, len(self.real) // 4))


def take_sample(e: Evidence, most: int = 400) -> Sample:
    """At most ``most`` held-out slices, as many generated ones, and all that is known of both. Where fewer than three are held
    out, training slices stand in, without readers, and `Sample.note` says so. ValueError where there are not three slices."""
    held, pool, note = 0 if e.held is None else len(e.held), e.held, ""
    if held < LEAST:
        pool = e.train or e.slices
        note = f"Only {held} slices are held out: the real ones here were trained on, so nothing of this speaks of new people."
    elif len(set(people_of(e.held))) < 2:
        note = "The held-out slices are of one person: what belongs to people cannot be tested."
    if len(pool) < LEAST:
        raise ValueError(f"A map takes {LEAST} slices or more, and {e.slices.title} has {len(pool)}; give more people.")
    real = pool.select(choose_rows(pool, max(most, LEAST)))
    made, at_real = e.fakes(real), e.features(real.images)
    return Sample(e, real, people_of(real), at_real, made, truths_of(e, real, at_real, made, learn=not note), note)


# --- Claims and their tests -----------------------------------------------------------------------------------------------


def claims(sample: Sample, permutations: int = 199) -> dict[str, dict]:
    """The test of each panel by its title, {value, expected, p_value, shown, people, claim}: `neighbour_mixing` of real and
    generated, `neighbour_agreement` of real slices in each truth; ``shown`` at 5 % shared among all (Bonferroni), None where who is
    who is hidden: neighbours may then be slices of one head, which agree in all that is true of a person."""
    people, draws, found = sample.people, {"permutations": permutations}, {}
    tests = {"real and generated": neighbour_mixing(sample.at_real, sample.made.at, sample.k, real_groups=people, **draws)}
    for truth in sample.truths:
        known = truth.known
        groups, k = people[known] if truth.apart else None, max(1, min(sample.k, int(known.sum()) // 4))
        given = sample.at_real[known], truth.values[known], truth.deal(truth.units[known]), k
        tests[truth.name] = neighbour_agreement(*given, groups=groups, **draws)
    for (name, test), truth in zip(tests.items(), (None, *sample.truths), strict=True):
        hidden = truth is not None and truth.name != "level" and not sample.real.subjects_known
        shown = None if hidden else bool(test.p_value < SURE / len(tests))
        claim = _claim(sample, truth, test, shown)
        found[name] = test._asdict() | {"shown": shown, "people": len(set(people)), "claim": claim}
    return found


def _claim(sample: Sample, truth: Truth | None, test: Chance, shown: bool | None) -> str:
    value, chance, p, people = test.value, test.expected, f"p = {test.p_value:.3f}", len(set(sample.people))
    if truth is None:
        words = "told apart" if shown else "not told apart" if people >= POWER else f"no test of {people} people can tell"
        return f"{value:.0%} of neighbours are of the other kind, {chance:.0%} in one population ({p}): {words}."
    within = {"level": "", "person": ", within a level"}.get(truth.name, ", levels held equal")
    if not (sample.real.levels.max() >= 0 if truth.name in ("level", "person") else sample.same_levels):
        within = ", levels not held equal"
    words = f"({p}): {'shown' if shown else 'not shown'}{within}."
    if shown is None:
        words = "if slices were people; who is who is hidden: no test."
    if truth.is_name:
        return f"{value:.0%} of neighbours are of another {truth.name}, {chance:.0%} by chance {words}"
    return f"neighbours differ by {value:.3g} {truth.unit}, {chance:.3g} by chance {words}"


def summary(told: dict[str, dict]) -> str:
    """What passed its test, in a few sentences."""
    apart, truths = told["real and generated"], {name: test for name, test in told.items() if name != "real and generated"}
    shown, silent, hidden = (
        [name for name, test in truths.items() if test["shown"] is wanted] for wanted in (True, False, None)
    )
    most = min(
        shown, key=lambda name: truths[name]["value"] / max(truths[name]["expected"], 1e-9), default="nothing that was asked"
    )
    text = f"These features know of {', '.join([f'**{most}**', *(name for name in shown if name != most)])}"
    text += f", of {most} the most" if len(shown) > 1 else ""
    if silent:
        text += f". They do not show {', '.join(silent)} (p of {SURE / len(told):.2g} or more): colours that seem to cluster there may be chance"
    if hidden:
        text += f". Of {', '.join(hidden)} nothing can be said, as who is who is hidden"
    if not apart["shown"] and apart["people"] < POWER:
        return f"{text}. Whether generated and real slices are told apart cannot be tested with {apart['people']} people."
    if not apart["shown"]:
        return f"{text}. Generated and real slices are not told apart by their neighbours."
    share, where = apart["value"] / apart["expected"], "among real ones, less mixed than they should be"
    if share < 0.75:
        where = "in a place of their own" if share < 0.25 else "among real ones in part"
    text += f". Generated slices lie **{where}**: they have {share:.0%} of the real neighbours"
    return f"{text} that one population would give them."


def reading_rows(sample: Sample) -> list[dict]:
    """The rows of a table: how well each number is read off held-out people, and how its readings on fakes compare (`spread_apart`)."""
    rows = []
    for truth in (truth for truth in sample.truths if truth.read is not None):
        far, floor = spread_apart(truth.read, sample.people, truth.fakes)
        read, values = truth.read[truth.known], truth.values[truth.known]
        error = f"{np.abs(read - values).mean():.3g} (spread {values.std():.3g}), r = {correlation(read, values):.2f}"
        rows.append({
            "read": f"{truth.name} ({truth.unit})", "error on held-out people": error,
            "mean of real": float(truth.read.mean()), "mean of generated": float(truth.fakes.mean()),
            "apart": f"{far['value']:.2f}", "two halves of the real": f"{floor['value']:.2f} (up to {floor['high']:.2f})",
        })  # fmt: skip
    return rows


# --- Maps in all settings -------------------------------------------------------------------------------------------------


def draw(sample: Sample, method: str = "umap", mode: str = "joint", n_neighbors: int = USUAL, seed: int = 0) -> Map:
    """({method, mode, n_neighbors, seed, trustworthiness, overlap, mixing}, coordinates [2n, 2]) of one map.

    ``trustworthiness``: how far neighbours on the map are near in feature space, 1 all, about .5 for a random map (Venna &
    Kaski 2001); ``overlap``: the share of the 15 nearest there that are among the 15 nearest on the map, which forgives no
    near miss (Lee & Verleysen 2009, their Q_NX at one k); ``mixing``: of neighbours *on the map* that are of the other kind.
    """
    n, both = len(sample.real), np.concatenate([sample.at_real, sample.made.at])
    about = {"method": method, "mode": mode, "n_neighbors": _fitting(n_neighbors, n), "seed": seed}
    coords = embed(sample.at_real, sample.made.at, method, n_neighbors=about["n_neighbors"], seed=seed, mode=mode)
    near = min(USUAL, n // 2)
    about["trustworthiness"] = float(trustworthiness(both, coords, n_neighbors=near))
    pairs = zip(*(embedding.neighbours(x, np.arange(2 * n), near) for x in (both, coords)), strict=True)
    about["overlap"] = float(np.mean([len(np.intersect1d(a, b)) for a, b in pairs]) / near)
    about["mixing"] = neighbour_mixing(coords[:n], coords[n:], sample.k, real_groups=sample.people, permutations=1).value
    return about, coords


def _fitting(n_neighbors: int, n: int) -> int:
    """n_neighbors that n slices of a kind admit."""
    return max(2, min(n_neighbors, n // 2))


@dataclass(frozen=True)
class Study:
    """What `study` found: numbers for JSON, and what its figures draw."""

    result: dict
    sample: Sample
    maps: list[Map]
    controls: list[Control]


def study(
    path: str | Path,
    data: SliceDataset | str | Path | None = None,
    *,
    num: int = 400,
    seeds: Sequence[int] = SEEDS,
    neighbours: Sequence[int] = NEIGHBOURS,
    early: str | Path | None = None,
    **options: object,
) -> Study:
    """Maps of held-out and generated slices: joint and fit-real, all ``neighbours`` x ``seeds``, PCA; claims and controls.

    ``data`` and ``options`` as in `open_evidence`. ``num``: slices of each kind at most. ``early``: a generator known to be weak,
    such as an early one of the same run; by default an untrained one. Errors as in `open_evidence` and `take_sample`.
    """
    begin = time.perf_counter()
    e = open_evidence(path, data, **options)
    sample = take_sample(e, num)
    if min(neighbours) < 2:
        raise ValueError(f"A map takes 2 neighbours or more, not {min(neighbours)}.")
    possible = dict.fromkeys(_fitting(k, len(sample.real)) for k in neighbours)  # of few slices fewer settings are left
    settings = [("umap", mode, k, seed) for mode in ("joint", "fit-real") for k in possible for seed in seeds]
    maps = [draw(sample, *one) for one in [*settings, ("pca", "joint", USUAL, 0), ("pca", "fit-real", USUAL, 0)]]
    found = embedding.controls(sample, early, PERMUTATIONS)
    told = [{"name": c.name, **c.test._asdict(), "differ": c.differ, "passed": c.passed, "claim": c.claim} for c in found]
    result = {
        "feature_space": e.space, "n": len(sample.real), "people": len(set(sample.people)), "k": sample.k, "note": sample.note,
        "model_hash": e.info.get("model_hash", ""), "data": e.about, "claims": claims(sample, PERMUTATIONS),
        "maps": [about for about, _ in maps], "controls": told, "seconds": round(time.perf_counter() - begin, 1),
    }  # fmt: skip
    return Study(result, sample, maps, found)


def stability(maps: Sequence[Mapping]) -> list[dict]:
    """For each mode and n_neighbors the range over seeds of trustworthiness, overlap and mixing on the map."""
    rows = []
    for (method, mode, k), own in pandas.DataFrame(maps).groupby(["method", "mode", "n_neighbors"], sort=False):
        low, high = own[QUALITIES].min(), own[QUALITIES].max()
        shown = {name: f"{low[name]:.2f}" + f" to {high[name]:.2f}" * (len(own) > 1) for name in QUALITIES}
        rows.append({"map": f"{method}, {mode}", "n_neighbors": k if method == "umap" else "", "seeds": len(own), **shown})
    return rows


# --- Figures and files ----------------------------------------------------------------------------------------------------


def write_study(found: Study, out: str | Path) -> list[Path]:
    """Write embedding.json, embedding.csv and the figures into the folder; returns the paths."""
    out, sample = Path(out), found.sample
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "embedding.json", found.result)
    usual = _usual(found.maps)
    write_coordinates(out / "embedding.csv", sample, usual)
    joint = usual[0][1]
    figures = {
        "maps.png": truth_maps(sample, found.result["claims"], joint),
        "fits.png": fits(sample, found.maps, found.result["claims"]),
        "seeds.png": seed_maps(sample, found.maps),
        "controls.png": control_maps(found.controls),
        "thumbnails.png": thumbnails(sample, joint),
    }
    shown = "Maps of real people's slices beside generated ones; thumbnails.png shows the slices themselves."
    about = {"Description": f"{shown} Not for diagnosis.", "model_hash": found.result["model_hash"]}
    pictures = [plots.save(out / name, figure, about) for name, figure in figures.items()]
    return [out / "embedding.json", out / "embedding.csv", *pictures]


def _usual(maps: Sequence[Map]) -> list[Map]:
    """Of each method and mode the map nearest to the usual number of neighbours, first seed."""
    kinds = itertools.groupby(maps, key=lambda one: (one[0]["method"], one[0]["mode"]))  # they follow each other
    return [min(own, key=lambda one: (abs(one[0]["n_neighbors"] - USUAL), one[0]["seed"])) for _, own in kinds]


def truth_maps(sample: Sample, told: Mapping[str, dict], coords: np.ndarray) -> plots.Figure:
    """One map in the colours of real and generated and of each truth, what its test found under each."""
    panels = [Panel("real and generated", sample.kinds, told["real and generated"]["claim"], KINDS)]
    for truth in sample.truths:
        title = truth.name + (f" ({truth.unit})" if truth.unit not in ("", "levels") else "")
        order = [name for name in truth.order if name in truth.values][: len(charts.MAP_COLOURS)]  # further names stay faint
        panels.append(Panel(title, np.concatenate([truth.values, truth.fakes]), told[truth.name]["claim"], order))
    return charts.maps([coords] * len(panels), [sample.kinds == KINDS[1]] * len(panels), panels, title=LEGEND)


def fits(sample: Sample, maps: Sequence[Map], told: Mapping[str, dict]) -> plots.Figure:
    """Joint UMAP, UMAP fitted to the real slices, and PCA in both ways, in the colours of real and generated."""
    text = "of the other kind: {mixing:.0%} of neighbours on the map, {true:.0%} in feature space; trust {trustworthiness:.2f}, overlap {overlap:.2f}"
    modes, true = {"joint": "fitted to both", "fit-real": "of real slices, generated placed in it"}, told["real and generated"]
    shown = [(about | {"how": modes[about["mode"]], "true": true["value"]}, coords) for about, coords in _usual(maps)]
    return _kind_maps(sample, shown, ("{method} {how}", text), columns=2)


def seed_maps(sample: Sample, maps: Sequence[Map]) -> plots.Figure:
    """The joint map with every n_neighbors (rows) and seed (columns)."""
    shown = [one for one in maps if (one[0]["method"], one[0]["mode"]) == ("umap", "joint")]
    looks = {"columns": len({about["seed"] for about, _ in shown}), "title": "Blue circles: real; orange triangles: generated."}
    texts = "{n_neighbors} neighbours, seed {seed}", "trust {trustworthiness:.2f}, overlap {overlap:.2f}"
    return _kind_maps(sample, shown, texts, **looks, size=0.6)


def _kind_maps(sample: Sample, maps: Sequence[Map], texts: tuple[str, str], **looks: object) -> plots.Figure:
    """Each map in the colours of real and generated; the texts, its title and claim, are filled in from its numbers."""
    numbers = [about | {"method": about["method"].upper()} for about, _ in maps]
    told = [[text.format(**about) for text in texts] for about in numbers]
    panels = [Panel(title, sample.kinds, claim, KINDS) for title, claim in told]
    return charts.maps([coords for _, coords in maps], [sample.kinds == KINDS[1]] * len(maps), panels, **looks)


def control_maps(found: Sequence[Control]) -> plots.Figure:
    """A joint UMAP of the two sets of each control that has two, its test under it."""
    maps, second, panels = [], [], []
    for control in (control for control in found if control.sets is not None):
        n = min(map(len, control.sets))
        a, b = (x[np.sort(np.random.default_rng(0).choice(len(x), n, replace=False))] for x in control.sets)
        maps.append(embed(a, b, n_neighbors=_fitting(USUAL, n)))
        second.append(np.arange(2 * n) >= n)
        panels.append(Panel(control.name, np.repeat(control.labels, n), control.claim, control.labels))
    return charts.maps(maps, second, panels)


def thumbnails(sample: Sample, coords: np.ndarray) -> plots.Figure:
    """The slices themselves on the map, each far below its own size."""
    images = np.concatenate([sample.real.images, sample.made.images])
    title = "the slices themselves; left edge: blue real, orange generated"
    return charts.thumbnails(coords, images, sample.kinds == KINDS[1], title=title)


def write_coordinates(path: Path, sample: Sample, maps: Sequence[Map]) -> None:
    """One line for each map and slice: method, mode, n_neighbors, seed, x, y, kind, subject, and its truths; as read for generated ones."""
    subjects = [*sample.people, *(f"seed {i}" for i in range(len(sample.real)))]
    slices = pandas.DataFrame({"kind": sample.kinds, "subject": subjects})
    for truth in (truth for truth in sample.truths if truth.name not in ("person", *PRIVATE)):
        cells = [*truth.values.tolist(), *truth.fakes.tolist()]
        slices[truth.name] = [f"{x:.5g}" if isinstance(x, float) and np.isfinite(x) else x for x in cells]
    tables = []
    for about, points in maps:
        setting = {name: about[name] for name in ("method", "mode", "n_neighbors", "seed")}
        tables.append(slices.assign(**setting, x=points[:, 0].round(4), y=points[:, 1].round(4))[[*setting, "x", "y", *slices]])
    with replacing(path) as temporary:
        pandas.concat(tables).to_csv(temporary, index=False, errors="surrogateescape")
