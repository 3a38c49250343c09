"""The ladder: systems trained side by side on the same slices and seeds, each with the same budget, and the claims that it decides.

    python benchmarks/compare.py --rows dcgan,oasis64,oasis64+mirror=false --data DIR --total-kimg 20 --resolution 32 --out ladder

A row is a preset with fields changed, ``PRESET`` or ``PRESET+field=value+field=value``; without --rows all systems, with --claims also
the rows that the claims compare. Every run is a run folder below ``out/runs``, trained by `python -m stylegan train`; the same command
resumes, and a finished run is not repeated. Scored is the last averaged generator of each run on validation and test people together,
so that nothing was chosen by the score. Writes ladder.json, ladder.md, ladder.png and, of a growing run, growing.png.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import ladder
import numpy as np

from stylegan.checkpoint import checkpoints, load_generator, save_generator
from stylegan.config import FIELDS, PRESETS, Config, make_config
from stylegan.dataset import SliceDataset, slices_of
from stylegan.files import read_json, replacing, write_json
from stylegan.networks import count_parameters, describe_loss
from stylegan.predict import parse_seeds
from stylegan.run import read_metrics
from stylegan.scores.evidence import Evidence, open_evidence
from stylegan.scores.intervals import leave_out, spread_of
from stylegan.scores.memorisation import memory, nearest
from stylegan.scores.metrics import PICTURES, Comparison, Variety, kernel_distance

SYSTEMS = ("dcgan", "stylegan1", "seed000-stylegan2", "seed001-stylegan1-classes", "seed002-stylegan2-umap", "seed003-progressive",
           "seed004-course", "oasis64", "modern")  # fmt: skip
PIECES = 6  # ticks of a run
REFUSED = 2  # exit status of a run that broke down or was refused

# --- Rows and runs --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One row with one seed, in its folder; ``minutes`` of training steps end it where they are not 0."""

    row: str
    seed: int
    folder: Path
    config: Config
    minutes: float = 0.0

    def metrics(self) -> dict:
        """The last line of its metrics; {} before the first."""
        with contextlib.suppress(FileNotFoundError):
            return (read_metrics(self.folder) or [{}])[-1]
        return {}

    def is_done(self) -> bool:
        last = self.metrics()
        enough = last.get("cur_nimg", 0) >= self.config.total_kimg * 1000
        enough |= bool(self.minutes) and last.get("seconds", 0.0) >= 59.5 * self.minutes
        return enough and (self.folder / "generator_last.safetensors").is_file()

    def failure(self) -> str:
        """Why it cannot go on, as it said itself; '' where it can."""
        path = self.folder.with_suffix(".failed")
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def command(self, data: Path | None) -> list[str]:
        """What trains it for what is left of its budget."""
        config = replace(self.config, snapshot_ticks=int(self.row in ladder.CURVES))
        if self.minutes:
            config = replace(config, max_minutes=max(self.minutes - self.metrics().get("seconds", 0.0) / 60, 0.01))
        flags = [_flag(name, value) for name, value in config.departures().items()]
        start = [sys.executable, "-m", "stylegan", "train", "--preset", config.preset, "--run-dir", str(self.folder)]
        return [*start, *(["--data", str(data)] if data else []), *(word for flag in flags for word in flag)]


def _flag(name: str, value: object) -> list[str]:
    flag = name.replace("_", "-")
    return [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]


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


def parse_change(text: str) -> tuple[str, object]:
    """'lr=0.002' -> ('lr', 0.002), by the type of the field."""
    name, equals, value = text.partition("=")
    if name not in FIELDS or not equals:
        raise ValueError(f"{text!r} is not FIELD=VALUE with a field of the config, such as lr=0.002 or mirror=false.")
    kind = type(FIELDS[name].default)
    try:
        return name, {"true": True, "false": False}[value] if kind is bool else kind(value)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{name} must be of type {kind.__name__}, not {value!r}.") from error


def plan(
    rows: Sequence[str], seeds: Sequence[int], out: Path, kimg: float = 0, minutes: float = 0, settings: Sequence[str] = ()
) -> list[Run]:
    """All runs, seed by seed, so that what is finished at any time compares all rows.

    ``settings``: 'field=value' for all rows, 'PRESET:field=value' for one preset; a row's own change wins.
    """
    return [_run(row, seed, out, kimg, minutes, settings) for seed in dict.fromkeys(seeds) for row in dict.fromkeys(rows)]


def _run(row: str, seed: int, out: Path, kimg: float, minutes: float, settings: Sequence[str]) -> Run:
    (preset, changes), given = parse_row(row), {}
    for text in settings:
        name, colon, change = text.rpartition(":")
        if colon and name not in PRESETS:
            raise ValueError(f"There is no preset {name!r} in {text!r}; write FIELD=VALUE or PRESET:FIELD=VALUE.")
        if name == preset or not colon:
            given |= [parse_change(change)]
    given |= changes
    if preset == "dcgan":  # a system without styles has no use for these
        given = {name: value for name, value in given.items() if name not in ("mapping_layers", "style_mixing_prob")}
    total = kimg or given.get("total_kimg") or make_config(preset).total_kimg
    config = make_config(preset, **{**given, "seed": seed, "total_kimg": total, "tick_kimg": total / PIECES, "kid_ticks": 0})
    if config.grow_from and not {"grow_kimg", "fade_kimg"} & set(given):  # the published lengths are for 25,000 kimg
        part = total / (4 * max((config.img_resolution // config.grow_from).bit_length() - 1, 1))
        config = replace(config, grow_kimg=part, fade_kimg=part)  # growing is over after half of the run
    folder = row.replace("+", "__").replace("=", "-").replace(",", "_")
    return Run(row, seed, out / "runs" / folder / f"seed{seed}", config, minutes)


# --- Training -------------------------------------------------------------------------------------------------------------------------


def train_all(runs: Sequence[Run], data: Path | None, jobs: int = 1) -> None:
    """Train what is not finished, ``jobs`` processes at a time; when this process is told to stop, the runs save and stop too."""
    waiting, children = [run for run in runs if not run.is_done() and not run.failure()], set()
    print(f"{len(runs)} runs, {len(runs) - len(waiting)} of them finished; {jobs} at a time.", flush=True)
    with contextlib.suppress(ValueError):  # only the main thread may listen
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for number, said in enumerate(pool.map(lambda run: train_one(run, data, children), waiting), 1):
                print(f"{number:4} of {len(waiting)}  {said}", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in list(children):
                child.terminate()
            raise


def train_one(run: Run, data: Path | None, children: set) -> str:
    """Train one run to its budget; returns one line about it. A run that breaks down is noted beside its folder and not tried again."""
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    log, code, before = run.folder.with_suffix(".log"), 0, None
    # Minutes are those of training steps alone, so that one call may leave some; one that changes nothing is the last.
    while code == 0 and not run.is_done() and run.metrics() != before:
        before = run.metrics()
        with open(log, "a", encoding="utf-8") as file, subprocess.Popen(run.command(data), stdout=file, stderr=file) as child:
            children.add(child)
            code = child.wait()
            children.discard(child)
    last, name = run.metrics(), f"{run.row} seed {run.seed}"
    if code == REFUSED:
        said = log.read_text(encoding="utf-8").strip().splitlines()[-1]
        with replacing(run.folder.with_suffix(".failed")) as temporary:
            temporary.write_text(said, encoding="utf-8")
        return f"{name} broke down: {said}"
    if code or not run.is_done():
        return f"{name} stopped at {last.get('kimg', 0):g} kimg (exit status {code}, see {log}); the same command resumes it."
    slim(run.folder)
    return f"{name}: {last['kimg']:g} kimg, {last['cur_nimg'] / last['seconds']:.0f} img/s"


def slim(folder: Path) -> None:
    """Keep of a finished run what the scores need, generators in half precision: a ladder has many runs."""
    for path in [folder / "generator_last.safetensors", *(folder / "snapshots").glob("*.safetensors")]:
        save_generator(path, *load_generator(path), half=True)
    for path in [folder / "generator.safetensors", *checkpoints(folder)]:
        path.unlink(missing_ok=True)
    shutil.rmtree(folder / "samples", ignore_errors=True)


# --- Scores ---------------------------------------------------------------------------------------------------------------------------

NUMBERS = ("precision", "recall", "coverage", "dimensions", "spread")
KEPT = ("kimg", "seconds", "peak_memory_mb")


def score_runs(runs: Sequence[Run], data: Path | None, num: int = 1000) -> list[dict]:
    """One entry per finished run; those scored before are read from their folders. Runs that broke down stand there without scores."""
    known: dict[tuple, tuple[SliceDataset, dict]] = {}  # (resolution, grey rule): the slices, their floors
    return [_scored(run, data, num, known) for run in runs if run.is_done() or run.failure()]


def _scored(run: Run, data: Path | None, num: int, known: dict) -> dict:
    path, last, config = run.folder / "generator_last.safetensors", run.metrics(), run.config
    entry = {"row": run.row, "preset": config.preset, "seed": run.seed, "loss": describe_loss(config)}
    entry |= {"resolution": config.img_resolution, "batch_size": config.batch_size, **{key: last.get(key) for key in KEPT}}
    if run.failure():
        return entry | {"failed": run.failure()}
    G, info = load_generator(path)
    before = read_json(run.folder / "score.json") or {}
    if before.get("model_hash") == info["model_hash"] and before.get("num") == num:
        return before["entry"]
    key = config.img_resolution, config.normalise
    if key not in known:
        held = slices_of(info, data)  # validation and test people together
        held = replace(held, splits=np.where(held.splits == "train", "train", "test"))
        known[key] = held, floors_against(open_evidence(path, held, split="test", num=num))
    slices, floors = known[key]
    evidence = open_evidence(path, slices, split="test", num=num)
    at = {x["cur_nimg"]: x["seconds"] for x in read_metrics(run.folder)}
    (part,), snapshots = evidence.scored, sorted((run.folder / "snapshots").glob("*.safetensors"))
    entry |= {"img_s": last["cur_nimg"] / last["seconds"], "parameters_g": count_parameters(G.requires_grad_(True))}
    entry |= {**score(evidence), "floors": floors, "n": len(part.slices), "people": len(set(part.people))}
    entry["curve"] = []
    for shot in snapshots:
        found = kid(open_evidence(shot, slices, split="test", num=num))
        entry["curve"].append({"kimg": int(shot.stem) / 1000, "seconds": at.get(int(shot.stem)), "kid": found})
    write_json(run.folder / "score.json", {"model_hash": info["model_hash"], "num": num, "entry": entry})
    print(f"{run.row} seed {run.seed}: KID {entry['kid']['value']:.0f}, FD {entry['fd']['value']:.0f}", flush=True)
    return entry


def score(evidence: Evidence) -> dict:
    """KID times 1000 and FD with their intervals by person, precision, recall, coverage, spread, dimensions and memory."""
    (part,) = evidence.scored
    fakes = evidence.fakes(part.slices)
    both = Comparison(evidence.side(part.slices), fakes)
    numbers = both.neighbours() | Variety(fakes.images[:PICTURES]).numbers()
    numbers["dimensions_fixed_noise"] = Variety(evidence.fixed_noise(part.slices)[:PICTURES]).numbers()["dimensions"]
    near, usual = (nearest(side.at, evidence.at_train)[0] for side in (fakes, both.real))
    numbers["memory"] = memory(near, usual, part.people)["ratio"]
    names = *NUMBERS, "dimensions_fixed_noise", "memory"
    return leave_out(both.distances, part.people, len(fakes)) | {name: numbers[name] for name in names}


def kid(evidence: Evidence) -> float:
    (part,) = evidence.scored
    return 1000 * kernel_distance(evidence.features(part.slices.images), evidence.fakes(part.slices).at)


def floors_against(evidence: Evidence) -> dict:
    """What real slices of training people score in place of fakes, as many and of as many people."""
    (part,) = evidence.scored
    real, others, rng, rows = evidence.side(part.slices), evidence.side(part.others), np.random.default_rng(0), []
    for number, drawn in enumerate(part.draws):
        both = Comparison(real, others.rows(drawn))
        rows.append(both.distances())
        if number < 5:
            few = rng.permutation(drawn)[:PICTURES]
            rows[-1] |= both.neighbours() | Variety(others.images[few], others.people[few]).numbers()
    floors = {name: spread_of([row[name] for row in rows]) for name in ("kid", "fd")}
    return floors | {name: spread_of([row[name] for row in rows[:5]])["value"] for name in NUMBERS}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--rows", default="", metavar="A,B", help="PRESET or PRESET+field=value+..., commas between (default: all systems)")
    add("--claims", action="store_true", help="also the rows that the claims compare")
    add("--data", type=Path, metavar="DIR|ZIP", help="slices; without it the simulated ones")
    add("--total-kimg", type=float, default=0.0, metavar="K", help="budget of a run in thousand slices")
    add("--minutes", type=float, default=0.0, metavar="M", help="budget of a run in minutes of training steps")
    add("--seeds", default="0,1,2", help="such as 0,1,2 or 0-4 (default 0,1,2)")
    add("--resolution", type=int, metavar="R", help="of all runs (default: each preset's own)")
    change = {"dest": "settings", "action": "append", "default": [], "metavar": "[PRESET:]FIELD=VALUE"}
    add("--set", **change, help="for all rows, or of one preset")
    add("--jobs", type=int, default=1, help="runs at a time, each in a process of its own (default 1)")
    add("--num", "-n", type=int, default=1000, help="slices of each kind in a score at most (default 1000)")
    add("--no-score", action="store_true", help="train only; the same command without this scores")
    add("--no-train", action="store_true", help="score what is finished")
    add("--out", type=Path, required=True, metavar="DIR")
    args = parser.parse_args(argv)
    rows = split_rows(args.rows) or list(SYSTEMS)
    rows += [row for claim in ladder.CLAIMS for row in (claim.row, claim.other)] if args.claims else []
    settings = ([f"img_resolution={args.resolution}"] if args.resolution else []) + args.settings
    try:
        runs = plan(rows, parse_seeds(args.seeds), args.out, args.total_kimg, args.minutes, settings)
        if not args.no_train:
            train_all(runs, args.data, args.jobs)
        if not args.no_score:
            budget = ladder.describe_budget(args.total_kimg, args.minutes, settings, args.jobs)
            print(ladder.write(runs, score_runs(runs, args.data, args.num), args.data, budget, args.out))
    except (ValueError, FileNotFoundError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
