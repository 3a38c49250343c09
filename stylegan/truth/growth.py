"""The direction in W along which a reading grows, and the test that it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stylegan.plots import to_uint8
from stylegan.predict import styles, synthesize
from stylegan.truth.evidence import Evidence

STRENGTHS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
FRESH = 10_000  # seeds from here on try the direction out; it was found on seeds below
TRIED, RANDOM = 24, 20  # seeds, random directions
PSI = 0.7

Reading = Callable[[np.ndarray], np.ndarray]  # features [n, D] -> [n]


class Strip(NamedTuple):
    """Pictures along a direction with what is read off each."""

    pictures: np.ndarray  # uint8 [seeds, strengths, R, R]
    readings: np.ndarray  # [seeds, strengths]
    seeds: tuple[int, ...]
    strengths: tuple[float, ...]


def direction(ws: Tensor, reading: np.ndarray, still: np.ndarray, classes: np.ndarray | None = None) -> Tensor:
    """The direction in which w [n, w_dim] moves with a reading [n] at the same ``still`` [n, k] and class [n, c]: [w_dim].

    Least squares of w on (1, reading, still, classes), solved for w rather than for the reading: the coefficient is the mean
    change of w among drawn styles, and so stays where the generator knows its way, while the regression of the reading on w
    leans on components of w that hardly vary. Then what goes with ``still`` itself is taken out, so that a step does not move
    that either (conditional manipulation, Shen et al. 2020, arXiv:1907.10786, section 3.3); the class is not: a disease may
    be the very thing that makes ventricles grow. A step is one standard deviation of w along it, as of `directions.Direction`.
    """
    w = ws.double().numpy()
    w = w - w.mean(axis=0)
    held = still if classes is None else np.column_stack([still, classes])
    along = left_of(reading, held) @ w  # the joint regression's coefficient but for its length (Frisch & Waugh 1933)
    others = np.linalg.qr(w.T @ (still - still.mean(axis=0)))[0]  # [w_dim, k]
    along = along - others @ (others.T @ along)
    along /= max(np.linalg.norm(along), 1e-12)
    return torch.from_numpy(along * (w @ along).std()).float()


def left_of(reading: np.ndarray, held: np.ndarray) -> np.ndarray:
    """What ``held`` [n, k] does not tell of the reading [n]: the residual of a linear regression."""
    others = np.column_stack([np.ones(len(reading)), held])
    return reading - others @ np.linalg.lstsq(others, reading, rcond=None)[0]


def grow(e: Evidence, reader: Reading, level: Reading | None, shown: int = 3) -> tuple[dict, Strip]:
    """(result, strip): the direction in which ``reader``'s reading grows at the same level and class, tried on fresh seeds.

    result: {sd, per_step, agreed, level_per_step, random{value, low, high}, seeds}. ``per_step`` is the mean change of the
    reading per step, from -2 to +2 steps on seeds that the direction was not found on; ``agreed`` the share of these that
    grow; ``sd`` the reading's standard deviation among drawn slices of the same level and class; ``random`` the size of
    the change along 20 random directions of the same length, what any step does.
    """
    drawn, still, classes = reader(e.at_fakes), _still(e, level), _classes(e)
    step = direction(e.ws[:, 0], drawn, still, classes)
    ws = _fresh_styles(e)
    change, levels = (_change(e, ws, step, read) for read in (reader, level or reader))
    random = [abs(_change(e, ws, other, reader).mean()) for other in _random_steps(e, step)]
    low, high = np.quantile(random, [0.025, 0.975])
    result = {
        "sd": float(left_of(drawn, np.column_stack([still, classes])).std()),
        "per_step": float(change.mean()),
        "agreed": float(np.mean(change > 0)),
        "level_per_step": float(levels.mean()) if level else None,
        "random": {"value": float(np.mean(random)), "low": float(low), "high": float(high)},
        "seeds": TRIED,
    }
    return result, _strip(e, ws[:shown], step, reader)


def _still(e: Evidence, level: Reading | None) -> np.ndarray:
    """What a step shall not move: the level as read, also squared, since ventricles are widest half-way [n, k]."""
    if level is None:
        return np.zeros((len(e.at_fakes), 0))
    read = level(e.at_fakes)
    return np.column_stack([read, np.square(read)])


def _classes(e: Evidence) -> np.ndarray:
    """The class asked for as one column for each but the first [n, c]."""
    known = [] if e.asked is None else np.unique(e.asked)[1:]
    return np.column_stack([np.zeros((len(e.at_fakes), 0)), *((e.asked == i).astype(float) for i in known)])


def _fresh_styles(e: Evidence) -> Tensor:
    seeds = range(FRESH, FRESH + TRIED)
    return styles(e.G, seeds, truncation_psi=PSI)


def _change(e: Evidence, ws: Tensor, step: Tensor, reader: Reading) -> np.ndarray:
    """Change of the reading per step [n], from two steps down to two steps up."""
    down, up = (reader(e.features(synthesize(e.G, ws + sign * 2 * step))) for sign in (-1, 1))
    return (up - down) / 4


def _random_steps(e: Evidence, step: Tensor) -> list[Tensor]:
    """Differences of drawn styles to their mean, at the length of the step: directions in which W does vary."""
    away = e.ws[:RANDOM, 0] - e.ws[:, 0].mean(dim=0)
    return list(away / away.norm(dim=1, keepdim=True) * step.norm())


def _strip(e: Evidence, ws: Tensor, step: Tensor, reader: Reading) -> Strip:
    moved = torch.cat([ws + strength * step for strength in STRENGTHS])
    pictures = to_uint8(synthesize(e.G, moved))
    readings = reader(e.features(pictures))
    shape = (len(STRENGTHS), len(ws))
    pictures = pictures.reshape(*shape, *pictures.shape[1:]).swapaxes(0, 1)
    return Strip(pictures, readings.reshape(shape).T, tuple(range(FRESH, FRESH + len(ws))), STRENGTHS)
