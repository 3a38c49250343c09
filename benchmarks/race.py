"""KID and variety per minute of training from scratch: ours beside the official networks, on the same threads and training subjects.

    python benchmarks/race.py run --side ours --seed 0 --minutes 8 --data DIR --out race            # one process per side and seed
    python benchmarks/race.py run --side peer --peer PATH --seed 0 --minutes 8 --data DIR --out race
    python benchmarks/race.py score --data DIR --out race                                           # race.json, race.png

Ours is the preset `quick`. The peer has the official networks at base 1024 in float32 with the official recipe: batch 16, Adam
2.5e-3, R1 of .0002 resolution^2 / batch every 16 steps, EMA of 5 kimg with ramp .05, style mixing .9, mirrored slices.
A run is stopped by the clock of its training steps; drawing and saving the pictures that are scored does not count.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from pathlib import Path

import numpy as np
import torch

from stylegan import train
from stylegan.config import Config, make_config
from stylegan.dataset import load_slices
from stylegan.files import prepare_machine
from stylegan.networks import Generator
from stylegan.predict import generate, to_uint8
from stylegan.scores.features import features
from stylegan.scores.metrics import PICTURES, Variety, kernel_distance
from stylegan.train import TrainingState, new_state

FAKES, RESOLUTION, EVERY = 384, 64, 1.0  # pictures kept each so many minutes


def peer_config(seed: int) -> Config:
    gamma = 0.0002 * RESOLUTION**2 / 16
    return Config(img_resolution=RESOLUTION, batch_size=16, lr=2.5e-3, r1_gamma=gamma, ema_kimg=5.0, seed=seed, device="cpu")


def start(side: str, seed: int, peer: Path | None) -> TrainingState:
    """A fresh run of one side."""
    if side == "ours":
        return new_state(make_config("quick", seed=seed, device="cpu"))
    spec = importlib.util.spec_from_file_location("peer", Path(__file__).with_name("peer.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.peer_state(module.import_peer(peer), peer_config(seed))


@torch.no_grad()
def pictures(state: TrainingState) -> np.ndarray:
    """Uint8 [FAKES, R, R] of the averaged generator."""
    if isinstance(state.G_ema, Generator):
        return to_uint8(generate(state.G_ema, range(FAKES), noise_mode="random"))
    z = torch.randn(FAKES, state.G_ema.z_dim, generator=torch.Generator().manual_seed(0))
    drawn = [state.G_ema.synthesis(state.G_ema.mapping(part, None), None) for part in z.split(16)]
    return to_uint8(torch.cat(drawn))


def run(side: str, seed: int, minutes: float, data: Path | None, out: Path, peer: Path | None) -> None:
    """Train for so many minutes and keep pictures of each minute in SIDE-SEED.npz."""
    slices = load_slices(data, RESOLUTION).split("train")
    prepare_machine()
    state, spent, kept = start(side, seed, peer), 0.0, []
    out.mkdir(parents=True, exist_ok=True)
    while spent < minutes * 60:
        begin = time.monotonic()
        train.training_step(state, slices)
        spent += time.monotonic() - begin
        if spent >= min(minutes, EVERY * (len(kept) + 1)) * 60:
            kept.append((spent / 60, state.cur_nimg / 1000, pictures(state)))
            at, kimg, shown = (np.array(column) for column in zip(*kept, strict=True))
            about = {"threads": torch.get_num_threads(), "torch": torch.__version__}
            np.savez_compressed(out / f"{side}-{seed}.npz", minutes=at, kimg=kimg, pictures=shown, **about)
            print(f"{side} seed {seed}: {at[-1]:.1f} min, {kimg[-1]:.1f} kimg", flush=True)


def score(data: Path | None, out: Path) -> dict:
    """KID x 1000 on validation subjects and dimensions of all that was kept: race.json and race.png."""
    slices = load_slices(data, RESOLUTION)
    real = features(slices.split("val").images)
    found = {"real people": {"dimensions": dimensions(slices.split("train").images)}}
    for path in sorted(out.glob("*-*.npz")):
        with np.load(path) as run:
            found[path.stem] = {
                "minutes": run["minutes"].tolist(), "kimg": run["kimg"].tolist(),
                "kid": [1000 * kernel_distance(real, features(shown)) for shown in run["pictures"]],
                "dimensions": [dimensions(shown) for shown in run["pictures"]],
                "threads": int(run["threads"]), "torch": str(run["torch"]),
            }  # fmt: skip
    (out / "race.json").write_text(json.dumps(found, indent=1))
    draw(found).savefig(out / "race.png", dpi=110)
    return found


def dimensions(pictures: np.ndarray) -> float:
    """Principal components for 80 % of the variance of `PICTURES` pictures, spread evenly over those at hand."""
    rows = np.linspace(0, len(pictures) - 1, min(PICTURES, len(pictures))).round().astype(int)
    return Variety(pictures[rows]).numbers()["dimensions"]


def of_side(found: dict, side: str, score: str) -> tuple[np.ndarray, np.ndarray]:
    """(minutes, score) of one side's runs, [seeds, points] each, over the points that all of them have."""
    runs = [run for name, run in found.items() if name.startswith(f"{side}-")]
    points = min(len(run["kid"]) for run in runs)
    return tuple(np.array([run[key][:points] for run in runs]) for key in ("minutes", score))


def draw(found: dict):
    """Each run thin, the mean of each side thick."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = {"kid": "KID × 1000 on validation subjects", "dimensions": "dimensions (80 % of the variance)"}
    sides = {"ours": ("ours, the preset quick", "#0072b2", "o"), "peer": ("official networks and recipe", "#d55e00", "s")}
    for axes, (score, title) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for side, (label, colour, marker) in sides.items():
            minutes, values = of_side(found, side, score)
            axes.plot(minutes.T, values.T, color=colour, linewidth=0.8, alpha=0.6)
            label = f"{label} (mean of {len(values)} seeds)"
            axes.plot(minutes.mean(0), values.mean(0), color=colour, marker=marker, label=label)
        axes.set(xlabel="minutes of training", ylabel=title, xlim=(0, None), ylim=(0, None))
    axes.axhline(found["real people"]["dimensions"], color="#555555", linestyle="--", label="real people")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "score"))
    parser.add_argument("--side", choices=("ours", "peer"))
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.what == "run":
        run(args.side, args.seed, args.minutes, args.data, args.out, args.peer)
        return
    found = score(args.data, args.out)
    people = found["real people"]["dimensions"]
    for name, curve in found.items():
        if name != "real people":
            last = {key: curve[key][-1] for key in ("kid", "dimensions", "minutes", "kimg")} | {"people": people}
            form = "KID {kid:.0f}, {dimensions:.0f} dimensions of {people:.0f} after {minutes:.1f} min and {kimg:.1f} kimg"
            print(f"{name}: {form.format(**last)}")
    ours, peer = (of_side(found, side, "kid")[1][:, -1] for side in ("ours", "peer"))
    print(f"mean {ours.mean():.0f} against {peer.mean():.0f}: {ours.mean() / peer.mean():.2f} of it")


if __name__ == "__main__":
    main()
