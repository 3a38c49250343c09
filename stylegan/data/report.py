"""What was recognised in a folder of slices: a table for a terminal, a csv with a line for each slice, and why people are split."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stylegan.data.subjects import SPLITS
from stylegan.files import printable, replacing

if TYPE_CHECKING:
    from stylegan.dataset import SliceDataset


def write_csv(dataset: SliceDataset, out: str | Path) -> None:
    """One line per slice: path, class, subject, level, split; what is not known stays empty."""
    labels = [dataset.classes[label] if label >= 0 else "" for label in dataset.labels]
    levels = [level if level >= 0 else "" for level in dataset.levels.tolist()]
    paths = dataset.paths if len(dataset.paths) else [""] * len(dataset)
    with (
        replacing(Path(out)) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(("path", "class", "subject", "level", "split"))
        writer.writerows(zip(paths, labels, dataset.subjects, levels, dataset.splits, strict=True))


def render_report(report: dict) -> str:
    """The report of ``SliceDataset.describe`` as plain text for a terminal."""

    def count(entry: dict) -> str:
        people = "?" if entry["subjects"] is None else entry["subjects"]
        return f"{entry['slices']} ({people})"

    rows = [["", "all", *SPLITS], ["slices (subjects)", count(report), *(count(report["splits"][split]) for split in SPLITS)]]
    for name, entry in report["classes"].items():
        rows.append([f"  {name}", count(entry), *(count(report["splits"][split]["classes"][name]) for split in SPLITS)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [f"{report['title']}: layout {report['layout']}, files of {report['size']} pixels", ""]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for reason, number in report["left_out"].items():
        names = ", ".join(report["left_out_files"][reason][:3])
        lines.append(f"left out: {number} x {reason} ({names}{', ...' if number > 3 else ''})")
    lines += [f"warning: {warning}" for warning in report["warnings"]]
    return "\n".join(map(printable, lines))


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
