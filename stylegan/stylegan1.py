"""The layers and blocks of StyleGAN1, and how it grows: Karras et al. 2019, "A Style-Based Generator Architecture for GANs", arXiv:1812.04948.

Each layer adds noise, then gives every map the mean and deviation that the style asks for (AdaIN). Both networks can grow (Karras et al.
2018, ProGAN, arXiv:1710.10196, section 2 and appendix A; figures as in StyleGAN1's official code), by a schedule that keeps no state;
then each block has a picture of its own, and otherwise only the last one. Blocks are called as those of StyleGAN2 are.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylegan.config import Config
from stylegan.modules import GAIN, SLOPE, EqualConv2d, EqualLinear, NoiseInjection, leaky_relu
from stylegan.resampling import blur, in_full_precision
from stylegan.stylegan2 import DiscriminatorEpilogue as DiscriminatorEpilogue  # ProGAN's, which both papers kept
from stylegan.stylegan2 import FromRGB as FromRGB


class AdaIN(nn.Module):
    """Adaptive instance normalisation, equation 1: y_s (x - mean(x)) / std(x) + y_b, each map of each sample by itself.
    The style (y_s, y_b) is an affine map of w and starts around (1, 0). [N, C, H, W], w [N, w_dim] -> [N, C, H, W]."""

    def __init__(self, channels: int, w_dim: int):
        super().__init__()
        self.affine = EqualLinear(w_dim, 2 * channels)

    @in_full_precision
    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        scale, shift = self.affine(w)[:, :, None, None].chunk(2, dim=1)  # [N, C, 1, 1] each
        x = x - x.mean(dim=[2, 3], keepdim=True)
        x = x * (x.square().mean(dim=[2, 3], keepdim=True) + 1e-8).rsqrt()
        return x * (scale + 1) + shift


class Conv2d(nn.Module):
    """3x3 convolution with equalised learning rate, which may double the resolution before, or halve it after its sums.

    Up: every pixel becomes a square of four, then the convolution, then the filter [1, 2, 1]. Down: the filter, the convolution, then
    the mean of each square of four. In both, squares and weights make one 4x4 kernel. [N, in, H, W] -> [N, out, H', W'].
    """

    def __init__(self, in_channels: int, out_channels: int, *, up: bool = False, down: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.up, self.down = up, down
        self.scale, self.norm_gain = GAIN / math.sqrt(in_channels * 9), GAIN

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.scale
        if self.up:
            weight = spread_kernel(weight.flip(2, 3)).transpose(0, 1)  # a transposed convolution turns its kernel round
            return blur121(F.conv_transpose2d(x, weight, stride=2, padding=1))
        if self.down:
            return F.conv2d(blur121(x), spread_kernel(weight) / 4, stride=2, padding=1)
        return F.conv2d(x, weight, padding=1)


def spread_kernel(weight: Tensor) -> Tensor:
    """[o, i, 3, 3] -> [o, i, 4, 4]: the kernel at its four places in a square of two by two pixels, summed."""
    wide = F.pad(weight, [1, 1, 1, 1])
    return wide[:, :, 1:, 1:] + wide[:, :, :-1, 1:] + wide[:, :, 1:, :-1] + wide[:, :, :-1, :-1]


def blur121(x: Tensor) -> Tensor:
    """The binomial filter [1, 2, 1] / 4 in both directions (appendix C, after Zhang 2019): the same shape."""
    return blur(x, padding=1, taps=(1.0, 2.0, 1.0))


class Styled(nn.Module):
    """What follows each convolution and the constant (figure 1b): noise, bias, leaky ReLU, AdaIN."""

    def __init__(self, channels: int, w_dim: int, resolution: int, noise_lr: float = 1.0):
        super().__init__()
        self.noise = NoiseInjection(resolution, channels, lr_multiplier=noise_lr)
        self.bias = nn.Parameter(torch.zeros(channels))
        self.adain = AdaIN(channels, w_dim)
        self.slope = SLOPE

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | str | None) -> Tensor:
        """``noise``: [N, 1, H, W], None for the fixed map, or 'none' for no noise."""
        x = x.float() + self.bias[:, None, None]
        if not isinstance(noise, str):
            x = x + self.noise(noise)
        return self.adain(F.leaky_relu(x, self.slope), w)


class SynthesisBlock(nn.Module):
    """One resolution of the generator, of two styled layers; the picture is a 1x1 convolution without a style."""

    num_torgb = 0
    num_conv = 2

    def __init__(self, config: Config, resolution: int):
        super().__init__()
        in_channels, out_channels, w_dim = config.channels_below(resolution), config.channels(resolution), config.w_dim
        self.is_first, self.resolution, noise_lr = in_channels == 0, resolution, config.noise_lr_multiplier
        rgb = bool(config.grow_from) or resolution == config.img_resolution
        if self.is_first:
            self.const = nn.Parameter(torch.ones(out_channels, resolution, resolution))
        else:
            self.conv0 = Conv2d(in_channels, out_channels, up=True)
        self.styled0 = Styled(out_channels, w_dim, resolution, noise_lr)
        self.conv1 = Conv2d(out_channels, out_channels)
        self.styled1 = Styled(out_channels, w_dim, resolution, noise_lr)
        self.torgb = EqualConv2d(out_channels, config.img_channels, 1, act=False) if rgb else None

    def forward(self, x: Tensor | None, img: Tensor | None, ws: Tensor, noise: list) -> tuple[Tensor, Tensor | None]:
        """x [N, in, H/2, W/2], ws [N, 2, w_dim] -> x [N, out, H, W] and its picture [N, C, H, W], or None where it has none."""
        if self.is_first:
            x = self.const.unsqueeze(0).repeat(len(ws), 1, 1, 1).contiguous(memory_format=torch.channels_last)
        else:
            x = self.conv0(x)
        x = self.styled0(x, ws[:, 0], noise[0])
        x = self.styled1(self.conv1(x), ws[:, 1], noise[1])
        return x, None if self.torgb is None else self.torgb(x).float()


class DiscriminatorBlock(nn.Module):
    """Two convolutions, the second halves the resolution. [N, in, H, W] -> [N, out, H/2, W/2]."""

    def __init__(self, config: Config, resolution: int):
        super().__init__()
        in_channels, out_channels = config.channels(resolution), config.channels(resolution // 2)
        self.conv0 = Conv2d(in_channels, in_channels)
        self.bias0 = nn.Parameter(torch.zeros(in_channels))
        self.conv1 = Conv2d(in_channels, out_channels, down=True)
        self.bias1 = nn.Parameter(torch.zeros(out_channels))
        self.slope = SLOPE

    def forward(self, x: Tensor) -> Tensor:
        x = leaky_relu(self.conv0(x) + self.bias0[:, None, None], self.slope)
        return leaky_relu(self.conv1(x) + self.bias1[:, None, None], self.slope)


# --- Growing: the number of slices shown decides the resolution, the fade, the batch and the learning rate -------------------------

LR_FACTORS = {128: 1.5, 256: 2.0, 512: 3.0, 1024: 3.0}  # StyleGAN1's schedule, as multiples of the rate at lower resolutions


class Stage(NamedTuple):
    """What is trained now: the newest resolution, and how far it is faded in (1: fully)."""

    resolution: int
    alpha: float

    @property
    def fading(self) -> bool:
        return self.alpha < 1


def stage(config: Config, cur_nimg: int) -> Stage:
    """The stage after ``cur_nimg`` slices: ``grow_kimg`` at the first resolution (without growing the full one, which lasts),
    then for each doubling ``fade_kimg`` in which alpha goes evenly from 0 to 1, and ``grow_kimg`` at alpha = 1."""
    hold, fade = config.grow_kimg * 1000, config.fade_kimg * 1000
    phase, within = divmod(cur_nimg, hold + fade)
    resolution = (config.grow_from or config.img_resolution) << int(min(phase, 8))  # from 4 px to 1024
    if resolution >= config.img_resolution:
        return Stage(config.img_resolution, 1.0)
    if within < hold:
        return Stage(resolution, 1.0)
    return Stage(2 * resolution, (within - hold) / fade)


def batch_size(config: Config, resolution: int) -> int:
    """Slices in a batch: ``batch_size`` at the full resolution and twice as many at each half of it, up to ``grow_batch_max``."""
    batch = config.batch_size
    while batch < config.batch_size * (config.img_resolution // resolution) and 2 * batch <= config.grow_batch_max:
        batch *= 2
    return batch


def ws_reached(config: Config, resolution: int) -> int:
    """How many of the num_ws style vectors reach the picture at this resolution."""
    return config.num_ws - 2 * ((config.img_resolution // resolution).bit_length() - 1)


def lr_factor(config: Config, cur_nimg: int) -> float:
    """Learning rates after so many slices, as a multiple: by the resolution while growing; from ``lr_decay_kimg`` on as 1 / root of the
    slices shown (EDM2, arXiv:2312.02696, equation 67); evenly to 0 over the last quarter before ``lr_end_kimg`` (arXiv:2405.18392)."""
    factor = LR_FACTORS.get(stage(config, cur_nimg).resolution, 1.0) if config.grow_from else 1.0
    if config.lr_decay_kimg:
        factor /= max(cur_nimg / 1000 / config.lr_decay_kimg, 1) ** 0.5
    if config.lr_end_kimg:
        factor *= min(4 * max(1 - cur_nimg / 1000 / config.lr_end_kimg, 0), 1)
    return factor


def fade_reals(real: Tensor, now: Stage, alpha: Tensor) -> Tensor:
    """Real slices [N, C, R, R] with as much detail as the generator draws now: halved pictures fade into those of the stage.
    As D reduces every picture to the resolution of its stage, only the fade itself has to be shown."""
    if not now.fading:
        return real
    R = real.shape[2]
    sharp = F.avg_pool2d(real, R // now.resolution)
    smooth = F.interpolate(F.avg_pool2d(sharp, 2), scale_factor=2.0)
    return F.interpolate(smooth.lerp(sharp, alpha), scale_factor=float(R // now.resolution))
