"""Feature spaces that are made of slices or of a run: pixels, an encoder of our own, the discriminator."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from stylegan.checkpoint import load_discriminator
from stylegan.dataset import SliceDataset
from stylegan.scores.encoder import trained_encoder
from stylegan.scores.features import SPACES, Extractor, Space, named_space

FITTED = ("pixel-pca", "own-encoder", "discriminator")
NAMES = (*SPACES, *FITTED)


def find_space(
    name: str,
    *,
    train: SliceDataset | None = None,
    run: str | Path | None = None,
    device: str | torch.device = "cpu",
    cache_dir=None,
) -> Space:
    """The feature space of this name.

    'pixel-pca' and 'own-encoder' are fitted to ``train``, which must hold training subjects only: fitted to those who are
    scored, a space would know them. 'discriminator' is that of the run folder ``run``, for diagnosis: the generator was trained
    to please it, so that distances in it flatter. Raises ValueError for another name, and where what it is made of is missing.
    """
    if name in SPACES:
        return named_space(name, device)
    if name not in FITTED:
        raise ValueError(f"There is no feature space {name!r}; choose one of {', '.join(NAMES)}.")
    if name == "discriminator":
        if run is None:
            raise ValueError("The space discriminator is that of a run; name its folder.")
        return discriminator_space(run, device)
    if train is None or len(train) < 3:
        raise ValueError(f"The space {name} is fitted to training slices, and there are none here; give them as train_data.")
    return pixel_pca(train) if name == "pixel-pca" else own_encoder(train, device, cache_dir)


def pixel_pca(train: SliceDataset, most: int = 64, seed: int = 0) -> Space:
    """Principal components of the pixels, of slices resized to 64 px: what no network has looked at. D = 64 at most.

    Fitted to at most 4,000 slices; see `_in_unit` on the scale. Blurred slices lie nearer to everything here than sharp ones.
    """
    from sklearn.decomposition import PCA

    rows = np.sort(np.random.default_rng(seed).permutation(len(train))[:4000])
    x = _shrunk(torch.from_numpy(np.array(train.images[rows]))).numpy()
    fitted = PCA(min(most, len(x) - 1), svd_solver="randomized", random_state=seed).fit(x)
    mean, axes = torch.from_numpy(fitted.mean_).float(), torch.from_numpy(fitted.components_).float()
    key = hashlib.sha256(mean.numpy().tobytes() + axes.numpy().tobytes()).hexdigest()[:32]
    extract = _in_unit(lambda pixels: (_shrunk(pixels) - mean) @ axes.T, train)
    return Space("pixel-pca", extract, f"pixel-pca v2 {key}")


def _in_unit(extract: Extractor, train: SliceDataset, most: int = 1000) -> Extractor:
    """The features centred and divided by one number, so that their variance over training slices is 1 on average.

    Which slice lies beside which stays the same, and the kernel (a.b / D + 1)^3 sees numbers of the size it is made for.
    """
    rows = np.linspace(0, len(train) - 1, min(most, len(train))).round().astype(int)
    with torch.inference_mode():
        vectors = torch.cat([extract(part) for part in torch.from_numpy(np.array(train.images[rows])).split(64)])
    centre, scale = vectors.mean(dim=0), vectors.var(dim=0).mean().sqrt().clamp(min=1e-12)
    return lambda pixels: (extract(pixels) - centre) / scale


def _shrunk(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [n, R, R] -> float [n, side^2] with a side of at most 64."""
    side = min(pixels.shape[-1], 64)
    return F.interpolate(pixels[:, None].float(), size=(side, side), mode="area").flatten(1)


def own_encoder(train: SliceDataset, device: str | torch.device = "cpu", cache_dir=None) -> Space:
    """The space of `encoder.trained_encoder`: D = 128."""
    network, key = trained_encoder(train, cache_dir=cache_dir)
    network = network.to(device)
    extract = _in_unit(lambda pixels: network(_as_input(pixels, device)), train)
    return Space("own-encoder", extract, f"own-encoder v2 {key}")


def discriminator_space(run: str | Path, device: str | torch.device = "cpu") -> Space:
    """What the run's discriminator hands to its last layers, averaged over positions and without its look at the batch."""
    D, config, key = load_discriminator(run, device)

    def extract(pixels: torch.Tensor) -> torch.Tensor:
        x = D.from_rgb(_as_input(pixels, device).expand(-1, config.img_channels, -1, -1))
        return D.blocks(x.contiguous(memory_format=torch.channels_last)).mean(dim=(2, 3))

    return Space("discriminator", extract, f"discriminator {key}")


def _as_input(pixels: torch.Tensor, device: str | torch.device) -> torch.Tensor:
    """uint8 [n, R, R] -> float [n, 1, R, R] in [-1, 1]."""
    return pixels[:, None].float().div(127.5).sub(1).to(device)
