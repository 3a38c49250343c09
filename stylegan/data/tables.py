"""Tables with one row per subject or image: find, read, join by id, and doubt what cannot be right."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stylegan.data.subjects import person

TABLE_NAMES = ("subjects.csv", "oasis_cross-sectional.csv", "oasis_cross_sectional.csv", "participants.tsv", "labels.csv")
IMAGE_IDS = ("image id", "imageid", "image data id", "image uid", "image")
SUBJECT_IDS = ("subject", "subject id", "subjectid", "id", "participant id", "mri id", "patient id", "patient", "ptid", "rid",
               "person")  # fmt: skip
BLANK = frozenset({"", "na", "n/a", "nan", "none", "null", "-", ".", "?"})


@dataclass(frozen=True)
class Table:
    """A table by id."""

    path: Path
    rows: dict[str, int]  # normalised id -> row
    columns: dict[str, np.ndarray]  # float (NaN unknown) or str ('' unknown) per row
    people: tuple[str, ...]  # the person of each row ('' unknown) where the ids are those of images; else empty
    warnings: tuple[str, ...]

    def find(self, ids: Sequence[str]) -> dict[str, int]:
        """The row of each different id, -1 where there is none.

        OAS1_0001_MR1 and OAS1_0001 are the same id unless the table tells them apart; a picture's path is found by its bare name where
        no two pictures share one.
        """
        by_person = {person(key): row for key, row in reversed(self.rows.items())}
        unique = sorted(set(ids))
        bare = {value: re.sub(r"\.\w{3,4}$", "", value.rpartition("/")[2]) for value in unique}
        distinct = len(set(bare.values())) == len(unique)
        found = {}
        for value in unique:
            keys = [_normal(value), *([_normal(bare[value])] if distinct else [])]
            rows = (self.rows.get(key, by_person.get(person(key), -1)) for key in keys)
            found[value] = next((row for row in rows if row >= 0), -1)
        return found


def find_table(root: Path) -> Path | None:
    """The table that belongs to a folder of slices: in it, or beside it."""
    for folder in (root, root.resolve().parent):
        for name in TABLE_NAMES:
            if (folder / name).is_file():
                return folder / name
    return None


def read_table(path: str | Path) -> Table:
    """Read a csv (comma, semicolon or tab) with a column of ids.

    Columns are numbers where at least four fifths of their cells are; the remaining cells, and decimals that lost their point
    (nWBV "823"), become NaN and are warned about. Raises FileNotFoundError, or ValueError where no column holds ids.
    """
    path = Path(path)
    header, lines = _read_lines(path)
    names = {re.sub(r"[\s_]+", " ", name.strip().lower()): i for i, name in reversed(list(enumerate(header)))}
    image = next((names[name] for name in IMAGE_IDS if name in names), None)
    subject = next((names[name] for name in SUBJECT_IDS if name in names), None)
    key = image if image is not None else subject
    if key is None:
        raise ValueError(f"{path} has no column of ids; name one 'subject' or 'ID' (columns: {', '.join(header)}).")
    kept, rows, warnings = _index_rows(path, [line[key].strip() for line in lines])
    lines = [lines[i] for i in kept]
    columns = {}
    for i, name in enumerate(header):
        if i not in (key, subject) and name.strip():
            columns[name.strip()] = _column(path, name.strip(), [line[i].strip() for line in lines], warnings)
    people = ()
    if image is not None and subject is not None:
        people = tuple("" if line[subject].strip().lower() in BLANK else line[subject].strip() for line in lines)
    return Table(path, rows, columns, people, tuple(warnings))


def _read_lines(path: Path) -> tuple[list[str], list[list[str]]]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no table {path}.")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text.replace("\0", ""), newline=""), delimiter=delimiter)
    try:
        lines = [line for line in reader if any(map(str.strip, line))]
    except csv.Error as error:
        raise ValueError(f"{path} is no table of comma-separated values ({error} in line {reader.line_num}).") from None
    if not lines:
        raise ValueError(f"{path} is empty; it needs a first line with column names.")
    width = len(lines[0])
    return lines[0], [(line + [""] * width)[:width] for line in lines[1:]]


def _index_rows(path: Path, ids: list[str]) -> tuple[list[int], dict[str, int], list[str]]:
    """Rows to keep, their index by id, and what was wrong with the others."""
    kept: list[int] = []
    rows: dict[str, int] = {}
    missing, twice = 0, []
    for i, value in enumerate(ids):
        if value.lower() in BLANK:
            missing += 1
        elif _normal(value) in rows:
            twice.append(value)
        else:
            rows[_normal(value)] = len(kept)
            kept.append(i)
    warnings = []
    if missing:
        warnings.append(f"{path.name}: {missing} rows without an id were skipped.")
    if twice:
        warnings.append(f"{path.name}: {len(twice)} ids occur twice, the first row counts ({', '.join(twice[:5])}).")
    return kept, rows, warnings


def _normal(value: str) -> str:
    """Ids compare without case, and ADNI's image ids with or without their I."""
    value = value.strip().lower()
    return value[1:] if re.fullmatch(r"i\d+", value) else value


def _number(cell: str) -> float:
    cell = cell.replace(",", ".") if re.fullmatch(r"[+-]?\d+,\d+", cell) else cell
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _column(path: Path, name: str, cells: list[str], warnings: list[str]) -> np.ndarray:
    filled = [cell for cell in cells if cell.lower() not in BLANK]
    numbers = np.array([_number(cell) if cell.lower() not in BLANK else math.nan for cell in cells], dtype=float)
    numbers[~np.isfinite(numbers)] = math.nan
    valid = int(np.isfinite(numbers).sum())
    if not filled or valid < 0.8 * len(filled):
        return np.array(["" if cell.lower() in BLANK else cell for cell in cells], dtype=str)
    damaged = [cell for cell in filled if not math.isfinite(_number(cell))]
    lost_point = _lost_point(cells, numbers)
    damaged += [cells[i] for i in lost_point]
    numbers[lost_point] = math.nan
    if damaged:
        warnings.append(
            f"{path.name}: {len(damaged)} damaged values in {name} are taken as unknown ({', '.join(damaged[:5])})."
        )
    return numbers


def _lost_point(cells: list[str], numbers: np.ndarray) -> np.ndarray:
    """Rows of whole numbers far above a column of decimals: 823 among 0.743 and 0.708."""
    decimal = np.array([bool(re.search(r"[.,]\d", cell)) for cell in cells], dtype=bool)
    known = np.isfinite(numbers)
    if decimal.sum() < max(1, 0.5 * known.sum()):
        return np.array([], dtype=int)
    typical = float(np.median(np.abs(numbers[decimal & known])))
    return np.flatnonzero(known & ~decimal & (np.abs(numbers) > 50 * max(typical, 1e-9)))


def join(ids: Sequence[str], table: Table) -> tuple[dict[str, np.ndarray], list[str]]:
    """The table's columns for each id, one value per id, and a warning where ids are not in the table."""
    found = table.find(ids)
    at = np.array([found[value] for value in ids], dtype=int)
    columns = {}
    for name, values in table.columns.items():
        unknown = np.array([math.nan]) if values.dtype.kind == "f" else np.array([""])
        columns[name] = np.concatenate([values, unknown])[at]  # row -1 is the unknown one
    missing = [value for value, row in found.items() if row < 0]
    warnings = []
    if missing:
        warnings.append(f"{table.path.name} has no row for {len(missing)} of {len(found)} ids ({', '.join(missing[:3])}).")
    return columns, warnings


def restore_people(images: Sequence[str], table: Table) -> tuple[list[str], bool, list[str]]:
    """The person behind each image id, whether all are known now, and a warning where some are not."""
    whose = {image: table.people[row] if row >= 0 else "" for image, row in table.find(images).items()}
    missing = [image for image, name in whose.items() if not name]
    warnings = []
    if missing:
        warnings.append(f"{table.path.name} names no person for {len(missing)} image ids ({', '.join(missing[:3])}).")
    return [whose[image] or image for image in images], not missing, warnings
