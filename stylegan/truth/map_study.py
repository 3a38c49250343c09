"""Maps in many settings, with the controls that say whether their tests can be believed: what `python -m stylegan embed` writes."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from stylegan import charts
from stylegan.cache import cache_folder, replacing, write_json
from stylegan.checkpoint import load_generator
from stylegan.config import Config
from stylegan.dataset import SliceDataset, load_slices
from stylegan.networks import Generator, pick_device
from stylegan.plots import Figure
from stylegan.predict import generate
from stylegan.samples import NOTICE
from stylegan.scoring.features import features
from stylegan.truth import map_charts
from stylegan.truth.embedding import deal_people, embed, knn_overlap, neighbour_agreement, neighbour_mixing, trustworthiness
from stylegan.truth.map_charts import Panel
from stylegan.truth.maps import SURE, Sample, choose_rows, claims, panels, take_sample
from stylegan.truth.readers import people_of

SEEDS, NEIGHBOURS = (0, 1, 2, 3, 4), (5, 15, 50, 150)
USUAL = 15  # neighbours of the map that is shown large
LEGEND = "Circles: real slices, as known or measured. Triangles: generated ones, as read or asked for. Faint: unknown."
PRIVATE = ("age", "nWBV")  # what a table tells of a person stays with the table


# --- One map --------------------------------------------------------------------------------------------------------------


def draw(
    sample: Sample, method: str = "umap", mode: str = "joint", n_neighbors: int = USUAL, seed: int = 0
) -> tuple[dict, np.ndarray]:
    """({method, mode, n_neighbors, seed, trustworthiness, overlap, mixing}, coordinates [2n, 2]) of one map.

    ``mixing`` is the share of neighbours *on the map* that are of the other kind: beside that in feature space it says
    whether the map distorts the answer.
    """
    n_neighbors, n = min(n_neighbors, len(sample.real) // 2), len(sample.real)
    coords = embed(sample.at_real, sample.at_fake, method, n_neighbors=n_neighbors, seed=seed, mode=mode)
    near = min(USUAL, n // 2)
    on_map = neighbour_mixing(coords[:n], coords[n:], sample.k, real_groups=sample.people, permutations=1).value
    about = {"method": method, "mode": mode, "n_neighbors": n_neighbors, "seed": seed}
    about |= {"trustworthiness": trustworthiness(sample.both, coords, near), "overlap": knn_overlap(sample.both, coords, near)}
    return about | {"mixing": on_map}, coords


# --- Controls -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Control:
    """Two sets of which it is known beforehand whether they differ."""

    name: str
    test: Mapping  # {value, expected, p_value}
    differ: bool  # whether they must be told apart
    sets: tuple[np.ndarray, np.ndarray] | None = None  # features [n, D] each, to be drawn
    labels: tuple[str, str] = ("", "")

    @property
    def passed(self) -> bool:
        return (self.test["p_value"] <= SURE) == self.differ

    @property
    def claim(self) -> str:
        found = f"{self.test['value']:.0%} of neighbours are of another kind, {self.test['expected']:.0%} by chance"
        words = "must be told apart" if self.differ else "must not be told apart"
        return f"{found} (p = {self.test['p_value']:.3f}): {words}, {'and is' if self.passed == self.differ else 'and is not'}."


def controls(
    sample: Sample,
    slices: SliceDataset,
    weak: Generator,
    weak_name: str = "an untrained generator",
    *,
    device: str | torch.device = "cpu",
    cache_dir: str | Path | None = None,
    permutations: int = 199,
) -> list[Control]:
    """Shuffled names, shuffled classes, held-out against training people, and a generator known to be weak.

    Only the last must be told apart. A test at 5 % fails one run in twenty where nothing is wrong.
    """
    rng, n = np.random.default_rng(0), len(sample.real)

    def test(a: np.ndarray, b: np.ndarray, **groups: np.ndarray) -> dict:
        return neighbour_mixing(a, b, sample.k, permutations=permutations, **groups)._asdict()

    order = rng.permutation(2 * n)
    dealt = sample.both[order[:n]], sample.both[order[n:]]
    found = [Control("names of real and generated shuffled", test(*dealt), False, dealt, ("first half", "second half"))]
    found += _shuffled_classes(sample, rng, permutations)
    train = slices.select(choose_rows(slices, slices.splits == "train", n))
    train = train.select(np.sort(rng.choice(len(train), min(n, len(train)), replace=False)))
    at_train = features(train.images, sample.space, device=device, cache_dir=cache_folder(cache_dir))
    own = sample.at_real[np.sort(rng.choice(n, len(train), replace=False))] if len(train) < n else sample.at_real
    people = {"real_groups": sample.people, "fake_groups": people_of(train)}
    found.append(
        Control(
            "held-out and training people",
            test(sample.at_real, at_train, **people),
            False,
            (own, at_train),
            ("held-out", "training"),
        )
    )
    at_weak = features(generate(weak, range(n)), sample.space, device=device)
    apart = test(sample.at_real, at_weak, real_groups=sample.people)
    return [*found, Control(f"real and {weak_name}", apart, True, (sample.at_real, at_weak), ("real", weak_name))]


def _shuffled_classes(sample: Sample, rng: np.random.Generator, permutations: int) -> list[Control]:
    truth = next((truth for truth in sample.truths if truth.name == "class"), None)
    if truth is None:
        return []
    deal = deal_people(sample.people)
    at, dealt = sample.at_real, deal(truth.values, rng)
    found = neighbour_agreement(at, dealt, deal, sample.k, groups=sample.people, permutations=permutations)
    return [Control("classes dealt anew to people", found._asdict(), False)]


def untrained(info: Mapping, seed: int = 0) -> Generator:
    """A generator of the same architecture that has learnt nothing; the random numbers of others are left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Generator(Config.from_dict(info["config"])).eval().requires_grad_(False)


# --- All settings ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Study:
    """What `study` found: numbers for JSON, and the coordinates that its figures draw."""

    result: dict
    sample: Sample
    coords: dict[tuple, np.ndarray]  # (method, mode, n_neighbors, seed) -> [2n, 2]
    controls: list[Control]


def study(
    path: str | Path,
    data: SliceDataset | str | Path | None = None,
    *,
    num: int = 400,
    seeds: Sequence[int] = SEEDS,
    neighbours: Sequence[int] = NEIGHBOURS,
    early: str | Path | None = None,
    space: str = "efficientnet-lite0",
    device: str = "auto",
    cache_dir: str | Path | None = None,
    permutations: int = 999,
) -> Study:
    """Maps of held-out and generated slices: joint and fit-real, all ``neighbours`` x ``seeds``, PCA; claims and controls.

    ``data``: a data set, a folder or .zip, or the simulated slices. ``num``: slices of each kind at most. ``early``: a
    generator known to be weak, such as an early one of the same run; by default an untrained one. Raises ValueError where
    nobody is held out, and as `load_generator`.
    """
    begin = time.perf_counter()
    device = str(pick_device(device))
    G, info = load_generator(path, device)
    slices = (
        data if isinstance(data, SliceDataset) else load_slices(data, info["config"]["img_resolution"], cache_dir=cache_dir)
    )
    weak, weak_name = _weak(info, early, device)
    sample = take_sample(G, info, slices, num, space=space, device=device, cache_dir=cache_dir)
    possible = dict.fromkeys(min(k, len(sample.real) // 2) for k in neighbours)  # of few slices fewer settings are left
    settings = [("umap", mode, k, seed) for mode in ("joint", "fit-real") for k in possible for seed in seeds]
    drawn = [draw(sample, *one) for one in [*settings, ("pca", "joint", USUAL, 0), ("pca", "fit-real", USUAL, 0)]]
    found = controls(sample, slices, weak, weak_name, device=device, cache_dir=cache_dir, permutations=permutations)
    result = {
        "feature_space": space,
        "n": len(sample.real),
        "people": len(set(sample.people)),
        "k": sample.k,
        "model_hash": info.get("model_hash", ""),
        "data": {"title": slices.title, "layout": slices.layout, "key": slices.key},
        "claims": claims(sample, permutations),
        "maps": [about for about, _ in drawn],
        "controls": [{"name": c.name, **c.test, "differ": c.differ, "passed": c.passed, "claim": c.claim} for c in found],
        "seconds": round(time.perf_counter() - begin, 1),
    }
    return Study(result, sample, {setting(about): coords for about, coords in drawn}, found)


def _weak(info: Mapping, early: str | Path | None, device: str) -> tuple[Generator, str]:
    if early is None:
        return untrained(info), "an untrained generator"
    G, about = load_generator(early, device)
    return G, f"a generator of {about.get('cur_nimg', 0) / 1000:.0f} kimg"


def stability(maps: Sequence[Mapping]) -> list[dict]:
    """For each mode and n_neighbors the range over seeds of trustworthiness, overlap and mixing on the map."""
    rows = []
    for method, mode, k in dict.fromkeys((m["method"], m["mode"], m["n_neighbors"]) for m in maps):
        own = [m for m in maps if (m["method"], m["mode"], m["n_neighbors"]) == (method, mode, k)]
        ranges = {name: [m[name] for m in own] for name in ("trustworthiness", "overlap", "mixing")}
        shown = {name: f"{min(x):.2f} to {max(x):.2f}" if len(x) > 1 else f"{x[0]:.2f}" for name, x in ranges.items()}
        rows.append({"map": f"{method}, {mode}", "n_neighbors": k if method == "umap" else "", "seeds": len(own), **shown})
    return rows


# --- Written down ---------------------------------------------------------------------------------------------------------


def write_study(found: Study, out: str | Path) -> list[Path]:
    """Write embedding.json, embedding.csv and the figures into the folder; returns the paths."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "embedding.json", found.result)
    write_coordinates(out / "embedding.csv", _shown(found), found.sample)
    figures = {
        "maps.png": truth_maps(found.sample, found.result, _joint(found)),
        "fits.png": fits(found),
        "seeds.png": seeds(found),
        "controls.png": control_maps(found.controls),
        "thumbnails.png": thumbnails(found.sample, _joint(found)),
    }
    about = {"Description": f"Maps of real and of generated slices. {NOTICE}", "model_hash": found.result["model_hash"]}
    for name, figure in figures.items():
        figure.savefig(out / name, metadata=about)
    return [out / name for name in ("embedding.json", "embedding.csv", *figures)]


def _shown(found: Study) -> dict[tuple, np.ndarray]:
    """The maps that are shown large: of each method and mode the one nearest to the usual number of neighbours, first seed."""
    kinds = dict.fromkeys(key[:2] for key in found.coords)
    keys = [
        min((key for key in found.coords if key[:2] == kind), key=lambda key: (abs(key[2] - USUAL), key[3])) for kind in kinds
    ]
    return {key: found.coords[key] for key in keys}


def _joint(found: Study) -> np.ndarray:
    return next(coords for key, coords in _shown(found).items() if key[:2] == ("umap", "joint"))


def truth_maps(sample: Sample, result: Mapping, coords: np.ndarray) -> Figure:
    """One map in the colours of each truth, what its test found under each."""
    drawn = panels(sample, result["claims"])
    return map_charts.sheet([coords] * len(drawn), [sample.is_fake] * len(drawn), drawn, title=LEGEND)


FITS = {
    ("umap", "joint"): "UMAP fitted to both",
    ("umap", "fit-real"): "UMAP of real slices, generated placed in it",
    ("pca", "joint"): "PCA of both",
    ("pca", "fit-real"): "PCA of real slices, generated placed in it",
}


def fits(found: Study) -> Figure:
    """Joint UMAP, UMAP fitted to the real slices, and PCA in both ways, in the colours of real and generated."""
    shown, true = _shown(found), found.result["claims"]["real and generated"]["value"]
    kinds, drawn = np.where(found.sample.is_fake, "generated", "real"), []
    numbers = {setting(about): about for about in found.result["maps"]}
    for key in shown:
        claim = f"of the other kind: {numbers[key]['mixing']:.0%} of neighbours on the map, {true:.0%} in feature space; "
        claim += f"trust {numbers[key]['trustworthiness']:.2f}, overlap {numbers[key]['overlap']:.2f}"
        drawn.append(Panel(FITS[key[:2]], kinds, claim, ("real", "generated")))
    return map_charts.sheet(list(shown.values()), [found.sample.is_fake] * len(shown), drawn, columns=2)


def setting(about: Mapping) -> tuple:
    """What tells a map from the others."""
    return about["method"], about["mode"], about["n_neighbors"], about["seed"]


def seeds(found: Study) -> Figure:
    """The joint map with every n_neighbors and seed."""
    maps = [about for about in found.result["maps"] if (about["method"], about["mode"]) == ("umap", "joint")]
    return map_charts.seed_grid(maps, [found.coords[setting(about)] for about in maps], found.sample.is_fake)


def control_maps(found: Sequence[Control], n_neighbors: int = USUAL) -> Figure:
    """A joint UMAP of the two sets of each control that has two, its test under it."""
    shown = [control for control in found if control.sets is not None]
    maps, second, drawn = [], [], []
    for control in shown:
        a, b = control.sets
        n = min(len(a), len(b))
        maps.append(embed(a[:n], b[:n], n_neighbors=min(n_neighbors, n // 2)))
        second.append(np.arange(2 * n) >= n)
        drawn.append(Panel(control.name, np.repeat(control.labels, n), control.claim, control.labels))
    return map_charts.sheet(maps, second, drawn)


def thumbnails(sample: Sample, coords: np.ndarray) -> Figure:
    """The slices themselves on the map, each far below its own size."""
    shown, figure = np.concatenate([sample.real.images, sample.fakes]), Figure(6.6, 6.8, layout="constrained")
    title = "the slices themselves, real and generated, on the joint map"
    return charts.thumbnails(coords, shown, cells=24, title=title, axes=figure.add_subplot())


def write_coordinates(path: Path, coords: Mapping[tuple, np.ndarray], sample: Sample) -> None:
    """One line for each map and slice: method, mode, n_neighbors, seed, x, y, kind, subject, and its truths; as read for generated ones."""
    told = {truth.name: truth for truth in sample.truths if truth.name not in ("person", *PRIVATE)}
    subjects = [*sample.people, *(f"seed {i}" for i in range(len(sample.fakes)))]
    columns = [[*_cells(t.values, len(sample.real)), *_cells(t.fakes, len(sample.fakes))] for t in told.values()]
    slices = list(zip(np.where(sample.is_fake, "generated", "real"), subjects, *columns, strict=True))
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(("method", "mode", "n_neighbors", "seed", "x", "y", "kind", "subject", *told))
        for setting, points in coords.items():
            writer.writerows((*setting, f"{x:.4f}", f"{y:.4f}", *about) for (x, y), about in zip(points, slices, strict=True))


def _cells(values: np.ndarray | None, n: int) -> list[str]:
    if values is None:
        return [""] * n
    if values.dtype.kind not in "if":
        return values.tolist()
    return [f"{value:.5g}" if np.isfinite(value) else "" for value in values]
