"""Which work of half precision is done in float32 all the same, and on which devices."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def in_full_precision(function, only: str | None = None):
    """Take the tensors of a call to float32 and leave autocast off: for work that half precision makes no faster, maybe on ``only``
    this type of device."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        device = next(a.device.type for a in args if isinstance(a, Tensor))
        if not torch.is_autocast_enabled(device) or only not in (None, device):
            return function(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(*(a.float() if isinstance(a, Tensor) else a for a in args), **kwargs)

    return wrapped


in_full_precision_on_cpu = functools.partial(in_full_precision, only="cpu")


def elementwise(x: Tensor) -> Tensor:
    """x in the type that suits sums and products with a number for each map: float32 on CPUs, where halves take four times as long."""
    halves = x.dtype in (torch.bfloat16, torch.float16)
    return x.float() if halves and x.device.type == "cpu" else x


def bounded(x: Tensor) -> Tensor:
    """Maps in float16 stay within +-256, so that no sum over a layer overflows (StyleGAN2-ADA, appendix D)."""
    return x.clamp(-256, 256) if x.dtype == torch.float16 else x
