"""What the notebooks share: the run and its slices, the generator that comes with the project, and text, tables and pictures."""

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

from stylegan.checkpoint import load_generator
from stylegan.config import Config, differences, ending, make_config
from stylegan.dataset import SliceDataset, found_again, load_slices, normalised, slices_of
from stylegan.files import checkout, read_json
from stylegan.networks import Generator, pick_device
from stylegan.plots import sample_grids
from stylegan.run import read_metrics, read_settings, train_run
from stylegan.scores.evaluate import validation_scorer

MOUNT = Path("/content/drive")  # where Colab shows a Drive
SHIPPED = "oasis1-stylegan2-64"  # the generator in models/ that notebooks show beside the run


# --- Where things are -------------------------------------------------------------------------------------------------------


def home() -> Path | None:
    """The folder for slices and runs named as DRIVE in the set-up cell, on Colab a folder of the Drive; None where none is named."""
    named = os.environ.get("STYLEGAN_DRIVE")
    if not named or "google.colab" not in sys.modules:
        return Path(os.path.expanduser(named)) if named else None
    if not (MOUNT / "MyDrive").is_dir():
        from google.colab import drive

        drive.mount(str(MOUNT))  # asks the user
    folder = MOUNT / "MyDrive" / named
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def home_slices(data: str | Path | None = None) -> Path | None:
    """``data``, else the .zip or folder ``slices`` of the home folder; None: the simulated slices. ValueError for several."""
    if data is not None or (folder := home()) is None:
        return data and Path(os.path.expanduser(data))
    found = [path for path in (folder / "slices", *sorted(folder.glob("*.zip"))) if path.exists()]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ValueError(f"{folder} holds {names}; keep one of them there, or name the slices with data = ...")
    return found[0] if found else None


def run_folder(run_dir: str | Path | None = None, preset: str = "quick", data: str | Path | None = None) -> Path:
    """``run_dir``, by default ``runs/<preset>`` of the home folder or checkout, ``runs/<preset>-<name of the data>`` for own
    slices. Says on Colab what to set where the folder is lost with the session or where the home folder holds no slices."""
    if run_dir is not None:
        return Path(os.path.expanduser(run_dir))
    folder, data = home(), home_slices(data)
    if folder is None and "google.colab" in sys.modules:
        print("DRIVE in the set-up cell names no folder of your Drive: the run is lost when this session ends.")
    elif folder and data is None:
        print(f"There are no slices in {folder} (slices.zip, or a folder slices): the simulated slices are used.")
    return (folder or checkout()) / "runs" / (preset if data is None else f"{preset}-{data.resolve().stem}")


# --- The run ----------------------------------------------------------------------------------------------------------------


def plan(
    folder: str | Path, preset: str, data: str | Path | None = None, options: Mapping | None = None, **changes: object
) -> Config:
    """The config of the run in the folder, else of the preset, with those of ``changes`` that are not None.

    A new run of a preset with classes takes those of the slices; where there are no two it is planned without, and a sentence
    says so. ``options``: arguments of `load_slices` (subjects_csv, levels, contrast).
    """
    changes = {name: value for name, value in changes.items() if value is not None}
    if known := read_settings(folder):
        return replace(Config.from_dict(known["config"]), **changes)
    config = make_config(preset, **ending(preset, changes))
    if config.conditional == "none":
        return config
    slices = load_slices(home_slices(data), config.img_resolution, **(options or {}))
    if len(set(slices.split("train").labels)) == len(slices.classes) > 1 and (slices.labels >= 0).all():
        return replace(config, c_dim=len(slices.classes))
    tell("Training has no two classes here that all its slices tell, so neither network is told any.")
    return replace(config, conditional="none")


def train_or_load(config: Config, data: str | Path | None, folder: str | Path, options: Mapping | None = None) -> list[dict]:
    """Train, go on, or leave a finished run alone; returns the lines of its metrics. ``data`` and ``options`` as in `plan`; for
    a run that exists, None takes what it was trained with. Raises what `train_run` raises."""
    folder, known = Path(folder), read_settings(folder)
    options = {name: value for name, value in (options or {}).items() if value is not None}
    if known is None:
        data = home_slices(data)
    else:
        history = read_metrics(folder) if (folder / "metrics.jsonl").is_file() else []
        if history and history[-1]["kimg"] >= config.total_kimg and (folder / "generator.safetensors").is_file():
            run_slices(folder, known, data)
            if changed := differences(known["config"], config):
                raise ValueError(f"{folder} was made with another config: {', '.join(changed)}; name another run_dir.")
            print(f"This run is finished ({history[-1]['kimg']:g} kimg): nothing to train.")
            return history
        recorded = known["data"]
        options = {name: recorded[name] for name in ("subjects_csv", "levels", "contrast") if name in recorded} | options
        data = found_again(recorded.get("path")) if data is None else home_slices(data)
    train_run(config, data, folder, scorer=validation_scorer, **options)
    return read_metrics(folder)


def run_slices(folder: Path, known: Mapping, data: str | Path | None = None) -> SliceDataset:
    """The slices of a run, as it saw them. ValueError for other slices: its people would no longer be the held-out ones."""
    slices = slices_of({**known, "config": known["config"] | {"normalise": "fixed"}}, data)
    if known["data"].get("key") != slices.key:
        other = f"was trained on {known['data'].get('title')}, and these are {slices.title}, or its files have changed"
        raise ValueError(f"The run in {folder} {other}; leave data = None, or name another run_dir.")
    return normalised(slices, known["config"].get("normalise", "fixed"))


def first_slices(run_dir: str | Path | None, preset: str, data: str | Path | None = None, **options: object) -> SliceDataset:
    """The slices as they lie in their files: those of the run in the folder, else those that a new run of the preset would see."""
    known = read_settings(run_folder(run_dir, preset, data))
    if known is None:
        return load_slices(home_slices(data), make_config(preset).img_resolution, **options)
    return slices_of({**known, "config": known["config"] | {"normalise": "fixed", "img_channels": 1}}, data, **options)


@dataclass(frozen=True)
class Run:
    """A trained run with all that the notebooks read from it."""

    folder: Path
    config: Config
    history: list[dict]  # lines of metrics.jsonl
    G: Generator
    info: dict  # as returned by `load_generator`
    slices: SliceDataset


def open_run(run_dir: str | Path | None = None, preset: str = "quick", data: str | Path | None = None) -> Run:
    """A run, its best generator, its slices. FileNotFoundError says what to run first, ValueError what is damaged or another's."""
    folder = run_folder(run_dir, preset, data)
    if not (folder / "generator.safetensors").is_file():
        raise FileNotFoundError(f"There is no generator in {folder}; run notebook 02_train first, with the same parameters.")
    try:
        G, info = load_generator(folder, pick_device())
    except ValueError as error:
        raise ValueError(f"{error} Copy the run folder again, or run notebook 02_train with a new run_dir.") from error
    slices = run_slices(folder, info, data)
    if not (history := read_metrics(folder)):
        raise ValueError(f"{folder / 'metrics.jsonl'} holds no whole line; copy the run folder again, or run 02_train.")
    return Run(folder, Config.from_dict(info["config"]), history, G, info, slices)


def time_lapse(folder: str | Path, resolution: int, count: int = 8) -> tuple[list[float], np.ndarray]:
    """(kimg, uint8 [t, 24, R, R]): the sample grids of at most ``count`` ticks, evenly over the run, the same z in each."""
    grids = sample_grids(folder, count)
    sheets = np.stack([np.asarray(sheet.convert("L")) for sheet in grids.values()])  # [t, rows R, columns R]
    rows, columns = (side // resolution for side in sheets.shape[1:])
    tiles = sheets.reshape(len(grids), rows, resolution, columns, resolution).swapaxes(2, 3)
    return list(grids), tiles.reshape(len(grids), -1, resolution, resolution)


# --- The generator that comes with the project --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """The shipped generator and what its card says; nothing of it was computed by the run that shows it."""

    G: Generator
    info: dict  # as returned by `load_generator`
    card: dict  # scores (as returned by `evaluate`), kimg, hours, train_subjects, data, model_hash
    about: str  # what it was trained on, for how long


def reference() -> Reference | None:
    """`SHIPPED` of the checkout with its entry in ``models/metrics.json``; where it is missing None, and a sentence is shown.
    ValueError where the entry is missing or belongs to another generator: scores would stand under the wrong pictures."""
    path = checkout() / "models" / f"{SHIPPED}.safetensors"
    if not path.is_file():
        tell(f"There is no `models/{path.name}` here; clone the repository to see the shipped generator.")
        return None
    G, info = load_generator(path, pick_device())
    card = (read_json(path.with_name("metrics.json")) or {}).get(SHIPPED, {})
    if card.get("model_hash") != info["model_hash"]:
        known = f"describes {card.get('model_hash', 'nothing of it')}, and the generator is {info['model_hash']}"
        raise ValueError(f"metrics.json beside {path.name} {known}; download both files again.")
    took = f"{card['hours']:.1f} hours" if card["hours"] >= 1 else f"{60 * card['hours']:.1f} minutes"
    saw = f"saw {card['kimg']:,.0f} kimg of {card['train_subjects']} subjects in {took}"
    data = f"Data: {card['data']}; scored on {card['scores']['feature_space']} features."
    return Reference(G, info, card, f"The shipped generator `{info['model_hash']}` {saw}. {data}")


def written(what: str, folder: str = "oasis64") -> tuple[dict, Path] | None:
    """(numbers, folder) that the command ``what`` wrote about a shipped generator in ``figures/<folder>/<what>``; None without them."""
    place = checkout() / "figures" / folder / what
    found = read_json(place / f"{what}.json")
    return None if found is None else (found, place)


# --- Text and pictures --------------------------------------------------------------------------------------------------------


def tell(text: str) -> None:
    """Show a sentence with numbers in it as Markdown. HTML in it, as in the name of a folder, is shown as text."""
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
    tell(re.sub(r"(?<=[\d%]) (?=\()|(?<=[\d%]) (?=to )|(?<= to) |(?<=[◐✔✘]) ", "\N{NO-BREAK SPACE}", markdown_table(rows)))


def markdown_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as a table in Markdown, with the columns of the first row; floats to four digits."""
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    for values in ([row.get(name, "") for name in rows[0]] for row in rows):
        lines.append([f"{x:.4g}" if isinstance(x, float) else str(x).replace("|", "\\|").replace("\n", " ") for x in values])
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def closing(slices: SliceDataset, run: Run | None = None, **further: object) -> None:
    """Show what it takes to get these numbers again: data, model, seed, device, versions."""
    table({**provenance(slices, run), **further, **machine()})


def provenance(slices: SliceDataset, run: Run | None = None) -> dict[str, str]:
    """What names the data and, of a run, its generator."""
    found = {"Data": slices.title, "Key of the data": slices.key[:16]}
    if run is None:
        return found
    trained = f"{run.info['cur_nimg'] / 1000:g} kimg, preset {run.config.preset}, seed {run.config.seed}"
    which = "the last of the run, which was not scored" if run.history[-1].get("best_kid") is None else "the best of the run"
    return {**found, "Generator": f"{run.info['model_hash']}, {which}, at {trained}"}


def machine() -> dict[str, str]:
    """The device, and the versions of what computes the numbers."""
    names = ("stylegan", "torch", "numpy", "scikit-learn", "umap-learn")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    threads = torch.get_num_threads()
    device = f"{pick_device()}, {threads} thread{'s'[: threads != 1]}, {platform.system()} {platform.machine()}"
    return {"Device": device, "Versions": f"Python {platform.python_version()}, {versions}"}
