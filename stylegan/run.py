"""The run folder: what a training run writes, how it resumes, and the rule that keeps its best generator.

config.json  metrics.jsonl  checkpoints/  samples/  generator.safetensors (best)  generator_last.safetensors  environment.txt
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch

from stylegan import __version__, distributed
from stylegan.checkpoint import NewerFormatError, checkpoints, load_checkpoint
from stylegan.config import Config, differences
from stylegan.dataset import SliceDataset, load_slices, normalised
from stylegan.files import Holder, hold_run_dir, prepare_machine, printable, read_json, replacing, write_json
from stylegan.recorder import Recorder, Scorer
from stylegan.train import TrainingState, new_state, train

PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "umap-learn", "safetensors", "nilearn", "matplotlib")
AGREE_STEPS = 8  # several processes ask the main one every so many steps whether to save or to stop


def train_run(
    config: Config,
    data: str | Path | None,
    run_dir: str | Path,
    *,
    subjects_csv: str | Path | None = None,
    levels: str | tuple[int, int] | None = None,
    contrast: str | None = None,
    scorer: Scorer | None = None,
) -> dict:
    """Train in a run folder, or go on where it stopped; returns the last line of its metrics.

    ``data``: a folder or .zip, or None for the simulated slices; ``subjects_csv``, ``levels`` and ``contrast`` as in `load_slices`.
    Only the training subjects are trained on. ``scorer(val_slices, config, device)`` returns ``score(G_ema, full)``, a dictionary
    for the lines of metrics.jsonl; with ``full`` it holds `recorder.SCORES`, and the generator with the lowest ``kid`` is kept as the best.
    Without a scorer the last one is kept.

    Raises ValueError when another process writes to the folder or it was made with another config or other slices,
    FloatingPointError when a loss is no longer finite (the last good checkpoint stays), and KeyboardInterrupt, after saving, when
    it was asked to stop.
    """
    run_dir, levels = Path(run_dir), f"{levels[0]}-{levels[1]}" if isinstance(levels, tuple | list) else levels
    chosen = {"subjects_csv": subjects_csv, "levels": levels, "contrast": contrast}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    with distributed.main_process_first():
        slices = load_slices(data, config.img_resolution, **chosen)
    for warning in slices.warnings:
        print(f"Note: {warning}")
    config = with_classes(config, slices)
    if config.architecture == "dcgan" and distributed.world() > 1:
        print(f"Note: batch normalisation sees the share of one process: {distributed.world()} do not train quite as one does.")
    prepare_machine()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_enough_memory(config))
        if distributed.is_main():
            holder = stack.enter_context(_writing(run_dir))
            write_or_check_config(run_dir, config, slices, {"path": data, **chosen})
        distributed.wait()
        slices, state = normalised(slices, config.normalise), new_state(config)
        resume(state, run_dir)
        recorder = Recorder(state, slices, run_dir, scorer, holder.sign_of_life) if distributed.is_main() else None
        with recorder or contextlib.nullcontext():
            train(state, slices.split("train"), lambda state: agree(state, recorder))
    if state.cur_nimg < config.total_kimg * 1000:
        shown = f"{state.cur_nimg / 1000:g} of {config.total_kimg:g} kimg"
        print(f"Stopped and saved at {shown}; run the same command again to go on.")
    if recorder and recorder.stop_signal is not None:
        raise KeyboardInterrupt
    return (read_metrics(run_dir) or [{}])[-1]


def agree(state: TrainingState, recorder: Recorder | None) -> bool:
    """After each step, in every process: record what is due. True where the run stops here."""
    tick = _is_tick(state)
    if tick:
        state.log.collect(state.signs)
    if recorder:
        recorder.after_step(tick)
    if not tick and distributed.world() > 1 and state.step % AGREE_STEPS:
        return False
    save, stop = distributed.broadcast_from_main(recorder and recorder.wishes())
    if save or stop or _is_over(state):
        state.log.collect(state.signs)
        if recorder:
            recorder.save(stopped=stop and not tick)
    return stop


def _is_over(state: TrainingState) -> bool:
    return state.cur_nimg >= state.config.total_kimg * 1000


def _is_tick(state: TrainingState) -> bool:
    """Whether the last step reached or passed the end of a tick, or of the run."""
    tick = state.config.tick_kimg * 1000
    return _is_over(state) or math.floor(state.cur_nimg / tick) > math.floor((state.cur_nimg - state.last_batch) / tick)


@contextlib.contextmanager
def _enough_memory(config: Config) -> Iterator[None]:
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
    """The config with the number of classes for the networks; says which labels were seen and whether they are used."""
    seen = printable(", ".join(data.classes)) or "none"
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
def _writing(run_dir: Path) -> Iterator[Holder]:
    """Be the one writer of a run folder; ValueError where it cannot be written."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        with hold_run_dir(run_dir) as holder:
            for folder in (run_dir, run_dir / "checkpoints", run_dir / "samples"):
                for path in folder.glob(".*.tmp"):  # what a killed writer was about to write
                    path.unlink(missing_ok=True)
            yield holder
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(
            f"Cannot write to the run folder {run_dir} ({error.strerror or error}); make room, or choose another --run-dir."
        ) from error


def write_or_check_config(run_dir: Path, config: Config, data: SliceDataset, source: dict) -> None:
    """Write config.json and environment.txt, or check that the folder was made by the same experiment.

    ``source``: the arguments of `train_run` that led to the slices, so that others find the same slices again.
    """
    found = {name: os.path.abspath(source[name]) for name in ("path", "subjects_csv") if source.get(name) is not None}
    about = {"path": None, **source, **found, "title": data.title, "layout": data.layout, "key": data.key}
    for name, there in (("checkpoints", Path.is_dir), ("samples", Path.is_dir), ("metrics.jsonl", Path.is_file)):
        path = run_dir / name  # say at the start what would otherwise stop the run at its first tick
        if path.exists() and not there(path):
            kind = "a folder" if path.is_dir() else "a file" if path.is_file() else "something else"
            raise ValueError(f"{path} is {kind}, which no run folder has there; remove it or take a new --run-dir.")
    known = read_settings(run_dir)
    other = [p.name for p in run_dir.iterdir() if not p.name.startswith(".")] if known is None else []
    if other:
        raise ValueError(
            f"{run_dir} is not a run folder (no readable config.json beside {other[0]}); choose an empty or new --run-dir."
        )
    changed = differences(known["config"], config) if known else []
    if known and known["data"].get("key") != about["key"]:
        changed.append(f"data ({known['data'].get('title')} there, {about['title']} asked, or its files changed)")
    if changed:
        raise ValueError(
            f"{run_dir} was made with another config: {', '.join(changed)}; take a new --run-dir or the old settings."
        )
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


def environment() -> str:
    """Versions, machine and command, one per line."""
    versions = {"stylegan": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        versions[name] = "not installed"  # training needs neither maps nor notebooks
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    card = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} in use{card}"
    lines = [*(f"{name} {version}" for name, version in versions.items()), machine, f"command: {' '.join(sys.argv)}"]
    return "\n".join(lines) + "\n"


def read_metrics(run_dir: str | Path) -> list[dict]:
    """The whole lines of metrics.jsonl, one dictionary per tick. FileNotFoundError where nothing was trained yet."""
    path = Path(run_dir) / "metrics.jsonl"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.parent} holds no metrics.jsonl; train there first (python -m stylegan train --run-dir {path.parent})."
        )
    found, damaged = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        entry = _entry(line)
        if entry and entry["cur_nimg"] > (found[-1]["cur_nimg"] if found else 0):
            found.append(entry)
        else:
            damaged += line.endswith("\n")  # one cut short at the end is what a kill leaves
    if damaged:
        print(f"{path}: {damaged} damaged line{'s'[: damaged != 1]} dropped.")
    return found


def _entry(line: str) -> dict | None:
    """What a line of metrics.jsonl says, None for one that is none."""
    try:
        found = json.loads(line) if line.endswith("\n") else None
    except (ValueError, RecursionError):
        return None
    right = isinstance(found, dict) and isinstance(found.get("cur_nimg"), int) and isinstance(found.get("kimg"), float)
    return found if right else None


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
    if files:
        print(f"Resuming {run_dir} at {state.cur_nimg / 1000:g} kimg.")
    if distributed.is_main():
        for path in unreadable:
            path.rename(path.with_suffix(".unreadable"))
        _cut_metrics(run_dir / "metrics.jsonl", state.cur_nimg)


def _loads(state: TrainingState, path: Path) -> bool:
    try:
        load_checkpoint(state, path)
        return True
    except NewerFormatError:  # the run is further than this package can follow; going back would lose what was trained
        raise
    except (ValueError, FileNotFoundError) as error:
        print(f"{error} Going back to the checkpoint before it.")
        return False


def _cut_metrics(path: Path, cur_nimg: int) -> None:
    """Drop the lines of ticks that the checkpoint has not reached, which will be run and written again, and that of a stop."""
    if path.is_file() or path.is_symlink():
        lines = read_metrics(path.parent) if path.is_file() else []
        kept = [json.dumps(line) + "\n" for line in lines if line["cur_nimg"] <= cur_nimg and not line.get("stopped")]
        with replacing(path) as temporary:  # a new file, also where a link led elsewhere
            temporary.write_text("".join(kept), encoding="utf-8")
