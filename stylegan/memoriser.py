"""The positive control of the search for copies: a generator that was trained on 64 slices until it draws them.

A test that never lights up proves nothing. This one is trained with all that keeps a GAN from memorising taken away: no
augmentation, no mirror, no noise inputs, next to no R1, one slice of each of 64 training people. Every measure of
`memorisation` is then taken as for any other generator, and must find it out.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from stylegan import memorisation
from stylegan.checkpoint import save_generator
from stylegan.config import Config, make_config
from stylegan.dataset import SliceDataset
from stylegan.features import as_pixels, features
from stylegan.memorisation import people_of
from stylegan.predict import generate
from stylegan.state import TrainingState, new_state
from stylegan.train import train

COUNT, RESOLUTION = 64, 32


def memoriser_config(kimg: float, **changes: object) -> Config:
    """Small networks at 32 px that may learn their slices by heart."""
    usual = {
        "img_resolution": RESOLUTION, "total_kimg": kimg, "mirror": False, "augment": "none", "style_mixing_prob": 0.0, "r1_gamma": 0.02,
        "noise_lr_multiplier": 0.0, "one_fake_batch": True, "channel_base": 512, "channel_max": 64, "z_dim": 32, "w_dim": 32,
        "batch_size": 8, "lr": 0.004, "ema_kimg": 1.0, "kid_ticks": 0,
    }  # fmt: skip
    return make_config("smoke", **usual | changes)


def positive_control(
    slices: SliceDataset, *, kimg: float = 80, fakes: int = 1000, out: str | Path | None = None, **changes: object
) -> dict:
    """Train a memoriser and measure it: ``{slices, kimg, seconds, memorisation, copied, people, attack, logits}``.

    ``slices`` are of the memoriser's resolution (32 px, or the changed one); it sees one slice of each of at most 64 training
    people, and is judged by the held-out people. The keys are those of `audit`. With ``out`` its generator is kept there, a
    file that holds pictures of the people it saw: for the eye, not for passing on.
    """
    begin, config = time.process_time(), memoriser_config(kimg, **changes)
    few, state = chosen_few(slices), new_state(config)
    train(state, few, lambda _: False)
    if out is not None:
        header = {"config": config.to_dict(), "classes": [], "train_subjects": sorted(set(few.subjects.tolist()))}
        save_generator(Path(out), state.G_ema, {**header, "data": {"title": few.title}, "cur_nimg": state.cur_nimg})
    found = measure(state, few, slices.select(slices.splits != "train"), fakes)
    return {"slices": len(few), "kimg": kimg, "cpu_seconds": round(time.process_time() - begin), **found}


def chosen_few(slices: SliceDataset, count: int = COUNT) -> SliceDataset:
    """One slice of each of at most ``count`` training people, over all levels."""
    known = slices.split("train")
    return memorisation.one_each(known, min(count, len(set(people_of(known)))))


def measure(state: TrainingState, few: SliceDataset, heldout: SliceDataset, fakes: int) -> dict:
    """All measures of memory of a generator and discriminator that saw ``few``."""
    made = as_pixels(generate(state.G_ema, range(fakes)))
    at_few, at_held, at_fake = (features(images) for images in (few.images, heldout.images, made))
    distances = [memorisation.nearest(x, at_few)[0] for x in (at_fake, at_held)]
    # As many held-out slices as it saw, one a person: otherwise the many would be nearest to a fake by their number alone.
    equal = memorisation.one_each(heldout, min(len(few), len(set(people_of(heldout)))))
    part = few.select(np.linspace(0, len(few) - 1, len(equal)).round().astype(int))
    both = np.concatenate([features(part.images), features(equal.images)])
    whose, member = np.concatenate([people_of(part), people_of(equal)]), np.arange(2 * len(equal)) < len(equal)
    logits = np.concatenate([memorisation.logits(state.D.eval(), side) for side in (part, equal)])
    return {
        "memorisation": memorisation.memory(*distances, people_of(heldout)),
        "copied": memorisation.copied(*distances),
        "people": memorisation.nearest_people(at_fake, both[member], whose[member], both[~member], whose[~member]),
        "attack": memorisation.membership(-memorisation.nearest(both, at_fake)[0], member, whose),
        "logits": memorisation.membership(logits, member, whose),
    }
