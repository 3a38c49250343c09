"""Distances between two sets of feature vectors: the kernel distance (KID) and the Fréchet distance (FD)."""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_limits

from stylegan.scores.intervals import Distance


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Kernel distance of x [n, D] and y [m, D]: KID in the given feature space, usually reported times 1000.

    The unbiased squared maximum mean discrepancy under k(a, b) = (a.b / D + 1)^3 (Binkowski et al. 2018, arXiv:1801.01401,
    sections 2.1 and 4): mean of k over pairs within x, plus within y, minus twice across. It may be slightly negative. n
    and m may differ.
    """
    x, y = _as_samples(x, y)

    def mean_within(a: np.ndarray) -> float:
        kernel = _cubic_kernel(a, a)
        return (kernel.sum() - np.trace(kernel)) / (len(a) * (len(a) - 1))  # without k(a_i, a_i): unbiased

    return float(mean_within(x) + mean_within(y) - 2 * _cubic_kernel(x, y).mean())


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Squared Frechet distance of Gaussians fitted to x [n, D] and y [m, D] (Heusel et al. 2017, arXiv:1706.08500, eq. 6).

    |mx - my|^2 + tr Sx + tr Sy - 2 tr (Sx Sy)^(1/2). With Sx = A^T A (A: centred rows over sqrt(n - 1)) and Sy = B^T B the
    last trace is the sum of the singular values of A B^T. They come from a symmetric eigenvalue problem of min(n, m, D)
    rows in double precision, so that singular covariances (n < D) do no harm, as they do to a matrix square root. Biased
    upwards at small n: compare only at equal n.
    """
    x, y = _as_samples(x, y)
    a, b = _covariance_root(x), _covariance_root(y)
    product = a @ b.T
    small = product @ product.T if len(a) <= len(b) else product.T @ product
    with threadpool_limits(1):  # LAPACK's threads wait for each other: two on a busy machine took forty times as long
        overlap = np.sqrt(np.linalg.eigvalsh(small).clip(0)).sum()
    shift = np.square(x.mean(axis=0) - y.mean(axis=0)).sum()
    return float(max(shift + np.square(a).sum() + np.square(b).sum() - 2 * overlap, 0))


def _as_samples(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(
            f"Distances take samples [n, D] and [m, D] with n, m >= 2; these are {list(x.shape)} and {list(y.shape)}."
        )
    return x.astype(np.float64), y.astype(np.float64)


def _cubic_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _covariance_root(x: np.ndarray) -> np.ndarray:
    """A with A^T A = the covariance of x, of min(n, D) rows."""
    a = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
    return a if len(a) <= a.shape[1] else np.linalg.qr(a, mode="r")


# Every score is one row: its name, the distance, what it is multiplied by when reported.
DISTANCES: tuple[tuple[str, Distance, float], ...] = (("kid", kernel_distance, 1000.0), ("fd", frechet_distance, 1.0))
