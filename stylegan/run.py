"""The run folder: what a training run writes, how it resumes, and the rule that keeps its best generator.

config.json  metrics.jsonl  checkpoints/  samples/  generator.safetensors (best)  generator_last.safetensors  environment.txt
"""

import contextlib
import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from stylegan import distributed
from stylegan.augment import dither
from stylegan.checkpoint import BEST_OF_TICKS, read_metrics, read_settings, resume, save_generator, save_state
from stylegan.config import Config, differences
from stylegan.dataset import SliceDataset, load_slices, normalised, one_hot
from stylegan.files import append_line, environment, hold_run_dir, prepare_machine, printable, read_json, replacing, write_json
from stylegan.networks import enough_memory, peak_memory_mb
from stylegan.predict import generate, sampling, to_uint8
from stylegan.rng import BatchRNG
from stylegan.train import TrainingState, new_state, train

AGREE_STEPS = 8  # several processes ask the main one every so many steps whether to save or to stop
GRID_SEEDS = range(24)  # the fixed z of the sample grids
MONITORED = range(1_000_000, 1_000_128)  # seeds of the fakes for D's mean logits, and how many slices; nobody looks at them
PATIENCE = 10.0  # seconds from one wish to stop to the next that count as one
MOST_SAMPLES = 400  # sample grids of a run, 20 MB at 64 px
SCORES = ("kid", "precision", "recall", "coverage")
Scorer = Callable[[SliceDataset, Config, torch.device], Callable[[torch.nn.Module, bool], dict]]


def train_run(
    config: Config, data: str | Path | None, run_dir: str | Path, *, scorer: Scorer | None = None, **reading: object
) -> dict:
    """Train in a run folder, or go on where it stopped; returns the last line of its metrics.

    ``data`` and ``reading`` (``subjects_csv``, ``levels``, ``contrast``): as in `load_slices`. Only the training subjects are trained on.
    ``scorer(val_slices, config, device)`` returns ``score(G_ema, full)``, a dictionary for the lines of metrics.jsonl; with
    ``full`` it holds `SCORES`, and the generator with the lowest ``kid`` is kept as the best. Without a scorer it is the last.

    Raises ValueError when another process writes to the folder or it was made with another config or other slices,
    FloatingPointError when a loss is no longer finite, and KeyboardInterrupt, after saving, when it was asked to stop.
    """
    run_dir, chosen = Path(run_dir), {name: value for name, value in reading.items() if value is not None}
    if isinstance(levels := chosen.get("levels"), tuple | list):
        chosen["levels"] = f"{levels[0]}-{levels[1]}"
    with distributed.main_process_first():
        slices = load_slices(data, config.img_resolution, **chosen)
    for warning in slices.warnings:
        print(f"Note: {warning}")
    config, recorder = with_classes(config, slices), None
    if config.architecture == "dcgan" and distributed.world() > 1:
        print(f"Note: batch normalisation sees the share of one process: {distributed.world()} do not train quite as one does.")
    prepare_machine()
    with contextlib.ExitStack() as stack:
        stack.enter_context(enough_memory(config))
        if distributed.is_main():
            sign_of_life = stack.enter_context(_writing(run_dir))
            write_or_check_config(run_dir, config, slices, {"path": data, **chosen})
        distributed.wait()
        history = read_metrics(run_dir) if (run_dir / "metrics.jsonl").is_file() else []
        if history and history[-1]["kimg"] > config.total_kimg:  # nothing is taken back
            print(f"This run has {history[-1]['kimg']:g} kimg already, more than {config.total_kimg:g}: nothing to train.")
            return history[-1]
        slices, state = normalised(slices, config.normalise), new_state(config)
        resume(state, run_dir)
        if distributed.is_main():
            where = f"Training on {state.device}, in {state.precision}."
            print("It is finished: nothing to train." if _is_over(state) else where)
            recorder = stack.enter_context(Recorder(state, slices, run_dir, scorer, sign_of_life))
        train(state, slices.split("train"), lambda state: agree(state, recorder))
    if not _is_over(state):
        print(f"Stopped and saved at {state.cur_nimg / 1000:g} of {config.total_kimg:g} kimg; run this command or cell again.")
    if recorder and recorder.stop_signal is not None:
        raise KeyboardInterrupt
    return (read_metrics(run_dir) or [{}])[-1] if recorder else {}  # other processes may be here before the first line is


def agree(state: TrainingState, recorder: "Recorder | None") -> bool:
    """After each step, in every process: record what is due, and return whether the run stops here."""
    length = state.config.tick_kimg * 1000
    tick = _is_over(state) or int(state.cur_nimg / length) > int((state.cur_nimg - state.last_batch) / length)
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


def with_classes(config: Config, data: SliceDataset) -> Config:
    """The config with the number of classes for the networks; says which labels were seen and whether they are used."""
    seen, used = printable(", ".join(data.classes)) or "none", config.conditional == "class"
    unlabelled = int((data.labels < 0).sum())
    if used and (len(data.classes) < 2 or unlabelled):
        there = f"{data.title} has the classes {seen} and {unlabelled} slices without a label"
        way = "Train without --conditional or name a table with --subjects."
        raise ValueError(f"--conditional class needs at least two classes and a label for every slice; {there}. {way}")
    trained = set(data.labels[data.splits == "train"])
    if used and (absent := ", ".join(name for index, name in enumerate(data.classes) if index not in trained)):
        raise ValueError(f"--conditional class takes training slices of each class; {data.title} has none of {absent}.")
    use = "G and D are told the class of each slice" if used else "not used (--conditional class uses them)"
    print(f"Labels in the data: {seen}; {use}.")
    return replace(config, c_dim=len(data.classes) if used else 0)


# --- The folder -------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _writing(run_dir: Path) -> Iterator[Callable[[], None]]:
    """Be the one writer of a run folder, which gives a sign of life now and then; ValueError where it cannot be written."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        foreign = any(not path.name.startswith(".") for path in run_dir.iterdir())
        if foreign and read_settings(run_dir) is None:  # nothing is written: it may hold the slices
            raise ValueError(f"{run_dir} is not a run folder (no config.json to go by); choose an empty or new --run-dir.")
        with hold_run_dir(run_dir) as sign_of_life:
            for name in (".", "checkpoints", "samples", "snapshots"):
                for path in (run_dir / name).glob(".*.tmp"):  # what a killed writer was about to write
                    path.unlink(missing_ok=True)
            yield sign_of_life
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"Cannot write to {run_dir}: {error}; make room, or choose another --run-dir.") from error


def write_or_check_config(run_dir: Path, config: Config, data: SliceDataset, source: dict) -> None:
    """Write config.json and environment.txt unless another experiment made the folder. ``source``: how to find the slices."""
    found = {name: os.path.abspath(source[name]) for name in ("path", "subjects_csv") if source.get(name) is not None}
    about = {"path": None, **source, **found, "title": data.title, "layout": data.layout, "key": data.key}
    known = read_settings(run_dir)
    changed = differences(known["config"], config) if known else []
    if known and known["data"].get("key") != about["key"]:
        changed.append(f"data ({known['data'].get('title')} there, {about['title']} asked, or its files changed)")
    if changed:
        what = ", ".join(changed)
        old = f"the old settings, which begin with --preset {known['config'].get('preset', 'quick')}"
        raise ValueError(f"{run_dir} was made with another config: {what}; take a new --run-dir or {old}.")
    write_json(run_dir / "config.json", {"config": config.to_dict(), "data": about, "classes": list(data.classes)})
    with replacing(run_dir / "environment.txt") as temporary:
        temporary.write_text(environment())
    for name in ("checkpoints", "samples"):  # an OSError where a file of that name is in the way
        (run_dir / name).mkdir(exist_ok=True)


# --- What is recorded -------------------------------------------------------------------------------------------------------------


class Recorder(contextlib.ExitStack):
    """What the main process does while it trains: ticks, samples, scores, checkpoints, progress, and stopping when asked."""

    def __init__(self, state: TrainingState, data: SliceDataset, run_dir: Path, scorer: Scorer | None, sign_of_life: Callable):
        super().__init__()
        self.state, self.run_dir, self.sign_of_life, self.train_slices = state, run_dir, sign_of_life, data.split("train")
        self.val_slices = data.split("val") if (data.splits == "val").any() else None
        scored = scorer and self.val_slices and state.config.img_channels == 1  # feature spaces take grey slices
        self.score = scorer(self.val_slices, state.config, state.device) if scored else None
        self.stop_signal, self.asked = None, 0.0  # which signal, and when
        if self.val_slices is None:
            print("There are no validation subjects: no held-out logits and no KID; the last generator is kept.")
        elif state.config.img_channels != 1:
            print("Slices of 3 channels are not scored: no KID; the last generator is kept.")
        self.started = self.saved = time.monotonic()
        if state.cur_nimg == 0:
            self._draw()
        total, silent = int(state.config.total_kimg * 1000), not sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=state.cur_nimg, unit="img", unit_scale=True, disable=silent, dynamic_ncols=True)
        self.callback(self.bar.close)
        with contextlib.suppress(ValueError):  # only the main thread may listen
            for number in distributed.STOP_SIGNALS:
                if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:  # `nohup` survives its terminal
                    self.callback(signal.signal, number, signal.signal(number, self._on_signal))
        self.stepped = time.monotonic()

    def _on_signal(self, number: int, _frame: object) -> None:
        """Stop after this step, or at once, without saving, when asked again after a while."""
        if self.stop_signal is None:
            self.stop_signal, self.asked = number, time.monotonic()
        elif time.monotonic() - self.asked > PATIENCE:  # sooner it is the same Ctrl-C, which a parent process passes on
            raise KeyboardInterrupt

    def after_step(self, tick: bool) -> None:
        """Count the step's time, and record the tick that it ends."""
        self.sign_of_life()
        self.state.seconds += time.monotonic() - self.stepped
        if self.stop_signal is None:  # else the terminal may be gone, and with it the checkpoint that is to come
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
        """A checkpoint; and for a run that stops between two ticks a line, with its scores if the clock ended it, which
        `resume` takes back with its best generator."""
        state, best_kid, found = self.state, self.state.best_kid, {}
        self._finite_means()
        save_state(state, self.run_dir)
        self._save_generator("generator_last")
        if best_kid is None:
            self._save_generator("generator")
        if stopped and self.stop_signal is None:  # after a signal there is no time to score
            with replacing(self.run_dir / BEST_OF_TICKS) as temporary:
                shutil.copyfile(self.run_dir / "generator.safetensors", temporary)
            found = self._scores(bool(state.config.kid_ticks))
        if stopped:
            self._write_line(found, stopped=True)
        state.best_kid = best_kid
        self.saved = self.stepped = time.monotonic()

    def _tick(self) -> None:
        state, config = self.state, self.state.config
        self._finite_means()
        number = int(state.cur_nimg / (config.tick_kimg * 1000))
        found = self._scores(bool(config.kid_ticks) and (_is_over(state) or number % config.kid_ticks == 0))
        if config.snapshot_ticks and number % config.snapshot_ticks == 0:
            (self.run_dir / "snapshots").mkdir(exist_ok=True)
            self._save_generator(f"snapshots/{state.cur_nimg:09d}")
        self._write_line(found)
        self._draw()
        state.log.clear()

    def _scores(self, full: bool) -> dict[str, object]:
        """What the scorer says; the generator with the lowest KID so far is kept as the best."""
        state, found = self.state, self.score(self.state.G_ema, full) if self.score else {}
        if "kid" in found and (state.best_kid is None or found["kid"] < state.best_kid):
            state.best_kid = found["kid"]
            self._save_generator("generator")
            self.saved = -math.inf  # a checkpoint follows at once: a kill must not part the two
        return found

    def _write_line(self, found: dict, **further: object) -> None:
        """One line of metrics.jsonl; ``found``: what the scorer returned."""
        state, means = self.state, self._finite_means()
        line = {
            "kimg": state.cur_nimg / 1000, "cur_nimg": state.cur_nimg, "step": state.step, **means, **self._logits(),
            "augment_p": state.augment_p, "pl_mean": state.pl_mean.item(), **{f"{name}_val": found.get(name) for name in SCORES},
            **{name: value for name, value in found.items() if name not in SCORES}, "best_kid": state.best_kid,
            "seconds": state.seconds, "sec_per_kimg": state.seconds / state.cur_nimg * 1000,
            "peak_memory_mb": peak_memory_mb(state.device), **further,
        }  # fmt: skip
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
            what = f"Training broke down before {self.state.cur_nimg / 1000:g} kimg: {', '.join(bad)} not finite"
            way = "try a lower --lr, a higher --r1-gamma or --precision fp32 in a new --run-dir"
            raise FloatingPointError(f"{what}. The last good checkpoint is kept in {self.run_dir}; {way}.")
        return means

    def _logits(self) -> dict[str, float | None]:
        """D's mean logits without augmentation on fake, training and held-out slices: a gap between the last two is overfitting."""
        n, found = len(MONITORED), {}
        group = min(self.state.config.mbstd_group_size, n)
        for name, slices in (("logits_real", self.train_slices), ("logits_heldout", self.val_slices)):
            size = 0 if slices is None else min(n, len(slices))
            rows = spread(np.arange(size and len(slices)), size - size % min(group, max(size, 1)))
            found[name] = self._mean_logit(slices.tensor(rows), slices.labels[rows]) if len(rows) else None
        seeds = MONITORED[: n - n % group]
        classes = spread(self.train_slices.labels, len(seeds)) if self.state.config.c_dim else None
        return found | {"logits_fake": self._mean_logit(generate(self.state.G_ema, seeds, class_index=classes), classes)}

    def _mean_logit(self, img: torch.Tensor, labels: np.ndarray | None) -> float:
        """Of pictures as D sees them in training, but for augmentation. D stays as it is, to the last buffer."""
        state, config = self.state, self.state.config
        img = img.expand(-1, config.img_channels, -1, -1).to(state.device)
        if config.dither:
            img = dither(img, BatchRNG(state.device, torch.Generator(state.device).manual_seed(config.seed)))
        with sampling(state.D):  # in training mode a look would move spectral norms and running means
            return state.D(img, one_hot(labels, config.c_dim, state.device)).mean().item()

    def _draw(self) -> None:
        """A grid of pictures from fixed z. Of more than a time-lapse can show every other one goes, but the first and the last stay."""
        from torchvision.utils import make_grid  # two seconds to import: only who trains pays

        folder, c_dim = self.run_dir / "samples", self.state.config.c_dim
        classes = np.arange(len(GRID_SEEDS)) % c_dim if c_dim else None
        images = torch.from_numpy(to_uint8(generate(self.state.G_ema, GRID_SEEDS, class_index=classes)))
        images = images[:, None] if images.ndim == 3 else images.movedim(3, 1)
        with replacing(folder / f"fakes{self.state.cur_nimg:09d}.png") as temporary:
            Image.fromarray(make_grid(images, nrow=8, padding=0).movedim(0, 2).numpy()).save(temporary, format="PNG")
        grids = sorted(folder.glob("fakes*.png"))
        for path in grids[1:-1:2] if len(grids) > MOST_SAMPLES else ():
            path.unlink()

    def _save_generator(self, name: str) -> None:
        known = read_json(self.run_dir / "config.json") or {"config": self.state.config.to_dict()}
        info = {**known, "train_subjects": sorted(set(self.train_slices.subjects.tolist())), "cur_nimg": self.state.cur_nimg}
        save_generator(self.run_dir / f"{name}.safetensors", self.state.G_ema, info)


def spread(values: np.ndarray, n: int) -> np.ndarray:
    """n of the values, evenly over their order (slices are sorted by class and person), repeated where n is larger."""
    return values[np.linspace(0, len(values) - 1, n).round().astype(int)]
