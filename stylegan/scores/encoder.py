"""A feature space of our own: a small network that learns anatomy and texture from real slices of training subjects only.

It learns three targets at once, on slices that were blurred and made noisy at random: the level of the slice in the head, how
strong the blur is and how strong the noise. Why these? A network that had learned to recognise people, or groups of them, would
place a slice by whose it is; scores compare populations, so who it is should not matter. Every subject has all levels and every
slice can be blurred, so that none of the three is answered by knowing the person. The level needs anatomy (where ventricles and
eyes are), which ImageNet features do not know; blur and noise need texture, which the level alone would let it forget. Brightness,
contrast, small shifts and the mirror are varied while it learns, so that it does not care for them. It sees no fake, no validation
and no test subject, and is never told a class: those stay free to be tested with it.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylegan.checkpoint import load_tensors, save_tensors
from stylegan.dataset import SliceDataset
from stylegan.files import cache_folder

WIDTHS = (24, 48, 96, 128)
STEPS, BATCH, LEARNING_RATE = 500, 48, 2e-3
VERSION = 1  # part of the cache's key


class Encoder(nn.Module):
    """img [N, 1, R, R] in [-1, 1] -> features [N, 128]; four convolutions, each halving the resolution, and the mean over positions."""

    def __init__(self):
        super().__init__()
        layers = []
        for i, o in zip((1, *WIDTHS), WIDTHS, strict=False):
            layers += [nn.Conv2d(i, o, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Conv2d(WIDTHS[-1], WIDTHS[-1], 3, padding=1))
        self.heads = nn.Linear(WIDTHS[-1], 3)  # level, blur, noise

    def forward(self, img: Tensor) -> Tensor:
        return self.body(img).mean(dim=(2, 3))


def trained_encoder(train: SliceDataset, *, steps: int = STEPS, seed: int = 0, cache_dir=None) -> tuple[Encoder, str]:
    """(encoder in eval mode, key) for these training slices; kept in the cache by their content, so that it is trained once.

    About a minute on one core at 64 px. Where levels are unknown it learns blur and noise alone.
    """
    about = f"encoder v{VERSION} {train.key} {len(train)} {steps} {seed}"
    key = hashlib.sha256(about.encode()).hexdigest()[:32]
    path, encoder = cache_folder(cache_dir) / f"encoder-{key}.safetensors", Encoder()
    try:
        tensors, _ = load_tensors(path)
        encoder.load_state_dict(tensors)
    except (FileNotFoundError, ValueError, RuntimeError):
        encoder = _train(train, steps, seed)
        save_tensors(path, encoder.state_dict(), {"encoder": about})
    return encoder.eval().requires_grad_(False), key


def _train(train: SliceDataset, steps: int, seed: int) -> Encoder:
    rng = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = Encoder().train()
    levels = torch.from_numpy(train.levels.astype(np.float32))
    known = levels >= 0
    spread = (levels[known].mean(), levels[known].std().clamp(min=1e-3)) if known.sum() > 1 else (0.0, 1.0)
    optimizer = torch.optim.AdamW(encoder.parameters(), LEARNING_RATE, weight_decay=1e-3)
    for step in range(steps):
        rows = torch.randint(len(train), (BATCH,), generator=rng)
        x, blur, noise = degrade(jitter(train.tensor(rows.numpy()), rng), rng)
        target = torch.stack([(levels[rows] - spread[0]) / spread[1], 2 * blur - 1, 2 * noise - 1], dim=1)
        weight = torch.stack([known[rows].float(), torch.ones(BATCH), torch.ones(BATCH)], dim=1)
        loss = (weight * (encoder.heads(encoder(x)) - target).square()).mean()
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return encoder


def jitter(x: Tensor, rng: torch.Generator) -> Tensor:
    """Slices [N, 1, R, R] in [-1, 1], each mirrored by chance, shifted by up to R / 32 and at another brightness and contrast."""
    n, reach = len(x), max(x.shape[-1] // 32, 1)
    x = torch.where(torch.rand(n, 1, 1, 1, generator=rng) < 0.5, x.flip(3), x)
    shifts = torch.randint(-reach, reach + 1, (n, 2), generator=rng).tolist()
    x = torch.stack([picture.roll(shift, (1, 2)) for picture, shift in zip(x, shifts, strict=True)])
    gain = 0.8 + 0.4 * torch.rand(n, 1, 1, 1, generator=rng)
    return ((x + 1) * gain - 1).clamp(-1, 1)


def degrade(x: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """(slices, blur [N], noise [N]): strengths in [0, 1], where 1 is a mean of 3 x 3 taken twice, and noise of 20 grey levels."""
    blur, noise = (torch.rand(len(x), generator=rng) for _ in range(2))
    soft = F.avg_pool2d(F.pad(x, (2,) * 4, mode="replicate"), 3, stride=1)
    soft = F.avg_pool2d(soft, 3, stride=1)
    x = torch.lerp(x, soft, blur[:, None, None, None])
    x = x + noise[:, None, None, None] * (20 / 127.5) * torch.randn(x.shape, generator=rng)
    return x.clamp(-1, 1), blur, noise


def judged(encoder: Encoder, slices: SliceDataset) -> dict[str, float]:
    """Correlation of what the encoder says of slices and the truth, {level, blur, noise}; for held-out people, to trust it at all."""
    rng = torch.Generator().manual_seed(1)
    x, blur, noise = degrade(slices.tensor(), rng)
    with torch.no_grad():
        said = torch.cat([encoder.heads(encoder(part)) for part in x.split(64)]).numpy()
    truth = {"level": slices.levels.astype(float), "blur": blur.numpy(), "noise": noise.numpy()}
    told = {name: (said[:, i], values) for i, (name, values) in enumerate(truth.items()) if values.std() > 0}
    return {name: float(np.corrcoef(*pair)[0, 1]) for name, pair in told.items()}
