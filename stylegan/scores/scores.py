"""Two sets of slices compared by every score at once: features, pixels, and the controls that each score should find fault with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stylegan.scores import neighbours
from stylegan.scores.distances import DISTANCES
from stylegan.scores.intervals import Interval, clipped, draw_people, floor, jackknife, leave_out, spread_of
from stylegan.scores.picture_scores import PICTURE_SCORES, blurred, most_similar, noised, similarity_of_pairs

DRAWS = 20  # of other people for the floor

# ---------------------------------------------------------------------------------------------------- sets of features


def score(
    real: np.ndarray, people: np.ndarray, fake: np.ndarray, others: np.ndarray, other_people: np.ndarray, *, seed: int = 0
) -> dict[str, Interval]:
    """All scores of feature vectors and their floors, each {value, low, high}; KID times 1000.

    ``kid, fd``, the six of `neighbours.SCORES`, ``classifier`` (share put right by `neighbours.told_apart`), and each of them
    again with ``_floor``. ``real`` [n, D] of ``people`` [n] against ``fake`` [n, D]; the floor is ``real`` against n slices at
    a time of as many *other* people (``others`` [m, D], m >= n), its value the mean over 20 draws, low to high the range of
    95 % of them. Score and floor share ``real`` and n, and differ only in what stands on the other side.

    Two cautions. Where there are hardly more other people than one draw takes, draws resemble each other and their range is
    too narrow. And slices of one person resemble each other, which raises the floor of a distance from both sides and the
    score from one: unrelated slices of a perfect generator score *below* the floor.
    """
    if not len(real) == len(fake) <= len(others):
        counts = f"{len(real)} real, {len(fake)} fake and {len(others)} of others"
        raise ValueError(f"Scores take equally many real and fake slices and at least as many of other people, not {counts}.")
    if set(people) & set(other_people):
        raise ValueError("The floor compares disjoint people, and some stand on both sides.")
    draws = floor_draws(people, other_people, seed)
    result = {}
    for name, distance, unit in DISTANCES:
        found = {name: jackknife(distance, real, people, fake, seed=seed)}
        found[f"{name}_floor"] = floor(distance, real, [others[rows] for rows in draws])
        result |= {key: {bound: unit * value for bound, value in entry.items()} for key, entry in found.items()}
    result |= _neighbour_scores(real, people, fake, [(others[rows], other_people[rows]) for rows in draws], seed)
    return result


def floor_draws(people: np.ndarray, other_people: np.ndarray, seed: int = 0) -> list[np.ndarray]:
    """Rows [n] of each draw of other people: as many slices and people as ``people`` [n] has."""
    rng, count = np.random.default_rng(seed), len(set(people))
    return [draw_people(other_people, count, len(people), rng) for _ in range(DRAWS)]


def _neighbour_scores(
    real: np.ndarray, people: np.ndarray, fake: np.ndarray, draws: Sequence[tuple[np.ndarray, np.ndarray]], seed: int
) -> dict[str, Interval]:
    found = leave_out(neighbours.Neighbourhood(real, people, fake).scores, people, len(fake), seed=seed)
    found = {name: clipped(entry, high=np.inf if name == "density" else 1) for name, entry in found.items()}
    found["classifier"] = _classifier(real, people, fake, None, seed)
    floors = [neighbours.Neighbourhood(real, people, other, names).scores() for other, names in draws]
    found |= {f"{name}_floor": spread_of([row[name] for row in floors]) for name in floors[0]}
    again = [_classifier(real, people, other, names, seed)["value"] for other, names in draws[:5]]
    return found | {"classifier_floor": spread_of(again)}


def _classifier(real: np.ndarray, people: np.ndarray, fake: np.ndarray, fake_people: np.ndarray | None, seed: int) -> Interval:
    """Share of slices put right, real and fake weighing the same."""
    a, b = neighbours.told_apart(real, people, fake, fake_people)
    return clipped(leave_out(lambda r, f: {"": (a[r].mean() + b[f].mean()) / 2}, people, len(fake), seed=seed)[""])


# ----------------------------------------------------------------------------------------------------- sets of pictures


def score_pictures(
    real: np.ndarray, people: np.ndarray, fake: np.ndarray, others: np.ndarray, draws: Sequence[np.ndarray], *, seed: int = 0
) -> dict[str, Interval]:
    """The scores of pixels, uint8 [n, R, R] real of ``people`` [n] and fake, and the floors from draws (rows of ``others``).

    ``ms_ssim`` of random pairs of fakes and ``ms_ssim_real`` of pairs of two people; of each row of
    `picture_scores.PICTURE_SCORES` the gap and its ``_floor``.
    """
    result = {"ms_ssim": similarity_of_pairs(fake, seed=seed)}
    result["ms_ssim_real"] = similarity_of_pairs(real, people, seed=seed)
    for name, (describe, gap) in PICTURE_SCORES.items():
        at_real, at_others = describe(real), describe(others)
        result[name] = jackknife(gap, at_real, people, describe(fake), seed=seed)
        result[f"{name}_floor"] = floor(gap, at_real, [at_others[rows] for rows in draws])
    return result


def best_similarity(real: np.ndarray, fake: np.ndarray, most: int = 200) -> Interval:
    """{value, low, high}: mean over ``fake`` [m, R, R] of the largest SSIM to any of ``real`` [n, R, R], uint8; at most 200 fakes.

    Often reported as *the* SSIM of a generator, and no measure of quality: it asks only for one similar real slice. A copy of
    the test set would have 1, a blurred slice has more than a sharp one, and one good picture drawn again and again more than
    a population: read it beside the same number of real slices of other people.
    """
    found, _ = most_similar(fake[:most], real)
    half = (
        1.96 * found.std(ddof=1) / np.sqrt(len(found))
    )  # the fakes are independent, and the real slices those it is asked for
    return {"value": float(found.mean()), "low": float(found.mean() - half), "high": float(found.mean() + half)}


# ------------------------------------------------------------------------------------------------------------- controls


def control_sets(others: np.ndarray, rows: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Sets [n, R, R] that a score should find fault with, from slices of people the generator saw (``rows`` [n] of ``others``).

    'blurred' and 'noised': the slices with their detail gone or drowned; 'collapsed': one in 24 of them, drawn again and again
    a grey level off; 'memorised': the slices themselves, for which scores of quality have no reproach and memory has.
    """
    chosen = np.array(others[rows])
    few = np.resize(chosen[:: max(len(chosen) // max(len(chosen) // 24, 2), 1)], chosen.shape)
    return {
        "blurred": blurred(chosen),
        "noised": noised(chosen, seed=seed),
        "collapsed": noised(few, 0.7, seed),
        "memorised": chosen,
    }


def score_control(held: tuple, control: tuple) -> dict[str, float]:
    """All scores of one (slices, vectors, people) against another."""
    real, at_real, people = held
    made, at_made, names = control
    right = neighbours.told_apart(at_real, people, at_made, names)
    return {
        **{name: unit * distance(at_real, at_made) for name, distance, unit in DISTANCES},
        **neighbours.Neighbourhood(at_real, people, at_made, names).scores(),
        "classifier": float(np.mean([side.mean() for side in right])),
        "ms_ssim": similarity_of_pairs(made)["value"],
        **{name: gap(describe(real), describe(made)) for name, (describe, gap) in PICTURE_SCORES.items()},
        "best_ssim": best_similarity(real, np.random.default_rng(0).permutation(made))["value"],
    }
