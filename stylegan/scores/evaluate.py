"""The scores that a run is given while it trains; handed to `run.train_run`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from stylegan.config import Config
from stylegan.dataset import SliceDataset
from stylegan.networks import Generator
from stylegan.predict import generate
from stylegan.recorder import spread
from stylegan.scores.features import features
from stylegan.scores.memorisation import people_of
from stylegan.scores.metrics import scores_while_training

SCORED_SEED = 1_000_000  # far from the seeds that people look at


def validation_scorer(val_slices: SliceDataset, config: Config, device: torch.device) -> Callable[[Generator, bool], dict]:
    """score(G_ema, full): with ``full`` KID x 1000, precision and recall of G_ema on the validation slices, else nothing."""
    real, n = [], config.kid_samples

    def score(G_ema: Generator, full: bool) -> dict[str, float]:
        if not full:
            return {}
        if not real:
            real.append(features(val_slices.images, device=device))
        classes = spread(val_slices.labels, n) if config.c_dim else None
        fakes = generate(G_ema, range(SCORED_SEED, SCORED_SEED + n), class_index=classes)
        return scores_while_training(real[0], people_of(val_slices), fakes, device=device)

    return score
