"""Every run of the comparison scored on people that none has seen.

All are scored on the same people and the same number of fakes, with the last averaged generator of each run, so that nothing was
chosen by the score.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from stylegan.cache import cache_folder, read_json, write_json
from stylegan.checkpoint import load_generator
from stylegan.comparing.compare import Run
from stylegan.dataset import SliceDataset, load_slices, normalised
from stylegan.networks import count_parameters, pick_device
from stylegan.scores.case import Fakes, Setting
from stylegan.scores.distances import DISTANCES, kernel_distance
from stylegan.scores.features import DEFAULT, named_space
from stylegan.scores.intervals import draw_people, floor, jackknife
from stylegan.scores.memorisation import people_of
from stylegan.scores.neighbours import Neighbourhood
from stylegan.scores.scores import floor_draws
from stylegan.summary import describe_loss

NEIGHBOUR_SCORES = ("precision", "recall", "coverage")


class Judge:
    """Held-out people, validation and test together, and what every generator is compared with. One for each rule of grey values."""

    def __init__(self, data: SliceDataset, rule: str, num: int, device: str = "auto"):
        data = normalised(data, rule)
        chosen = pick_device(device)
        self.setting = Setting(named_space(DEFAULT, str(chosen)), chosen, cache_folder(None), 0)
        held = data.select(data.splits != "train")
        rows = np.sort(np.random.default_rng(0).permutation(len(held))[:num])
        self.real, train = held.select(rows), data.split("train")
        self.people, n = people_of(self.real), len(rows)
        self.others = train.select(draw_people(people_of(train), 4 * len(set(self.people)), min(4 * n, len(train)),
                                               np.random.default_rng(0)))  # fmt: skip
        self.at_real = self.setting.features(self.real.images)
        self.floors = self._floors()

    def _floors(self) -> dict:
        at_others, names = self.setting.features(self.others.images), people_of(self.others)
        draws = floor_draws(self.people, names)
        found = {name: _times(floor(distance, self.at_real, [at_others[rows] for rows in draws]), unit)
                 for name, distance, unit in DISTANCES}  # fmt: skip
        near = [Neighbourhood(self.at_real, self.people, at_others[rows], names[rows]).scores() for rows in draws[:5]]
        return found | {name: float(np.mean([scores[name] for scores in near])) for name in NEIGHBOUR_SCORES}

    def score(self, path: Path) -> dict:
        """KID times 1000 and FD with their intervals by person, precision, recall and coverage of one generator."""
        _, at_fake = self._fakes(path)
        found = {name: _times(jackknife(distance, self.at_real, self.people, at_fake), unit)
                 for name, distance, unit in DISTANCES}  # fmt: skip
        near = Neighbourhood(self.at_real, self.people, at_fake).scores()
        return found | {name: near[name] for name in NEIGHBOUR_SCORES}

    def kid(self, path: Path) -> float:
        return 1000 * kernel_distance(self.at_real, self._fakes(path)[1])

    def _fakes(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        G, info = load_generator(path, self.setting.device)
        return Fakes(G, info, self.setting).like(self.real)


def _times(interval: Mapping[str, float], unit: float) -> dict[str, float]:
    return {name: unit * value for name, value in interval.items()}


def score_runs(runs: Sequence[Run], data: str | Path | None, num: int = 1000) -> list[dict]:
    """One entry per finished run; those scored before are read from their folders. Runs that broke down stand there without scores."""
    judges: dict[tuple[int, str], Judge] = {}
    found = []
    for run in runs:
        if run.failure():
            found.append(_entry(run) | {"failed": run.failure()})
        elif run.is_done():
            found.append(_scored(run, data, num, judges))
    return found


def _scored(run: Run, data: str | Path | None, num: int, judges: dict) -> dict:
    path = run.folder / "generator_last.safetensors"
    _, info = load_generator(path)
    known = read_json(run.folder / "score.json") or {}
    if known.get("model_hash") == info["model_hash"] and known.get("num") == num:
        return known["entry"]
    key = run.config.img_resolution, run.config.normalise
    if key not in judges:
        judges[key] = Judge(load_slices(data, key[0]), key[1], num)
    judge = judges[key]
    snapshots = sorted((run.folder / "snapshots").glob("*.safetensors"))
    entry = _entry(run) | judge.score(path) | {"floors": judge.floors, "n": len(judge.real), "people": len(set(judge.people))}
    entry["curve"] = [{"kimg": int(p.stem) / 1000, "kid": judge.kid(p), **_seconds_at(run, int(p.stem))} for p in snapshots]
    write_json(run.folder / "score.json", {"model_hash": info["model_hash"], "num": num, "entry": entry})
    print(f"{run.row} seed {run.seed}: KID {entry['kid']['value']:.0f}, FD {entry['fd']['value']:.0f}", flush=True)
    return entry


def _entry(run: Run) -> dict:
    """What is known of a run without looking at its pictures."""
    last, config = run.metrics(), run.config
    found = {"row": run.row, "preset": config.preset, "seed": run.seed, "loss": describe_loss(config)}
    found |= {"resolution": config.img_resolution, "batch_size": config.batch_size, "kimg": last.get("kimg", 0.0)}
    seconds = last.get("seconds", 0.0)
    found |= {"seconds": seconds, "img_s": last["cur_nimg"] / seconds if seconds else None}
    found["peak_memory_mb"] = last.get("peak_memory_mb")
    return found | {"parameters_g": _parameters(run)}


def _parameters(run: Run) -> int | None:
    path = run.folder / "generator_last.safetensors"
    return count_parameters(load_generator(path)[0].requires_grad_(True)) if path.is_file() else None


def _seconds_at(run: Run, cur_nimg: int) -> dict:
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return {"seconds": next((line["seconds"] for line in lines if line["cur_nimg"] == cur_nimg), None)}
