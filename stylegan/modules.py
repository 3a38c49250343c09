"""Components that both StyleGAN papers share. Shapes: z [N, z_dim], w [N, w_dim], ws [N, num_ws, w_dim], x [N, C, H, W]."""

import contextlib
import functools
import math
from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylegan.resampling import blur, clamp_fp16, in_full_precision

SLOPE = 0.2
GAIN = math.sqrt(2)  # keeps the variance of a unit Gaussian through a leaky ReLU (He et al. 2015, arXiv:1502.01852)


def leaky_relu(x: Tensor, slope: float) -> Tensor:
    return clamp_fp16(F.leaky_relu(x, slope))


def set_slope(net: nn.Module, slope: float) -> None:
    """Give every leaky ReLU of the network this slope below 0. Its gain stays sqrt(2), which is He's for a slope of 0."""
    for module in net.modules():
        if hasattr(module, "slope"):
            module.slope = slope


class EqualLinear(nn.Module):
    """Fully connected layer with equalised learning rate (Karras et al. 2018, ProGAN, arXiv:1710.10196, section 4.1): N(0, 1)
    weights, scaled by He's constant at run time; ``lr_multiplier`` slows it (StyleGAN1, appendix C). [N, in] -> [N, out]."""

    def __init__(self, in_features: int, out_features: int, *, bias: float = 0.0, lr_multiplier: float = 1.0, act=False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full([out_features], bias / lr_multiplier))
        self.act, self.lr_multiplier, self.slope = act, lr_multiplier, SLOPE
        self.scale, self.norm_gain = lr_multiplier / math.sqrt(in_features), 1.0

    @in_full_precision
    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight * self.scale, self.bias * self.lr_multiplier)
        return F.leaky_relu(x, self.slope) * GAIN if self.act else x


class EqualConv2d(nn.Module):
    """Convolution with equalised learning rate and a leaky ReLU, times ``gain``; ``down``: after a [1, 3, 3, 1] blur, with
    stride 2. [N, in, H, W] -> [N, out, H, W], or [N, out, H/2, W/2] with ``down``."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, down=False, bias=True, act=True, gain: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.kernel, self.down, self.act, self.slope = kernel, down, act, SLOPE
        # A leaky ReLU lets positive factors through, so all gains are applied to the small weights and not to the large maps.
        self.gain = gain * GAIN if act else gain
        self.scale, self.norm_gain = self.gain / math.sqrt(in_channels * kernel**2), self.gain

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.scale
        bias = None if self.bias is None else self.bias * self.gain
        if self.down and self.kernel == 1:  # of the blurred maps only every other pixel is wanted
            x = F.conv2d(blur(x, padding=1, stride=2), weight, bias)
        elif self.down:
            x = F.conv2d(blur(x, padding=1 + self.kernel // 2), weight, bias, stride=2)
        elif self.kernel == 1:
            x = conv1x1(x, weight[:, :, 0, 0], bias)
        else:
            x = F.conv2d(x, weight, bias, padding=self.kernel // 2)
        return leaky_relu(x, self.slope) if self.act else x


@functools.partial(in_full_precision, only="cpu")
def conv1x1(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution of single pixels, from or to few channels: as one product over all pixels it is several times faster.
    [N, in, H, W], weight [out, in], or [N, out, in] for weights of each sample's own -> [N, out, H, W]."""
    x = x.permute(0, 2, 3, 1)  # [N, H, W, in]
    if weight.ndim == 2:
        return F.linear(x, weight, bias).permute(0, 3, 1, 2)
    return torch.bmm(x.flatten(1, 2), weight.transpose(1, 2)).unflatten(1, x.shape[1:3]).permute(0, 3, 1, 2)


def pixel_norm(x: Tensor) -> Tensor:
    """Scale each vector [N, C] to mean square 1 (ProGAN, section 4.2)."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class MinibatchStdDev(nn.Module):
    """One more channel that tells D how much the slices of a group differ (ProGAN, section 3, in groups as StyleGAN does): one
    value for each group of `group_deviation`. [N, C, H, W] -> [N, C + 1, H, W]."""

    def __init__(self, group_size: int):
        super().__init__()
        self.group_size = group_size

    def forward(self, x: Tensor) -> Tensor:
        y = group_deviation(x.float(), self.group_size, 1e-8).mean(dim=[1, 2, 3])  # [N/size]
        y = y.repeat(len(x) // len(y)).to(x.dtype).reshape(-1, 1, 1, 1)
        return torch.cat([x, y.expand(-1, 1, *x.shape[2:])], dim=1)


def group_deviation(x: Tensor, group_size: int, eps: float) -> Tensor:
    """The standard deviation within each group of slices: [N, C, H, W] -> [N / size, C, H, W], slice i in group i mod (N / size)."""
    size = min(group_size, len(x))
    assert len(x) % size == 0, f"a batch of {len(x)} does not fall into groups of {size}"
    groups = x.unflatten(0, (size, -1))  # [size, N/size, C, H, W]
    variance = (groups - groups.mean(dim=0)).square().mean(dim=0)  # Tensor.var takes ten times longer along this axis
    return (variance + eps).sqrt()


def with_deviation(img: Tensor, group_size: int) -> Tensor:
    """img [N, C, H, W] in [-1, 1] -> [N, 2C, H, W]: beside each picture its group's deviation at each pixel, in the same range:
    black where all heads are alike, which the minibatch deviation, one number for a whole group, cannot tell."""
    deviation = 2 * group_deviation(img, group_size, 1e-4) - 1
    return torch.cat([img, deviation.repeat(len(img) // len(deviation), 1, 1, 1)], dim=1)


class SelfAttention(nn.Module):
    """x + gamma * attention(x): every position looks at every other (Zhang et al. 2019, SAGAN, arXiv:1805.08318, section 3).

    Keys and queries of C / 8 maps, values of C / 2 maps; gamma starts at 0, so that a fresh layer changes nothing.
    [N, C, H, W] -> [N, C, H, W]; the table of weights is [N, HW, HW], for small maps only.
    """

    def __init__(self, channels: int):
        super().__init__()
        inner, half = max(channels // 8, 1), max(channels // 2, 1)
        self.query, self.key = (EqualConv2d(channels, inner, 1, act=False) for _ in range(2))
        self.value, self.out = EqualConv2d(channels, half, 1, act=False), EqualConv2d(half, channels, 1, act=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    @in_full_precision
    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))  # [N, C', HW]
        # Equation 1, and the root of the width, which keeps products of equalised layers near 1. No fused kernel, because a
        # gradient penalty differentiates it twice.
        weights = (query.transpose(1, 2) @ key / math.sqrt(query.shape[1])).softmax(dim=2)  # [N, HW, HW]
        seen = (value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])  # [N, C/2, H, W]
        return x + self.gamma * self.out(seen)


def spectral_norm(net: nn.Module) -> None:
    """Divide every weight of the network by its largest singular value (Miyato et al. 2018, arXiv:1802.05957), as torch does it.

    An equalised layer multiplies its weights by He's constant at run time, which this norm would cancel (sigma(c W) = c sigma(W)) or,
    multiplied afterwards, make the signal vanish. So the constant is dropped and each layer's gain is left: it is the layer's
    Lipschitz constant. What stays of the equalised learning rate is that weights of unit size take Adam's steps, in all layers alike.
    """
    for module in list(net.modules()):
        if isinstance(getattr(module, "weight", None), Tensor) and module.weight.ndim > 1:
            nn.utils.parametrizations.spectral_norm(module)
            if hasattr(module, "scale"):
                module.scale = module.norm_gain


class NoiseInjection(nn.Module):
    """Noise times one learned strength (StyleGAN2, section 2.1), or one per channel (StyleGAN1, section 2): 0 at the start, and
    where ``lr_multiplier``, which slows its learning, is 0. ``fixed`` [H, W] is noise mode 'const'."""

    def __init__(self, resolution: int, channels: int = 1, lr_multiplier: float = 1.0):
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(channels, 1, 1))
        self.lr_multiplier = lr_multiplier
        self.register_buffer("fixed", torch.randn(resolution, resolution))

    def forward(self, noise: Tensor | None) -> Tensor:
        """What is added to the maps: [N, channels, H, W], from noise [N, 1, H, W] or, for None, the fixed one."""
        return self.strength * self.lr_multiplier * (self.fixed if noise is None else noise)


class MappingNetwork(nn.Module):
    """z (and class c) to w: StyleGAN1, section 2; conditioning as in StyleGAN2-ADA.

    The moving average of w, one per class, is the centre of truncation (StyleGAN1, appendix B). With z_dim = 0 it embeds the
    class alone, for a projection discriminator. Without ``embed`` layers see the one-hot c; without layers w is pixel_norm(z).
    """

    def __init__(self, z_dim: int, c_dim: int, w_dim: int, num_ws: int, num_layers: int, lr_multiplier: float, embed=True):
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = z_dim, c_dim, w_dim, num_ws
        self.embed = EqualLinear(c_dim, w_dim) if c_dim and embed else None
        widths = [z_dim + (w_dim if self.embed else c_dim)] + [w_dim] * num_layers
        layers = [EqualLinear(i, o, act=True, lr_multiplier=lr_multiplier) for i, o in pairwise(widths)]
        self.layers = nn.Sequential(*layers)
        self.register_buffer("w_avg", torch.zeros([c_dim, w_dim] if c_dim else [w_dim]))

    def forward(
        self, z: Tensor | None, c: Tensor | None = None, truncation_psi=1.0, truncation_cutoff: int | None = None
    ) -> Tensor:
        """z [N, z_dim], c one-hot [N, c_dim] -> ws [N, num_ws, w_dim]: w_avg + psi * (w - w_avg) in the first
        ``truncation_cutoff`` layers (all for None); psi = 1 leaves w as it is."""
        parts = [pixel_norm(z)] if self.z_dim else []
        if self.c_dim:
            assert c is not None and c.shape[1] == self.c_dim, f"this network needs c of shape [N, {self.c_dim}]"
            parts.append(c if self.embed is None else pixel_norm(self.embed(c)))
        ws = self.layers(torch.cat(parts, dim=1)).unsqueeze(1).repeat(1, self.num_ws, 1)
        if truncation_psi == 1:
            return ws
        head = self.centre(c).unsqueeze(1).lerp(ws[:, :truncation_cutoff], truncation_psi)
        return torch.cat([head, ws[:, head.shape[1]:]], dim=1)  # fmt: skip

    def centre(self, c: Tensor | None) -> Tensor:
        """The average w that belongs to each row of c: [N, w_dim], or [1, w_dim] without classes."""
        return c @ self.w_avg if self.c_dim else self.w_avg.unsqueeze(0)

    @torch.no_grad()
    def update_w_avg(self, w: Tensor, c: Tensor | None, beta: float) -> None:
        """Move the average(s) towards this batch's mean w [N, w_dim]; called once per step, by the discriminator's pass."""
        if not self.c_dim:
            self.w_avg.lerp_(w.float().mean(dim=0), 1 - beta)
            return
        counts = c.sum(dim=0).unsqueeze(1)  # [c_dim, 1]
        means = (c.t() @ w.float()) / counts.clamp(min=1)  # [c_dim, w_dim]
        self.w_avg.lerp_(means, (1 - beta) * (counts > 0).float())


@contextlib.contextmanager
def frozen(net: nn.Module) -> Iterator[None]:
    """Take no gradients with respect to a network's weights for a while: saves their half of the backward pass."""
    net.requires_grad_(False)
    try:
        yield
    finally:
        net.requires_grad_(True)
