"""Which slices a step sees: an endless order that depends on nothing but the seed and the place in it."""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylegan.config import Config
from stylegan.dataset import SliceDataset


def draw_batch(
    data: SliceDataset, config: Config, cur_nimg: int, device: torch.device, n: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """(real [n, C, H, W] in [-1, 1], one-hot c [n, c_dim] or None): n slices from position cur_nimg of the endless order."""
    which = order(len(data) * (2 if config.mirror else 1), config.seed, cur_nimg, n or config.batch_size)
    rows, flip = which % len(data), torch.from_numpy(which >= len(data)).to(device)
    real = data.tensor(rows, device)
    real = torch.where(flip[:, None, None, None], real.flip(mirror_axis(config, data)), real).expand(
        -1, config.img_channels, -1, -1
    )
    return real, one_hot(data.labels[rows], config.c_dim, device)


def mirror_axis(config: Config, data: SliceDataset) -> int:
    """The axis of [N, C, H, W] whose reversal exchanges left and right: the columns, unless the data say L or R at top or bottom."""
    upright = config.mirror_axis == "vertical" or (config.mirror_axis == "auto" and {"L", "R"} & set(data.sides[:2]))
    return 2 if upright else 3


def one_hot(labels: np.ndarray, c_dim: int, device: torch.device) -> Tensor | None:
    """[N] class indices -> float [N, c_dim]; None without classes."""
    return F.one_hot(torch.from_numpy(np.asarray(labels)), c_dim).float().to(device) if c_dim else None


def order(length: int, seed: int, start: int, count: int) -> np.ndarray:
    """``count`` indices from position ``start`` of an endless sequence that shuffles 0..length-1 anew in each epoch."""
    positions = np.arange(start, start + count)
    return np.array([_epoch(length, seed, int(p // length))[p % length] for p in positions])


@functools.lru_cache(maxsize=4)
def _epoch(length: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(length)
