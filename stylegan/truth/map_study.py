"""Maps in many settings, with the controls that say whether their tests can be believed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from stylegan.checkpoint import load_generator
from stylegan.config import Config
from stylegan.dataset import SliceDataset, load_slices
from stylegan.files import cache_folder
from stylegan.networks import Generator, pick_device
from stylegan.predict import generate
from stylegan.scores.features import features
from stylegan.truth.embedding import deal_people, embed, knn_overlap, neighbour_agreement, neighbour_mixing, trustworthiness
from stylegan.truth.maps import SURE, Sample, choose_rows, claims, take_sample
from stylegan.truth.readers import people_of

SEEDS, NEIGHBOURS = (0, 1, 2, 3, 4), (5, 15, 50, 150)
USUAL = 15  # neighbours of the map that is shown large


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


def setting(about: Mapping) -> tuple:
    """What tells a map from the others."""
    return about["method"], about["mode"], about["n_neighbors"], about["seed"]


def stability(maps: Sequence[Mapping]) -> list[dict]:
    """For each mode and n_neighbors the range over seeds of trustworthiness, overlap and mixing on the map."""
    rows = []
    for method, mode, k in dict.fromkeys((m["method"], m["mode"], m["n_neighbors"]) for m in maps):
        own = [m for m in maps if (m["method"], m["mode"], m["n_neighbors"]) == (method, mode, k)]
        ranges = {name: [m[name] for m in own] for name in ("trustworthiness", "overlap", "mixing")}
        shown = {name: f"{min(x):.2f} to {max(x):.2f}" if len(x) > 1 else f"{x[0]:.2f}" for name, x in ranges.items()}
        rows.append({"map": f"{method}, {mode}", "n_neighbors": k if method == "umap" else "", "seeds": len(own), **shown})
    return rows
