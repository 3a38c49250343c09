"""Losses and regularisers as pure functions of logits and images; each formula stands in its docstring.

D(x) and D(G(z)) are logits [N, 1]. All results are scalars to be minimised, except where a shape is given.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def logistic_d(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """E[softplus(-D(x))] + E[softplus(D(G(z)))] (Goodfellow et al. 2014, arXiv:1406.2661, equation 1)."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def logistic_g(fake_logits: Tensor) -> Tensor:
    """Non-saturating: E[softplus(-D(G(z)))] (the same paper, section 3)."""
    return F.softplus(-fake_logits).mean()


def r1_penalty(real_logits: Tensor, real: Tensor) -> Tensor:
    """E ||grad_x D(x)||^2: summed over pixels, averaged over slices; the loss is gamma / 2 times this.

    Mescheder et al. 2018, arXiv:1801.04406, equation 9. ``real`` must require a gradient. The graph is kept, so that the penalty
    reaches D's weights.
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)  # [N, C, H, W]
    return gradient.square().sum(dim=[1, 2, 3]).mean()


def path_lengths(img: Tensor, ws: Tensor, y: Tensor) -> Tensor:
    """||J_w^T y||_2 for each sample: [N] (StyleGAN2, section 3.2, equation 4).

    img [N, C, H, W] as computed from ws [N, num_ws, w_dim]; y is Gaussian of img's shape and is scaled here by 1 / sqrt(H W).
    Squares are summed over w and averaged over the layers' copies of it.
    """
    y = y / math.sqrt(img.shape[2] * img.shape[3])
    (gradient,) = torch.autograd.grad((img * y).sum(), ws, create_graph=True)  # [N, num_ws, w_dim]
    return gradient.float().square().sum(dim=2).mean(dim=1).sqrt()


def path_length_penalty(lengths: Tensor, pl_mean: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """E (length - a)^2, where a is the moving average of the lengths: (penalty, new a).

    This batch's share of a takes part in the gradient, as in the official code; what is carried on does not.
    """
    average = pl_mean.lerp(lengths.mean(), decay)
    return (lengths - average).square().mean(), average.detach()


def adam_for_lazy(lr: float, beta1: float, beta2: float, interval: int) -> dict:
    """Adam's settings when a regulariser takes an extra step every ``interval`` steps (StyleGAN2, appendix B).

    With c = interval / (interval + 1): lr c and betas to the power c. The penalty itself is multiplied by the interval.
    """
    c = interval / (interval + 1)
    return {"lr": lr * c, "betas": (float(beta1**c), float(beta2**c))}
