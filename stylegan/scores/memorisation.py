"""Does a generator repeat what it was trained on, and could somebody tell who was in the training set?

Every measure here is compared with people the generator never saw, and the person, not the slice, is its unit.
"""

import contextlib
from collections.abc import Mapping

import numpy as np
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from stylegan.augment import dither
from stylegan.checkpoint import load_discriminator
from stylegan.config import Config
from stylegan.data.subjects import people_of
from stylegan.dataset import SliceDataset, one_hot
from stylegan.latent import project
from stylegan.networks import Discriminator, Generator
from stylegan.rng import BatchRNG
from stylegan.scores.evidence import Evidence
from stylegan.scores.intervals import Interval, interval_of, p_value

UNKNOWN = dict.fromkeys(("ratio", "low", "high", "p_value"))  # where no copies can be looked for


def nearest(vectors: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(distance [n], index [n]) of the nearest of ``others`` [m, D] to each of ``vectors`` [n, D]."""
    distance, index = NearestNeighbors(n_neighbors=1).fit(others).kneighbors(vectors)
    return distance[:, 0], index[:, 0]


def memory(fake: np.ndarray, heldout: np.ndarray, people: np.ndarray) -> dict[str, float | None]:
    """``{ratio, low, high, p_value}`` from distances to the nearest training slice, of fakes [m] and of held-out slices [n].

    The ratio of the medians, about 1 where fakes lie as near to the training slices as new people do and 0 for copies; its
    interval is by ``people`` [n]. The p-value is of the one-sided test that fakes lie *nearer* than new people: for each person
    the share of (slice, fake) in which the fake is nearer, and Wilcoxon's signed-rank test of these shares against 1/2, so that
    n is the number of people. A bad generator lies far from everything, and a ratio above 1 is no proof that it copied none:
    `copied` looks at the near end. All None for fewer than two held-out people.
    """
    if len(set(people)) < 2:
        return dict(UNKNOWN)
    found = interval_of(lambda h, f: np.median(fake[f]) / max(np.median(heldout[h]), 1e-12), people, len(fake))
    nearer = 1 - np.searchsorted(np.sort(fake), heldout, side="left") / len(fake)  # share of fakes at least as far away
    signs = 0.5 - np.array([nearer[people == name].mean() for name in np.unique(people)])
    p = stats.wilcoxon(signs, alternative="greater").pvalue if np.any(signs) else 1.0
    return {"ratio": found["value"], "low": found["low"], "high": found["high"], "p_value": float(p)}


def copied(fake: np.ndarray, heldout: np.ndarray) -> float:
    """Share of fakes nearer to a training slice than the nearest 1 % of held-out slices are: about .01 where none is copied."""
    return float((fake < np.quantile(heldout, 0.01)).mean())


def nearest_people(fake: np.ndarray, at: np.ndarray, people: np.ndarray, member: np.ndarray) -> dict:
    """Is the person nearest to a fake more often one it was trained on? ``{share, expected, p_value}``.

    Fakes [m, D], slices [n, D] of ``people`` [n], of which ``member`` [n] were trained on. For each fake the nearest slice of
    all names a person; ``share`` is how many of these are training people, ``expected`` how many by chance, p how often chance
    gives as large a share. Blur, which shifts the ratio of `memory`, does so here for both sides (after the three-sample test
    of Meehan et al. 2020, arXiv:2004.05675). A copy too blurred for the feature space escapes all the same.
    """
    names, index = np.unique(people, return_inverse=True)
    weight = np.bincount(index[nearest(fake, at)[1]], minlength=len(names)) / len(fake)  # of each person, among the nearest
    trained = np.isin(names, people[member])
    found = p_value(lambda some: weight[some].sum(), trained, lambda some, rng: rng.permutation(some), draws=9999)
    return {"share": found.value, "expected": found.expected, "p_value": found.p_value}


def closest_pairs(fake: np.ndarray, index: np.ndarray) -> list[tuple[int, int, float]]:
    """(fake, training slice, distance) of the 16 nearest pairs, each training slice once, from what `nearest` returns."""
    pairs = {}
    for row in np.argsort(fake).tolist():
        pairs.setdefault(int(index[row]), (row, int(index[row]), float(fake[row])))
    return list(pairs.values())[:16]


def membership(values: np.ndarray, member: np.ndarray, people: np.ndarray) -> Interval | None:
    """{value, low, high}: area under the ROC curve of guessing from ``values`` [n] which slices were trained on (``member`` [n]).

    1/2: nobody can tell; 1: everybody can. Intervals leave out people; None for fewer than two people on either side (Shokri et
    al. 2017, arXiv:1610.05820, on the attack; Hayes et al. 2019, arXiv:1705.07663, with the logits of a GAN's discriminator;
    Chen et al. 2020, arXiv:1909.03935, with the distance to the nearest fake, which needs the published generator alone).
    """
    if min(len(set(people[member])), len(set(people[~member]))) < 2:
        return None

    def auc(rows: np.ndarray, _: np.ndarray) -> float:
        return roc_auc_score(member[rows], values[rows]) if len(set(member[rows])) == 2 else np.nan

    return interval_of(auc, people, high=1)


@torch.no_grad()
def logits(D: Discriminator, config: Config, slices: SliceDataset) -> np.ndarray:
    """D's logits of all slices [N], shown as in training but without augmentation, in shuffled order and whole groups, since
    D's minibatch statistics see ``mbstd_group_size`` slices at a time."""
    device, order = next(D.parameters()).device, np.random.default_rng(0).permutation(len(slices))
    draws, found = BatchRNG(device, torch.Generator(device).manual_seed(0)), np.empty(len(slices), np.float32)
    group = config.mbstd_group_size
    for rows in np.array_split(order, max(len(slices) // max(32, group), 1)):
        rows = np.resize(rows, -(-len(rows) // group) * group)  # repeated rows get one value twice
        img = slices.tensor(rows).to(device)
        img = dither(img, draws) if config.dither else img
        found[rows] = D(img, one_hot(slices.labels[rows], config.c_dim, device))[:, 0].float().cpu().numpy()
    return found


def projection_gap(G: Generator, train: SliceDataset, heldout: SliceDataset, count: int = 24) -> dict:
    """Are training slices found again in W better than held-out ones? ``{train, heldout, gap, p_value, n}``, residuals in grey levels.

    One slice of each of ``count`` people on either side, of the same levels where levels are known; a one-sided Mann-Whitney
    test (training residuals lower). A generator that draws people it saw and no others has a gap (Karras et al. 2020a,
    arXiv:1912.04958, section 5, on projection as a test; Webster et al. 2019, arXiv:1901.03396, on the gap).
    """
    count = min(count, len(set(people_of(train))), len(set(people_of(heldout))))
    sides = [one_each(side, count) for side in (train, heldout)]
    a, b = np.split(project(G, torch.cat([side.tensor() for side in sides])).residual, 2)
    p = stats.mannwhitneyu(a, b, alternative="less").pvalue
    found = {"train": a.mean(), "heldout": b.mean(), "gap": b.mean() - a.mean(), "p_value": p}
    return {name: float(value) for name, value in found.items()} | {"n": count}


def one_each(slices: SliceDataset, count: int) -> SliceDataset:
    """One slice of each of ``count`` people, the k-th of them at the k-th of ``count`` evenly spaced places of its levels."""
    people = people_of(slices)
    chosen = np.random.default_rng(0).permutation(np.unique(people))[:count]
    rows = []
    for place, name in zip(np.linspace(0, 1, count), chosen, strict=True):
        own = np.flatnonzero(people == name)
        own = own[np.argsort(slices.levels[own], kind="stable")]
        rows.append(own[round(place * (len(own) - 1))])
    return slices.select(np.array(rows))


def duplicates(slices: SliceDataset) -> dict:
    """Slices that occur twice, of at most 12,000: ``{slices, exact, yardstick, near, pairs}``.

    ``exact``: slices equal to an earlier one, pixel by pixel. ``near``: slices of one person nearer to a slice of another than
    half of the neighbouring levels of one head are to each other (``yardstick``, root mean square of grey levels): one person
    under two names, or one scan twice, would look so. None where levels are unknown, or so far apart that half of all slices
    would be near. ``pairs``: up to ten of these as (subject, level, subject, level, distance), nearest first.
    """
    if len(slices) > 12_000:
        slices = slices.select(np.sort(np.random.default_rng(0).permutation(len(slices))[:12_000]))
    n, pixels, people = len(slices), np.array(slices.images), people_of(slices)
    exact = n - len(np.unique(pixels.reshape(n, -1), axis=0))
    found = {"slices": n, "exact": exact, "yardstick": None, "near": None, "pairs": []}
    scale = max(pixels.shape[-1] // 32, 1)
    size = pixels.shape[-1] // scale
    small = pixels[:, : size * scale, : size * scale].reshape(n, size, scale, size, scale).mean(axis=(2, 4))
    small = small.reshape(n, -1).astype(np.float32) / size  # so that a distance is a root mean square
    names = list(zip(slices.subjects.tolist(), slices.levels.tolist(), strict=True))
    place = {name: row for row, name in enumerate(names) if name[1] >= 0}
    next_to = [(row, place[subject, level + 1]) for (subject, level), row in place.items() if (subject, level + 1) in place]
    if not next_to:
        return found
    a, b = np.array(next_to).T
    yardstick = float(np.median(np.linalg.norm(small[a] - small[b], axis=1)))
    distances, indices = NearestNeighbors(radius=yardstick, algorithm="brute").fit(small).radius_neighbors(small)
    first, second = np.repeat(np.arange(n), [len(row) for row in indices]), np.concatenate(indices)
    kept = (first < second) & (people[first] != people[second])
    near = len(set(first[kept]) | set(second[kept]))
    if near > n / 2:
        return found
    closest = sorted(zip(np.concatenate(distances)[kept].tolist(), first[kept], second[kept], strict=True))[:10]
    return found | {"yardstick": yardstick, "near": near, "pairs": [(*names[i], *names[j], d) for d, i, j in closest]}


def duplicates_sentence(found: Mapping) -> str:
    near = "levels are unknown or far apart, so that near ones could not be judged"
    if found["near"] is not None:
        near = f"{found['near']} are nearer to another person's slice than half of the neighbouring levels of one head are to each other"
    return f"Of {found['slices']:,} real slices {found['exact']} are equal to an earlier one, pixel by pixel; {near}."


def copies_of(evidence: Evidence, fakes: int) -> tuple[dict[str, float | None], dict]:
    """Are fakes nearer to training slices than people it never saw? (`memory` of all held-out splits, the distances).

    The distances: ``{drawn, fake, row, mirrored, heldout}``, the fakes, of each the nearest of `Evidence.at_train`, its slice's
    row and whether it is mirrored, and the distance of each held-out slice; {} without training or held-out slices.
    """
    if evidence.train is None or evidence.held is None:
        return dict(UNKNOWN), {}
    train, held = evidence.at_train, evidence.side(evidence.held)
    drawn = evidence.fakes(evidence.train, min(fakes, 2 * len(evidence.train)))
    (near, row), usual = nearest(drawn.at, train), nearest(held.at, train)[0]
    mirrored, row = np.divmod(row, len(evidence.train))
    found = {"drawn": drawn, "fake": near, "heldout": usual, "mirrored": mirrored, "row": row}
    return memory(near, usual, held.people), found


def memory_of(evidence: Evidence, distances: dict) -> dict:
    """``{copied, people, attack, logits, pairs}``: training against held-out people; ``distances`` from `copies_of`. ``pairs``:
    the closest, ``{seed, class, subject, level, ratio}`` each; ``logits`` is None where D is not at hand."""
    slices, held, drawn, usual = evidence.train, evidence.held, distances["drawn"], float(np.median(distances["heldout"]))
    sides = evidence.side(slices), evidence.side(held)
    at, people = (np.concatenate([getattr(side, name) for side in sides]) for name in ("at", "people"))
    member = np.arange(len(at)) < len(slices)
    # Whoever has more slices is nearest more often: of held-out people as many are kept as `Evidence` keeps of those it saw.
    kept = min(len(held), round(len(slices) * len(set(sides[1].people)) / len(set(sides[0].people))))
    rows = np.r_[: len(slices), len(slices) + np.sort(np.random.default_rng(0).permutation(len(held))[:kept])]
    pairs = [
        {**evidence.origin(drawn, fake), "subject": str(slices.subjects[row]), "level": int(slices.levels[row]),
         "ratio": distance / max(usual, 1e-12)}
        for fake, row, distance in closest_pairs(distances["fake"], distances["row"])
    ]  # fmt: skip
    guessed = None
    with contextlib.suppress(FileNotFoundError):  # only a run folder keeps its discriminator
        D, config = load_discriminator(evidence.path, evidence.device)
        guessed = membership(np.concatenate([logits(D, config, side) for side in (slices, held)]), member, people)
    return {
        "copied": copied(distances["fake"], distances["heldout"]),
        "people": nearest_people(drawn.at, at[rows], people[rows], member[rows]),
        "attack": membership(-nearest(at, drawn.at)[0], member, people),
        "logits": guessed,
        "pairs": pairs,
    }


def pairs_sheet(evidence: Evidence, distances: dict) -> tuple[np.ndarray, int]:
    """(slices, columns): the closest pairs, generated above training (as D saw it, mirrored or not), in two double rows."""
    train, pairs = evidence.train_images, closest_pairs(distances["fake"], distances["row"])
    half, drawn = -(-len(pairs) // 2), distances["drawn"].images
    sheet = np.full((2, 2, half, *drawn.shape[1:]), 255, np.uint8)  # double rows of generated above training
    for i, (fake, row, _) in enumerate(pairs):
        sheet[i // half, :, i % half] = drawn[fake], train[distances["mirrored"][fake]][row]
    return sheet.reshape(-1, *drawn.shape[1:]), half
