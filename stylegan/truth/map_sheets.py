"""What `python -m stylegan embed` writes of a study of maps: its numbers, its coordinates and its sheets."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from stylegan import charts
from stylegan.files import replacing, write_json
from stylegan.plots import Figure
from stylegan.samples import NOTICE
from stylegan.truth import map_charts
from stylegan.truth.embedding import embed
from stylegan.truth.map_charts import Panel
from stylegan.truth.map_study import USUAL, Control, Study, setting
from stylegan.truth.maps import Sample, panels

LEGEND = "Circles: real slices, as known or measured. Triangles: generated ones, as read or asked for. Faint: unknown."
PRIVATE = ("age", "nWBV")  # what a table tells of a person stays with the table


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
