"""Speed of full training steps on this machine, phase by phase, compared with the pace of its convolutions alone.

    python benchmarks/speed.py --preset oasis64 [--data DIR] [--json] [--channel-base 16384 ...]

Any field of the config can be given in place of the preset's. A growing preset is measured at its first resolution.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stylegan import train
from stylegan.config import FIELDS, PRESETS, Config, make_config
from stylegan.dataset import SliceDataset, load_slices
from stylegan.files import prepare_machine
from stylegan.networks import peak_memory_mb
from stylegan.predict import generate
from stylegan.train import TrainingState, new_state

aten = torch.ops.aten
PHASES = {"d_step": "d", "g_step": "g", "d_penalty_step": "r1", "path_length_step": "path_length"}


def bench(config: Config, data: SliceDataset, rounds: int = 5) -> dict:
    """Medians over rounds: training and sampling images per second, seconds per step of each phase, peak memory in MiB.

    A round is one cycle of steps with each lazy regulariser at its true share. ``limit_img_s`` is what the step's dense
    convolutions alone would allow, run one after the other on fresh tensors of the same shapes; ``of_limit`` is our part of it.
    Nothing is written.
    """
    config = replace(config, augment="fixed", augment_p=0.3)  # as late in a run, and the same in every round
    prepare_machine()
    state = new_state(config)
    whole_cycle(state, data, 4)  # warms up, and records where steps are replayed
    img_s = state.batch_size / float(np.median([whole_cycle(state, data) for _ in range(rounds)]))
    peak = peak_memory_mb(state.device)
    found = [cycle(state, data) for _ in range(rounds)]
    phases = {name: float(np.median([one[name] for one in found])) for name in found[0]}
    optimizer = _median(state, lambda: (state.opt_D.step(), state.opt_G.step()), rounds)
    limit = convolution_limit(state, data, rounds)
    n = 64
    return {
        "preset": config.preset, "device": str(state.device), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "precision": state.precision, "resolution": state.now.resolution, "batch_size": state.batch_size,
        "img_s": img_s, "limit_img_s": limit, "of_limit": img_s / limit,
        "sample_img_s": n / _median(state, lambda: generate(state.G_ema, range(n)), rounds),
        "peak_memory_mb": peak, "cuda_graphs": state.replay.enabled,
        "phases": phases,  # one by one as written, without recordings
        "optimizer": optimizer,  # its share of d and g
    }  # fmt: skip


def whole_cycle(state: TrainingState, data: SliceDataset, cycles: int = 1) -> float:
    """Seconds per training step, over as many steps as the longest lazy interval."""
    steps = cycles * max(state.config.d_reg_interval, state.config.g_reg_interval)
    begin = _now(state)
    for _ in range(steps):
        train.training_step(state, data)
    return (_now(state) - begin) / steps


def cycle(state: TrainingState, data: SliceDataset) -> dict[str, float]:
    """Seconds per step of each phase of `train.training_step`, over as many steps as the longest lazy interval."""
    seconds: dict[str, float] = defaultdict(float)

    def timed(name: str, function: Callable, *args: object) -> object:
        begin = _now(state)
        result = function(*args)
        seconds[name] += _now(state) - begin
        return result

    draw_batch, update_ema = train.draw_batch, train.update_ema
    stand_ins = {
        "draw_batch": lambda *args: timed("data", draw_batch, *args),
        "run": lambda state, step, *inputs: timed(PHASES[step.__name__], step, state, *inputs),
        "update_ema": lambda *args: timed("ema", update_ema, *args),
    }
    steps = max(state.config.d_reg_interval, state.config.g_reg_interval)
    with mock.patch.multiple(train, **stand_ins):
        for _ in range(steps):
            train.training_step(state, data)
    return {name: total / steps for name, total in seconds.items()}


# --- The machine's limit ----------------------------------------------------------------------------------------------------------


class _Convolutions(TorchDispatchMode):
    """Counts the dense convolutions that run under it, forward and backward, by all that decides on their time."""

    def __init__(self):
        super().__init__()
        self.calls: Counter = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        groups = {aten.convolution.default: 8, aten.convolution_backward.default: 9}.get(function)  # where they stand in args
        if groups is not None and args[groups] == 1:
            self.calls[function, tuple(map(_shape, args))] += 1
        return function(*args, **(kwargs or {}))


def _shape(value: object) -> object:
    """What is kept of an argument: of a tensor its layout, of a list its items."""
    if isinstance(value, Tensor):
        return torch.empty_strided, tuple(value.shape), value.stride(), value.dtype
    return tuple(value) if isinstance(value, list) else value


def _filled(value: object, device: torch.device) -> object:
    if isinstance(value, tuple) and value and value[0] is torch.empty_strided:
        return torch.empty_strided(value[1], value[2], dtype=value[3], device=device).normal_()
    return list(value) if isinstance(value, tuple) else value


def convolution_limit(state: TrainingState, data: SliceDataset, rounds: int = 5) -> float:
    """Images per second if a training step were nothing but its dense convolutions, each timed by itself."""
    total = 0.0
    with _Convolutions() as seen:
        cycle(state, data)
    steps = max(state.config.d_reg_interval, state.config.g_reg_interval)
    for (function, args), count in seen.calls.items():
        tensors = [_filled(value, state.device) for value in args]
        total += count / steps * _median(state, lambda f=function, t=tensors: f(*t), rounds)
    return state.batch_size / total


def _median(state: TrainingState, function: Callable[[], object], rounds: int) -> float:
    """Median seconds of a call, after one that warms up."""
    seconds = []
    for _ in range(rounds + 1):
        begin = _now(state)
        function()
        seconds.append(_now(state) - begin)
    return float(np.median(seconds[1:]))


def _now(state: TrainingState) -> float:
    if state.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="quick", choices=PRESETS)
    parser.add_argument("--data", type=Path, help="slices to train on (default: the simulated ones)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    for name, field in FIELDS.items():
        if name not in ("preset", "c_dim"):
            kind = type(field.default)
            how = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind, "metavar": kind.__name__}
            parser.add_argument(f"--{name.replace('_', '-')}", default=None, **how, help=argparse.SUPPRESS)
    args = parser.parse_args()
    given = {k: v for k, v in vars(args).items() if k in FIELDS and k != "preset" and v is not None}
    config = make_config(args.preset, **given)
    found = bench(config, load_slices(args.data, config.img_resolution), args.rounds)
    if args.json:
        print(json.dumps(found, indent=2))
        return
    phases = "  ".join(f"{name} {1000 * seconds:.1f} ms" for name, seconds in found["phases"].items())
    limit = f"{found['of_limit']:.0%} of {found['limit_img_s']:.1f} img/s of its convolutions alone"
    print(f"{found['preset']} on {found['device']} ({found['threads']} threads, {found['precision']}, torch {found['torch']})")
    print(f"training {found['img_s']:.1f} img/s at {found['resolution']} px, {limit}")
    print(f"sampling {found['sample_img_s']:.1f} img/s, peak memory {found['peak_memory_mb']:.0f} MiB")
    print(f"per step of {found['batch_size']}: {phases}  (of these the optimisers {1000 * found['optimizer']:.1f} ms)")


if __name__ == "__main__":
    main()
