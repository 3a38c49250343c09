"""Looking into the latent space: the sheets of `sample`, directions and what they move, and the way back to w.

A direction is unlike a class: nobody asked for it, so nobody knows its meaning beforehand. Here it gets its name from gauges,
plain numbers read off the pictures of many seeds before and after a step along it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stylegan import plots, predict
from stylegan.checkpoint import load_generator
from stylegan.data.subjects import people_of, person
from stylegan.dataset import SliceDataset, slices_of
from stylegan.files import write_json
from stylegan.networks import Generator, pick_device
from stylegan.predict import Images, caption, generate, sampling, styles, synthesize, to_uint8

Gauge = Callable[[np.ndarray], np.ndarray]  # uint8 [n, R, R] -> float [n]
HEAD = 12  # grey levels above which a pixel belongs to the head
REACH = 2.0  # standard deviations that a step goes to either side when its effect is measured
SEARCH = 200  # steps of a projection
LEAST, AGREED, SPACES = 1.0, 0.8, ("w", "w+")  # a name needs an effect of one standard deviation, alike on four of five seeds

# --- The sheets of `sample` -----------------------------------------------------------------------------------------------

EXTRAS, PSIS = ("truncation", "mixing", "interpolation", "noise", "classes"), (0.0, 0.25, 0.5, 0.7, 0.85, 1.0)


def sheets(name: str, G: Generator, info: Mapping, seeds: list[int], settings: Mapping) -> dict[str, tuple]:
    """{file: (picture, the seeds in it, PNG entries that differ from the settings)} of "grid" or one of `EXTRAS`. Where a
    picture takes more seeds, the next ones follow. settings: keyword arguments of `generate`."""
    more, titles = [*seeds, *range(max(seeds) + 1, max(seeds) + 11)], [f"seed {seed}" for seed in seeds]
    four, six, const = more[:4], more[4:10], {"noise_mode": "const"}
    styled = {key: value for key, value in settings.items() if key != "noise_mode"}
    if name == "grid":
        figure = plots.grid(generate(G, seeds[:64], **settings), caption=caption(info, settings, seeds[:64]))
        return {"grid.png": (figure, seeds[:64], {})}
    if name == "truncation":
        sweep, columns = predict.truncation_sweep(G, seeds[:4], PSIS, **settings), [f"ψ = {psi:g}" for psi in PSIS]
        note = f"synthetic · model {info['model_hash']}"
        figure = plots.grid(sweep, column_titles=columns, row_titles=titles[:4], caption=note)
        return {"truncation.png": (figure, seeds[:4], {"truncation_psi": PSIS})}
    if name == "mixing":
        note = caption(info, settings, [*four, *six], f"coarse: first {G.num_ws // 2} of {G.num_ws} layers")
        own = [generate(G, some, **styled) for some in (four, six)]
        figure = plots.mixing_matrix(predict.style_mixing(G, four, six, **styled), *own, four, six, caption=note)
        return {"mixing.png": (figure, [*four, *six], const)}
    if name == "interpolation":
        pixels = to_uint8(predict.interpolate(G, [*four, four[0]], 16, **styled))
        figure = plots.strip(pixels[:17:2], caption=caption(info, settings, four[:2], "a straight line in w"))
        frames = plots.enlarge(pixels[:-1], max(1, 256 // pixels.shape[1]))
        return {"interpolation.gif": (frames, four, const), "interpolation.png": (figure, four[:2], const)}
    if name == "noise":
        note = f"synthetic · seed {seeds[0]} · ψ = {settings['truncation_psi']:g} · 32 noise draws · model {info['model_hash']}"
        figure = plots.deviation(*predict.noise_deviation(G, seeds[0], **styled), caption=note)
        return {"noise.png": (figure, seeds[:1], {"noise_mode": "none; random, 32 draws"})}
    note = caption(info, {**settings, "class_index": None}, seeds[:6], "the same z under each class")
    sweep = predict.class_sweep(G, seeds[:6], **settings)
    figure = plots.grid(sweep, column_titles=info["classes"], row_titles=titles[:6], caption=note)
    return {"classes.png": (figure, seeds[:6], {"class": ", ".join(info["classes"])})}


# --- Directions, named by what they measurably move -----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)  # two are the same only if they are one: tensors have no plain equality
class Direction:
    """A direction of W, of the length of one standard deviation of w along it, and what it moves."""

    method: str  # as its authors write it
    number: int  # from 1, strongest first
    step: Tensor  # [w_dim]
    share: float  # of the variance of w
    effects: Mapping[str, float]  # gauge -> its change from -2 to +2 steps, in its standard deviations between seeds
    agreed: Mapping[str, float]  # gauge -> share of the seeds that it moves to that side

    def moves(self, gauge: str) -> bool:
        """Whether it moves this gauge far enough and alike on enough seeds to be named after it."""
        return abs(self.effects[gauge]) >= LEAST and self.agreed[gauge] >= AGREED

    @property
    def name(self) -> str:
        """What it moves, at most two things, strongest first: 'level up, contrast down'."""
        strong = sorted(filter(self.moves, self.effects), key=lambda gauge: -abs(self.effects[gauge]))
        return ", ".join(f"{key} {'up' if self.effects[key] > 0 else 'down'}" for key in strong[:2]) or "nothing clearly"


def style_weights(G: Generator) -> Tensor | None:
    """All weights that turn w into styles [sum of channels, w_dim]; None where there are none (a DCGAN). Rows have unit length,
    as in the code of Shen & Zhou: a layer counts by its channels, not by its scale."""
    layers = [w.detach().cpu().double() for name, w in G.synthesis.named_parameters() if name.endswith("affine.weight")]
    return torch.nn.functional.normalize(torch.cat(layers)) if layers else None


def find_directions(G: Generator, gauges: Mapping[str, Gauge], count: int = 3, method: str = "PCA") -> list[Direction]:
    """The ``count`` strongest directions of a method, each turned so that what it moves most goes up; [] where G has no such.

    'PCA': principal components of w (Härkönen et al. 2020, arXiv:2004.02546, section 2.1). 'SeFa': the unit vectors n that change the
    styles most, max |A n| with A of `style_weights` (Shen & Zhou 2021, arXiv:2007.06600, section 3.2). Effects are measured on 32
    seeds at psi = 0.7. Raises ValueError for another method or more directions than W has.
    """
    if method not in ("PCA", "SeFa") or not 1 <= count <= G.w_dim:
        raise ValueError(f"Take 1 to {G.w_dim} directions by PCA or SeFa, not {count} by {method!r}.")
    drawn = styles(G, range(1000))[:, 0].double()  # [1000, w_dim]
    away = drawn - drawn.mean(dim=0)
    rows = away if method == "PCA" else style_weights(G)
    if rows is None:
        return []
    along = torch.linalg.svd(rows, full_matrices=False).Vh[:count]  # [count, w_dim], unit vectors
    stds = (away @ along.T).std(dim=0, correction=0)  # [count]
    pixels, ws, found = to_uint8(generate(G, range(256)).mean(1, True)), styles(G, range(32), truncation_psi=0.7), []
    usual = {name: max(gauge(pixels).std(), 1e-9) for name, gauge in gauges.items()}
    for i, step in enumerate((along * stds[:, None]).float()):
        down, up = (to_uint8(synthesize(G, ws + sign * REACH * step).mean(1, True)) for sign in (-1, 1))
        changes = {name: gauge(up) - gauge(down) for name, gauge in gauges.items()}
        effects = {name: float(change.mean() / usual[name]) for name, change in changes.items()}
        agreed = {name: float(np.mean(np.sign(change) == np.sign(change.mean()))) for name, change in changes.items()}
        turn = -1 if max(effects.values(), key=abs, default=1) < 0 else 1  # the sign of an eigenvector means nothing
        effects = {name: turn * effect for name, effect in effects.items()}
        share = float(stds[i].square() / away.square().mean(dim=0).sum())
        found.append(Direction(method, i + 1, turn * step, share, effects, agreed))
    return found


def move(G: Generator, directions: Sequence[Direction], strengths: Sequence[float]) -> Tensor:
    """The average style moved along each direction by each strength in standard deviations: [directions, strengths, C, R, R]."""
    moves = torch.stack([strength * direction.step for direction in directions for strength in strengths])
    return synthesize(G, styles(G, [0], truncation_psi=0) + moves[:, None]).unflatten(0, (len(directions), len(strengths)))


def held_on_fresh_seeds(found: Mapping) -> bool:
    """Whether a direction of `groundtruth` moves its reading further than random steps do, and up on nine seeds of ten."""
    return abs(found["per_step"]) > found["random"]["high"] and found["agreed"] > 0.9


# --- Gauges ---------------------------------------------------------------------------------------------------------------


def make_gauges(slices: SliceDataset) -> dict[str, Gauge]:
    """`GAUGES`, and ``level`` where the data knows levels: a ridge regression from `_means` of training slices, kept if it
    correlates by more than .8 with the true levels of people it has not seen."""
    from sklearn.linear_model import RidgeCV

    train, test = slices.splits == "train", slices.splits != "train"
    if slices.levels.max() <= 0 or min(train.sum(), test.sum()) < 10:
        return dict(GAUGES)
    fitted = RidgeCV(np.logspace(-3, 3, 7)).fit(_means(slices.images[train]), slices.levels[train])
    agreement = np.corrcoef(fitted.predict(_means(slices.images[test])), slices.levels[test])[0, 1]
    level = {"level": lambda pixels: fitted.predict(_means(pixels))} if agreement > 0.8 else {}
    return level | GAUGES


def _means(pixels: np.ndarray) -> np.ndarray:
    """[n, R, R] -> [n, 256]: means of 16 x 16 fields (8 x 8 at 8 px) in units of the head's mean, or fakes are misread."""
    n, size, fields = len(pixels), pixels.shape[1], min(16, pixels.shape[1])
    means = pixels.reshape(n, fields, size // fields, fields, size // fields).mean(axis=(2, 4)).reshape(n, -1)
    return means / _brightness(pixels)[:, None].clip(1)


def _head(pixels: np.ndarray) -> np.ma.MaskedArray:
    """The pixels that belong to the head, all others masked."""
    return np.ma.masked_less_equal(pixels, HEAD)


def _brightness(pixels: np.ndarray) -> np.ndarray:
    """Mean grey level inside the head."""
    return _head(pixels).mean(axis=(1, 2)).filled(0)


def _dark_centre(pixels: np.ndarray) -> np.ndarray:
    """Share of the middle quarter by quarter that is darker than half of the head: where the lateral ventricles lie."""
    middle = slice(3 * pixels.shape[1] // 8, 5 * pixels.shape[1] // 8)
    return (pixels[:, middle, middle] < 0.5 * _brightness(pixels)[:, None, None]).mean(axis=(1, 2))


def _slenderness(pixels: np.ndarray) -> np.ndarray:
    """Height of the head over its width, by standard deviations of the places of its pixels."""
    y, x = (np.ma.array(np.broadcast_to(place, pixels.shape), mask=pixels <= HEAD) for place in np.indices(pixels.shape[1:]))
    return (y.std(axis=(1, 2)) / x.std(axis=(1, 2)).clip(1e-6)).filled(0)


GAUGES: dict[str, Gauge] = {
    "size of the head": lambda pixels: (pixels > HEAD).mean(axis=(1, 2)),
    "length to width": _slenderness,
    "brightness": _brightness,
    "contrast": lambda pixels: (_head(pixels).std(axis=(1, 2)) / _head(pixels).mean(axis=(1, 2))).filled(0),
    "dark centre": _dark_centre,
}


# --- The way back: from a slice to its w ----------------------------------------------------------------------------------


class Projection(NamedTuple):
    """What `project` found for n slices."""

    ws: Tensor  # [n, num_ws, w_dim]
    images: Tensor  # [n, C, R, R], what they draw
    residual: np.ndarray  # [n], see `residual`
    away: np.ndarray  # [n], distance of w from the average, 1 for the farthest of 1,000 seeds: above, hardly a seed gives it


def project(G: Generator, target: Tensor, *, space: str = "w") -> Projection:
    """Search the styles that draw these slices, all at once: target [n, C, R, R] in [-1, 1]. ValueError for what does not fit.

    After Karras et al. 2020a, arXiv:1912.04958, appendix D: Adam from the average w by `schedule`, noise on w that fades out.
    space 'w': one style for all layers; 'w+': one for each (Abdal et al. 2019, arXiv:1904.03189), which leaves what seeds give.
    Unlike the paper's, the loss is the mean squared difference of pixels, as slices are registered and share one grey window,
    and the noise maps stay as they are: bent, they would carry what w cannot draw, which is what we ask for.
    """
    size = G.synthesis.blocks[-1].resolution
    if space not in SPACES or target.ndim != 4 or target.shape[2:] != (size, size):
        wanted = f"slices [n, C, {size}, {size}] and a space of {', '.join(SPACES)}"
        raise ValueError(f"A projection takes {wanted}; these are {list(target.shape)} and {space!r}.")
    drawn = styles(G, range(1000))[:, 0]  # [1000, w_dim]
    far = (drawn - drawn.mean(dim=0)).norm(dim=1)
    usual, stream = far.square().mean().sqrt(), torch.Generator().manual_seed(0)
    with sampling(G) as device, torch.enable_grad():
        wanted = target.to(device)
        w = drawn.mean(dim=0).repeat(len(target), G.num_ws if space == "w+" else 1, 1).to(device).requires_grad_()
        optimizer = torch.optim.Adam([w])
        for step in range(SEARCH):
            optimizer.param_groups[0]["lr"], strength = schedule(step / SEARCH)
            noise = strength * usual * torch.randn(G.w_dim, generator=stream)  # one for all slices
            images = G.synthesis((w + noise.to(device)).expand(-1, G.num_ws, -1), "const")
            loss = (images - wanted).square().mean(dim=(1, 2, 3)).sum()  # a sum: no slice's gradient depends on the others
            (w.grad,) = torch.autograd.grad(loss, w)
            optimizer.step()
    ws = w.detach().expand(-1, G.num_ws, -1).cpu()
    images, away = synthesize(G, ws), (ws - drawn.mean(dim=0)).norm(dim=2).mean(dim=1) / far.max()
    return Projection(ws, images, residual(target, images), away.double().numpy())


def schedule(t: float) -> tuple[float, float]:
    """(learning rate, noise on w in usual lengths of w) at fraction t of the steps: the rate rises to 0.1 over the first 5 %
    and falls over the last 25 %; the noise fades out over the first 75 %."""
    rate = min(1, t / 0.05) * (0.5 - 0.5 * math.cos(math.pi * min(1, (1 - t) / 0.25)))
    return 0.1 * rate, 0.05 * max(0, 1 - t / 0.75) ** 2


def residual(target: Images, images: Images) -> np.ndarray:
    """Root mean square difference in grey levels of 255 of each pair of slices, or of each slice to a single one: [n]."""
    away = (to_uint8(target).astype(float) - to_uint8(images)).reshape(len(target), -1)
    return np.sqrt(np.square(away).mean(axis=1))


def reach(G: Generator, chosen: SliceDataset, train: np.ndarray, *, space="w", num: int = 512) -> tuple[Projection, dict]:
    """Project the chosen slices and measure the result by simpler answers: (projection, name -> residuals [n]).

    'generated slice, found again': as many slices of G under the same search; what they keep is the search's fault. 'nearest
    training slice' among ``train`` (uint8 [m, R, R]) is another person's; a mean of ten is nearer than any one slice.
    """
    n, mean = len(chosen), train.mean(axis=0).round().astype(np.uint8)[None]
    both = project(G, torch.cat([chosen.tensor(), generate(G, range(10_000, 10_000 + n))]), space=space)
    return Projection(*(part[:n] for part in both)), {
        "projection": both.residual[:n],
        "generated slice, found again": both.residual[n:],
        **dict(zip(("nearest training slice", "mean of the ten nearest"), _nearest(chosen.images, train, 1, 10), strict=True)),
        "mean training slice": residual(chosen.images, mean),
        f"nearest of {num} generated": _nearest(chosen.images, to_uint8(generate(G, range(num))), 1)[0],
    }


def _nearest(pixels: np.ndarray, pool: np.ndarray, *counts: int) -> list[np.ndarray]:
    """For each k of ``counts`` the residual [n] of each slice and the mean of its k nearest of the pool, which may exceed memory."""
    from sklearn.metrics import pairwise_distances

    flat = pixels.reshape(len(pixels), -1).astype(np.float32)
    parts = (np.float32(pool[start : start + 1024]).reshape(-1, flat.shape[1]) for start in range(0, len(pool), 1024))
    nearest = np.concatenate([pairwise_distances(flat, part) for part in parts], axis=1).argsort(axis=1)  # [n, pool]
    means = ([pool[np.sort(rows[:k])].mean(axis=0, dtype=float).ravel() for rows in nearest] for k in counts)
    return [np.sqrt(np.square(flat - np.stack(each)).mean(axis=1)) for each in means]


def held_out(slices: SliceDataset, info: Mapping, count: int) -> SliceDataset:
    """``count`` slices drawn by chance that the generator (its ``info``) was not trained on, of as many people as there are,
    from the validation split, else from the test split. ValueError where nobody is left, or for a count below 1."""
    people, known = people_of(slices), [person(str(subject)) for subject in info.get("train_subjects") or ()]
    val, test = (np.flatnonzero((slices.splits == name) & ~np.isin(people, known)) for name in ("val", "test"))
    rows = np.random.default_rng(0).permutation(val if len(val) else test)
    if count < 1:
        raise ValueError(f"{count} slices cannot be projected; ask for one or more.")
    if not len(rows):
        raise ValueError(f"{slices.title} holds no slice that the generator was not trained on; give other people's slices.")
    turn = [np.sum(people[rows[:i]] == people[row]) for i, row in enumerate(rows)]  # 0 for a person's first slice
    return slices.select(np.sort(rows[np.argsort(turn, kind="stable")][:count]))


def project_held_out(
    path: str | Path, out: str | Path, data: str | Path | None, *, count: int, space: str, device: str, **options: object
) -> dict:
    """Project held-out slices and write ``projection.json``, which is returned, and ``projection.png``, which shows real
    slices. path: a run folder or a .safetensors file; data and options as in `slices_of`. Raises what `held_out` raises."""
    import pandas as pd

    G, info = load_generator(path, pick_device(device))
    slices = slices_of(info, data, **options)
    chosen = held_out(slices, info, count)
    found, compared = reach(G, chosen, slices.images[slices.splits == "train"], space=space)
    rows = pd.DataFrame({"subject": chosen.subjects, "level": chosen.levels, "away": found.away, **compared})
    result = {"model_hash": info["model_hash"], "data": slices.title, "split": str(chosen.splits[0]), "space": space}
    result |= {"unit": "root mean square of grey levels of 255", "mean": rows[list(compared)].mean().round(2).to_dict()}
    result["slices"] = rows.round(2).to_dict("records")
    note = f"projected into {space.upper()} · model {info['model_hash']}"
    figure = plots.compare(chosen.images, found.images, ("real", "projection"), difference=True, caption=note)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    text = "Upper row: real slices. Middle row: synthetic slices, projections of them. Not for diagnosis."
    plots.save(out / "projection.png", figure, {"Description": text})
    write_json(out / "projection.json", result)
    return result
