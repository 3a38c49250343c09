"""Scores on pixels: variety, similarity of pairs, power spectrum, grey levels, area, symmetry, and sets that were spoiled on purpose.

They see what a network trained on photographs may not: folds that are alike in every head, a checkerboard, blur, a head that is too
large. Most are a description of single slices and a distance of two sets of descriptions, so that intervals and floors are those of
any other score.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage, stats
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from stylegan.scores.intervals import Distance, Interval, leave_out

# --- Variety ----------------------------------------------------------------------------------------------------------------------

SHARES = {"dimensions": 0.8, "dimensions_90": 0.9, "dimensions_95": 0.95}
PICTURES = 256  # that variety is measured on: dimensions grow with their number, so compare at equal n


class Variety:
    """How various pictures are: uint8 [n, R, R], each of a person [n] (without names everybody is another one)."""

    def __init__(self, pictures: np.ndarray, people: np.ndarray | None = None):
        x = pictures.reshape(len(pictures), -1) / 127.5 - 1
        x -= x.mean(axis=0)
        self.products = x @ x.T  # [n, n], from which all numbers of any of these pictures follow
        self.people = np.arange(len(x)) if people is None else people

    def numbers(self, rows: np.ndarray | slice = slice(None)) -> dict[str, float]:
        """{dimensions, dimensions_90, dimensions_95, spread} of these rows.

        dimensions: how many principal components of the pixels hold 80 (90, 95) % of the variance; 0 for equal pictures.
        spread: median distance to the third-nearest picture of somebody else, the root of the summed squares of pixels in
        [-1, 1]; 0 where there are not three. Where folds are alike in every head, both are a small part of people's.
        """
        K, people = self.products[rows][:, rows], self.people[rows]
        centred = K - K.mean(axis=0) - K.mean(axis=1)[:, None] + K.mean()
        with threadpool_limits(1):
            variances = np.linalg.eigvalsh(centred)[::-1].clip(0).cumsum()
        holds = variances / max(variances[-1], 1e-12)
        found = {name: float((holds < share).sum() + 1) if variances[-1] > 1e-6 else 0.0 for name, share in SHARES.items()}
        away = np.sqrt((K.diagonal()[:, None] + K.diagonal() - 2 * K).clip(0))
        away[people[:, None] == people[None]] = np.inf
        third = np.partition(away, 2, axis=1)[:, 2] if len(away) > 2 else np.zeros(1)
        return found | {"spread": float(np.median(np.where(np.isfinite(third), third, 0)))}


@torch.no_grad()
def style_participation(G: nn.Module, ws: Tensor) -> dict[str, float]:
    """{"64.1": r, ...}: in how many directions the styles of each convolution vary, by resolution and number in its block.

    The participation ratio (sum of eigenvalues)^2 / sum of their squares of the covariance of what the layer's affine map makes
    of ws [n, num_ws, w_dim], drawn without mixing. 1: every w gives the same style, weaker or stronger; {} for a network without styles.
    """
    found, w = {}, ws[:, 0].to(next(G.parameters()).device)
    for block in G.synthesis.active:
        for name, module in block.named_modules():
            if isinstance(getattr(module, "affine", None), nn.Module) and not name.startswith("torgb"):
                style = module.affine(w).double()
                style = style - style.mean(dim=0)
                covariance = style.T @ style
                energy = covariance.square().sum().clamp(min=1e-24)
                found[f"{block.resolution}.{name.split('.')[0][-1]}"] = float(covariance.trace() ** 2 / energy)
    return found


# --- Similarity of pictures -------------------------------------------------------------------------------------------------------

WINDOW, SIGMA = 11, 1.5  # of the Gaussian that SSIM weighs neighbours with
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the five scales of MS-SSIM
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def scales_that_fit(resolution: int) -> int:
    """How many of MS-SSIM's five scales a picture of R x R pixels has: the window of 11 pixels must fit into the smallest."""
    return int(np.clip(1 + np.floor(np.log2(max(resolution, WINDOW) / WINDOW)), 1, len(WEIGHTS)))


def ms_ssim(a: np.ndarray, b: np.ndarray, scales: int | None = None) -> np.ndarray:
    """Multi-scale structural similarity of pairs of slices, uint8 [n, R, R] each: [n], 1 for equal pictures.

    Wang, Simoncelli, Bovik 2003, eq. 7: contrast and structure at each scale, luminance at the last, halved by the mean of
    2 x 2 in between. Their five scales need 176 px; here as many as fit are taken (3 at 64 px), their weights scaled to the
    sum 1, so that numbers compare at one resolution only. Negative structure counts as 0. One scale is plain SSIM.
    """
    x, y = (torch.from_numpy(np.ascontiguousarray(p)).float()[:, None] for p in (a, b))
    scales = scales_that_fit(x.shape[-1]) if scales is None else scales
    result = torch.ones(len(x))
    for scale, weight in enumerate(np.array(WEIGHTS[:scales]) / sum(WEIGHTS[:scales])):
        structure, luminance = _ssim_parts(x, y)
        part = structure * luminance if scale == scales - 1 else structure
        result *= part.mean(dim=(1, 2, 3)).clamp(min=0) ** weight
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return result.numpy()


def _ssim_parts(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(contrast and structure, luminance) of pictures [n, 1, H, W] at every place where the window fits (Wang et al. 2004, eq. 13)."""
    mx, my = _window(x), _window(y)
    vx, vy, vxy = _window(x * x) - mx * mx, _window(y * y) - my * my, _window(x * y) - mx * my
    return (2 * vxy + C2) / (vx + vy + C2), (2 * mx * my + C1) / (mx * mx + my * my + C1)


def _window(x: Tensor) -> Tensor:
    """Gaussian mean of [..., H, W] -> [..., H - 10, W - 10], as two products with banded matrices; smaller pictures shrink the window."""
    down, across = (_band(size) for size in x.shape[-2:])
    return down @ x @ across.T


@lru_cache(maxsize=16)
def _band(size: int) -> Tensor:
    width = min(WINDOW, size)
    taps = torch.exp(-((torch.arange(width) - (width - 1) / 2) ** 2) / (2 * SIGMA**2))
    band = torch.zeros(size - width + 1, size)
    for i in range(len(band)):
        band[i, i : i + width] = taps / taps.sum()
    return band


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
        kept = values[there[a] & there[b]]
        return {"": float(kept.mean()) if len(kept) else np.nan}

    blocks = np.arange(len(pictures)) % 24 if people is None else people  # fakes are independent: any groups will do
    return leave_out(mean, blocks)[""]


def best_similarity(real: np.ndarray, fake: np.ndarray, most: int = 200, candidates: int = 48) -> Interval:
    """{value, low, high}: mean over ``fake`` [m, R, R] of the largest SSIM to any of ``real`` [n, R, R], uint8; at most 200 fakes.

    Often reported as *the* SSIM of a generator, and no measure of quality: a copy of the test set would have 1, a blurred slice
    has more than a sharp one, and one good picture drawn again and again more than a population. The largest is looked for among
    the nearest in pixels.
    """
    fake = fake[:most]
    flat = [torch.from_numpy(np.ascontiguousarray(x)).flatten(1).float() for x in (fake, real)]
    near = torch.cdist(*flat).argsort(dim=1)[:, :candidates].numpy()
    found = np.array(
        [ms_ssim(np.broadcast_to(x, (len(row), *x.shape)), real[row], 1).max() for x, row in zip(fake, near, strict=True)]
    )
    half = 1.96 * found.std() / np.sqrt(len(found))  # the fakes are independent, and the real slices those it is asked for
    return {"value": float(found.mean()), "low": float(found.mean() - half), "high": float(found.mean() + half)}


# --- Descriptions of single slices, and the distance of two sets of them -------------------------------------------------------------

FOREGROUND = 24  # grey levels of 255: above JPEG's ringing, below tissue


def spectrum(pictures: np.ndarray) -> np.ndarray:
    """Logarithm of the radial power spectrum of uint8 [n, R, R]: float [n, R / sqrt 2], in decibel, from low to high frequency.

    Mean power |FFT|^2 over rings one frequency wide, without the constant part and up to the corner, where a checkerboard lies
    (Durall et al. 2020, arXiv:2003.01826). A Hann window keeps out the edges that a periodic continuation would have.
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
    counts = np.stack([np.bincount(row, minlength=256) for row in np.asarray(pictures).reshape(len(pictures), -1)]).astype(
        float
    )
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
    x = x - x.mean(axis=(1, 2), keepdims=True)
    energy = np.square(x).sum(axis=(1, 2)).clip(1e-9)
    return np.max([(x * np.roll(x[:, :, ::-1], shift, axis=2)).sum(axis=(1, 2)) / energy for shift in range(-4, 5)], axis=0)


def spectrum_gap(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square difference of the mean spectra of two sets, [n, F] and [m, F], in decibel."""
    return float(np.sqrt(np.square(a.mean(axis=0) - b.mean(axis=0)).mean()))


def intensity_gap(a: np.ndarray, b: np.ndarray) -> float:
    """How many grey levels of 255 the mean histograms [n, 256] and [m, 256] must be moved on average (Wasserstein-1)."""
    return float(np.abs(np.cumsum(a.mean(axis=0) - b.mean(axis=0))).sum())


def moved(a: np.ndarray, b: np.ndarray) -> float:
    """Wasserstein-1 distance of two sets of numbers, [n] and [m], in their own unit."""
    return float(stats.wasserstein_distance(a, b))


# A score of pixels is one row: its name -> what describes a slice, what compares two sets.
PICTURE_SCORES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Distance]] = {
    "spectrum": (spectrum, spectrum_gap),  # dB
    "intensity": (intensities, intensity_gap),  # grey levels of 255
    "area": (area, moved),  # percent of the picture
    "symmetry": (symmetry, moved),  # correlation
}

# --- Spoiled sets -----------------------------------------------------------------------------------------------------------------


def blurred(pictures: np.ndarray) -> np.ndarray:
    """The slices under a Gaussian of 1/64 of their side (0.7 pixels at least), as if drawn at half the resolution: uint8 [n, R, R]."""
    sigma = max(pictures.shape[-1] / 64, 0.7)
    return ndimage.gaussian_filter(np.asarray(pictures, np.float32), (0, sigma, sigma)).round().clip(0, 255).astype(np.uint8)


def noised(pictures: np.ndarray, strength: float = 10.0, seed: int = 0) -> np.ndarray:
    """The slices under Gaussian noise of so many grey levels: uint8 [n, R, R]."""
    noise = np.random.default_rng(seed).normal(0, strength, np.shape(pictures))
    return (np.asarray(pictures, np.float32) + noise).round().clip(0, 255).astype(np.uint8)
