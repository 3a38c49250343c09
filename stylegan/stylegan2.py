"""The layers and blocks of StyleGAN2: Karras et al. 2020a, "Analyzing and Improving the Image Quality of StyleGAN", arXiv:1912.04958.

Generator: modulated convolutions, each block adds its picture to the upsampled picture of the block before (skip, section 4.1).
Discriminator: residual blocks. Any generator block is called as ``x, img = block(x, img, ws, noise)``.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylegan.config import Config
from stylegan.modules import GAIN, SLOPE, EqualConv2d, EqualLinear, MinibatchStdDev, NoiseInjection, conv1x1
from stylegan.resampling import blur, clamp_fp16, float_on_cpu, upsample


class ModulatedConv2d(nn.Module):
    """Convolution whose weights are scaled per sample by a style, and demodulated (section 2.2, equations 1 and 3).

    Scaling the weights by s_i and dividing by their norm sigma_j equals scaling the input maps by s_i and the output maps by
    1 / sigma_j, with one set of weights for the whole batch: the same sums, no grouped convolution.
    [N, in, H, W], w [N, w_dim] -> [N, out, H, W], or [N, out, 2H, 2W] with ``up``.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, w_dim: int, *, up: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.affine = EqualLinear(w_dim, in_channels, bias=1.0)
        self.kernel, self.up = kernel, up
        self.scale = 1 / math.sqrt(in_channels * kernel**2)

    def forward(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """The convolved maps, and the factors [N, out, 1, 1] that demodulate them when the layer adds its bias."""
        style = self.affine(w)  # [N, in]
        if x.dtype == torch.float16:  # demodulation takes any factor out again: keep float16 from overflowing
            style = style / style.abs().amax(dim=1, keepdim=True)
        weight = self.weight * self.scale  # [out, in, k, k]
        x = x * style[:, :, None, None].to(x.dtype)
        if self.up:
            x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)  # [N, out, 2H + 1, 2W + 1]
            x = blur(x, padding=1, gain=4)  # [N, out, 2H, 2W]
        else:
            x = F.conv2d(x, weight, padding=self.kernel // 2)
        x = float_on_cpu(x)
        return x, self.demodulation(style, weight).to(x.dtype)

    def demodulation(self, style: Tensor, weight: Tensor) -> Tensor:
        """1 / sigma_j = 1 / sqrt(sum_ik (s_i w_ijk)^2 + eps), equation 3: [N, out, 1, 1]."""
        with torch.autocast(style.device.type, enabled=False):
            energy = weight.float().square().sum(dim=[2, 3])  # [out, in]
            sigma2 = style.float().square() @ energy.t()  # [N, out]
            return (sigma2 + 1e-8).rsqrt()[:, :, None, None]


class ModulatedPixels(nn.Module):
    """The modulated 1x1 convolution of ToRGB, without demodulation (equation 1 alone): [N, in, H, W] -> [N, out, H, W]."""

    def __init__(self, in_channels: int, out_channels: int, w_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.affine = EqualLinear(w_dim, in_channels, bias=1.0)
        self.scale = 1 / math.sqrt(in_channels)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = self.affine(w).unsqueeze(1)  # [N, 1, in]
        return conv1x1(x, self.weight[:, :, 0, 0] * self.scale * style)  # to few channels each sample's own weights cost least


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU (figure 2d)."""

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, resolution: int, *, up=False, noise_lr: float = 1.0):
        super().__init__()
        self.conv = ModulatedConv2d(in_channels, out_channels, 3, w_dim, up=up)
        self.noise = NoiseInjection(resolution, lr_multiplier=noise_lr)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.slope = SLOPE

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | str | None) -> Tensor:
        """``noise``: [N, 1, H, W], None for the fixed map, or 'none' for no noise."""
        x, demodulation = self.conv(x, w)
        # Fold the activation gain into bias and demodulation: cheaper than scaling the maps.
        x = torch.addcmul((self.bias[:, None, None] * GAIN).to(x.dtype), x, demodulation * GAIN)
        if not isinstance(noise, str):
            x = x + (self.noise(noise) * GAIN).to(x.dtype)
        return clamp_fp16(F.leaky_relu(x, self.slope, inplace=True))


class ToRGB(nn.Module):
    """Maps [N, in, H, W], w [N, w_dim] -> their picture [N, img_channels, H, W]."""

    def __init__(self, in_channels: int, img_channels: int, w_dim: int):
        super().__init__()
        self.conv = ModulatedPixels(in_channels, img_channels, w_dim)
        self.bias = nn.Parameter(torch.zeros(img_channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return self.conv(x, w).float() + self.bias[:, None, None]


class SynthesisBlock(nn.Module):
    """One resolution of the generator: (up-convolution,) convolution, ToRGB added to the upsampled picture so far. Uses
    ``num_conv`` styles for convolutions; ToRGB takes the next one, which the following block's first convolution shares."""

    num_torgb = 1

    def __init__(self, config: Config, resolution: int):
        super().__init__()
        in_channels, out_channels, w_dim = config.channels_below(resolution), config.channels(resolution), config.w_dim
        self.is_first, self.resolution, noise_lr = in_channels == 0, resolution, config.noise_lr_multiplier
        self.num_conv = 1 if self.is_first else 2
        if self.is_first:
            self.const = nn.Parameter(torch.randn(out_channels, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(in_channels, out_channels, w_dim, resolution, up=True, noise_lr=noise_lr)
        self.conv1 = SynthesisLayer(out_channels, out_channels, w_dim, resolution, noise_lr=noise_lr)
        self.torgb = ToRGB(out_channels, config.img_channels, w_dim)

    def forward(self, x: Tensor | None, img: Tensor | None, ws: Tensor, noise: list) -> tuple[Tensor, Tensor]:
        """x [N, in, H/2, W/2], img [N, C, H/2, W/2], ws [N, num_conv + 1, w_dim] -> x [N, out, H, W], img [N, C, H, W]."""
        *conv_ws, rgb_w = ws.unbind(dim=1)
        if self.is_first:
            x = self.const.unsqueeze(0).repeat(len(ws), 1, 1, 1).contiguous(memory_format=torch.channels_last)
        else:
            x = self.conv0(x, conv_ws[0], noise[0])
        x = self.conv1(x, conv_ws[-1], noise[-1])
        rgb = self.torgb(x, rgb_w)
        return x, rgb if img is None else upsample(img) + rgb


class FromRGB(EqualConv2d):
    """Pictures [N, C, H, W] -> the first maps [N, channels, H, W]: a convolution of single pixels."""

    def __init__(self, config: Config, resolution: int):
        super().__init__(config.d_channels, config.channels(resolution), 1)


class DiscriminatorBlock(nn.Module):
    """Residual block that halves the resolution (section 4.1, figure 7c). [N, in, H, W] -> [N, out, H/2, W/2]."""

    def __init__(self, config: Config, resolution: int):
        super().__init__()
        in_channels, out_channels = config.channels(resolution), config.channels(resolution // 2)
        half = math.sqrt(0.5)  # each branch carries half of the variance
        self.conv0 = EqualConv2d(in_channels, in_channels, 3)
        self.conv1 = EqualConv2d(in_channels, out_channels, 3, down=True, gain=half)
        self.skip = EqualConv2d(in_channels, out_channels, 1, down=True, bias=False, act=False, gain=half)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1(self.conv0(x)) + self.skip(x)


class DiscriminatorEpilogue(nn.Module):
    """Minibatch standard deviation, convolution, two linear layers. [N, C, 4, 4] -> [N, out]."""

    def __init__(self, config: Config, out: int):
        super().__init__()
        channels = config.channels(4)
        self.mbstd = MinibatchStdDev(config.mbstd_group_size)
        self.conv = EqualConv2d(channels + 1, channels, 3)
        self.fc = EqualLinear(channels * 4 * 4, channels, act=True)
        self.out = EqualLinear(channels, out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.mbstd(x))  # [N, C, 4, 4]
        x = self.fc(x.flatten(1))  # [N, C]
        return self.out(x)  # [N, out]
