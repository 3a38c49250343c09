"""Slices with labels as people have them, and notebooks run in this process: a report at tiny size in seconds."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
from PIL import Image

from stylegan import notebook
from stylegan.data import simulate as atlas
from stylegan.reporting.execute import set_parameters

ROOT = Path(__file__).parents[1]

# A situation -> its class folders, the people in each, the slices of each person.
SITUATIONS = {
    "no class": {"classes": ("",), "people": 16},
    "one class": {"classes": ("AD",), "people": 16},
    "two classes": {"classes": ("AD", "NC"), "people": 8},
    "four classes": {"classes": ("NonDemented", "VeryMildDemented", "MildDemented", "ModerateDemented"), "people": 6},
    "people unknown": {"classes": ("",), "people": 16, "named": False},
    "one slice a person": {"classes": ("AD", "NC"), "people": 24, "levels": 1},
    "fewer than 8 held-out slices": {"classes": ("AD", "NC"), "people": 6, "levels": 1},
    "no validation people": {"classes": ("AD", "NC"), "people": 2, "levels": 8},
}


def write_slices(folder: Path, classes: tuple[str, ...], people: int, levels: int = 4, named: bool = True) -> Path:
    """Simulated slices of 16 px as files, so many people in the folder of each class."""
    count = len(classes) * people
    found = atlas.simulate(num_subjects=count, num_levels=levels, resolution=16)
    numbers = {subject: k for k, subject in enumerate(dict.fromkeys(found.subjects.tolist()))}
    for k, (image, subject, level) in enumerate(zip(found.images, found.subjects, found.levels, strict=True)):
        name = f"{subject}_slice_{level}.png" if named else f"picture{k}.png"
        path = folder / classes[numbers[subject] // people] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


TINY = {"img_resolution": 16, "channel_base": 128, "channel_max": 16, "total_kimg": 0.032, "tick_kimg": 0.016, "kid_ticks": 1, "kid_samples": 16,
        "max_minutes": 0.0, "device": "cpu", "precision": "fp32"}  # fmt: skip


def train_tiny(preset: str, data: Path, run: Path) -> None:
    """Train a preset of tiny networks for a few steps, planned as notebook 02 does."""
    config = notebook.plan(run, preset, data, **TINY, **_tiny(preset))
    notebook.train_or_load(config, data, run)


def _tiny(preset: str) -> dict:
    from stylegan.config import make_config

    config = make_config(preset)
    sizes = {"z_dim": 16, "w_dim": 16, "mapping_layers": min(2, config.mapping_layers), "batch_size": 8}
    growing = {"grow_from": 8, "grow_kimg": 0.008, "fade_kimg": 0.016, "grow_batch_max": 8} if config.grow_from else {}
    return sizes | growing | ({"attention": "8"} if config.attention != "none" else {})


def run_cells(name: str, times: int = 1, **parameters: object) -> dict:
    """All code cells of a notebook after the set-up, in this process, each so many times; what it has in the end."""
    from IPython.display import display

    read = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    set_parameters(read, {key: str(value) if isinstance(value, Path) else value for key, value in parameters.items()})
    found = {"display": display, "os": os}  # as the set-up cell leaves it
    for cell in read.cells:
        if cell.cell_type == "code" and not cell.id.endswith("-set-up"):
            for _ in range(1 if "parameters" in cell.metadata.get("tags", []) else times):
                exec(compile(cell.source, cell.id, "exec"), found)
    return found
