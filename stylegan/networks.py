"""Generator and discriminator: the skeleton that the variants share, and the one table that names the variants."""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from stylegan import stylegan2
from stylegan.config import Config
from stylegan.draws import Draws
from stylegan.modules import EqualConv2d, MappingNetwork

# What a paper calls its blocks. A further architecture is one more row.
VARIANTS = {"stylegan2": (stylegan2.SynthesisBlock, stylegan2.DiscriminatorBlock, stylegan2.DiscriminatorEpilogue)}


class SynthesisNetwork(nn.Module):
    """ws [N, num_ws, w_dim] -> img [N, img_channels, R, R], about in [-1, 1]. One block per resolution from 4 px."""

    def __init__(self, config: Config, block: type[nn.Module]):
        super().__init__()
        widths = [0] + [config.channels(res) for res in config.resolutions]
        self.blocks = nn.ModuleList(
            block(i, o, config.w_dim, res, config.img_channels, config.noise_lr_multiplier)
            for i, o, res in zip(widths, widths[1:], config.resolutions, strict=False)
        )
        self.num_ws = sum(b.num_conv for b in self.blocks) + self.blocks[-1].num_torgb
        assert self.num_ws == config.num_ws

    def forward(self, ws: Tensor, noise_mode: str = "random", noise: Sequence[Tensor] | None = None) -> Tensor:
        """noise_mode: 'random' (new at each call), 'const' (the fixed maps), 'none'; or give ``noise`` as of `draw_noise`."""
        maps, img, x, first = self._noise(len(ws), noise_mode, noise), None, None, 0
        for block in self.blocks:
            last = first + block.num_conv
            x, img = block(x, img, ws[:, first : last + block.num_torgb], [next(maps) for _ in range(block.num_conv)])
            first = last
        return img

    def draw_noise(self, n: int, draws: Draws | None = None) -> list[Tensor]:
        """Fresh noise maps, one [n, 1, H, W] for each convolution, on the network's device."""
        draws = draws or Draws(next(self.parameters()).device)
        sizes = [block.resolution for block in self.blocks for _ in range(block.num_conv)]
        return [draws.normal(n, 1, size, size) for size in sizes]

    def _noise(self, n: int, mode: str, noise: Sequence[Tensor] | None):
        if mode not in ("random", "const", "none"):
            raise ValueError(f"noise_mode is {mode!r}; choose one of random, const, none.")
        if noise is None and mode == "random":
            noise = self.draw_noise(n)
        count = sum(block.num_conv for block in self.blocks)
        return iter(noise if noise is not None else [None if mode == "const" else "none"] * count)


class Generator(nn.Module):
    """Mapping network and synthesis network. G(z, c) -> img [N, C, R, R]."""

    def __init__(self, config: Config, variant: str = "stylegan2"):
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = config.z_dim, config.c_dim, config.w_dim, config.num_ws
        self.mapping = MappingNetwork(
            config.z_dim, config.c_dim, config.w_dim, config.num_ws, config.mapping_layers, config.mapping_lr_multiplier
        )
        self.synthesis = SynthesisNetwork(config, VARIANTS[variant][0])

    def forward(self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0, noise_mode: str = "const") -> Tensor:
        return self.synthesis(self.mapping(z, c, truncation_psi), noise_mode)


class Discriminator(nn.Module):
    """img [N, C, R, R] (and one-hot c) -> logits [N, 1].

    With classes the logit is the projection of the features on an embedding of c (Miyato & Koyama 2018, arXiv:1802.05637).
    """

    def __init__(self, config: Config, variant: str = "stylegan2"):
        super().__init__()
        _, block, epilogue = VARIANTS[variant]
        widths = [config.channels(res) for res in reversed(config.resolutions)]
        self.from_rgb = EqualConv2d(config.img_channels, widths[0], 1)
        self.blocks = nn.Sequential(*(block(i, o) for i, o in pairwise(widths)))
        self.embed_dim = widths[-1]
        self.mapping = self._class_embedding(config) if config.c_dim else None
        self.epilogue = epilogue(widths[-1], config.mbstd_group_size, self.embed_dim if config.c_dim else 1)

    def _class_embedding(self, config: Config) -> MappingNetwork:
        return MappingNetwork(0, config.c_dim, self.embed_dim, 1, config.mapping_layers, config.mapping_lr_multiplier)

    def forward(self, img: Tensor, c: Tensor | None = None) -> Tensor:
        x = self.from_rgb(img).contiguous(memory_format=torch.channels_last)  # one channel has no format to hand on
        x = self.blocks(x)
        with torch.autocast(x.device.type, enabled=False):  # the logits decide over p and are compared: full precision
            x = self.epilogue(x.float())  # [N, 1] or [N, embed_dim]
        if self.mapping is None:
            return x
        embedding = self.mapping(None, c)[:, 0]  # [N, embed_dim]
        return (x * embedding).sum(dim=1, keepdim=True) / math.sqrt(self.embed_dim)


def build_networks(config: Config) -> tuple[Generator, Discriminator]:
    """Freshly initialised G and D of this config, in the memory format that is fastest on CPUs and tensor cores."""
    return tuple(net(config).to(memory_format=torch.channels_last) for net in (Generator, Discriminator))


def pick_device(name: str = "auto") -> torch.device:
    """'auto' takes CUDA, then MPS, then the CPU. Raises ValueError where the named device is not there."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in present.items() if there)
    if not present.get(name.split(":")[0], False):
        there = ", ".join(kind for kind, is_there in present.items() if is_there)
        raise ValueError(f"There is no device {name!r} here; choose one of auto, {there}.")
    return torch.device(name)


def pick_precision(name: str, device: torch.device) -> str:
    """'auto' takes bf16 where the hardware multiplies it at twice the pace of fp32 or more (a CPU with AVX-512 BF16 or AMX, a recent
    GPU), and fp16 on an older GPU such as Colab's T4."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch names them so since 2.6, nothing else tells
    fast = device.type == "cpu" and any(getattr(torch.cpu, ask, lambda: False)() for ask in asked)
    return "bf16" if fast else "fp32"


def prepare_machine() -> None:
    """Settings that make training faster and change no result: once per process, before the first step."""
    torch.backends.cudnn.benchmark = True  # what cuDNN takes without trying was ten times slower in places
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Let glibc keep what a step frees for the next step: new pages cost a training step on a CPU up to a fifth of its time."""
    trim_threshold, mmap_threshold, largest = -1, -3, 2**25  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    with contextlib.suppress(OSError, TypeError, AttributeError):  # another C library: nothing to set
        glibc = ctypes.CDLL(None)
        glibc.mallopt(trim_threshold, 2**31 - 1)
        glibc.mallopt(mmap_threshold, largest)


def count_parameters(net: nn.Module) -> int:
    """Trainable numbers in the network."""
    return sum(p.numel() for p in net.parameters())
