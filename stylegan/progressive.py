"""Progressive growing as a schedule: the number of slices shown decides the resolution, the fade, the batch and the learning rate.

Karras et al. 2018 (ProGAN, arXiv:1710.10196), section 2 and appendix A; the figures are those of StyleGAN1's official code. Nothing
here keeps a state, so that a fade goes on over ticks and resumes where the slices left it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from stylegan.config import Config

LR_FACTORS = {128: 1.5, 256: 2.0, 512: 3.0, 1024: 3.0}  # StyleGAN1's schedule, as multiples of the rate at lower resolutions


class Stage(NamedTuple):
    """What is trained now: the newest resolution, and how far it is faded in (1: fully)."""

    resolution: int
    alpha: float

    @property
    def fading(self) -> bool:
        return self.alpha < 1


def stage(config: Config, cur_nimg: int) -> Stage:
    """The stage after ``cur_nimg`` slices.

    ``grow_kimg`` at the first resolution, then for each doubling ``fade_kimg`` in which alpha goes evenly from 0 to 1, and
    ``grow_kimg`` at alpha = 1; the last one lasts. Without growing (``grow_from`` 0) the full resolution at alpha = 1 from the start.
    """
    if not config.grow_from:
        return Stage(config.img_resolution, 1.0)
    hold, fade = config.grow_kimg * 1000, config.fade_kimg * 1000
    doublings = (config.img_resolution // config.grow_from).bit_length() - 1
    phase, within = divmod(cur_nimg, hold + fade)
    if phase >= doublings:
        return Stage(config.img_resolution, 1.0)
    resolution = config.grow_from << int(phase)
    if within < hold:
        return Stage(resolution, 1.0)
    return Stage(2 * resolution, (within - hold) / fade)


def batch_size(config: Config, resolution: int) -> int:
    """Slices in a batch: ``batch_size`` at the full resolution and twice as many at each half of it, up to ``grow_batch_max``."""
    if not config.grow_from:
        return config.batch_size
    batch = config.batch_size
    while batch < config.batch_size * (config.img_resolution // resolution) and 2 * batch <= config.grow_batch_max:
        batch *= 2
    return batch


def ws_reached(config: Config, resolution: int) -> int:
    """How many of the num_ws style vectors reach the picture at this resolution."""
    return config.num_ws - 2 * ((config.img_resolution // resolution).bit_length() - 1)


def lr_factor(config: Config, cur_nimg: int) -> float:
    """What the learning rates are multiplied by after so many slices: by the resolution while growing, and from ``lr_decay_kimg`` on
    by the inverse root of the slices shown (Karras et al. 2024, EDM2, arXiv:2312.02696, equation 67)."""
    factor = LR_FACTORS.get(stage(config, cur_nimg).resolution, 1.0) if config.grow_from else 1.0
    if config.lr_decay_kimg:
        factor /= max(cur_nimg / 1000 / config.lr_decay_kimg, 1) ** 0.5
    return factor


def fade_reals(real: Tensor, now: Stage, alpha: Tensor) -> Tensor:
    """Real slices [N, C, R, R] with as much detail as the generator draws now: halved pictures fade into those of the stage.

    As D reduces every picture to the resolution of its stage, only the fade itself has to be shown.
    """
    if not now.fading:
        return real
    R = real.shape[2]
    sharp = F.avg_pool2d(real, R // now.resolution)
    smooth = F.interpolate(F.avg_pool2d(sharp, 2), scale_factor=2.0)
    return F.interpolate(smooth.lerp(sharp, alpha), scale_factor=float(R // now.resolution))
