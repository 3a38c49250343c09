"""What was recognised in a folder of slices, as a table for a terminal and a csv with a line for each slice."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from stylegan.files import replacing
from stylegan.data.subjects import SPLITS, printable

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
