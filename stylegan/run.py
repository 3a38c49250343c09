"""The run folder: what a training run writes, how it resumes, and the rule that keeps its best generator.

config.json  metrics.jsonl  checkpoints/  samples/  generator.safetensors (best)  generator_last.safetensors  environment.txt
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch

from stylegan import __version__, distributed
from stylegan.cache import read_json, replacing, write_json
from stylegan.checkpoint import NewerFormatError, checkpoints, load_checkpoint
from stylegan.config import Config, differences
from stylegan.data.naming import shown
from stylegan.dataset import SliceDataset, load_slices, normalised
from stylegan.lock import Held, hold
from stylegan.networks import prepare_machine
from stylegan.recorder import Recorder
from stylegan.state import TrainingState, new_state
from stylegan.train import train

PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "umap-learn", "safetensors", "nilearn", "matplotlib")


def train_run(config: Config, data: str | Path | None, run_dir: str | Path, *, subjects_csv=None, levels=None) -> dict:
    """Train in a run folder, or go on where it stopped; returns the last line of its metrics.

    ``data``: a folder or .zip, or None for the simulated slices; ``subjects_csv`` and ``levels`` as in `load_slices`. Only the
    training subjects are trained on. Raises ValueError when another process writes to the folder or it was made with another
    config or other slices, FloatingPointError when a loss is no longer finite (the last good checkpoint stays), and
    KeyboardInterrupt, after saving, when it was told to stop.
    """
    run_dir, source = Path(run_dir), {"path": data, "subjects_csv": subjects_csv, "levels": levels}
    with distributed.first_goes_ahead():
        slices = load_slices(data, config.img_resolution, subjects_csv=subjects_csv, levels=levels)
    for warning in slices.warnings:
        print(f"Note: {warning}")
    config = with_classes(config, slices)
    prepare_machine()
    with writing(run_dir) if distributed.is_first() else contextlib.nullcontext() as held, enough_memory(config):
        return _train_in(run_dir, config, slices, source, held)


def _train_in(run_dir: Path, config: Config, slices: SliceDataset, source: dict, held: Held | None) -> dict:
    """Train in a folder that this process holds, or beside the process that does."""
    if held:
        settle(run_dir, config, slices, source)
    distributed.wait()
    slices = normalised(slices, config.normalise)
    state = new_state(config)
    resume(state, run_dir)
    recorder = Recorder(state, slices, run_dir) if held else None

    def on_step(state: TrainingState) -> bool:
        if held:
            held.check()
        return distributed.first_decides(recorder and recorder.on_step(state))

    with recorder or contextlib.nullcontext():
        train(state, slices.split("train"), on_step)
    if state.cur_nimg < config.total_kimg * 1000:
        print(
            f"Stopped and saved at {state.cur_nimg / 1000:g} of {config.total_kimg:g} kimg; run the same command again to go on."
        )
    if recorder and recorder.stop_signal is not None:
        raise KeyboardInterrupt
    return (read_metrics(run_dir) or [{}])[-1]


@contextlib.contextmanager
def enough_memory(config: Config) -> Iterator[None]:
    """Turn what torch raises when memory ends into a ValueError that says what to make smaller."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch's own is a RuntimeError, on the CPU a plain one
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise ValueError(
            f"There is not enough memory for batches of {config.batch_size} at {config.img_resolution} px with up to "
            f"{config.channel_max} channels; take a smaller --batch-size or preset in a new --run-dir, or a larger machine."
        ) from error


def with_classes(config: Config, data: SliceDataset) -> Config:
    """The config with the number of classes that the networks shall know; says which labels were seen and whether they are used."""
    seen = shown(", ".join(data.classes)) or "none"
    if config.conditional == "none":
        print(f"Labels in the data: {seen}; not used (--conditional class uses them).")
        return replace(config, c_dim=0)
    unlabelled = int((data.labels < 0).sum())
    if len(data.classes) < 2 or unlabelled:
        raise ValueError(
            f"--conditional class needs at least two classes and a label for every slice; {data.title} has the classes {seen} "
            f"and {unlabelled} slices without a label. Train without --conditional or name a table with --subjects."
        )
    print(f"Labels in the data: {seen}; G and D are told the class of each slice.")
    return replace(config, c_dim=len(data.classes))


# --- The folder -------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def writing(run_dir: Path) -> Iterator[Held]:
    """Be the one writer of a run folder, and tell in a sentence where it cannot be written."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        with hold(run_dir) as held:
            _sweep(run_dir)
            yield held
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(
            f"Cannot write to the run folder {run_dir} ({error.strerror or error}); make room, or choose another --run-dir."
        ) from error


def _sweep(run_dir: Path) -> None:
    """Remove what a killed writer was about to write: nobody reads it, and there is no other writer."""
    for folder in (run_dir, run_dir / "checkpoints", run_dir / "samples"):
        for path in folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)


def settle(run_dir: Path, config: Config, data: SliceDataset, source: dict) -> None:
    """Write config.json and environment.txt, or check that the folder was made by the same experiment.

    ``source``: where the slices were taken from, as the arguments of `train_run`, so that others find the same slices again.
    """
    about = {name: str(value) for name, value in source.items() if value is not None}
    about = {"path": None, **about, "title": data.title, "layout": data.layout, "key": data.key}
    _refuse_misshapen(run_dir)
    known = read_settings(run_dir)
    strange = [p.name for p in run_dir.iterdir() if not p.name.startswith(".")] if known is None else []
    if strange:
        raise ValueError(
            f"{run_dir} is not a run folder (no readable config.json beside {strange[0]}); choose an empty or new --run-dir."
        )
    if known is not None:
        _refuse_other(run_dir, known, config, about)
    write_json(run_dir / "config.json", {"config": asdict(config), "data": about, "classes": list(data.classes)})
    with replacing(run_dir / "environment.txt") as temporary:
        temporary.write_text(environment())


def read_settings(run_dir: str | Path) -> dict | None:
    """What config.json says (config, data, classes), None where it is missing or no JSON. ValueError where it says it wrongly."""
    path = Path(run_dir) / "config.json"
    known = read_json(path)
    kinds = {"config": dict, "data": dict, "classes": list}
    wrong = [name for name, kind in kinds.items() if known is not None and not isinstance(known.get(name), kind)]
    if wrong:
        raise ValueError(f"{path} is damaged ({', '.join(wrong)}); copy the run folder again or take a new one.")
    return known


def _refuse_misshapen(run_dir: Path) -> None:
    """Say at the start what would otherwise stop the run at its first tick."""
    for name, there in (("checkpoints", Path.is_dir), ("samples", Path.is_dir), ("metrics.jsonl", Path.is_file)):
        path = run_dir / name
        if path.exists() and not there(path):
            kind = "a folder" if path.is_dir() else "a file" if path.is_file() else "something else"
            raise ValueError(f"{path} is {kind}, which no run folder has there; remove it or take a new --run-dir.")


def _refuse_other(run_dir: Path, known: dict, config: Config, about: dict) -> None:
    changed = differences(known["config"], config)
    if known["data"].get("key") != about["key"]:
        changed.append(f"data ({known['data'].get('title')} there, {about['title']} asked, or its files changed)")
    if changed:
        raise ValueError(
            f"{run_dir} was made with another config: {', '.join(changed)}; take a new --run-dir or the old settings."
        )


def environment() -> str:
    """Versions, machine and command, one per line."""
    card = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    threads = torch.get_num_threads()
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {threads} thread{'s'[: threads != 1]}{card}"
    versions = [f"{name} {_version(name)}" for name in PACKAGES]
    own = [f"stylegan {__version__}", f"python {platform.python_version()}"]
    return "\n".join([*own, *versions, machine, f"command: {' '.join(sys.argv)}"]) + "\n"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # training needs neither maps nor notebooks
        return "not installed"


def read_metrics(run_dir: str | Path) -> list[dict]:
    """The whole lines of metrics.jsonl, one dictionary per tick. FileNotFoundError where nothing was trained yet."""
    path = Path(run_dir) / "metrics.jsonl"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.parent} holds no metrics.jsonl; train there first (python -m stylegan train --run-dir {path.parent})."
        )
    return [json.loads(line) for line in _whole_lines(path)]


def _whole_lines(path: Path) -> list[str]:
    """The lines of metrics.jsonl that are whole and in order; says how many others there are, but for one cut short at the end."""
    lines, reached, damaged = [], 0, 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        cur_nimg = _reached(line)
        if cur_nimg > reached:
            lines.append(line)
            reached = cur_nimg
        else:
            damaged += line.endswith("\n")
    if damaged:
        print(f"{path}: {damaged} damaged line{'s'[: damaged != 1]} dropped.")
    return lines


def _reached(line: str) -> int:
    """The cur_nimg of a line of metrics.jsonl, 0 for a line that is none."""
    try:
        found = json.loads(line) if line.endswith("\n") else None
    except (ValueError, RecursionError):
        return 0
    cur_nimg = found.get("cur_nimg") if isinstance(found, dict) else None
    return cur_nimg if isinstance(cur_nimg, int) and isinstance(found.get("kimg"), float) else 0


# --- Going on --------------------------------------------------------------------------------------------------------------------


def resume(state: TrainingState, run_dir: Path) -> None:
    """Load the newest readable checkpoint, if there is any checkpoint, and cut metrics.jsonl back to it.

    Those that cannot be read are kept under another ending, so that they do not count as the newest once the run has gone on.
    """
    files, unreadable = checkpoints(run_dir), []
    while files and not _loads(state, files[-1]):
        unreadable.append(files.pop())
    if unreadable and not files:
        raise ValueError(
            f"No checkpoint in {run_dir / 'checkpoints'} can be read; take a new --run-dir, or remove them to start again."
        )
    for path in unreadable:
        path.rename(path.with_suffix(".unreadable"))
    if files:
        print(f"Resuming {run_dir} at {state.cur_nimg / 1000:g} kimg.")
    if distributed.is_first():
        _cut_metrics(run_dir, state.cur_nimg)


def _loads(state: TrainingState, path: Path) -> bool:
    try:
        load_checkpoint(state, path)
        return True
    except NewerFormatError:  # the run is further than this package can follow; going back would lose what was trained
        raise
    except (ValueError, FileNotFoundError) as error:
        print(f"{error} Going back to the checkpoint before it.")
        return False


def _cut_metrics(run_dir: Path, cur_nimg: int) -> None:
    """Drop the lines of ticks that the checkpoint has not reached, which will be run and written again, and that of a stop."""
    path = run_dir / "metrics.jsonl"
    if path.is_file() or path.is_symlink():
        lines = _whole_lines(path) if path.is_file() else []
        lines = [line for line in lines if _reached(line) <= cur_nimg and not json.loads(line).get("stopped")]
        with replacing(path) as temporary:  # a new file, also where a link led elsewhere
            temporary.write_text("".join(lines), encoding="utf-8")
