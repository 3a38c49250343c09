"""Directions in W: found without labels, named by what they measurably move.

A direction is unlike a class: nobody asked for it, so nobody knows its meaning beforehand. Here it gets its name from gauges,
plain numbers read off the pictures of many seeds before and after a step along it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from torch import Tensor

from stylegan.dataset import SliceDataset
from stylegan.networks import Generator
from stylegan.predict import generate, styles, synthesize, to_uint8
from stylegan.stylegan2 import SynthesisLayer

Gauge = Callable[[np.ndarray], np.ndarray]  # uint8 [n, R, R] -> float [n]
HEAD = 12  # grey levels above which a pixel belongs to the head
REACH = 2.0  # standard deviations that a step goes to either side when its effect is measured
LEAST, AGREED = 1.0, 0.8  # a name needs an effect of one standard deviation, in one sense on four of five seeds


@dataclass(frozen=True, eq=False)  # two are the same only if they are one: tensors have no plain equality
class Direction:
    """A direction of W, of the length of one standard deviation of w along it, and what it moves."""

    method: str  # as its authors write it
    number: int  # from 1, strongest first
    step: Tensor  # [w_dim]
    share: float  # of the variance of w
    effects: Mapping[str, float]  # gauge -> its change from -2 to +2 steps, in its standard deviations between seeds
    agreed: Mapping[str, float]  # gauge -> share of the seeds that it moves to that side

    def moves(self, gauge: str) -> bool:
        """Whether it moves this gauge far enough and alike on enough seeds to be named after it."""
        return abs(self.effects[gauge]) >= LEAST and self.agreed[gauge] >= AGREED

    @property
    def name(self) -> str:
        """What it moves, at most two things, strongest first: 'level up, contrast down'."""
        strong = sorted(filter(self.moves, self.effects), key=lambda gauge: -abs(self.effects[gauge]))
        return ", ".join(f"{key} {'up' if self.effects[key] > 0 else 'down'}" for key in strong[:2]) or "nothing measured"

    @property
    def title(self) -> str:
        """For the row of a figure, in two lines."""
        return f"{self.method} {self.number}\n{self.name}"


def find_directions(
    G: Generator, gauges: Mapping[str, Gauge], count: int = 3, method: str = "pca", *, seeds: Sequence[int] = range(32)
) -> list[Direction]:
    """The ``count`` strongest directions of a method in `METHODS`, each turned so that what it moves most goes up.

    'pca': principal components of w (Härkönen et al. 2020, arXiv:2004.02546, section 2.1). 'sefa': the unit vectors n that
    change the styles most, max |A n|, with A the style weights of all convolutions: eigenvectors of A^T A (Shen & Zhou 2021,
    arXiv:2007.06600, section 3.2); no sampling enters, only weights. Effects are measured on ``seeds`` at psi = 0.7. Raises
    ValueError for another method or more directions than W has.
    """
    if method not in METHODS or not 1 <= count <= G.w_dim:
        raise ValueError(f"Take 1 to {G.w_dim} directions by {' or '.join(METHODS)}, not {count} by {method!r}.")
    drawn = styles(G, range(1000))[:, 0].double()  # [1000, w_dim]
    along = METHODS[method](G, drawn)[:count]  # [count, w_dim]
    variances = (drawn - drawn.mean(dim=0)).square().mean(dim=0)
    stds = ((drawn - drawn.mean(dim=0)) @ along.T).std(dim=0, correction=0)  # [count]
    steps, shares = (along * stds[:, None]).float(), (stds.square() / variances.sum()).tolist()
    usual = {name: gauge(to_uint8(generate(G, range(256)))).std() for name, gauge in gauges.items()}
    ws = styles(G, seeds, truncation_psi=0.7)
    found = [_measured(G, ws, step, gauges, usual) for step in steps]
    return [
        _upright(Direction(TITLES[method], i + 1, step, share, *measured))
        for i, (step, share, measured) in enumerate(zip(steps, shares, found, strict=True))
    ]


def walk(G: Generator, directions: Sequence[Direction], strengths: Sequence[float], ws: Tensor | None = None) -> Tensor:
    """A style moved along each direction by each strength: [directions, strengths, C, R, R]; by default the average style.

    ws: [1, num_ws, w_dim]; strengths count standard deviations.
    """
    ws = styles(G, [0], truncation_psi=0) if ws is None else ws
    moves = torch.stack([strength * direction.step for direction in directions for strength in strengths])
    return synthesize(G, ws + moves[:, None]).unflatten(0, (len(directions), len(strengths)))


def rows(directions: Sequence[Direction]) -> list[dict]:
    """The rows of a table: each direction's name, its share of the variance of w and its effects, in bold those that count."""

    def shown(d: Direction, gauge: str) -> str:
        return f"**{d.effects[gauge]:+.1f}**" if d.moves(gauge) else f"{d.effects[gauge]:+.1f}"

    return [
        {"direction": f"{d.method} {d.number}", "moves": d.name, "variance": f"{d.share:.1%}"}
        | {gauge: shown(d, gauge) for gauge in d.effects}
        for d in directions
    ]


# --- Methods --------------------------------------------------------------------------------------------------------------


def _principal(G: Generator, drawn: Tensor) -> Tensor:
    return torch.linalg.svd(drawn - drawn.mean(dim=0), full_matrices=False).Vh


def _closed_form(G: Generator, drawn: Tensor) -> Tensor:
    layers = [module for module in G.synthesis.modules() if isinstance(module, SynthesisLayer)]
    A = torch.cat([layer.conv.affine.weight.detach().cpu().double() for layer in layers])  # [sum of channels, w_dim]
    A = A / A.norm(dim=1, keepdim=True)  # as the authors' code: a layer counts by its channels, not by its scale
    return torch.linalg.svd(A, full_matrices=False).Vh


# A method is one row: its name -> what gives unit vectors [n, w_dim], strongest first, from G and styles [1000, w_dim].
METHODS = {"pca": _principal, "sefa": _closed_form}
TITLES = {"pca": "PCA", "sefa": "SeFa"}


def _measured(
    G: Generator, ws: Tensor, step: Tensor, gauges: Mapping[str, Gauge], usual: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, float]]:
    """(effects, agreed) of one step, see `Direction`."""
    down, up = (to_uint8(synthesize(G, ws + sign * REACH * step)) for sign in (-1, 1))
    changes = {name: gauge(up) - gauge(down) for name, gauge in gauges.items()}
    effects = {name: float(change.mean() / max(usual[name], 1e-9)) for name, change in changes.items()}
    agreed = {name: float(np.mean(np.sign(change) == np.sign(change.mean()))) for name, change in changes.items()}
    return effects, agreed


def _upright(direction: Direction) -> Direction:
    """Turned so that the gauge that it moves most goes up: the sign of an eigenvector means nothing."""
    strongest = max(direction.effects.values(), key=abs, default=1)
    if strongest >= 0:
        return direction
    return replace(direction, step=-direction.step, effects={key: -value for key, value in direction.effects.items()})


# --- Gauges ---------------------------------------------------------------------------------------------------------------


def make_gauges(slices: SliceDataset) -> dict[str, Gauge]:
    """What can be read off a slice of this kind; ``level`` only where the data knows levels and the gauge is found to read them.

    It is a ridge regression from 16 x 16 means of training slices, kept if it correlates by .8 or more with the true levels of
    people it has not seen. The means are divided by the brightness of the head: without that the regression read real slices
    as well and went astray on generated ones, whose grey levels are another matter.
    """
    level = _level_gauge(slices)
    return ({} if level is None else {"level": level}) | GAUGES


def _level_gauge(slices: SliceDataset) -> Gauge | None:
    train, test = slices.splits == "train", slices.splits != "train"
    if slices.levels.max() <= 0 or min(train.sum(), test.sum()) < 10:
        return None
    fitted = RidgeCV(np.logspace(-3, 3, 7)).fit(_means(slices.images[train]), slices.levels[train])
    agreement = np.corrcoef(fitted.predict(_means(slices.images[test])), slices.levels[test])[0, 1]
    return (lambda pixels: fitted.predict(_means(pixels))) if agreement > 0.8 else None


def _means(pixels: np.ndarray) -> np.ndarray:
    """Means of 16 x 16 fields (of 8 x 8 at 8 px) in units of the head's mean: [n, R, R] -> [n, 256]."""
    n, size, fields = len(pixels), pixels.shape[1], min(16, pixels.shape[1])
    means = pixels.reshape(n, fields, size // fields, fields, size // fields).mean(axis=(2, 4)).reshape(n, -1)
    return means / _brightness(pixels)[:, None].clip(1)


def _size(pixels: np.ndarray) -> np.ndarray:
    return (pixels > HEAD).mean(axis=(1, 2))


def _brightness(pixels: np.ndarray) -> np.ndarray:
    """Mean grey level inside the head."""
    return pixels.sum(axis=(1, 2), where=pixels > HEAD) / (pixels > HEAD).sum(axis=(1, 2)).clip(1)


def _contrast(pixels: np.ndarray) -> np.ndarray:
    """Standard deviation inside the head over its mean."""
    head = pixels > HEAD
    mean = _brightness(pixels)
    away = np.square(pixels - mean[:, None, None]).sum(axis=(1, 2), where=head) / head.sum(axis=(1, 2)).clip(1)
    return np.sqrt(away) / mean.clip(1)


def _dark_centre(pixels: np.ndarray) -> np.ndarray:
    """Share of the middle quarter by quarter that is darker than half of the head: where the lateral ventricles lie."""
    size = pixels.shape[1]
    middle = pixels[:, 3 * size // 8 : 5 * size // 8, 3 * size // 8 : 5 * size // 8]
    return (middle < 0.5 * _brightness(pixels)[:, None, None]).mean(axis=(1, 2))


def _slenderness(pixels: np.ndarray) -> np.ndarray:
    """Height of the head over its width, by standard deviations of its pixels."""
    head = (pixels > HEAD).astype(float)
    head /= head.sum(axis=(1, 2), keepdims=True).clip(1)
    spreads = [_spread(head.sum(axis=axis)) for axis in (2, 1)]
    return spreads[0] / spreads[1].clip(1e-6)


def _spread(profile: np.ndarray) -> np.ndarray:
    """Standard deviation of the place under profiles [n, R] that sum to 1."""
    place = np.arange(profile.shape[1])
    mean = profile @ place
    return np.sqrt((profile @ place**2 - mean**2).clip(0))


GAUGES: dict[str, Gauge] = {
    "size of the head": _size,
    "length to width": _slenderness,
    "brightness": _brightness,
    "contrast": _contrast,
    "dark centre": _dark_centre,
}
