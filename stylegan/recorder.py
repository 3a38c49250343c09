"""What is recorded while training: ticks, samples, scores and checkpoints, as the callback of the loop."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.utils import make_grid
from tqdm import tqdm

from stylegan.cache import append_line, read_json, replacing
from stylegan.checkpoint import save_generator, save_state
from stylegan.dataset import SliceDataset, one_hot
from stylegan.predict import generate, to_uint8
from stylegan.scores.evaluate import validation_scorer
from stylegan.state import TrainingState

GRID_SEEDS = range(24)  # the fixed z of the sample grids
MONITORED = 128  # slices for D's mean logits at each tick
PATIENCE = 10.0  # seconds from one wish to stop to the next that count as one
MOST_SAMPLES = 400  # sample grids of a run, 20 MB at 64 px
UNSCORED = dict.fromkeys(("kid", "precision", "recall"))
KID_SEED = 1_000_000  # fakes for the score while training; far from the seeds that people look at


class Recorder:
    """Called after every step: ticks, samples, scores, checkpoints, the progress bar, and the wish to stop."""

    def __init__(self, state: TrainingState, data: SliceDataset, run_dir: Path):
        self.state, self.run_dir = state, run_dir
        self.train_slices = data.split("train")
        self.val_slices = data.split("val") if (data.splits == "val").any() else None
        self.started = self.saved = self.stepped = time.monotonic()
        self.stop_signal: int | None = None
        self.asked = 0.0  # when
        self.shown = state.cur_nimg
        self.score = None if self.val_slices is None else validation_scorer(self.val_slices, state.config, state.device)
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

    def on_step(self, state: TrainingState) -> bool:
        """True when the run shall stop here."""
        now = time.monotonic()
        state.seconds += now - self.stepped
        batch, self.shown = state.cur_nimg - self.shown, state.cur_nimg
        self.bar.update(batch)
        last = state.cur_nimg >= state.config.total_kimg * 1000
        out_of_time = self._out_of_time(now)
        if last or self._crosses_tick(batch):
            self._tick()
        elif out_of_time:
            self._note_stop()
        stop = self.stop_signal is not None or out_of_time
        if last or stop or now - self.saved > state.config.checkpoint_minutes * 60:
            self._save()
        self.stepped = time.monotonic()
        return stop

    def _on_signal(self, number: int, _frame: object) -> None:
        """Stop after this step. Who asks again after a while cannot wait, and loses what was trained since the last checkpoint.

        At once it means nothing: one Ctrl-C reaches a process from the terminal and again from the program that started it.
        """
        if self.stop_signal is None:
            self.stop_signal, self.asked = number, time.monotonic()
        elif time.monotonic() - self.asked > PATIENCE:
            raise KeyboardInterrupt

    def _crosses_tick(self, batch: int) -> bool:
        tick = self.state.config.tick_kimg * 1000
        return math.floor(self.state.cur_nimg / tick) > math.floor((self.state.cur_nimg - batch) / tick)

    def _out_of_time(self, now: float) -> bool:
        limit = self.state.config.max_minutes
        return bool(limit) and now - self.started > limit * 60

    def _tick(self) -> None:
        state, means = self.state, self._finite_means()
        number = math.ceil(state.cur_nimg / (state.config.tick_kimg * 1000))
        last = state.cur_nimg >= state.config.total_kimg * 1000
        due = bool(state.config.kid_ticks) and (last or number % state.config.kid_ticks == 0)
        scores = self._score() if due and self.val_slices is not None else UNSCORED
        if state.config.snapshot_ticks and number % state.config.snapshot_ticks == 0:
            (self.run_dir / "snapshots").mkdir(exist_ok=True)
            self._save_generator(f"snapshots/{state.cur_nimg:09d}.safetensors")
        self._write_line(means, scores)
        self._draw()
        state.forget()

    def _note_stop(self) -> None:
        """Where a run ends between two ticks, without a score: the line is taken back when the run goes on (`runs.resume`)."""
        self._write_line(self._finite_means(), UNSCORED, stopped=True)

    def _write_line(self, means: dict[str, float], scores: dict[str, float | None], **further: object) -> None:
        state = self.state
        line = {
            "kimg": state.cur_nimg / 1000,
            "cur_nimg": state.cur_nimg,
            "step": state.step,
            **means,
            **self._logits(),
            "augment_p": state.augment_p,
            "pl_mean": state.pl_mean.item(),
            **{f"{name}_val": value for name, value in scores.items()},
            "best_kid": state.best_kid,
            "seconds": state.seconds,
            "sec_per_kimg": state.seconds / state.cur_nimg * 1000,
            "peak_memory_mb": peak_memory_mb(state.device),
            **further,
        }
        append_line(self.run_dir / "metrics.jsonl", json.dumps(line))
        self._say(means, scores["kid"])

    def _finite_means(self) -> dict[str, float]:
        """The means since the last tick. FloatingPointError where one is not finite."""
        means = self.state.means()
        bad = [name for name, value in means.items() if not math.isfinite(value)]
        if bad:
            raise FloatingPointError(
                f"Training broke down before {self.state.cur_nimg / 1000:g} kimg: {', '.join(bad)} not finite. The last good checkpoint is kept in "
                f"{self.run_dir}; try a lower --lr, a higher --r1-gamma or --precision fp32 in a new --run-dir."
            )
        return means

    def _score(self) -> dict[str, float]:
        """KID x 1000, precision and recall of G_ema on the validation slices. The rule: the lowest KID so far is the best."""
        state = self.state
        scores = {name: value for name, value in self.score(state.G_ema, True).items() if name in UNSCORED}
        if state.best_kid is None or scores["kid"] < state.best_kid:
            state.best_kid = scores["kid"]
            self._save_generator("generator.safetensors")
        return scores

    def _logits(self) -> dict[str, float | None]:
        """D's mean logits without augmentation on fake, training and held-out slices: a gap between the last two is overfitting."""
        n, labels = self._whole_groups(MONITORED), self.train_slices.labels
        classes = spread(labels, n) if self.state.config.c_dim else None
        fakes = generate(self.state.G_ema, range(KID_SEED, KID_SEED + n), class_index=classes)
        return {
            "logits_real": self._mean_logit_of(self.train_slices),
            "logits_heldout": self._mean_logit_of(self.val_slices),
            "logits_fake": self._mean_logit(fakes, classes),
        }

    def _mean_logit_of(self, slices: SliceDataset | None) -> float | None:
        n = self._whole_groups(min(MONITORED, len(slices))) if slices is not None else 0
        rows = spread(np.arange(len(slices)), n) if n else None
        return None if rows is None else self._mean_logit(slices.tensor(rows), slices.labels[rows])

    @torch.no_grad()
    def _mean_logit(self, img: torch.Tensor, labels: np.ndarray | None) -> float:
        state = self.state
        img = img.expand(-1, state.config.img_channels, -1, -1).to(state.device)
        return state.D(img, one_hot(labels, state.config.c_dim, state.device)).mean().item()

    def _whole_groups(self, n: int) -> int:
        return n - n % self.state.config.mbstd_group_size

    def _draw(self) -> None:
        classes = np.arange(len(GRID_SEEDS)) % self.state.config.c_dim if self.state.config.c_dim else None
        images = torch.from_numpy(to_uint8(generate(self.state.G_ema, GRID_SEEDS, class_index=classes)))
        images = images[:, None] if images.ndim == 3 else images.movedim(3, 1)
        grid = make_grid(images, nrow=8, padding=0).movedim(0, 2).numpy()
        with replacing(self.run_dir / "samples" / f"fakes{self.state.cur_nimg:09d}.png") as temporary:
            Image.fromarray(grid).save(temporary, format="PNG")
        thin(sorted((self.run_dir / "samples").glob("fakes*.png")))

    def _say(self, means: dict[str, float], kid: float | None) -> None:
        state = self.state
        score = "" if kid is None else f"  KID {kid:.1f}{' (best)' if kid == state.best_kid else ''}"
        losses = f"D {means['loss_D']:.3f}  G {means['loss_G']:.3f}  p {state.augment_p:.2f}"
        text = f"{state.cur_nimg / 1000:8.1f} kimg  {losses}  {state.cur_nimg / state.seconds:.0f} img/s{score}"
        if self.bar.disable:
            print(text, flush=True)
        else:
            self.bar.write(text)

    def _save(self) -> None:
        self._finite_means()
        save_state(self.state, self.run_dir)
        self._save_generator("generator_last.safetensors")
        if self.state.best_kid is None:
            self._save_generator("generator.safetensors")
        self.saved = time.monotonic()

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
