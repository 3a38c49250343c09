"""Binomial filters: [1, 3, 3, 1] of StyleGAN2 (appendix B), which halves and doubles maps, and [1, 2, 1] of StyleGAN1 (appendix C).

On a CPU a depthwise convolution in channels_last is the fastest exact form. On a GPU it is the slowest: it runs on no tensor core,
and at 128 px took 5.4 ms where two products with band matrices take .15 (H200, bf16, 32 x 128 maps; copying them takes .07).

First: which work of half precision is done in float32 all the same.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

Taps = tuple[float, ...]
TAPS = (1.0, 3.0, 3.0, 1.0)


def in_full_precision(function, only: str | None = None):
    """Work in float32, without autocast, on every device or ``only`` on one type: where half precision is no faster."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        device = next(a.device.type for a in args if isinstance(a, Tensor))
        if not torch.is_autocast_enabled(device) or only not in (None, device):
            return function(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(*(a.float() if isinstance(a, Tensor) else a for a in args), **kwargs)

    return wrapped


def float_on_cpu(x: Tensor) -> Tensor:
    """x in the type that suits sums and products with a number for each map: float32 on CPUs, where halves take four times as long."""
    return x.float() if x.device.type == "cpu" and x.dtype.itemsize < 4 else x


def clamp_fp16(x: Tensor) -> Tensor:
    """Maps in float16 stay within +-256, so that no sum over a layer overflows (StyleGAN2-ADA, appendix D)."""
    return x.clamp(-256, 256) if x.dtype == torch.float16 else x


def blur(x: Tensor, padding: int, gain: float = 1.0, stride: int = 1, taps: Taps = TAPS) -> Tensor:
    """[N, C, H, W] -> [N, C, H + 2 padding - len(taps) + 1, ...]; a stride of 2 takes even sizes and every other row and
    column. The filter is the outer product of ``taps``, which are symmetric, with itself; ``gain`` is its sum."""
    with torch.autocast(x.device.type, enabled=False):
        form = blur_by_products if x.is_cuda else _Blur.apply
        return form(x, padding, gain, stride, taps)


def blur_by_products(x: Tensor, padding: int, gain: float = 1.0, stride: int = 1, taps: Taps = TAPS) -> Tensor:
    """The same as B_H x B_W^T with band matrices, which tensor cores multiply at the pace of memory."""
    N, C, H, W = x.shape
    rows, columns = (_band(size, padding, root, x.device, x.dtype, taps)[::stride] for size, root in ((H, gain), (W, 1.0)))
    x = torch.matmul(columns, x.permute(0, 2, 3, 1).contiguous())  # [N, H, W', C]
    x = torch.matmul(rows, x.reshape(N, H, -1))  # [N, H', W' C]
    return x.view(N, len(rows), len(columns), C).permute(0, 3, 1, 2)


@functools.lru_cache(maxsize=64)
def _band(size: int, padding: int, gain: float, device: torch.device, dtype: torch.dtype, taps: Taps) -> Tensor:
    """[size + 2 padding - len(taps) + 1, size]: row i holds the taps, of sum gain, from column i - padding on."""
    out = size + 2 * padding - len(taps) + 1
    width = (size + 7) // 8 * 8  # tensor cores like rows that start at whole 16 bytes
    tap = torch.arange(width) - torch.arange(out)[:, None] + padding
    values = torch.tensor(taps) * (gain / sum(taps))
    band = torch.where((tap >= 0) & (tap < len(taps)), values[tap.clamp(0, len(taps) - 1)], 0.0)
    return band.to(device, dtype)[:, :size]


class _Blur(torch.autograd.Function):
    """The filter is symmetric, so its gradient is the filter again; torch's own backward is slower, in half precision by far."""

    @staticmethod
    def forward(ctx, x: Tensor, padding: int, gain: float, stride: int, taps: Taps) -> Tensor:
        ctx.padding, ctx.gain, ctx.stride, ctx.taps = padding, gain, stride, taps
        kernels = _filter(x.shape[1], gain, x.device, x.dtype, taps)
        return F.conv2d(x, kernels, stride=stride, padding=padding, groups=x.shape[1])

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        grad = grad.contiguous(memory_format=torch.channels_last)
        if ctx.stride == 1:
            back = blur(grad, len(ctx.taps) - 1 - ctx.padding, ctx.gain, taps=ctx.taps)
        else:
            back = _enlarge(float_on_cpu(grad), ctx.padding, ctx.gain, ctx.taps).to(grad.dtype)
        return back, None, None, None, None


def _enlarge(x: Tensor, padding: int, gain: float, taps: Taps = TAPS) -> Tensor:
    """Zeros between the pixels, then the filter."""
    kernels = _filter(x.shape[1], gain, x.device, x.dtype, taps)
    return F.conv_transpose2d(x, kernels, stride=2, padding=padding, groups=x.shape[1])


@functools.lru_cache(maxsize=64)
def _filter(channels: int, gain: float, device: torch.device, dtype: torch.dtype, taps: Taps) -> Tensor:
    """[channels, 1, k, k]: the same kernel, of sum gain, for each map."""
    row = torch.tensor(taps, device=device, dtype=dtype)
    return (torch.outer(row, row) * (gain / sum(taps) ** 2)).expand(channels, 1, -1, -1)


@in_full_precision
def upsample(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, 2H, 2W]; the gain of 4 makes up for the zeros between the pixels."""
    return _enlarge(x, padding=1, gain=4)
