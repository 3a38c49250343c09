"""Losses and regularisers as pure functions of logits and images; each formula stands in its docstring.

D(x) and D(G(z)) are logits [N, 1]. All results are scalars to be minimised, except where a shape is given.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Loss(NamedTuple):
    """The two players' losses of logits of real and fake, whether G's needs the real ones, and whether they fix the level of logits."""

    d: Callable[[Tensor, Tensor], Tensor]
    g: Callable[[Tensor, Tensor], Tensor]
    paired: bool
    level: bool


def logistic_d(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """E[softplus(-D(x))] + E[softplus(D(G(z)))] (Goodfellow et al. 2014, arXiv:1406.2661, equation 1)."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def logistic_g(fake_logits: Tensor) -> Tensor:
    """Non-saturating: E[softplus(-D(G(z)))] (the same paper, section 3)."""
    return F.softplus(-fake_logits).mean()


def relativistic_d(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """E[softplus(D(G(z)) - D(x))]: each real slice shall beat the fake beside it.

    Jolicoeur-Martineau 2019, arXiv:1807.00734; in pairs as in Huang et al. 2024 (R3GAN), arXiv:2501.05441, equation 2.
    """
    return F.softplus(fake_logits - real_logits).mean()


LOSSES = {
    "logistic": Loss(logistic_d, lambda real, fake: logistic_g(fake), paired=False, level=True),
    # D is a critic, whose slope a penalty must bound (Arjovsky et al. 2017, arXiv:1701.07875, equation 2)
    "wgan": Loss(lambda real, fake: fake.mean() - real.mean(), lambda real, fake: -fake.mean(), paired=False, level=False),
    "relativistic": Loss(relativistic_d, lambda real, fake: relativistic_d(fake, real), paired=True, level=False),
}


def gradient_penalty(logits: Tensor, img: Tensor) -> Tensor:
    """E (||grad_x D(x)||_2 - 1)^2 at pictures between real and fake (Gulrajani et al. 2017, arXiv:1704.00028, equation 3).

    ``img`` must require a gradient. The norm is over all pixels of a slice.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), img, create_graph=True)  # [N, C, H, W]
    norm = (gradient.square().sum(dim=[1, 2, 3]) + 1e-12).sqrt()  # the root has no slope at exactly 0
    return (norm - 1).square().mean()


def r1_penalty(real_logits: Tensor, real: Tensor) -> Tensor:
    """E ||grad_x D(x)||^2: summed over pixels, averaged over slices; the loss is gamma / 2 times this.

    Mescheder et al. 2018, arXiv:1801.04406, equation 9; at fakes it is R2 (equation 10). ``real`` must require a gradient.
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

    This batch's share of a takes part in the gradient, as in the official code; the new a does not.
    """
    average = pl_mean.lerp(lengths.mean(), decay)
    return (lengths - average).square().mean(), average.detach()


def sharing(img: Tensor) -> Tensor:
    """How much the fine detail of a batch lies in few directions: a number from 1 / (N - 1)^2 to 1, which a single direction has.

    img [N, C, H, W], N >= 3 and sides of whole fours. With h what a blur over 4 pixels takes away, centred over the batch, this is
    the mean of <h_i, h_j>^2 over pairs, divided by the square of the mean of ||h_i||^2. It follows tr(S^2) / tr(S)^2, the inverse
    participation ratio of the covariance S of h; centring by the batch itself raises it, alike for real slices and fakes in batches
    of one size. Matching second moments is what McGAN does in features (Mroueh et al. 2017, arXiv:1702.08398).
    """
    img = img.float()
    coarse = F.interpolate(F.avg_pool2d(img, 4), scale_factor=4, mode="bilinear")
    detail = (img - coarse).flatten(1)
    detail = detail - detail.mean(dim=0)
    products, n = detail @ detail.T, len(detail)  # [N, N]
    squares = products.square()
    pairs = (squares.sum() - squares.diagonal().sum()) / (n * (n - 1))
    return pairs / products.diagonal().mean().square().clamp_min(1e-8)


def participation_penalty(fake: Tensor, real: Tensor, real_mean: Tensor, decay: float = 0.01) -> tuple[Tensor, Tensor]:
    """log of how many times more the fakes' detail is shared than that of real slices, 0 where it is not: (penalty, new mean).

    ``real_mean`` is the moving average of `sharing` of the real slices, 0 before the first batch. Registered heads make D blind to
    folds that all fakes have in common, since each slice by itself looks right; this compares the slices of a batch directly.
    """
    own = sharing(real)
    real_mean = torch.where(real_mean > 0, real_mean.lerp(own, decay), own)
    return ((sharing(fake) + 1e-6).log() - (real_mean + 1e-6).log()).relu(), real_mean


def adam_for_lazy(lr: float, beta1: float, beta2: float, interval: int) -> dict:
    """Adam's settings when a regulariser takes an extra step every ``interval`` steps (StyleGAN2, appendix B).

    With c = interval / (interval + 1): lr c and betas to the power c. The penalty itself is multiplied by the interval.
    """
    c = interval / (interval + 1)
    return {"lr": lr * c, "betas": (float(beta1**c), float(beta2**c))}
