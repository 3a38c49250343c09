"""The baseline: DCGAN of Radford, Metz, Chintala 2016, arXiv:1511.06434. No styles, no noise inputs, batch normalisation.

Strided 4x4 convolutions, ReLU in the generator, leaky ReLU in the discriminator, weights from N(0, .02). z enters at the bottom only,
so w is z (scaled to a sphere) and there is one style vector.
"""

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
    """One resolution of the generator: transposed convolution, batch normalisation and ReLU; the last ends in tanh."""

    num_torgb = 0

    def __init__(self, config: Config, resolution: int):
        super().__init__()
        self.is_first, self.resolution, self.last = resolution == 4, resolution, resolution == config.img_resolution
        self.num_conv = 1 if self.is_first else 0
        in_channels = config.channels_below(resolution)
        out_channels = config.img_channels if self.last else config.channels(resolution)
        shape = (config.w_dim, out_channels, 4, 1, 0) if self.is_first else (in_channels, out_channels, 4, 2, 1)
        self.conv = _started(nn.ConvTranspose2d(*shape, bias=self.last))
        self.norm = None if self.last else BatchNorm2d(out_channels)

    def forward(self, x: Tensor | None, img: None, ws: Tensor, noise: list) -> tuple[Tensor, Tensor | None]:
        """x [N, in, H/2, W/2] (the first: ws [N, 1, w_dim]) -> x [N, out, H, W] and, of the last, the picture. Noise is not used."""
        x = self.conv(ws[:, 0, :, None, None] if self.is_first else x)  # z itself as maps of 1 x 1 px
        if self.last:
            return x, torch.tanh(x.float())
        return F.relu(self.norm(x)), None


class FromRGB(nn.Identity):
    """Nothing: the first convolution sees the picture itself."""


class DiscriminatorBlock(nn.Module):
    """Strided convolution, batch normalisation (but not on the picture), leaky ReLU. [N, in, H, W] -> [N, out, H/2, W/2]."""

    def __init__(self, config: Config, resolution: int):
        super().__init__()
        first, out_channels = resolution == config.img_resolution, config.channels(resolution // 2)
        in_channels = config.d_channels if first else config.channels(resolution)
        self.conv = _started(nn.Conv2d(in_channels, out_channels, 4, 2, 1, bias=first))
        self.norm = None if first else BatchNorm2d(out_channels)
        self.slope = SLOPE

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return F.leaky_relu(x if self.norm is None else self.norm(x), self.slope)


class DiscriminatorEpilogue(nn.Module):
    """A convolution over the whole map. [N, C, 4, 4] -> [N, 1]."""

    def __init__(self, config: Config, out: int):
        super().__init__()
        self.out = _started(nn.Conv2d(config.channels(4), out, 4, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x).flatten(1)
