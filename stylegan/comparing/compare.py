"""The ladder: systems trained side by side on the same slices and seeds, each with the same budget.

A row is a preset with fields changed, written ``PRESET`` or ``PRESET+field=value+field=value``. Every run is a run folder of its own,
trained in a process of its own; a finished one is not repeated and an unfinished one resumes. Training needs no
feature weights: scores are taken afterwards (`ladder`), on this machine or another.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from stylegan.checkpoint import checkpoints, load_generator, save_generator
from stylegan.config import PRESETS, Config, make_config
from stylegan.dataset import load_slices
from stylegan.files import replacing
from stylegan.run import read_metrics, train_run
from stylegan.scores.evaluate import validation_scorer

SYSTEMS = ("dcgan", "stylegan1", "seed000-stylegan2", "seed001-stylegan1-classes", "seed002-stylegan2-umap", "seed003-progressive",
           "seed004-course", "oasis64", "modern")  # fmt: skip
PIECES = 6  # ticks of a run
REFUSED, STOPPED = 2, 130  # exit statuses of a run that broke down, and of one that was told to stop
FIELDS = {f.name: type(f.default) for f in dataclasses.fields(Config)}
WORDS = {"true": True, "yes": True, "false": False, "no": False}


@dataclass(frozen=True)
class Budget:
    """What every run may use: so many thousand slices, or so many minutes of training steps, or what comes first."""

    kimg: float = 0.0  # 0: the preset's own
    minutes: float = 0.0  # 0: no limit


@dataclass(frozen=True)
class Run:
    """One row with one seed, in its folder."""

    row: str
    seed: int
    folder: Path
    config: Config
    budget: Budget = field(default_factory=Budget)

    def metrics(self) -> dict:
        """The last line of its metrics; {} before the first."""
        try:
            return (read_metrics(self.folder) or [{}])[-1]
        except FileNotFoundError:
            return {}

    def is_done(self) -> bool:
        last = self.metrics()
        shown, seconds = last.get("cur_nimg", 0), last.get("seconds", 0.0)
        enough = shown >= self.config.total_kimg * 1000 or (self.budget.minutes and seconds >= 59.5 * self.budget.minutes)
        return bool(enough) and (self.folder / "generator_last.safetensors").is_file()

    def now(self, snapshots: bool = False) -> Config:
        """Its config for what is left of the budget."""
        changes = {"snapshot_ticks": int(snapshots)}
        if self.budget.minutes:
            changes["max_minutes"] = max(self.budget.minutes - self.metrics().get("seconds", 0.0) / 60, 0.01)
        return dataclasses.replace(self.config, **changes)

    def failure(self) -> str:
        """Why it cannot go on, as it said itself; '' where it can."""
        path = self.folder.with_suffix(".failed")
        return path.read_text(encoding="utf-8") if path.is_file() else ""


# --- Rows -------------------------------------------------------------------------------------------------------------------------


def parse_row(text: str) -> tuple[str, dict]:
    """'modern+spectral_norm=true' -> ('modern', {'spectral_norm': True}). ValueError names what is unknown."""
    preset, *changes = text.split("+")
    if preset not in PRESETS:
        raise ValueError(f"There is no preset {preset!r} in the row {text!r}; choose one of {', '.join(PRESETS)}.")
    return preset, dict(parse_change(change) for change in changes)


def split_rows(text: str) -> list[str]:
    """'modern,oasis64+attention=8,16' -> ['modern', 'oasis64+attention=8,16']: a row begins with a preset's name."""
    rows: list[str] = []
    for part in filter(None, text.split(",")):
        if rows and part.split("+")[0] not in PRESETS and "=" in rows[-1]:
            rows[-1] += f",{part}"
        else:
            rows.append(part)
    return rows


def describe_budget(budget: Budget, settings: Sequence[str], jobs: int) -> dict:
    """What a reader of the table has to know of its budget: {kimg, minutes, settings, jobs, text}."""
    parts = [f"{budget.kimg:g} kimg"] * bool(budget.kimg) + [f"{budget.minutes:g} minutes"] * bool(budget.minutes)
    text = (
        f"Each run: {' or '.join(parts) or 'as its preset says'}, {', '.join(settings) or 'no field changed'}, {jobs} at a time"
    )
    return {"kimg": budget.kimg, "minutes": budget.minutes, "settings": list(settings), "jobs": jobs, "text": text}


def parse_change(text: str) -> tuple[str, object]:
    """'lr=0.002' -> ('lr', 0.002), by the type of the field."""
    name, equals, value = text.partition("=")
    if name not in FIELDS or not equals:
        raise ValueError(f"{text!r} is not FIELD=VALUE with a field of the config, such as lr=0.002 or mirror=false.")
    if FIELDS[name] is bool:
        if value.lower() not in WORDS:
            raise ValueError(f"{name} is {value!r}; write true or false.")
        return name, WORDS[value.lower()]
    try:
        return name, FIELDS[name](value)
    except ValueError as error:
        raise ValueError(f"{name} must be of type {FIELDS[name].__name__}, not {value!r}.") from error


def settings_for(preset: str, settings: Sequence[str]) -> dict:
    """The changes of ``settings`` that concern a preset: 'field=value' for all, 'PRESET:field=value' for one, later ones win."""
    chosen = {}
    for text in settings:
        name, colon, change = text.partition(":")
        if colon and name not in PRESETS:
            raise ValueError(f"There is no preset {name!r} in {text!r}; write FIELD=VALUE or PRESET:FIELD=VALUE.")
        if not colon or name == preset:
            key, value = parse_change(change if colon else text)
            chosen[key] = value
    return chosen


def plan(rows: Sequence[str], seeds: Sequence[int], out: Path, budget: Budget, settings: Sequence[str] = ()) -> list[Run]:
    """All runs, seed by seed, so that what is finished at any time compares all rows."""
    unique = list(dict.fromkeys(rows))
    return [_run(row, seed, out, budget, settings) for seed in dict.fromkeys(seeds) for row in unique]


def _run(row: str, seed: int, out: Path, budget: Budget, settings: Sequence[str]) -> Run:
    preset, changes = parse_row(row)
    given = settings_for(preset, settings) | changes
    if preset == "dcgan":  # what a system without styles has no use for
        given = {name: value for name, value in given.items() if name not in ("mapping_layers", "style_mixing_prob")}
    total = budget.kimg or given.get("total_kimg") or make_config(preset).total_kimg
    config = make_config(preset, **{**given, "seed": seed, "total_kimg": total, "tick_kimg": total / PIECES, "kid_ticks": 0})
    if config.grow_from and not {"grow_kimg", "fade_kimg"} & set(given):
        config = fit_growth(config)
    return Run(row, seed, out / "runs" / folder_name(row) / f"seed{seed}", config, budget)


def fit_growth(config: Config) -> Config:
    """Growing that is over after half of the run, in equal parts of holding and fading: the published lengths are for 25,000 kimg."""
    doublings = (config.img_resolution // config.grow_from).bit_length() - 1
    part = config.total_kimg / (4 * max(doublings, 1))
    return dataclasses.replace(config, grow_kimg=part, fade_kimg=part)


def folder_name(row: str) -> str:
    """A row as the name of a folder."""
    return row.replace("+", "__").replace("=", "-").replace(",", "_")


# --- Training -------------------------------------------------------------------------------------------------------------------------


def train_all(runs: Sequence[Run], data: str | Path | None, jobs: int = 1, snapshots: Sequence[str] = ()) -> None:
    """Train what is not finished, ``jobs`` runs at a time, each in a process of its own that writes a log beside its folder.

    Rows of ``snapshots`` keep their generator at every tick. What breaks down is noted beside its folder and not tried again. When
    this process is told to stop, the runs save and stop too.
    """
    waiting = [run for run in runs if not run.is_done() and not run.failure()]
    for resolution in {run.config.img_resolution for run in waiting}:
        load_slices(data, resolution)  # packed once, before many processes want to
    print(f"{len(runs)} runs, {len(runs) - len(waiting)} of them finished; {jobs} at a time.", flush=True)
    children = Children()
    with children.stopped_at_the_end(), ThreadPoolExecutor(jobs) as pool:
        done = [pool.submit(children.train, run, data, run.row in snapshots) for run in waiting]
        try:
            for number, future in enumerate(done, 1):
                print(f"{number:4} of {len(done)}  {future.result()}", flush=True)
        except BaseException:
            children.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class Children:
    """The training processes that run now. They are forked from one that has read torch already, where the system can."""

    def __init__(self):
        self.context = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
        if hasattr(os, "fork"):
            self.context.set_forkserver_preload(["stylegan.run"])
        self.running: set = set()
        self.lock, self.stopping = threading.Lock(), False

    def train(self, run: Run, data: str | Path | None, snapshots: bool) -> str:
        """Train one run to its budget; returns one line about it."""
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        code, before, log = 0, None, run.folder.with_suffix(".log")
        # Minutes are those of training steps alone, so that one call may leave some; one that changes nothing is the last.
        while code == 0 and not run.is_done() and run.metrics() != before:
            before, code = run.metrics(), self._call(run.now(snapshots), data, run.folder)
        last, name = run.metrics(), f"{run.row} seed {run.seed}"
        if code == REFUSED:
            said = log.read_text(encoding="utf-8").strip().splitlines()[-1]
            with replacing(run.folder.with_suffix(".failed")) as temporary:
                temporary.write_text(said, encoding="utf-8")
            return f"{name} broke down: {said}"
        if code or not run.is_done():
            return (
                f"{name} stopped at {last.get('kimg', 0):g} kimg (exit status {code}, see {log}); the same command resumes it."
            )
        slim(run.folder)
        return f"{name}: {last['kimg']:g} kimg, {last['cur_nimg'] / last['seconds']:.0f} img/s"

    def _call(self, config: Config, data: str | Path | None, folder: Path) -> int:
        """The exit status of a process that trains."""
        with self.lock:
            if self.stopping:
                return STOPPED
            process = self.context.Process(target=train_one, args=(config, data, folder))
            process.start()
            self.running.add(process)
        process.join()
        self.running.discard(process)
        return process.exitcode

    def stop(self) -> None:
        """Let all save and stop."""
        with self.lock:
            self.stopping = True
            for process in list(self.running):
                process.terminate()

    @contextlib.contextmanager
    def stopped_at_the_end(self) -> Iterator[None]:
        """Leave no process behind, however the block is left; SIGTERM ends it as Ctrl-C does."""
        before = None
        with contextlib.suppress(ValueError):  # only the main thread may listen
            before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            yield
        finally:
            self.stop()
            if before is not None:
                signal.signal(signal.SIGTERM, before)


def train_one(config: Config, data: str | Path | None, folder: Path) -> None:
    """Train in this process and end it: exit status 0, `REFUSED` with the reason as the last line of the log, or `STOPPED`."""
    with open(folder.with_suffix(".log"), "a", encoding="utf-8", buffering=1) as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            code = guarded(config, data, folder)
    sys.exit(code)


def guarded(config: Config, data: str | Path | None, folder: Path) -> int:
    """`train_run`, its refusals printed."""
    try:
        train_run(config, data, folder, scorer=validation_scorer)
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        print(error, flush=True)
        return REFUSED
    except KeyboardInterrupt:
        return STOPPED
    return 0


def slim(folder: Path) -> None:
    """Keep of a finished run what the scores need, generators in half precision: a ladder has many runs."""
    for path in [folder / "generator_last.safetensors", *(folder / "snapshots").glob("*.safetensors")]:
        save_generator(path, *load_generator(path), half=True)
    for path in [folder / "generator.safetensors", *checkpoints(folder)]:
        path.unlink(missing_ok=True)
    shutil.rmtree(folder / "samples", ignore_errors=True)
