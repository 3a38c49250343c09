"""Real and generated slices with their features, gathered once for every question that is asked of a generator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from stylegan.data.subjects import person
from stylegan.dataset import SliceDataset
from stylegan.files import cache_folder
from stylegan.networks import Generator
from stylegan.plots import to_uint8
from stylegan.predict import styles, synthesize
from stylegan.scores.features import features
from stylegan.truth.readers import people_of


@dataclass(frozen=True)
class Evidence:
    """Real slices, and generated ones that answer to their seeds 0, 1, 2..."""

    G: Generator
    slices: SliceDataset  # N real ones
    at: np.ndarray  # float32 [N, D], their features
    people: np.ndarray  # str [N]
    train: np.ndarray  # bool [N]; the others are of validation and test people
    ws: torch.Tensor  # [n, num_ws, w_dim]
    fakes: np.ndarray  # uint8 [n, R, R], psi = 1
    at_fakes: np.ndarray  # float32 [n, D]
    asked: np.ndarray | None  # int64 [n], the class asked for, index into slices.classes; None: unconditional
    order: np.ndarray | None  # the generator's own number of each class
    space: str
    device: str

    def features(self, images: np.ndarray | torch.Tensor) -> np.ndarray:
        """Of further pictures, in the same space."""
        return features(images, self.space, device=self.device)


def gather(
    G: Generator,
    info: Mapping,
    slices: SliceDataset,
    num: int,
    *,
    space: str = "efficientnet-lite0",
    device: str = "cpu",
    cache_dir: str | Path | None = None,
) -> Evidence:
    """Features of all real slices (cached) and of ``num`` generated ones, at psi = 1.

    A conditional generator draws the classes of random training slices. Raises ValueError where nobody is held out, the
    generator was trained on held-out people, or its classes are not those of the slices.
    """
    people, train = people_of(slices), slices.splits == "train"
    if not 0 < train.sum() < len(train):
        raise ValueError(
            f"{slices.title} needs training slices to learn from and slices of other people to try what was learnt."
        )
    _refuse_known(people[~train], info)
    order = _order(G, info, slices)
    labelled = slices.labels[train & (slices.labels >= 0)]
    asked = None if order is None else np.random.default_rng(0).choice(labelled, num)
    ws = styles(G, range(num), class_index=None if order is None else order[asked])
    fakes = to_uint8(synthesize(G, ws))
    at = features(slices.images, space, device=device, cache_dir=cache_folder(cache_dir))
    at_fakes = features(fakes, space, device=device)
    return Evidence(G, slices, at, people, train, ws, fakes, at_fakes, asked, order, space, device)


def _refuse_known(held: np.ndarray, info: Mapping) -> None:
    both = sorted(set(held) & {person(name) for name in info.get("train_subjects", ())})
    if both:
        raise ValueError(
            f"The generator was trained on {len(both)} of the {len(set(held))} held-out subjects ({', '.join(both[:3])}...): "
            "what it shows of them would be memory; take the split that it was trained with."
        )


def _order(G: Generator, info: Mapping, slices: SliceDataset) -> np.ndarray | None:
    """The generator's number of each class of the slices; None for a generator without classes."""
    if not G.c_dim:
        return None
    strange = sorted(set(slices.classes) ^ set(info["classes"]))
    if strange:
        raise ValueError(
            f"The generator draws {', '.join(info['classes'])}, and the slices are of {', '.join(slices.classes)}: "
            f"{', '.join(strange)} on one side only."
        )
    return np.array([info["classes"].index(name) for name in slices.classes])
