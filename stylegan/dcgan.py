"""The baseline: DCGAN of Radford, Metz, Chintala 2016, arXiv:1511.06434. No styles, no noise inputs, batch normalisation.

Strided 4x4 convolutions, ReLU in the generator, leaky ReLU in the discriminator, weights from N(0, .02). z enters at the bottom only,
so w is z (scaled to a sphere) and there is one style vector.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylegan.config import Config
from stylegan.modules import SLOPE
from stylegan.resampling import in_full_precision

DEVIATION = 0.02  # of the first weights (section 4 there)


def _started(layer: nn.Module) -> nn.Module:
    nn.init.normal_(layer.weight, 0, DEVIATION)
    return layer


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation in full precision, with scales from N(1, .02)."""

    def __init__(self, channels: int):
        super().__init__(channels)
        nn.init.normal_(self.weight, 1, DEVIATION)

    @in_full_precision
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class SynthesisBlock(nn.Module):
    """One resolution of the generator: transposed convolution, batch normalisation and ReLU; the last ends in a picture and tanh.

    The first block takes z itself as maps of 1 x 1 px.
    """

    num_torgb = 0

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, resolution: int, last: bool):
        super().__init__()
        self.is_first, self.resolution, self.last = in_channels == 0, resolution, last
        self.num_conv = 1 if self.is_first else 0
        shape = (w_dim, out_channels, 4, 1, 0) if self.is_first else (in_channels, out_channels, 4, 2, 1)
        self.conv = _started(nn.ConvTranspose2d(*shape, bias=last))
        self.norm = None if last else BatchNorm2d(out_channels)

    def forward(self, x: Tensor | None, img: None, ws: Tensor, noise: list) -> tuple[Tensor, Tensor | None]:
        """x [N, in, H/2, W/2] (the first: ws [N, 1, w_dim]) -> x [N, out, H, W] and, of the last, the picture. Noise is not used."""
        x = self.conv(ws[:, 0, :, None, None] if self.is_first else x)
        if self.last:
            return x, torch.tanh(x.float())
        return F.relu(self.norm(x)), None


class DiscriminatorBlock(nn.Module):
    """Strided convolution, batch normalisation (but not on the picture), leaky ReLU. [N, in, H, W] -> [N, out, H/2, W/2]."""

    def __init__(self, in_channels: int, out_channels: int, normalise: bool):
        super().__init__()
        self.conv = _started(nn.Conv2d(in_channels, out_channels, 4, 2, 1, bias=not normalise))
        self.norm = BatchNorm2d(out_channels) if normalise else None
        self.slope = SLOPE

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return F.leaky_relu(x if self.norm is None else self.norm(x), self.slope)


class DiscriminatorEpilogue(nn.Module):
    """A convolution over the whole map. [N, C, 4, 4] -> [N, 1]."""

    def __init__(self, channels: int):
        super().__init__()
        self.out = _started(nn.Conv2d(channels, 1, 4, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x).flatten(1)


# --- What the skeleton asks of a paper's file (`networks.VARIANTS`) ---------------------------------------------------------------


def synthesis_block(config: Config, resolution: int) -> SynthesisBlock:
    last = resolution == config.img_resolution
    out = config.img_channels if last else config.channels(resolution)
    return SynthesisBlock(config.channels_below(resolution), out, config.w_dim, resolution, last)


def from_rgb(config: Config, resolution: int) -> nn.Module:
    return nn.Identity()  # its first convolution sees the picture itself


def discriminator_block(config: Config, resolution: int) -> DiscriminatorBlock:
    first = resolution == config.img_resolution
    in_channels = config.d_channels if first else config.channels(resolution)
    return DiscriminatorBlock(in_channels, config.channels(resolution // 2), normalise=not first)


def epilogue(config: Config, out: int) -> DiscriminatorEpilogue:
    return DiscriminatorEpilogue(config.channels(4))
