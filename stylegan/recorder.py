"""What the main process records while training: ticks, samples, scores and checkpoints."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.utils import make_grid
from tqdm import tqdm

from stylegan.augment import dither
from stylegan.checkpoint import save_generator, save_state
from stylegan.config import Config
from stylegan.dataset import SliceDataset, one_hot
from stylegan.files import append_line, read_json, replacing
from stylegan.predict import generate, to_uint8
from stylegan.rng import BatchRNG
from stylegan.train import TrainingState

GRID_SEEDS = range(24)  # the fixed z of the sample grids
MONITOR_SEED, MONITORED = (
    1_000_000,
    128,
)  # fakes and slices for D's mean logits at each tick; far from the seeds that people look at
PATIENCE = 10.0  # seconds from one wish to stop to the next that count as one
MOST_SAMPLES = 400  # sample grids of a run, 20 MB at 64 px
SCORES = ("kid", "precision", "recall", "coverage")
Score = Callable[[torch.nn.Module, bool], dict]
Scorer = Callable[[SliceDataset, Config, torch.device], Score]


class Recorder:
    """Ticks, samples, scores, checkpoints, the progress bar, and the wish to stop."""

    def __init__(
        self, state: TrainingState, data: SliceDataset, run_dir: Path, scorer: Scorer | None, sign_of_life: Callable[[], None]
    ):
        self.state, self.run_dir, self.sign_of_life = state, run_dir, sign_of_life
        self.train_slices = data.split("train")
        self.val_slices = data.split("val") if (data.splits == "val").any() else None
        self.score = scorer(self.val_slices, state.config, state.device) if scorer and self.val_slices else None
        self.started = self.saved = self.stepped = time.monotonic()
        self.stop_signal: int | None = None
        self.asked = 0.0  # when
        (run_dir / "samples").mkdir(exist_ok=True)
        if self.val_slices is None:
            print("There are no validation subjects: no held-out logits and no KID; the last generator is kept.")

    def __enter__(self) -> Recorder:
        config, state = self.state.config, self.state
        self.bar = tqdm(total=int(config.total_kimg * 1000), initial=state.cur_nimg, unit="img", unit_scale=True,
                        disable=not sys.stderr.isatty(), dynamic_ncols=True)  # fmt: skip
        self.handlers = {}
        with contextlib.suppress(ValueError):  # only the main thread may listen
            self.handlers = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        if state.cur_nimg == 0:
            self._draw()
        self.stepped = time.monotonic()
        return self

    def __exit__(self, *exc: object) -> None:
        self.bar.close()
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: object) -> None:
        """Stop after this step. Who asks again after a while cannot wait, and loses what was trained since the last checkpoint.

        At once it means nothing: one Ctrl-C reaches a process from the terminal and again from the program that started it.
        """
        if self.stop_signal is None:
            self.stop_signal, self.asked = number, time.monotonic()
        elif time.monotonic() - self.asked > PATIENCE:
            raise KeyboardInterrupt

    def after_step(self, tick: bool) -> None:
        """Count the step's time, and record the tick that it ends."""
        self.sign_of_life()
        self.state.seconds += time.monotonic() - self.stepped
        self.bar.update(self.state.last_batch)
        if tick:
            self._tick()
        self.stepped = time.monotonic()

    def wishes(self) -> tuple[bool, bool]:
        """Whether it is time for a checkpoint, and whether to stop."""
        now, config = time.monotonic(), self.state.config
        out_of_time = bool(config.max_minutes) and now - self.started > config.max_minutes * 60
        return now - self.saved > config.checkpoint_minutes * 60, self.stop_signal is not None or out_of_time

    def save(self, stopped: bool) -> None:
        """A checkpoint. A run that stops between two ticks writes a line too, which `run.resume` takes back."""
        if stopped:
            self._write_line({}, stopped=True)
        self._finite_means()
        save_state(self.state, self.run_dir)
        self._save_generator("generator_last.safetensors")
        if self.state.best_kid is None:
            self._save_generator("generator.safetensors")
        self.saved = self.stepped = time.monotonic()

    def _tick(self) -> None:
        state, config = self.state, self.state.config
        self._finite_means()
        number = math.ceil(state.cur_nimg / (config.tick_kimg * 1000))
        last = state.cur_nimg >= config.total_kimg * 1000
        due = bool(config.kid_ticks) and (last or number % config.kid_ticks == 0)
        found = self.score(state.G_ema, due) if self.score else {}
        if "kid" in found and (state.best_kid is None or found["kid"] < state.best_kid):
            state.best_kid = found["kid"]
            self._save_generator("generator.safetensors")
        if config.snapshot_ticks and number % config.snapshot_ticks == 0:
            (self.run_dir / "snapshots").mkdir(exist_ok=True)
            self._save_generator(f"snapshots/{state.cur_nimg:09d}.safetensors")
        self._write_line(found)
        self._draw()
        state.log.clear()

    def _write_line(self, found: dict, **further: object) -> None:
        """One line of metrics.jsonl; ``found``: what the scorer returned."""
        state, means = self.state, self._finite_means()
        line = {
            "kimg": state.cur_nimg / 1000,
            "cur_nimg": state.cur_nimg,
            "step": state.step,
            **means,
            **self._logits(),
            "augment_p": state.augment_p,
            "pl_mean": state.pl_mean.item(),
            **{f"{name}_val": found.get(name) for name in SCORES},
            **{name: value for name, value in found.items() if name not in SCORES},
            "best_kid": state.best_kid,
            "seconds": state.seconds,
            "sec_per_kimg": state.seconds / state.cur_nimg * 1000,
            "peak_memory_mb": peak_memory_mb(state.device),
            **further,
        }
        append_line(self.run_dir / "metrics.jsonl", json.dumps(line))
        kid = found.get("kid")
        score = "" if kid is None else f"  KID {kid:.1f}{' (best)' if kid == state.best_kid else ''}"
        losses = f"D {means['loss_D']:.3f}  G {means['loss_G']:.3f}  p {state.augment_p:.2f}"
        text = f"{state.cur_nimg / 1000:8.1f} kimg  {losses}  {state.cur_nimg / state.seconds:.0f} img/s{score}"
        print(text, flush=True) if self.bar.disable else self.bar.write(text)

    def _finite_means(self) -> dict[str, float]:
        """The means since the last tick. FloatingPointError where one is not finite."""
        means = self.state.log.means()
        bad = [name for name, value in means.items() if not math.isfinite(value)]
        if bad:
            raise FloatingPointError(
                f"Training broke down before {self.state.cur_nimg / 1000:g} kimg: {', '.join(bad)} not finite. The last good checkpoint "
                f"is kept in {self.run_dir}; try a lower --lr, a higher --r1-gamma or --precision fp32 in a new --run-dir."
            )
        return means

    def _logits(self) -> dict[str, float | None]:
        """D's mean logits without augmentation on fake, training and held-out slices: a gap between the last two is overfitting."""
        n, labels = self._whole_groups(MONITORED), self.train_slices.labels
        classes = spread(labels, n) if self.state.config.c_dim else None
        fakes = generate(self.state.G_ema, range(MONITOR_SEED, MONITOR_SEED + n), class_index=classes)
        return {
            "logits_real": self._mean_logit_of(self.train_slices),
            "logits_heldout": self._mean_logit_of(self.val_slices),
            "logits_fake": self._mean_logit(fakes, classes),
        }

    def _mean_logit_of(self, slices: SliceDataset | None) -> float | None:
        n = self._whole_groups(min(MONITORED, len(slices))) if slices is not None else 0
        rows = spread(np.arange(len(slices)), n) if n else None
        return None if rows is None else self._mean_logit(slices.tensor(rows), slices.labels[rows])

    def _whole_groups(self, n: int) -> int:
        return n - n % self.state.config.mbstd_group_size

    @torch.no_grad()
    def _mean_logit(self, img: torch.Tensor, labels: np.ndarray | None) -> float:
        """Of pictures as D sees them in training, but for augmentation. D stays as it is, to the last buffer."""
        state, config, training = self.state, self.state.config, self.state.D.training
        img = img.expand(-1, config.img_channels, -1, -1).to(state.device)
        if config.dither:
            img = dither(img, BatchRNG(state.device, torch.Generator(state.device).manual_seed(config.seed)))
        state.D.eval()  # in training mode a look would move spectral norms and running means
        logits = state.D(img, one_hot(labels, config.c_dim, state.device))
        state.D.train(training)
        return logits.mean().item()

    def _draw(self) -> None:
        classes = np.arange(len(GRID_SEEDS)) % self.state.config.c_dim if self.state.config.c_dim else None
        images = torch.from_numpy(to_uint8(generate(self.state.G_ema, GRID_SEEDS, class_index=classes)))
        images = images[:, None] if images.ndim == 3 else images.movedim(3, 1)
        grid = make_grid(images, nrow=8, padding=0).movedim(0, 2).numpy()
        with replacing(self.run_dir / "samples" / f"fakes{self.state.cur_nimg:09d}.png") as temporary:
            Image.fromarray(grid).save(temporary, format="PNG")
        thin(sorted((self.run_dir / "samples").glob("fakes*.png")))

    def _save_generator(self, name: str) -> None:
        known = read_json(self.run_dir / "config.json") or {"config": self.state.config.to_dict()}
        info = {**known, "train_subjects": sorted(set(self.train_slices.subjects.tolist())), "cur_nimg": self.state.cur_nimg}
        save_generator(self.run_dir / name, self.state.G_ema, info)


def thin(files: list[Path]) -> None:
    """Of more sample grids than a time-lapse can show remove the one that leaves the smallest gap, never the first or the last."""
    if len(files) > MOST_SAMPLES:
        at = [int(path.stem[5:]) for path in files]
        gaps = [after - before for before, after in zip(at, at[2:], strict=False)]
        files[1 + gaps.index(min(gaps))].unlink()


def spread(values: np.ndarray, n: int) -> np.ndarray:
    """n of the values, evenly over their order (slices are sorted by class and person), repeated where n is larger."""
    return values[np.linspace(0, len(values) - 1, n).round().astype(int)]


def peak_memory_mb(device: torch.device) -> float:
    """Most memory held so far, in MiB: of the card for CUDA, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
