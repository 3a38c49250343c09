"""From seeds to pictures: sampling, and the tools that look into the latent space.

Picture k depends on seed k alone: its z and its noise come from generators of its own, drawn on the CPU whatever the device is,
and the networks always see batches of `CHUNK` rows, because kernels choose their order of summation by the size of the batch.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylegan.networks import Generator

CHUNK = 8  # rows that the networks see at once; the last chunk is padded
Classes = int | Sequence[int] | None


# --- From seeds to pictures ---------------------------------------------------------------------------------------------


def latents(seeds: Sequence[int], z_dim: int) -> Tensor:
    """One standard normal z per seed: [n, z_dim] on the CPU. Row k depends on seed k alone."""
    return torch.stack([torch.randn(z_dim, generator=_stream(seed)) for seed in _checked(seeds)])


def choose_classes(G: Generator, class_index: Classes, seeds: Sequence[int]) -> Tensor | None:
    """The class of each seed: int64 [n], None for a generator without classes.

    class_index: one class for all, or one per seed; without it a conditional G gives seed s the class s mod c_dim, so that the
    class too depends on the seed alone. Raises ValueError for classes that G does not know.
    """
    if not G.c_dim:
        if class_index is not None:
            raise ValueError("This generator was trained without classes: leave class_index out.")
        return None
    if class_index is None:
        return torch.tensor([int(seed) % G.c_dim for seed in seeds])
    classes = np.asarray(class_index, dtype=np.int64)
    classes = np.broadcast_to(classes, len(seeds)) if classes.ndim == 0 else classes
    if len(classes) != len(seeds) or classes.min() < 0 or classes.max() >= G.c_dim:
        raise ValueError(f"class_index must be a class from 0 to {G.c_dim - 1}, or one for each of the {len(seeds)} seeds.")
    return torch.tensor(classes)


def styles(
    G: Generator,
    seeds: Sequence[int],
    *,
    truncation_psi: float = 1.0,
    truncation_cutoff: int | None = None,
    class_index: Classes = None,
) -> Tensor:
    """The truncated style vectors of these seeds: ws [n, num_ws, w_dim] on the CPU (StyleGAN1, section 2 and appendix B).

    class_index as in `choose_classes`.
    """
    return map_latents(G, latents(seeds, G.z_dim), choose_classes(G, class_index, seeds), truncation_psi, truncation_cutoff)


def map_latents(G: Generator, z: Tensor, classes: Tensor | None, psi: float = 1.0, cutoff: int | None = None) -> Tensor:
    """z [n, z_dim] and class indices [n] (None: unconditional) -> ws [n, num_ws, w_dim] on the CPU."""
    inputs = [z] if classes is None else [z, F.one_hot(classes, G.c_dim).float()]
    with sampling(G) as device:
        chunks = []
        for rows, (z_part, *c_part) in _chunks(inputs, device):
            c = c_part[0] if c_part else None
            chunks.append(G.mapping(z_part, c, truncation_psi=psi, truncation_cutoff=cutoff)[:rows].cpu())
    return torch.cat(chunks)


def synthesize(G: Generator, ws: Tensor, *, noise_mode: str = "const", noise: list[Tensor] | None = None) -> Tensor:
    """ws [n, num_ws, w_dim] -> pictures [n, C, R, R], float32 on the CPU, about in [-1, 1], not clamped.

    noise_mode 'const' | 'none', or ``noise``: one [n, 1, H, W] for each convolution, as `seed_noise` draws.
    """
    with sampling(G) as device:
        chunks = []
        for rows, (w, *maps) in _chunks([ws, *(noise or [])], device):
            chunks.append(G.synthesis(w, noise_mode, maps or None)[:rows].float().cpu())
    return torch.cat(chunks)


def seed_noise(G: Generator, seeds: Sequence[int], draw: int = 0) -> list[Tensor]:
    """Noise maps for noise_mode 'random', one [n, 1, H, W] for each convolution; row k depends on (seed k, draw) alone."""
    sizes = [block.resolution for block in G.synthesis.blocks for _ in range(block.num_conv)]
    streams = [_stream(seed, draw) for seed in _checked(seeds)]
    rows = [[torch.randn(1, size, size, generator=stream) for size in sizes] for stream in streams]
    return [torch.stack(maps) for maps in zip(*rows, strict=True)]


def generate(
    G: Generator,
    seeds: Sequence[int],
    *,
    truncation_psi: float = 1.0,
    truncation_cutoff: int | None = None,
    noise_mode: str = "const",
    class_index: Classes = None,
    device: str | torch.device | None = None,
) -> Tensor:
    """Pictures of these seeds: [n, C, R, R], float32 on the CPU, about in [-1, 1], not clamped (`to_uint8` clamps).

    The same seed gives the same picture bit for bit in any company. G is left in the mode and on the device where it was found.
    Raises ValueError for a seed outside 0 .. 2**32 - 1, an unknown noise_mode or a class that G does not know.
    """
    with sampling(G, device):
        ws = styles(G, seeds, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff, class_index=class_index)
        if noise_mode != "random":
            return synthesize(G, ws, noise_mode=noise_mode)
        # Noise maps are larger than pictures: draw them chunk by chunk.
        chunks = zip(ws.split(CHUNK), [seeds[i : i + CHUNK] for i in range(0, len(seeds), CHUNK)], strict=True)
        return torch.cat([synthesize(G, w, noise=seed_noise(G, chunk)) for w, chunk in chunks])


def to_uint8(images: Tensor | np.ndarray) -> np.ndarray:
    """float [n, C, R, R] in [-1, 1] (clamped, rounded), or uint8 as it is -> uint8 [n, R, R], or [n, R, R, 3] for C = 3."""
    if isinstance(images, torch.Tensor):
        images = images.detach().cpu().numpy()
    images = np.asarray(images)
    if images.dtype != np.uint8:
        images = np.rint((np.clip(images.astype(np.float64), -1, 1) + 1) * 127.5).astype(np.uint8)
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[-1] not in (1, 3):
        images = np.moveaxis(images, 1, -1)
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] not in (1, 3)):
        raise ValueError(f"Slices have shape [n, R, R], [n, 1, R, R] or [n, 3, R, R], not {list(images.shape)}.")
    return images[..., 0] if images.ndim == 4 and images.shape[-1] == 1 else images


def parse_seeds(text: str) -> list[int]:
    """'0-63' or '1,5,7-9' -> the seeds, ends included. Raises ValueError for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,10})(?:\s*-\s*(\d{1,10}))?\s*", part, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < first + 1_000_000:
            raise ValueError(f"{text!r} is not a list of seeds (of at most a million); write for example 0-63 or 1,5,7-9.")
        seeds += range(first, last + 1)
    return _checked(seeds)


# --- Tools of the latent space ------------------------------------------------------------------------------------------


def truncation_sweep(G: Generator, seeds: Sequence[int], psis: Sequence[float], **kwargs) -> Tensor:
    """Each seed at each psi: [n, len(psis), C, R, R]. At psi = 0 all show the average w, at psi = 1 nothing is truncated."""
    return torch.stack([generate(G, seeds, truncation_psi=psi, **kwargs) for psi in psis], dim=1)


def style_mixing(
    G: Generator,
    row_seeds: Sequence[int],
    col_seeds: Sequence[int],
    crossover: int | None = None,
    *,
    class_index: Classes = None,
    **kwargs,
) -> Tensor:
    """Picture [i, j] takes its first ``crossover`` ws (coarse: the shape) from row i, the rest (fine) from column j.

    [rows, cols, C, R, R] (StyleGAN1, section 3.1). crossover = num_ws repeats the rows' own pictures, 0 the columns';
    None takes half. kwargs: truncation_psi, truncation_cutoff. Raises ValueError for a crossover outside 0 .. num_ws.
    """
    crossover = G.num_ws // 2 if crossover is None else crossover
    if not 0 <= crossover <= G.num_ws:
        raise ValueError(f"crossover is {crossover}; this generator has {G.num_ws} style vectors, take 0 to {G.num_ws}.")
    rows, cols = (styles(G, seeds, class_index=class_index, **kwargs) for seeds in (row_seeds, col_seeds))
    shape = len(rows), len(cols), -1, G.w_dim
    ws = torch.cat([rows[:, None, :crossover].expand(shape), cols[None, :, crossover:].expand(shape)], dim=2)
    return synthesize(G, ws.flatten(0, 1)).unflatten(0, shape[:2])


def interpolate(
    G: Generator,
    seeds: Sequence[int],
    frames: int = 16,
    *,
    space: str = "w",
    truncation_psi: float = 1.0,
    class_index: Classes = None,
    truncation_cutoff: int | None = None,
) -> Tensor:
    """A walk from seed to seed: [(len(seeds) - 1) * frames + 1, C, R, R]; every ``frames``-th picture is a seed's own.

    space 'w': straight lines between style vectors; 'z': great circles between latents. The noise stays fixed. Where G is
    conditional, 'z' needs one class for the whole walk. Raises ValueError for fewer than two seeds or another space.
    """
    if len(seeds) < 2 or frames < 1:
        raise ValueError(f"An interpolation needs at least two seeds and one frame, not {len(seeds)} and {frames}.")
    if space not in ("w", "z"):
        raise ValueError(f"space is {space!r}; choose w or z.")
    classes, truncate = choose_classes(G, class_index, seeds), (truncation_psi, truncation_cutoff)
    if space == "w":
        points = map_latents(G, latents(seeds, G.z_dim), classes, *truncate)
        return synthesize(G, _walk(points, frames, torch.lerp))
    if classes is not None and len(classes.unique()) > 1:
        raise ValueError("An interpolation in z needs one class for all seeds: give class_index as one number, or walk in w.")
    z = _walk(latents(seeds, G.z_dim), frames, slerp)
    classes = None if classes is None else classes[:1].expand(len(z))
    return synthesize(G, map_latents(G, z, classes, *truncate))


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """The point at fraction t of the great circle from a to b, both [..., D], where a Gaussian's points lie."""
    unit_a, unit_b = (x / x.norm(dim=-1, keepdim=True) for x in (a, b))
    angle = (unit_a * unit_b).sum(dim=-1, keepdim=True).clamp(-1, 1).double().acos()
    weights = ((1 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin()
    curved = (weights[0] * a + weights[1] * b).to(a.dtype)
    return torch.where(angle.sin() < 1e-4, torch.lerp(a, b, t), curved)  # parallel vectors span no circle


class NoiseDeviation(NamedTuple):
    """What the noise inputs change in one picture; each [C, R, R], in the units of the picture ([-1, 1])."""

    off: Tensor  # no noise at all
    mean: Tensor  # over the draws
    std: Tensor  # pixel-wise standard deviation over the draws


def noise_deviation(G: Generator, seed: int, draws: int = 32, **kwargs) -> NoiseDeviation:
    """The same w under ``draws`` fresh noise maps (StyleGAN1, section 3.2 and figure 4). kwargs as of `styles`."""
    ws = styles(G, [seed], **kwargs)
    noise = [torch.cat(maps) for maps in zip(*(seed_noise(G, [seed], draw) for draw in range(draws)), strict=True)]
    # Double precision, so that pictures that do not differ deviate by exactly 0.
    pictures = synthesize(G, ws.expand(draws, -1, -1), noise=noise).double()
    off = synthesize(G, ws, noise_mode="none")[0]
    return NoiseDeviation(off, pictures.mean(dim=0).float(), pictures.std(dim=0, correction=0).float())


def class_sweep(G: Generator, seeds: Sequence[int], **kwargs) -> Tensor:
    """Each seed's z under every class: [n, c_dim, C, R, R]. Raises ValueError for a generator without classes."""
    if not G.c_dim:
        raise ValueError("This generator was trained without classes: there is none to sweep; train with --conditional class.")
    return torch.stack([generate(G, seeds, class_index=index, **kwargs) for index in range(G.c_dim)], dim=1)


# --- Parts --------------------------------------------------------------------------------------------------------------


def _checked(seeds: Sequence[int]) -> list[int]:
    seeds = [int(seed) for seed in seeds]
    wrong = [seed for seed in seeds if not 0 <= seed < 2**32]  # torch's CPU generator would take them modulo 2**32
    if wrong or not seeds:
        raise ValueError(f"Seeds are whole numbers from 0 to 4294967295, at least one; got {wrong[:3] or 'none'}.")
    return seeds


def _stream(seed: int, *draw: int) -> torch.Generator:
    """The random numbers of this seed; with a draw number an independent stream."""
    state = int(np.random.SeedSequence([seed, *draw]).generate_state(1)[0]) if draw else seed
    return torch.Generator().manual_seed(state)


def _chunks(tensors: Sequence[Tensor], device: torch.device) -> Iterator[tuple[int, list[Tensor]]]:
    """(rows that count, parts of exactly CHUNK rows on the device); the last part is filled up with its first row."""
    for start in range(0, len(tensors[0]), CHUNK):
        parts = [x[start : start + CHUNK] for x in tensors]
        rows = len(parts[0])
        yield rows, [torch.cat([x, x[:1].expand(CHUNK - rows, *x.shape[1:])]).to(device) for x in parts]


@contextmanager
def sampling(G: Generator, device: str | torch.device | None = None) -> Iterator[torch.device]:
    """Evaluation mode without gradients, on the device if one is given; leaves G as it was found."""
    modes, found = [(module, module.training) for module in G.modules()], next(G.parameters()).device
    try:
        G.eval().to(device or found)
        with torch.no_grad():
            yield torch.device(device or found)
    finally:
        G.to(found)
        for module, training in modes:
            module.training = training


def _walk(points: Tensor, frames: int, between: Callable[[Tensor, Tensor, float], Tensor]) -> Tensor:
    steps = [between(a, b, i / frames) for a, b in itertools.pairwise(points) for i in range(frames)]
    return torch.stack([*steps, points[-1]])
