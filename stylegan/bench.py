"""Speed of a full training step on this machine, phase by phase, lazy regularisers at their true share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from stylegan import train
from stylegan.config import Config
from stylegan.dataset import SliceDataset
from stylegan.networks import keep_freed_memory
from stylegan.predict import generate
from stylegan.recorder import peak_memory_mb


def bench(config: Config, data: SliceDataset, rounds: int = 5) -> dict:
    """Medians over rounds of timed steps: seconds per step and phase, training and sampling images per second, peak memory in MiB.

    ``img_s`` counts real slices per second of a full step; ``phases`` are seconds per step, a lazy regulariser's time divided by
    its interval. Nothing is written.
    """
    config = replace(config, augment="fixed", augment_p=0.3)  # as late in a run, and the same in every round
    keep_freed_memory()
    state = train.new_state(config)
    real, c = train.draw_batch(data, config, 0, state.device)
    phases = {name: _median(state, step, rounds) for name, step in _phases(state, data, real, c).items()}
    shares = {"r1": config.d_reg_interval, "path_length": config.g_reg_interval}
    phases = {name: seconds / shares.get(name, 1) for name, seconds in phases.items()}
    n = 64
    sampling = _median(state, lambda: generate(state.G_ema, range(n), device=state.device), rounds)
    return {
        "preset": config.preset,
        "device": str(state.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": state.precision,
        "batch_size": config.batch_size,
        "img_s": config.batch_size / sum(phases.values()),
        "sample_img_s": n / sampling,
        "peak_memory_mb": peak_memory_mb(state.device),
        "phases": phases,
    }


def _phases(state: train.TrainingState, data: SliceDataset, real: torch.Tensor, c: torch.Tensor | None) -> dict[str, Callable]:
    config, rng = state.config, state.rng()
    phases = {
        "data": lambda: train.draw_batch(data, config, 0, state.device),
        "d": lambda: train.d_step(state, real, c, rng),
        "g": lambda: train.g_step(state, c, rng),
        "ema": lambda: train.update_ema(state),
    }
    if config.r1_gamma:
        phases["r1"] = lambda: train.r1_step(state, real, c, rng)
    if config.pl_weight:
        phases["path_length"] = lambda: train.path_length_step(state, c, rng)
    return phases


def _median(state: train.TrainingState, step: Callable[[], object], rounds: int) -> float:
    """Median seconds of a call, after one that warms up."""
    seconds = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        step()
        if state.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds[1:]))
