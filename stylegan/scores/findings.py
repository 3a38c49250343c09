"""What the notebooks conclude, as functions of numbers, so that no sentence of the report outlives the run it was true for."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from stylegan.dataset import SliceDataset
from stylegan.latent import Direction
from stylegan.scores.memorisation import nearest as nearest  # offered here too, to the notebooks


def duration(hours: float) -> str:
    """'1.4 hours', or '3.1 minutes' below one."""
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"


# --- Slices ---------------------------------------------------------------------------------------------------------------


def similarity(slices: SliceDataset, steps: Sequence[int] = (1, 2, 4, 8), most: int = 2000, seed: int = 0) -> dict[str, float]:
    """Mean correlation of pixels between slices that are so many levels apart in one subject, and between two subjects.

    Keys: '1 level apart', ..., and 'other subject, same level'. A kind of pair that the set does not hold is left out.
    """
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(slices))[:most]
    place = {(s, k): i for i, (s, k) in enumerate(zip(slices.subjects.tolist(), slices.levels.tolist(), strict=True))}
    people = rng.permutation(np.unique(slices.subjects))
    neighbour = dict(zip(people.tolist(), np.roll(people, 1).tolist(), strict=True))

    def mean(partner) -> float:
        pairs = [(i, place.get(partner(slices.subjects[i].item(), int(slices.levels[i])))) for i in rows]
        return float(np.mean([_correlation(slices.images[i], slices.images[j]) for i, j in pairs if j is not None] or [np.nan]))

    kinds = {f"same person, {n} level{'s' * (n > 1)} apart": mean(lambda s, k, n=n: (s, k + n)) for n in steps}
    kinds["other person, same level"] = mean(lambda s, k: (neighbour[s], k))
    return {name: value for name, value in kinds.items() if not np.isnan(value)}


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def leaks_of_random_split(subjects: np.ndarray, fractions: Sequence[float] = (0.7, 0.15, 0.15), seed: int = 0) -> int:
    """Subjects that would have slices in more than one split if slices, not subjects, were dealt at random."""
    split = np.random.default_rng(seed).choice(len(fractions), size=len(subjects), p=fractions)
    return sum(len(set(split[subjects == subject])) > 1 for subject in np.unique(subjects))


# --- Latent space ---------------------------------------------------------------------------------------------------------


def directions_verdict(found: Sequence[Direction]) -> str:
    """How many directions move something that is measured, which moves most, and whether the methods agree."""
    named = [d for d in found if any(map(d.moves, d.effects))]
    sentences = [f"**{len(named)} of {len(found)}** directions move something that these gauges see."]
    if named:
        best = max(named, key=lambda d: max(abs(d.effects[gauge]) for gauge in d.effects if d.moves(gauge)))
        sentences.append(f"The strongest is {best.method} {best.number} (**{best.name}**).")
    pairs = [(abs(_cosine(a, b)), a, b) for a, b in itertools.combinations(found, 2) if a.method != b.method]
    if pairs:
        cosine, a, b = max(pairs, key=lambda pair: pair[0])
        words = "the same direction found twice" if cosine > 0.8 else "related" if cosine > 0.4 else "unlike each other"
        names = f"{a.method} {a.number} and {b.method} {b.number}"
        sentences.append(f"Of the two methods' directions {names} are nearest, with a cosine of {cosine:.2f}: {words}.")
    return " ".join(sentences)


def _cosine(a: Direction, b: Direction) -> float:
    return float(a.step @ b.step / (a.step.norm() * b.step.norm()))


def reach_verdict(residuals: Mapping[str, np.ndarray]) -> str:
    """What the residuals of `projection.reach` say about real slices that the generator cannot draw."""
    mean = {name: float(values.mean()) for name, values in residuals.items()}
    left, again, other, average = list(mean.values())[:4]
    if left < other:
        words = "nearer than anybody it was trained on: the generator draws this head, and the map shows what it lacks"
    elif left < average:
        words = (
            "nearer than the mean slice and further than another person: it gets the outline of this head and not its detail"
        )
    else:
        words = "no nearer than the mean slice: it draws no single head"
    blame = "so the search is not to blame" if again < left / 2 else "so much of that is the search's fault"
    return (
        f"The projections stay **{left:.0f} grey levels** from the real slices (root mean square of 255), {words}. A slice that "
        f"the generator drew is found again to {again:.0f}, {blame}."
    )


# --- Tables ---------------------------------------------------------------------------------------------------------------


def markdown_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as a table in Markdown, with the columns of the first row; floats to four digits."""
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([_cell(row.get(name, "")) for name in head] for row in rows)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def plain_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as aligned columns for a terminal."""
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|").replace("\n", " ")
