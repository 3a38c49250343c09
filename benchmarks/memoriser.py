"""The positive control of the search for copies: a generator that was trained on 64 slices until it draws them.

    python benchmarks/memoriser.py --data DIR --kimg 60 --out control.json        # tools/ship.py --control writes it into the card

A test that never lights up proves nothing. A GAN of this size is slow to learn slices by heart (tried at 32 px without
augmentation, mirror and noise inputs: after 40 kimg its samples still lay 1.5 times as far from the 64 slices as new people do),
so this one is taught them: every slice is a class of its own, and G learns to draw each class by least squares. The network, the
way it is sampled and every measure of `memorisation` are those of any other generator. Its discriminator learns to tell the 64
slices from slices of other training people, what a perfect generator would put before it: it can do so only by heart.

What it does not show: a smaller memoriser that was still 13 grey levels (root mean square) off its slices, and so blurred, was
found by none of the measures of its samples in ImageNet features. A blurred copy can escape.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from stylegan.config import Config, make_config
from stylegan.data.subjects import people_of
from stylegan.dataset import SliceDataset, load_slices
from stylegan.files import write_json
from stylegan.losses import logistic_d
from stylegan.networks import Discriminator, Generator
from stylegan.predict import generate
from stylegan.scores import memorisation
from stylegan.scores.features import as_pixels, features
from stylegan.scores.verdict import control_sentence

COUNT, RESOLUTION, KIMG = 64, 32, 60


def positive_control(slices: SliceDataset, *, kimg: float = KIMG, fakes: int = 1000, **changes: object) -> dict:
    """Train a memoriser and measure it: ``{slices, kimg, cpu_seconds, memorisation, copied, people, attack, logits}``.

    ``slices`` are of the memoriser's resolution (32 px, or the changed one); it sees one slice of each of at most 64 training
    people, and is judged by the held-out people. The measures are those of `memorisation.memory_of`.
    """
    begin, few = time.process_time(), chosen_few(slices)
    usual = {
        "img_resolution": RESOLUTION, "conditional": "class", "c_dim": len(few), "channel_base": 1024, "channel_max": 64,
        "z_dim": 16, "w_dim": 64, "mapping_lr_multiplier": 1.0, "noise_lr_multiplier": 0.0, "batch_size": 16, "lr": 0.02,
    }  # fmt: skip
    config = make_config("smoke", **usual | changes)
    plain = replace(config, conditional="none", c_dim=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        G, D = Generator(config), Discriminator(plain)
    teach(G, few, config, kimg)
    others = slices.select((slices.splits == "train") & ~np.isin(people_of(slices), people_of(few)))
    train_discriminator(D, few, others if len(others) else slices.split("train"), config, kimg / 3)
    found = measure(G, D, plain, few, slices.select(slices.splits != "train"), fakes)
    return {"slices": len(few), "kimg": kimg, "cpu_seconds": round(time.process_time() - begin), **found}


def teach(G: Generator, few: SliceDataset, config: Config, kimg: float) -> None:
    """Teach G to draw slice k for class k, whatever z, by ``kimg`` thousand examples."""
    target, rng = few.tensor(), torch.Generator().manual_seed(config.seed)
    optimizer, steps = torch.optim.Adam(G.parameters(), config.lr, betas=(0.9, 0.99)), _steps(config, kimg)
    for step in range(steps):
        rows = torch.randint(len(few), (config.batch_size,), generator=rng)
        z = torch.randn(config.batch_size, config.z_dim, generator=rng)
        loss = (G(z, F.one_hot(rows, len(few)).float()) - target[rows]).square().mean()
        optimizer.param_groups[0]["lr"] = config.lr * min(1, 2 * (1 - step / steps))
        _descend(optimizer, loss)


def train_discriminator(D: Discriminator, few: SliceDataset, others: SliceDataset, config: Config, kimg: float) -> None:
    """The logistic loss on the few slices against those of others, again and again."""
    real, rng = few.tensor(), torch.Generator().manual_seed(config.seed + 1)
    optimizer = torch.optim.Adam(D.parameters(), 0.0025, betas=(0.0, 0.99))
    for _ in range(_steps(config, kimg)):
        a, b = (torch.randint(len(side), (config.batch_size,), generator=rng) for side in (few, others))
        _descend(optimizer, logistic_d(D(real[a]), D(others.tensor(b.numpy()))))


def _descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def _steps(config: Config, kimg: float) -> int:
    return max(int(kimg * 1000 / config.batch_size), 1)


def chosen_few(slices: SliceDataset) -> SliceDataset:
    """One slice of each of at most 64 training people, over all levels."""
    known = slices.split("train")
    return memorisation.one_each(known, min(COUNT, len(set(people_of(known)))))


def measure(G: Generator, D: Discriminator, config: Config, few: SliceDataset, heldout: SliceDataset, fakes: int) -> dict:
    """All measures of memory of a generator and discriminator that saw ``few``."""
    made = as_pixels(generate(G, range(fakes)))
    at_few, at_held, at_fake = (features(images) for images in (few.images, heldout.images, made))
    distances = [memorisation.nearest(x, at_few)[0] for x in (at_fake, at_held)]
    # As many held-out slices as it saw, one a person: otherwise the many would be nearest to a fake by their number alone.
    equal = memorisation.one_each(heldout, min(len(few), len(set(people_of(heldout)))))
    part = few.select(np.linspace(0, len(few) - 1, len(equal)).round().astype(int))
    both = np.concatenate([features(part.images), features(equal.images)])
    whose, member = np.concatenate([people_of(part), people_of(equal)]), np.arange(2 * len(equal)) < len(equal)
    logits = np.concatenate([memorisation.logits(D.eval(), config, side) for side in (part, equal)])
    return {
        "memorisation": memorisation.memory(*distances, people_of(heldout)),
        "copied": memorisation.copied(*distances),
        "people": memorisation.nearest_people(at_fake, both, whose, member),
        "attack": memorisation.membership(-memorisation.nearest(both, at_fake)[0], member, whose),
        "logits": memorisation.membership(logits, member, whose),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, metavar="DIR|ZIP", help="slices; without it the simulated ones")
    parser.add_argument("--kimg", type=float, default=KIMG, help=f"thousand examples to teach it by (default {KIMG})")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    args = parser.parse_args()
    found = positive_control(load_slices(args.data, RESOLUTION), kimg=args.kimg)
    write_json(args.out, found)
    print(control_sentence(found))


if __name__ == "__main__":
    main()
