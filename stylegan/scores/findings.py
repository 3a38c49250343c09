"""What the notebooks conclude, as functions of numbers, so that no sentence of the report outlives the run it was true for."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from stylegan.dataset import SliceDataset
from stylegan.latent import Direction
from stylegan.scores.features import distance_name
from stylegan.scores.memorisation import nearest as nearest  # offered here too, to the notebooks

# Up to how many times the floor: what that means for the eye.
VERDICTS = (
    (1.5, "That is as good as this score can tell: the set can hardly be told from other real people."),
    (4.0, "The set is near the real ones and still told apart from them."),
    (10.0, "The slices are recognisable as heads and clearly not from the same population."),
    (float("inf"), "The generator is at its beginning: the scores show that everything runs, not that it draws well."),
)


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


# --- Scores ---------------------------------------------------------------------------------------------------------------


def verdict(split: Mapping) -> str:
    """The scores of one split of `evaluate` in words, measured by their floor."""
    times = split["fd"]["value"] / split["fd_floor"]["value"]
    words = next(text for limit, text in VERDICTS if times <= limit)
    return (
        f"FD is {split['fd']['value']:.0f} where real people are {split['fd_floor']['value']:.0f} apart, **{times:.1f} times the "
        f"floor**; KID is {split['kid']['value']:.0f} (floor {split['kid_floor']['value']:.0f}). {words}"
    )


# A score of `evaluate` -> its title, how it is written, which way is better.
TITLES = {
    "kid": ("KID × 1000", "{:.0f}", "lower"),
    "fd": ("FD", "{:.0f}", "lower"),
    "precision": ("precision", "{:.2f}", "higher"),
    "recall": ("recall", "{:.2f}", "higher"),
    "density": ("density", "{:.2f}", "near the floor's"),
    "coverage": ("coverage", "{:.2f}", "higher"),
    "nn_accuracy_real": ("1-NN accuracy, real", "{:.2f}", "0.5"),
    "nn_accuracy_fake": ("1-NN accuracy, generated", "{:.2f}", "0.5"),
    "classifier": ("told apart by a classifier", "{:.0%}", "50%"),
    "ms_ssim": ("MS-SSIM of random pairs", "{:.2f}", "as real pairs"),
    "spectrum": ("power spectrum, dB apart", "{:.2f}", "lower"),
    "intensity": ("grey levels, of 255, apart", "{:.1f}", "lower"),
    "area": ("area of the head, % apart", "{:.2f}", "lower"),
    "symmetry": ("symmetry, apart", "{:.3f}", "lower"),
    "best_ssim": ("largest SSIM to a real slice", "{:.2f}", "as real slices"),
}


def title_of(score: str, space: str) -> str:
    """The name of a score; only in the official Inception's space FD is FID."""
    return distance_name(space) if score == "fd" else TITLES[score][0]


def floor_of(split: Mapping, score: str) -> Mapping | None:
    """The entry {value, low, high} that real slices have in place of fakes."""
    return split.get(f"{score}_floor") or split.get(f"{score}_real")


def whole_split(scores: Mapping, name: str) -> dict:
    """Everything `evaluate` found on this split, the promised scores and the further ones."""
    return {**scores["splits"][name], **scores.get("further", {}).get(name, {})}


def score_rows(scores: Mapping, names: Sequence[str] = ("kid", "fd")) -> list[dict]:
    """The result of `evaluate` as rows of a table, each score beside its floor."""
    return [
        {
            "split": f"{name} (n = {split['n']}, {split['subjects']} people)",
            "score": title_of(key, scores["feature_space"]),
            "generated (95 %)": shown(split[key], key),
            "real against real (95 %)": shown(floor_of(split, key), key),
        }
        for name in scores["splits"]
        for split in [whole_split(scores, name)]
        for key in names
        if key in split
    ]


def shown(entry: Mapping | None, score: str) -> str:
    """An entry {value, low, high} as 'value (low to high)'."""
    form = TITLES[score][1]
    return "" if entry is None else f"{form} ({form} to {form})".format(*(entry[bound] for bound in ("value", "low", "high")))


def floor_table(scores: Mapping) -> list[dict]:
    """Floor, generator and ceilings side by side, one row a score, for the last split of `evaluate`."""
    name = list(scores["splits"])[-1]
    split, controls = whole_split(scores, name), scores["controls"]
    rows = []
    for key, (_, form, better) in TITLES.items():
        if key in split:
            real = floor_of(split, key)
            row = {f"on {name}": title_of(key, scores["feature_space"]), "better": better}
            row |= {
                "real (floor)": form.format(real["value"]) if real else "",
                "**generated**": f"**{form.format(split[key]['value'])}**",
            }
            rows.append(row | {what: form.format(control[key]) for what, control in controls.items() if key in control})
    ratio = scores["memorisation"]["ratio"]
    if ratio is not None:
        row = {
            f"on {name}": "distance to training slices, ratio",
            "better": "1",
            "real (floor)": "1.00",
            "**generated**": f"**{ratio:.2f}**",
        }
        rows.append(row | {what: f"{control['memory']:.2f}" for what, control in controls.items() if "memory" in control})
    return rows


def plain_scores(scores: Mapping) -> list[str]:
    """The result of `evaluate` as lines for a terminal."""
    lines = [f"{scores['feature_space']}, n = {scores['n']}, {scores['seconds']:g} s; 95 % intervals by subject"]
    for row in score_rows(scores, list(TITLES)):
        cells = row["split"].split(" ")[0], row["score"], row["generated (95 %)"], row["real against real (95 %)"]
        lines.append("{:6}{:30}{:24} real {}".format(*cells))
    found = scores["memorisation"]
    if found["ratio"] is not None:
        text = "distance to training slices {ratio:.2f} ({low:.2f} to {high:.2f}) of held-out people's; nearer than they: p = {p_value:.3f}"
        lines.append(text.format(**found))
    for name, control in scores["controls"].items():
        told = ", ".join(
            f"{key} {TITLES[key][1].format(control[key])}" for key in ("kid", "fd", "recall", "coverage", "nn_accuracy_fake")
        )
        lines.append(f"{name}: {told}" + (f", memory {control['memory']:.2f}" if "memory" in control else ""))
    return lines


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
