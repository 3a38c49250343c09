"""Generator and discriminator: the skeleton that the variants share, and the one table that names the variants."""

import contextlib
import itertools
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stylegan import dcgan, stylegan1, stylegan2
from stylegan.config import NOTES, PRESETS, Config, make_config
from stylegan.modules import MappingNetwork, SelfAttention, set_slope, spectral_norm, with_deviation
from stylegan.rng import BatchRNG
from stylegan.stylegan1 import Stage, stage

# Each has SynthesisBlock, FromRGB, DiscriminatorBlock of (config, resolution) and DiscriminatorEpilogue of (config, width).
VARIANTS = {"stylegan2": stylegan2, "stylegan1": stylegan1, "dcgan": dcgan}


def attention_layers(config: Config) -> nn.ModuleDict:
    """Self-attention for the maps of the chosen resolutions, by resolution."""
    chosen = () if config.attention == "none" else config.attention.split(",")
    return nn.ModuleDict({res: SelfAttention(config.channels(int(res))) for res in chosen})


class Growing(nn.Module):
    """What a growing network knows: its stage, which `set_stage` changes, and alpha as a tensor on its device."""

    def __init__(self, config: Config):
        super().__init__()
        self.full, self.now = config.img_resolution, stage(config, 0)
        if config.grow_from:
            self.register_buffer("alpha", torch.tensor(self.now.alpha))


class SynthesisNetwork(Growing):
    """ws [N, num_ws, w_dim] -> img [N, img_channels, R, R], about in [-1, 1]. One block per resolution from 4 px. While it
    grows, the picture of the stage's resolution is enlarged to R by whole pixels, as in the official code."""

    def __init__(self, config: Config):
        super().__init__(config)
        variant = VARIANTS[config.architecture]
        self.blocks = nn.ModuleList(variant.SynthesisBlock(config, res) for res in config.resolutions)
        self.attention = attention_layers(config)
        self.num_ws = sum(b.num_conv for b in self.blocks) + self.blocks[-1].num_torgb
        assert self.num_ws == config.num_ws

    @property
    def active(self) -> nn.ModuleList:
        return self.blocks[: self.now.resolution.bit_length() - 2]

    def forward(self, ws: Tensor, noise_mode: str = "random", noise: Sequence[Tensor] | None = None) -> Tensor:
        """noise_mode: 'random' (new at each call), 'const' (the fixed maps), 'none'; or give ``noise`` as returned by `draw_noise`."""
        if noise_mode not in ("random", "const", "none"):
            raise ValueError(f"noise_mode is {noise_mode!r}; choose one of random, const, none.")
        if noise is None and noise_mode == "random":
            noise = self.draw_noise(len(ws))
        elif noise is None:
            noise = itertools.repeat(None if noise_mode == "const" else "none")
        maps, img, x, first = iter(noise), None, None, 0
        for block in self.active:
            last, before = first + block.num_conv, img
            x, img = block(x, img, ws[:, first : last + block.num_torgb], [next(maps) for _ in range(block.num_conv)])
            if str(block.resolution) in self.attention:
                x = self.attention[str(block.resolution)](x)
            first = last
        if self.now.fading:
            img = F.interpolate(before, scale_factor=2.0).lerp(img, self.alpha)
        return img if self.now.resolution == self.full else F.interpolate(img, size=(self.full, self.full))

    def draw_noise(self, n: int, rng: BatchRNG | None = None) -> list[Tensor]:
        """Fresh noise maps, one [n, 1, H, W] for each convolution of the stage, on the network's device."""
        rng = rng or BatchRNG(next(self.parameters()).device)
        sizes = [block.resolution for block in self.active for _ in range(block.num_conv)]
        return [rng.normal(n, 1, size, size) for size in sizes]


class Generator(nn.Module):
    """Mapping network and synthesis network. G(z, c) -> img [N, C, R, R]."""

    def __init__(self, config: Config):
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = config.z_dim, config.c_dim, config.w_dim, config.num_ws
        self.mapping = _mapping(config, config.z_dim, config.w_dim, config.num_ws)
        self.synthesis = SynthesisNetwork(config)
        set_slope(self, config.leaky_slope)

    def forward(self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0, noise_mode: str = "const") -> Tensor:
        return self.synthesis(self.mapping(z, c, truncation_psi), noise_mode)


def _mapping(config: Config, z_dim: int, w_dim: int, num_ws: int) -> MappingNetwork:
    embed = config.class_input == "embedded"
    return MappingNetwork(z_dim, config.c_dim, w_dim, num_ws, config.mapping_layers, config.mapping_lr_multiplier, embed)


class Discriminator(Growing):
    """img [N, C, R, R] (and one-hot c) -> logits [N, 1]: with classes, the projection of the features on an embedding of c
    (Miyato & Koyama 2018, arXiv:1802.05637). While it grows, pictures are reduced to the stage's resolution first."""

    def __init__(self, config: Config):
        super().__init__(config)
        variant, falling = VARIANTS[config.architecture], config.resolutions[:0:-1]
        self.deviation_of = config.mbstd_group_size if config.pixel_deviation else 0
        self.from_rgb = variant.FromRGB(config, config.img_resolution)
        grown = [res for res in config.resolutions[:-1] if config.grow_from and res >= config.grow_from]
        self.from_small_rgb = nn.ModuleDict({str(res): variant.FromRGB(config, res) for res in grown})
        self.blocks = nn.Sequential(*(variant.DiscriminatorBlock(config, res) for res in falling))
        self.attention = attention_layers(config)
        self.embed_dim = config.channels(4)
        self.mapping = _mapping(config, 0, self.embed_dim, 1) if config.c_dim else None
        self.epilogue = variant.DiscriminatorEpilogue(config, self.embed_dim if config.c_dim else 1)
        set_slope(self, config.leaky_slope)
        if config.spectral_norm:  # the way of a picture; the class's embedding is no part of it
            for part in (self.from_rgb, self.from_small_rgb, self.blocks, self.attention, self.epilogue):
                spectral_norm(part)

    def forward(self, img: Tensor, c: Tensor | None = None) -> Tensor:
        x = self.features(img)
        with torch.autocast(x.device.type, enabled=False):  # the logits decide over p and are compared: full precision
            x = self.epilogue(x.float())  # [N, 1] or [N, embed_dim]
        if self.mapping is None:
            return x
        embedding = self.mapping(None, c)[:, 0]  # [N, embed_dim]
        return (x * embedding).sum(dim=1, keepdim=True) / math.sqrt(self.embed_dim)

    def features(self, img: Tensor) -> Tensor:
        """img [N, C, R, R] -> maps [N, embed_dim, 4, 4], before the epilogue."""
        res = self.now.resolution
        img = with_deviation(img, self.deviation_of) if self.deviation_of else img
        img = img if res == self.full else F.avg_pool2d(img, self.full // res)
        x = self._enter(img)
        while res > 4:
            if str(res) in self.attention:
                x = self.attention[str(res)](x)
            x = self.blocks[-(res.bit_length() - 3)](x)
            if self.now.fading and res == self.now.resolution:
                before = self._enter(F.avg_pool2d(img, 2))
                x = before + self.alpha * (x - before)  # keeps half precision, as lerp with a tensor does not
            res //= 2
        return x

    def _enter(self, img: Tensor) -> Tensor:
        size = img.shape[2]
        x = (self.from_rgb if size == self.full else self.from_small_rgb[str(size)])(img)
        return x.contiguous(memory_format=torch.channels_last)  # one channel has no format to hand on


def build_networks(config: Config) -> tuple[Generator, Discriminator]:
    """Freshly initialised G and D of this config, in the memory format that is fastest on CPUs and tensor cores."""
    return tuple(net(config).to(memory_format=torch.channels_last) for net in (Generator, Discriminator))


def set_stage(now: Stage, *nets: nn.Module) -> None:
    """Bring these networks to a stage of growing; alpha is written in place, where a recorded graph of operations reads it."""
    for module in (module for net in nets for module in net.modules() if isinstance(module, Growing)):
        module.now = now
        if hasattr(module, "alpha"):
            module.alpha.fill_(now.alpha)


def pick_device(name: str = "auto") -> torch.device:
    """'auto' takes CUDA (each process its own card), then MPS, then the CPU. ValueError for a device that is not there."""
    if "LOCAL_RANK" in os.environ and name in ("auto", "cuda") and torch.cuda.is_available():
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in present.items() if there)
    if not present.get(name.split(":")[0], False):
        choices = ", ".join(["auto", *(kind for kind, there in present.items() if there)])
        raise ValueError(f"There is no device {name!r} here; choose one of {choices}.")
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


def count_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def peak_memory_mb(device: torch.device) -> float:
    """Most memory held so far, in MiB: of the card for CUDA, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


@contextlib.contextmanager
def enough_memory(config: Config) -> Iterator[None]:
    """Turn what torch raises when memory ends into a ValueError that says what to make smaller."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch's own is a RuntimeError, on the CPU a plain one
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        asked = f"batches of {config.batch_size} at {config.img_resolution} px with up to {config.channel_max} channels"
        way = "take a smaller --batch-size or preset in a new --run-dir, or a larger machine"
        raise ValueError(f"There is not enough memory for {asked}; {way}.") from error


# --- Tables of presets and of their parts -----------------------------------------------------------------------------------------

PART = re.compile(r"mapping|(synthesis\.)?(blocks|attention|from_small_rgb)\.\d+|from_rgb|epilogue")


def preset_rows() -> list[dict]:
    """One entry per preset: name, source, resolution, parameters_g, parameters_d, loss, options (what differs from Config), note."""
    rows = []
    for name, (source, note) in NOTES.items():
        config = make_config(name)
        G, D = build_networks(replace(config, c_dim=2 if config.conditional == "class" else 0))  # counted with two classes
        rows.append({
            "name": name, "source": source, "resolution": config.img_resolution, "parameters_g": count_parameters(G),
            "parameters_d": count_parameters(D), "loss": describe_loss(config), "options": PRESETS[name], "note": note,
        })  # fmt: skip
    return rows


def describe_loss(config: Config) -> str:
    """'logistic + R1 0.1 / 16': the loss, its penalties with their weights, and every how many steps each is taken."""
    d, g = config.d_reg_interval, config.g_reg_interval
    terms = (("R1", config.r1_gamma, d), ("R2", config.r2_gamma, d), ("GP", config.gp_weight, d), ("drift", config.drift, 1),
             ("path length", config.pl_weight, g), ("participation", config.participation_weight, 1))  # fmt: skip
    return " + ".join([config.loss, *(f"{name} {x:g}{f' / {every}' if every > 1 else ''}" for name, x, every in terms if x)])


@torch.no_grad()
def part_rows(config: Config) -> list[dict]:
    """One row per part of G and D at full resolution: the shape that it gives for one slice (none where it only serves
    growing), its weights, and its multiplications in products and convolutions, as torch counts them."""
    G, D = (net.eval() for net in build_networks(config))
    set_stage(Stage(config.img_resolution, 1.0), G, D)
    c = torch.eye(config.c_dim)[:1] if config.c_dim else None
    img = torch.zeros(1, config.img_channels, config.img_resolution, config.img_resolution)
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def note_shape(part: nn.Module, inputs: tuple, output: Tensor | tuple) -> None:
        first = next(x for x in (output if isinstance(output, tuple) else (output,)) if x is not None)
        shapes[part] = tuple(first.shape[1:])

    rows = []
    for title, net, seen in (("G", G, torch.zeros(1, config.z_dim)), ("D", D, img)):
        parts = {name: part for name, part in net.named_modules() if PART.fullmatch(name)}
        for part in parts.values():
            part.register_forward_hook(note_shape)
        with FlopCounterMode(display=False) as counter:
            net(seen, c)
        for name, part in parts.items():
            flops = counter.get_flop_counts().get(f"{type(net).__name__}.{name}", {})
            rows.append({
                "part": f"{title}.{name}", "output": " × ".join(map(str, shapes.get(part, ()))),
                "parameters": count_parameters(part), "multiplications": sum(flops.values()) // 2,  # additions are counted too
            })  # fmt: skip
    return rows
