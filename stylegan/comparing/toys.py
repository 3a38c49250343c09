"""Layers on toy tensors, where the eye can follow them: what AdaIN and modulation do to a map with one bright spot."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stylegan.stylegan1 import AdaIN
from stylegan.stylegan2 import ModulatedConv2d

CHANNELS, SIZE, SPOT = 8, 32, (6, 25)  # maps, pixels, and the pixel of the first map that is made bright


def maps(height: float, seed: int = 0) -> Tensor:
    """[1, 8, 32, 32]: smooth maps of deviation 1; the first has one pixel of this height."""
    x = torch.randn(1, CHANNELS, SIZE // 4, SIZE // 4, generator=torch.Generator().manual_seed(seed))
    x = torch.nn.functional.interpolate(x, size=(SIZE, SIZE), mode="bicubic")
    x = x / x.std(dim=[2, 3], keepdim=True)
    x[0, 0, SPOT[0], SPOT[1]] += height
    return x


@torch.no_grad()
def through_adain(x: Tensor) -> Tensor:
    """The layer of StyleGAN1 with the style (1, 0)."""
    layer = AdaIN(CHANNELS, 1)
    return layer(x, torch.zeros(1, 1))


@torch.no_grad()
def through_modulation(x: Tensor) -> Tensor:
    """The modulated convolution of StyleGAN2 with every s_i = 1, demodulated; its kernel hands each map on as it is."""
    layer = ModulatedConv2d(CHANNELS, CHANNELS, 3, 1)
    layer.weight.zero_()
    layer.weight[range(CHANNELS), range(CHANNELS), 1, 1] = 1.0
    y, demodulation = layer(x, torch.zeros(1, 1))
    return y * demodulation


def rest(y: Tensor) -> float:
    """Deviation of the first map without the spot."""
    first = y[0, 0].flatten()
    spot = SPOT[0] * SIZE + SPOT[1]
    return torch.cat([first[:spot], first[spot + 1 :]]).std().item()


def droplet(heights: Sequence[float]) -> dict[str, list[float]]:
    """For each height of the spot, how strongly the rest of its map comes out of either layer: {'AdaIN', 'modulation'}."""
    layers = {"AdaIN": through_adain, "modulation": through_modulation}
    return {name: [rest(layer(maps(height))) for height in heights] for name, layer in layers.items()}


def pictures(heights: Sequence[float]) -> Tensor:
    """[3 * len(heights), 1, 32, 32] in [-1, 1]: the first map as it is, after AdaIN, after modulation; black to white is -3 to 3."""
    rows = [[layer(maps(height))[0, :1] for height in heights] for layer in (lambda x: x, through_adain, through_modulation)]
    return torch.stack([img for row in rows for img in row]) / 3
