"""The way back: the w that draws a given real slice best, and how much of the slice no w can draw."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.metrics import pairwise_distances
from torch import Tensor

from stylegan import plots
from stylegan.checkpoint import load_generator
from stylegan.data.subjects import person
from stylegan.dataset import SliceDataset, load_slices
from stylegan.files import write_json
from stylegan.networks import Generator, pick_device
from stylegan.predict import generate, sampling, styles, synthesize

SPACES = ("w", "w+")


class Projection(NamedTuple):
    """What `project` found for n slices."""

    ws: Tensor  # [n, num_ws, w_dim]
    images: Tensor  # [n, C, R, R], what they draw
    residual: np.ndarray  # [n], see `residual`
    away: np.ndarray  # [n], distance of w from the average, 1 for the farthest of 1,000 seeds: above, hardly a seed gives it


def project(G: Generator, target: Tensor, *, space: str = "w", steps: int = 200, lr: float = 0.1, seed: int = 0) -> Projection:
    """Search the styles that draw these slices: target [n, C, R, R] in [-1, 1], all at once.

    After Karras et al. 2020a, arXiv:1912.04958, appendix D: Adam from the average w, its learning rate raised over the first 5 %
    of the steps and lowered over the last 25 %, and noise on w that fades out over the first 75 %, so that the search explores
    before it settles. space 'w': one style for all layers; 'w+': one for each (Abdal et al. 2019, arXiv:1904.03189), which
    fits better and leaves what seeds can give.

    Two things differ from the paper. Its loss is a distance of VGG features, which are not at hand; here it is the mean squared
    difference of pixels. Slices are registered and share one grey window, so that pixels compare, and the result is judged in
    the same grey levels. (Tried at 64 px: the features of `features.efficientnet_lite0` take six times as long and lead
    further off in grey levels; four scales of pixels in place of one change nothing.) And its search also bends the noise maps; here
    they stay as they are, because under a loss of pixels they would carry what w cannot draw, which is what we ask for.
    Raises ValueError for another space or size.
    """
    shape = (G.synthesis.blocks[-1].resolution,) * 2
    if space not in SPACES or target.ndim != 4 or target.shape[2:] != shape or steps < 1:
        wanted = f"slices [n, C, {shape[0]}, {shape[1]}], a space of {', '.join(SPACES)}, at least one step"
        raise ValueError(f"A projection takes {wanted}; these are {list(target.shape)}, {space!r}, {steps}.")
    drawn = styles(G, range(1000))[:, 0]  # [1000, w_dim]
    far = (drawn - drawn.mean(dim=0)).norm(dim=1)
    usual = far.square().mean().sqrt()
    stream = torch.Generator().manual_seed(seed)
    with sampling(G) as device, torch.enable_grad():
        wanted = target.to(device)
        w = drawn.mean(dim=0).repeat(len(target), G.num_ws if space == "w+" else 1, 1).to(device).requires_grad_()
        optimizer = torch.optim.Adam([w], lr)
        for step in range(steps):
            optimizer.param_groups[0]["lr"], strength = lr * _warmth(step / steps), _restlessness(step / steps)
            noise = strength * usual * torch.randn(G.w_dim, generator=stream)  # one for all slices, as above
            images = G.synthesis((w + noise.to(device)).expand(-1, G.num_ws, -1), "const")
            loss = (images - wanted).square().mean(dim=(1, 2, 3)).sum()  # a sum: no slice's gradient depends on the others
            (w.grad,) = torch.autograd.grad(loss, w)
            optimizer.step()
    ws = w.detach().expand(-1, G.num_ws, -1).cpu()
    images = synthesize(G, ws)
    away = (ws - drawn.mean(dim=0)).norm(dim=2).mean(dim=1) / far.max()
    return Projection(ws, images, residual(target, images), away.numpy())


def _warmth(t: float) -> float:
    """The learning rate at fraction t of the steps, of its highest."""
    return min(1, t / 0.05) * (0.5 - 0.5 * math.cos(math.pi * min(1, (1 - t) / 0.25)))


def _restlessness(t: float) -> float:
    """The noise on w at fraction t of the steps, in usual lengths of w."""
    return 0.05 * max(0, 1 - t / 0.75) ** 2


# --- How near is near? ----------------------------------------------------------------------------------------------------


def residual(target: plots.Images, images: plots.Images) -> np.ndarray:
    """Root mean square difference in grey levels of 255 of each pair of slices: [n]."""
    away = plots.to_uint8(target).astype(float) - plots.to_uint8(images)
    return np.sqrt(np.square(away).mean(axis=tuple(range(1, away.ndim))))


def reach(
    G: Generator, chosen: SliceDataset, train: np.ndarray, *, space: str = "w", num: int = 512
) -> tuple[Projection, dict[str, np.ndarray]]:
    """Project the chosen slices and measure the result by simpler answers: (projection, name -> residuals [n]).

    'projection' of the slices; 'generated slice, found again': as many slices of G itself under the same search, so that what
    they keep is the search's fault and not the generator's; 'nearest training slice' among ``train`` (uint8 [m, R, R]), that
    of another person; 'mean training slice'; 'nearest of 512 generated'.
    """
    n, pixels = len(chosen), chosen.images
    own = generate(G, range(10_000, 10_000 + n))
    both = project(G, torch.cat([chosen.tensor(), own]), space=space)
    mean = train.mean(axis=0).round().astype(np.uint8)[None].repeat(n, axis=0)
    return Projection(*(part[:n] for part in both)), {
        "projection": both.residual[:n],
        "generated slice, found again": both.residual[n:],
        "nearest training slice": _nearest(pixels, train),
        "mean training slice": residual(pixels, mean),
        f"nearest of {num} generated": _nearest(pixels, plots.to_uint8(generate(G, range(num)))),
    }


def _nearest(pixels: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """The residual of each slice and the nearest of the pool, which may be larger than memory: [n]."""
    flat = pixels.reshape(len(pixels), -1).astype(np.float32)
    parts = (pool[start : start + 1024] for start in range(0, len(pool), 1024))
    nearest = [pairwise_distances(flat, part.reshape(len(part), -1).astype(np.float32)).min(axis=1) for part in parts]
    return np.min(nearest, axis=0) / math.sqrt(flat.shape[1])


def held_out(slices: SliceDataset, info: Mapping, count: int, seed: int = 0) -> SliceDataset:
    """``count`` slices drawn by chance that the generator (its ``info``) was not trained on, of as many people as there are.

    From the validation split, else from the test split. Raises ValueError where nobody is left, or for a count below 1.
    """
    if count < 1:
        raise ValueError(f"{count} slices cannot be projected; ask for one or more.")
    trained_on = {person(str(subject)) for subject in info.get("train_subjects") or ()}
    people = np.array([person(str(subject)) for subject in slices.subjects])
    unseen = (slices.splits != "train") & ~np.isin(people, list(trained_on))
    split = next((name for name in ("val", "test") if np.any(unseen & (slices.splits == name))), None)
    if split is None:
        raise ValueError(f"{slices.title} holds no slice that the generator was not trained on; give other people's slices.")
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(unseen & (slices.splits == split)))
    turn = [np.sum(people[rows[:i]] == people[row]) for i, row in enumerate(rows)]  # 0 for a person's first slice
    return slices.select(np.sort(rows[np.argsort(turn, kind="stable")][:count]))


# --- The command ----------------------------------------------------------------------------------------------------------


def project_held_out(
    path: str | Path, out: str | Path, data: str | Path | None = None, *, count: int = 6, space: str = "w", device: str = "auto"
) -> dict:
    """Project held-out slices and write ``projection.png`` and ``projection.json`` into ``out``; returns what the latter holds.

    path: a run folder or a .safetensors file; data: as of `load_slices`. The picture shows real slices: treat it as such.
    """
    G, info = load_generator(path, pick_device(device))
    slices = load_slices(data, info["config"]["img_resolution"])
    chosen = held_out(slices, info, count)
    found, compared = reach(G, chosen, slices.split("train").images, space=space)
    numbers = {"away": found.away, **compared}
    columns = {"subject": chosen.subjects.tolist(), "level": chosen.levels.tolist()}
    columns |= {name: values.astype(float).round(2).tolist() for name, values in numbers.items()}
    result = {
        "model_hash": info["model_hash"],
        "data": slices.title,
        "split": str(chosen.splits[0]),
        "space": space,
        "unit": "root mean square of grey levels of 255",
        "mean": {name: round(float(values.mean()), 2) for name, values in compared.items()},
        "slices": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
    }
    Path(out).mkdir(parents=True, exist_ok=True)
    caption = f"projected into {space.upper()} · model {info['model_hash']}"
    text = {"Description": "Upper row: real slices. Middle row: synthetic slices, projections of them. Not for diagnosis."}
    plots.projections(chosen.images, found.images, caption=caption).savefig(Path(out) / "projection.png", metadata=text)
    write_json(Path(out) / "projection.json", result)
    return result
