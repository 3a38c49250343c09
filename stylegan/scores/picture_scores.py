"""Scores on pixels: similarity of pairs, power spectrum, grey levels, foreground area, left-right symmetry.

They see what a network trained on photographs may not: a checkerboard, blur, a window that is off, a head that is too large.
Each is a description of single slices and a distance between two sets of descriptions, so that intervals and floors are those
of any other score.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage, stats

from stylegan.scores.intervals import Interval, leave_out

WINDOW, SIGMA = 11, 1.5  # of the Gaussian that SSIM weighs neighbours with
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the five scales of MS-SSIM
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
FOREGROUND = 24  # grey levels of 255: above JPEG's ringing, below tissue

# ---------------------------------------------------------------------------------------------------------- similarity


def scales_that_fit(resolution: int) -> int:
    """How many of MS-SSIM's five scales a picture of R x R pixels has: the window of 11 pixels must fit into the smallest."""
    return int(np.clip(1 + np.floor(np.log2(max(resolution, WINDOW) / WINDOW)), 1, len(WEIGHTS)))


def ms_ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Multi-scale structural similarity of pairs of slices, uint8 [n, R, R] each: [n], 1 for equal pictures.

    Wang, Simoncelli, Bovik 2003, eq. 7: contrast and structure at each scale, luminance at the last, halved by the mean of
    2 x 2 in between. Their five scales need 176 px; here as many as fit are taken (3 at 64 px), their weights scaled to the
    sum 1, so that numbers compare at one resolution only. Negative structure counts as 0.
    """
    x, y = (torch.from_numpy(np.ascontiguousarray(p)).float()[:, None] for p in (a, b))
    scales = scales_that_fit(x.shape[-1])
    weights = np.array(WEIGHTS[:scales]) / sum(WEIGHTS[:scales])
    result = torch.ones(len(x))
    for scale, weight in enumerate(weights):
        structure, luminance = _ssim_parts(x, y)
        part = structure * luminance if scale == scales - 1 else structure
        result *= part.mean(dim=(1, 2, 3)).clamp(min=0) ** weight
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return result.numpy()


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Structural similarity of pairs of slices, uint8 [n, R, R] each: [n] (Wang et al. 2004, eq. 13)."""
    structure, luminance = _ssim_parts(*(torch.from_numpy(np.ascontiguousarray(p)).float()[:, None] for p in (a, b)))
    return (structure * luminance).mean(dim=(1, 2, 3)).numpy()


def _ssim_parts(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(contrast and structure, luminance) of pictures [n, 1, H, W] at every place where the window fits."""
    mx, my = _window(x), _window(y)
    vx, vy, vxy = _window(x * x) - mx * mx, _window(y * y) - my * my, _window(x * y) - mx * my
    return (2 * vxy + C2) / (vx + vy + C2), (2 * mx * my + C1) / (mx * mx + my * my + C1)


def _window(x: torch.Tensor) -> torch.Tensor:
    """Gaussian mean of [..., H, W] -> [..., H - 10, W - 10], as two products with banded matrices; smaller pictures shrink the window."""
    down, across = (_band(size) for size in x.shape[-2:])
    return down @ x @ across.T


@lru_cache(maxsize=16)
def _band(size: int) -> torch.Tensor:
    width = min(WINDOW, size)
    taps = torch.exp(-((torch.arange(width) - (width - 1) / 2) ** 2) / (2 * SIGMA**2))
    rows = size - width + 1
    band = torch.zeros(rows, size)
    for i in range(rows):
        band[i, i : i + width] = taps / taps.sum()
    return band


def most_similar(pictures: np.ndarray, pool: np.ndarray, candidates: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """(SSIM, row in the pool) of the slice of ``pool`` [m, R, R] most similar to each of ``pictures`` [n, R, R]: [n], [n].

    SSIM is taken with the ``candidates`` nearest in pixels after a blur; with all of the pool it is exact and far slower.
    """
    if len(pool) > candidates:
        small = [
            F.avg_pool2d(torch.from_numpy(np.ascontiguousarray(p)).float()[:, None], 2).flatten(1) for p in (pictures, pool)
        ]
        rows = torch.cdist(*small).topk(candidates, largest=False).indices.numpy()  # [n, candidates]
    else:
        rows = np.tile(np.arange(len(pool)), (len(pictures), 1))
    found = [
        ssim(np.broadcast_to(picture, (len(r), *picture.shape)), pool[r]) for picture, r in zip(pictures, rows, strict=True)
    ]
    best = np.array([values.argmax() for values in found])
    every = np.arange(len(pictures))
    return np.array([values.max() for values in found]), rows[every, best]


def similarity_of_pairs(
    pictures: np.ndarray, people: np.ndarray | None = None, pairs: int = 1000, *, seed: int = 0
) -> Interval:
    """{value, low, high}: mean MS-SSIM of random pairs of slices [n, R, R], those of two people where ``people`` are named.

    High means that all look alike: a generator above the real value has lost variety (Odena et al. 2017, arXiv:1610.09585,
    section 4.2). The jackknife leaves out every pair that has a slice of the group.
    """
    names = np.arange(len(pictures)) if people is None else people
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, len(pictures), (2, 4 * pairs))
    a, b = (rows[names[a] != names[b]][:pairs] for rows in (a, b))
    values = ms_ssim(pictures[a], pictures[b])

    def mean(rows: np.ndarray, _: np.ndarray) -> dict[str, float]:
        there = np.isin(np.arange(len(pictures)), rows)
        return {"": float(values[there[a] & there[b]].mean())}

    blocks = np.arange(len(pictures)) % 24 if people is None else people  # fakes are independent: any groups will do
    return leave_out(mean, blocks, 0)[""]


# ------------------------------------------------------------------------------------------- descriptions of single slices


def spectrum(pictures: np.ndarray) -> np.ndarray:
    """Logarithm of the radial power spectrum of uint8 [n, R, R]: float [n, R / sqrt 2], in decibel, from low to high frequency.

    Mean power |FFT|^2 over rings one frequency wide, without the constant part and up to the corner, where a checkerboard lies
    (Durall et al. 2020, arXiv:2003.01826). A blur takes from the right end, a checkerboard adds to it. A Hann window keeps out
    the edges that a periodic continuation would have.
    """
    x = np.asarray(pictures, np.float32)
    size = x.shape[-1]
    hann = np.hanning(size + 2)[1:-1].astype(np.float32)
    power = np.square(np.abs(np.fft.rfft2((x - x.mean(axis=(1, 2), keepdims=True)) * np.outer(hann, hann))))
    y, across = np.meshgrid(np.fft.fftfreq(size) * size, np.fft.rfftfreq(size) * size, indexing="ij")
    ring = np.hypot(y, across).round().astype(int).ravel()
    power = power.reshape(len(x), -1)
    rings = [power[:, ring == radius].mean(axis=1) for radius in range(1, int(size / np.sqrt(2)) + 1)]
    return 10 * np.log10(np.stack(rings, axis=1) + 1)


def intensities(pictures: np.ndarray) -> np.ndarray:
    """Shares of the grey levels above the background of uint8 [n, R, R]: [n, 256], each row with the sum 1 (or 0)."""
    flat = np.asarray(pictures).reshape(len(pictures), -1)
    counts = np.stack([np.bincount(row, minlength=256) for row in flat]).astype(float)
    counts[:, : FOREGROUND + 1] = 0
    return counts / counts.sum(axis=1, keepdims=True).clip(1)


def area(pictures: np.ndarray) -> np.ndarray:
    """Percentage of each slice that lies inside the outline of the head, dark ventricles included: [n]."""
    return np.array([100 * ndimage.binary_fill_holes(picture > FOREGROUND).mean() for picture in np.asarray(pictures)])


def brightness(pictures: np.ndarray) -> np.ndarray:
    """Mean grey level of what is brighter than the background, 0 where nothing is: [n]."""
    x = np.asarray(pictures, np.float32)
    inside = x > FOREGROUND
    return (x * inside).sum(axis=(1, 2)) / inside.sum(axis=(1, 2)).clip(1)


def symmetry(pictures: np.ndarray) -> np.ndarray:
    """Correlation of each slice with its mirror image, the axis where they agree best within two pixels: [n], 1 for a mirror."""
    x = np.asarray(pictures, np.float32)
    mirror = x[:, :, ::-1]
    return np.max([_correlation(x, np.roll(mirror, shift, axis=2)) for shift in range(-4, 5)], axis=0)


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (x - x.mean(axis=(1, 2), keepdims=True) for x in (a, b))
    return (a * b).sum(axis=(1, 2)) / np.sqrt(np.square(a).sum(axis=(1, 2)) * np.square(b).sum(axis=(1, 2))).clip(1e-9)


# ------------------------------------------------------------------------------------------- distances between two sets


def spectrum_gap(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square difference of the mean spectra of two sets, [n, F] and [m, F], in decibel."""
    return float(np.sqrt(np.square(a.mean(axis=0) - b.mean(axis=0)).mean()))


def intensity_gap(a: np.ndarray, b: np.ndarray) -> float:
    """How many grey levels of 255 the mean histograms [n, 256] and [m, 256] must be moved on average (Wasserstein-1)."""
    return float(np.abs(np.cumsum(a.mean(axis=0) - b.mean(axis=0))).sum())


def moved(a: np.ndarray, b: np.ndarray) -> float:
    """Wasserstein-1 distance of two sets of numbers, [n] and [m], in their own unit."""
    return float(stats.wasserstein_distance(a, b))


# Every score is one row: its name -> what describes a slice, what compares two sets.
PICTURE_SCORES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray, np.ndarray], float]]] = {
    "spectrum": (spectrum, spectrum_gap),  # dB
    "intensity": (intensities, intensity_gap),  # grey levels of 255
    "area": (area, moved),  # percent of the picture
    "symmetry": (symmetry, moved),  # correlation
}

# -------------------------------------------------------------------------------------------------------------- controls


def blurred(pictures: np.ndarray) -> np.ndarray:
    """The slices under a Gaussian of 1/64 of their side (0.7 pixels at least), as if drawn at half the resolution: uint8 [n, R, R]."""
    sigma = max(pictures.shape[-1] / 64, 0.7)
    return ndimage.gaussian_filter(np.asarray(pictures, np.float32), (0, sigma, sigma)).round().clip(0, 255).astype(np.uint8)


def noised(pictures: np.ndarray, strength: float = 10.0, seed: int = 0) -> np.ndarray:
    """The slices under Gaussian noise of so many grey levels: uint8 [n, R, R]."""
    noise = np.random.default_rng(seed).normal(0, strength, np.shape(pictures))
    return (np.asarray(pictures, np.float32) + noise).round().clip(0, 255).astype(np.uint8)
