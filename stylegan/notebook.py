"""What the notebooks share: where their run is and what is missing in it, sentences with numbers, and the last section."""

from __future__ import annotations

import base64
import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from stylegan.checkpoint import load_generator
from stylegan.config import Config, make_config
from stylegan.dataset import SliceDataset, load_slices
from stylegan.files import checkout
from stylegan.networks import Generator, pick_device
from stylegan.run import read_metrics, read_settings, train_run
from stylegan.scores.evaluate import validation_scorer
from stylegan.scores.findings import markdown_table


@dataclass(frozen=True)
class Run:
    """A trained run with all that notebooks 03 to 05 read from it."""

    folder: Path
    config: Config
    history: list[dict]  # lines of metrics.jsonl
    G: Generator
    info: dict  # as of `load_generator`
    slices: SliceDataset


MOUNT = Path("/content/drive")  # where Colab shows a Drive


def home() -> Path | None:
    """The one folder that keeps slices and runs, named as DRIVE in the set-up cell; on Colab a folder of the Drive. None without."""
    named = os.environ.get("STYLEGAN_DRIVE", "")
    if not named:
        return None
    if "google.colab" not in sys.modules:
        return Path(named).expanduser()
    if not (MOUNT / "MyDrive").is_dir():
        from google.colab import drive

        drive.mount(str(MOUNT))  # asks the user
    folder = MOUNT / "MyDrive" / named
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def home_slices(given: str | Path | None = None) -> Path | None:
    """``given``, else the slices in the home folder: its one .zip or its folder `slices`. None: the simulated slices.

    Raises ValueError where there are several.
    """
    folder = home() if given is None else None
    if folder is None:
        return None if given is None else Path(given)
    found = [path for path in (folder / "slices", *sorted(folder.glob("*.zip"))) if path.exists()]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ValueError(f"{folder} holds {names}; keep one of them there, or name the slices with data = ...")
    if not found:
        print(f"There are no slices in {folder} (slices.zip, or a folder slices): the simulated ones are taken.")
    return found[0] if found else None


def run_folder(run_dir: str | Path | None = None, preset: str = "quick", data: str | Path | None = None) -> Path:
    """``run_dir``, by default ``runs/<preset>`` of the home folder or checkout, ``runs/<preset>-<name of the data>`` for own slices."""
    if run_dir is not None:
        return Path(run_dir)
    return (home() or checkout()) / "runs" / (preset if data is None else f"{preset}-{Path(data).resolve().stem}")


def run_data(folder: str | Path, data: str | Path | None = None) -> Path | None:
    """``data``, by default what the run was trained on, before there is a run what lies in the home folder; None: the simulated slices."""
    known = read_settings(folder) if data is None else None
    recorded = known["data"].get("path") if known else home_slices(data)
    if recorded is None:
        return None
    beside = checkout() / recorded  # a relative path counts from where the run was started, mostly the checkout
    return beside if not Path(recorded).exists() and beside.exists() else Path(recorded)


def run_slices(folder: str | Path, data: str | Path | None, resolution: int) -> SliceDataset:
    """The slices of a run, taken with the table of subjects and the levels that it was trained with."""
    return load_slices(run_data(folder, data), resolution, **_taken_with(folder))


def _taken_with(folder: str | Path) -> dict[str, str]:
    known = (read_settings(folder) or {"data": {}})["data"]
    return {name: known[name] for name in ("subjects_csv", "levels") if name in known}


def plan(folder: str | Path, preset: str, **changes: object) -> Config:
    """The config of the run that lies there, else the preset's; of ``changes`` those that are not None are made."""
    changes = {name: value for name, value in changes.items() if value is not None}
    known = read_settings(folder)
    return make_config(preset, **changes) if known is None else replace(Config.from_dict(known["config"]), **changes)


def train_or_load(config: Config, data: str | Path | None, folder: str | Path) -> list[dict]:
    """Train, go on, or leave a finished run alone; returns the lines of its metrics. Errors as of `train_run`."""
    folder = Path(folder)
    history = read_metrics(folder) if (folder / "metrics.jsonl").is_file() else []
    known = read_settings(folder)
    if known and history and history[-1]["kimg"] >= config.total_kimg and (folder / "generator.safetensors").is_file():
        _refuse_other_slices(folder, known["data"], run_slices(folder, data, config.img_resolution))
        print(f"This run is finished ({history[-1]['kimg']:g} kimg): nothing to train.")
        return history
    train_run(config, data, folder, **_taken_with(folder), scorer=validation_scorer)
    return read_metrics(folder)


def open_run(run_dir: str | Path | None = None, preset: str = "quick", data: str | Path | None = None) -> Run:
    """The run in its folder, its best generator, and its slices.

    FileNotFoundError says what to run first; ValueError, that a file is damaged or that the slices are not those of the run.
    """
    folder = run_folder(run_dir, preset, data)
    if not (folder / "generator.safetensors").is_file():
        given = "" if data is None else f" --data {data}"
        raise FileNotFoundError(
            f"There is no trained generator in {folder}; run notebook 02_train first, or "
            f"python -m stylegan train --preset {preset}{given} --run-dir {folder}."
        )
    try:
        G, info = load_generator(folder, pick_device())
    except ValueError as error:
        raise ValueError(f"{error} Copy the run folder again, or run notebook 02_train with a new run_dir.") from error
    config = Config.from_dict(info["config"])
    slices = run_slices(folder, data, config.img_resolution)
    _refuse_other_slices(folder, info["data"], slices)
    history = read_metrics(folder)
    if not history:
        raise ValueError(
            f"{folder / 'metrics.jsonl'} holds no whole line; copy the run folder again, or run notebook 02_train."
        )
    return Run(folder, config, history, G, info, slices)


def _refuse_other_slices(folder: Path, known: Mapping, slices: SliceDataset) -> None:
    """A run is told with the slices it was made from: with others, its people would no longer be the held-out ones."""
    if known.get("key") != slices.key:
        raise ValueError(
            f"The run in {folder} was trained on {known.get('title')}, and these are {slices.title}, or its files have changed; "
            "leave data = None, or name another run_dir."
        )


def time_lapse(folder: str | Path, resolution: int, count: int = 8) -> tuple[list[float], np.ndarray]:
    """(kimg, uint8 [t, 24, R, R]): the sample grids of at most ``count`` ticks, evenly over the run, the same z in each."""
    files = sorted((Path(folder) / "samples").glob("fakes*.png"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no sample grids; train there first.")
    files = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, count).round().astype(int))]
    sheets = np.stack([np.asarray(Image.open(path, formats=("PNG",)).convert("L")) for path in files])  # [t, rows R, columns R]
    rows, columns = (side // resolution for side in sheets.shape[1:])
    tiles = sheets.reshape(len(files), rows, resolution, columns, resolution).swapaxes(2, 3)
    return [int(path.stem[5:]) / 1000 for path in files], tiles.reshape(len(files), -1, resolution, resolution)


# --- Text and pictures --------------------------------------------------------------------------------------------------


def tell(text: str) -> None:
    """Show a sentence with numbers in it as Markdown; HTML in it, as in the name of a strange folder, is shown as text."""
    from IPython.display import Markdown, display

    display(Markdown(re.sub(r"(`[^`]*`)|<", lambda found: found[1] or r"\<", text)))  # code spans show all as it is


def picture(path: Path, alt: str) -> None:
    """Show a PNG file with its alt text, which ``Image`` of Colab's IPython 7 does not take."""
    from IPython.display import display

    data = {"image/png": base64.b64encode(path.read_bytes()).decode(), "text/plain": alt}
    display(data, metadata={"image/png": {"alt": alt}}, raw=True)


def table(rows: Sequence[Mapping[str, object]] | Mapping[str, object]) -> None:
    """Show rows, or the pairs of one mapping, as a table."""
    if isinstance(rows, Mapping):
        rows = [{"": f"**{name}**", " ": value} for name, value in rows.items()]
    tell(markdown_table(rows))


def closing(slices: SliceDataset, run: Run | None = None, **further: object) -> None:
    """Show what it takes to get these numbers again: data, model, seed, device, versions."""
    found = {"Data": slices.title, "Key of the data": f"`{slices.key[:16]}`"}
    if run is not None:
        trained = f"{run.info['cur_nimg'] / 1000:g} kimg, preset {run.config.preset}, seed {run.config.seed}"
        found |= {"Generator": f"`{run.info['model_hash']}` ({trained})"}
    table({**found, **further, **machine()})


def machine() -> dict[str, str]:
    """The device, and the versions of what computes the numbers."""
    names = ("stylegan", "torch", "numpy", "scikit-learn", "umap-learn")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    threads = torch.get_num_threads()
    device = f"{pick_device()}, {threads} thread{'s'[: threads != 1]}, {platform.system()} {platform.machine()}"
    return {"Device": device, "Versions": f"Python {platform.python_version()}, {versions}"}
