"""Discriminator augmentation that suits brain slices, after Karras et al. 2020b (StyleGAN2-ADA), arXiv:2006.06676.

Left out on purpose: 90 degree turns and inverted grey values, which no scanner makes. Each operation strikes a slice with
probability p; as long as p stays below .8 the generator does not learn the operations themselves (section 2.1 there).
Geometry is a bilinear gather: `grid_sample` cannot be differentiated twice before torch 2.13, nor at all on Apple's devices.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from stylegan.config import Config
from stylegan.rng import BatchRNG

SHIFT, SCALE, TURN = 0.06, 0.08, math.radians(6)  # standard deviations: of the width, of log size, of the angle
BRIGHTNESS, CONTRAST, CUTOUT = 0.1, 0.2, 0.25  # of the grey range [-1, 1], of log contrast, of the width
MARGIN = 0.1  # how far beyond black and white the clamp of `dither` lets gradients pass: 13 levels of 8 bits


class _Clamp(torch.autograd.Function):
    """Clamp to [-1, 1]; a gradient passes within `MARGIN` of that, and beyond it where following it leads back in: no pixel is stuck.

    Without the margin a background just below -1 is pushed down no further while D still sees grey in its neighbours, and each
    step of G's weights lifts some of it back above black.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(-1, 1)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        outside = x - x.clamp(-1 - MARGIN, 1 + MARGIN)
        return grad * (outside * grad >= 0)  # descent moves against the gradient


def dither(img: Tensor, rng: BatchRNG) -> Tensor:
    """img [N, C, H, W] clamped to [-1, 1], plus uniform noise of up to one grey level of 8 bits. Without it real slices, of 256
    levels and black outside the head, differ from fakes in what says nothing about heads, and teach G to turn its noise off."""
    return _Clamp.apply(img) + (rng.uniform(*img.shape) - 0.5) * (4 / 255)


def augment(img: Tensor, p: float | Tensor, rng: BatchRNG | None = None) -> Tensor:
    """img [N, C, H, W] in [-1, 1] -> the same shape; each slice gets each operation with probability p. p = 0 changes nothing."""
    n, rng = len(img), rng or BatchRNG(img.device)

    def amount(deviation: float, *shape: int) -> Tensor:
        """[n, *shape]: normal where the coin of its slice falls so, else 0."""
        drawn = rng.normal(n, *shape) * deviation
        return drawn * (rng.uniform(n) < p).view(n, *(1 for _ in shape))

    img = move(img, amount(SHIFT, 2), amount(SCALE).exp(), amount(TURN))
    brightness, contrast = amount(BRIGHTNESS, 1, 1, 1), amount(CONTRAST, 1, 1, 1).exp()
    img = img * contrast + brightness  # contrast about mid-grey
    return cutout(img, rng.uniform(n) < p, rng.uniform(n, 2))


def move(img: Tensor, shift: Tensor, scale: Tensor, angle: Tensor) -> Tensor:
    """Turn by angle [N], enlarge by scale [N] about the centre, shift [N, 2] (x, y, of the width); black comes in at the border."""
    H, W = img.shape[2:]
    y, x = torch.meshgrid(torch.arange(H, device=img.device), torch.arange(W, device=img.device), indexing="ij")
    x = x[None] - (W - 1) / 2 - shift[:, 0, None, None] * W  # [N, H, W], output pixels about the centre
    y = y[None] - (H - 1) / 2 - shift[:, 1, None, None] * W
    cos, sin = [f(angle)[:, None, None] / scale[:, None, None] for f in (torch.cos, torch.sin)]
    source_x = cos * x + sin * y + (W - 1) / 2  # where each output pixel comes from
    source_y = cos * y - sin * x + (H - 1) / 2
    return _bilinear(img + 1, source_x, source_y) - 1  # black is 0 while pixels from outside count as 0


def cutout(img: Tensor, struck: Tensor, centre: Tensor) -> Tensor:
    """Blacken a square of `CUTOUT` of the width about centre [N, 2] in (0, 1), where struck [N] is true."""
    H, W = img.shape[2:]
    inside_y = (torch.arange(H, device=img.device)[None] / H - centre[:, 1:]).abs() < CUTOUT / 2  # [N, H]
    inside_x = (torch.arange(W, device=img.device)[None] / W - centre[:, :1]).abs() < CUTOUT / 2  # [N, W]
    hole = inside_y[:, None, :, None] & inside_x[:, None, None, :] & struck[:, None, None, None]
    return torch.where(hole, -1.0, img)


def adapt(p: float, sign_mean: float, images: int, config: Config) -> float:
    """The next p: up when ``sign_mean``, E[sign D(x)], exceeds ``ada_target``, else down, at a pace of 1 per ``ada_kimg`` (section 3 there)."""
    step = math.copysign(images / (config.ada_kimg * 1000), sign_mean - config.ada_target)
    return min(max(p + step, 0.0), config.augment_p_max)


def _bilinear(img: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Values of img [N, C, H, W] at pixel positions x, y [N, H, W]; 0 outside."""
    N, C, H, W = img.shape
    flat = F.pad(img.float(), [1, 2, 1, 2]).flatten(2)  # a border of zeros: no position needs to be told apart
    x, y = (x + 1).clamp(0, W + 1), (y + 1).clamp(0, H + 1)
    x0, y0 = x.floor(), y.floor()
    first = (y0 * (W + 3) + x0).long().flatten(1)[:, None].expand(-1, C, -1)
    dx, dy = (x - x0)[:, None], (y - y0)[:, None]  # [N, 1, H, W]
    a, b, c, d = (flat.gather(2, first + step).view(N, C, H, W) for step in (0, 1, W + 3, W + 4))
    return a.lerp(b, dx).lerp(c.lerp(d, dx), dy)
