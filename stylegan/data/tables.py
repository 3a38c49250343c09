"""Tables with one row per person, visit or image: find, read, join by whichever id fits, and doubt what cannot be right."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stylegan.data.subjects import class_order, find_id, person, plain, stem

if TYPE_CHECKING:
    import pandas as pd

TABLE_NAMES = ("subjects.csv", "oasis_cross-sectional.csv", "oasis_cross_sectional.csv", "oasis_longitudinal.csv",
               "oasis_longitudinal_demographics.csv", "participants.tsv", "labels.csv")  # fmt: skip
ID_COLUMNS = ("image data id", "image id", "imageid", "image uid", "imageuid", "image", "filename", "file", "mri id", "mr id", "session id",
              "subject", "subject id", "subjectid", "participant id", "patient id", "patient", "ptid", "person", "rid", "id")  # fmt: skip
PERSON_COLUMNS = ID_COLUMNS[ID_COLUMNS.index("subject") :]
CLASS_COLUMNS = ("group", "dx group", "diagnosis", "dx", "research group", "dx bl", "class")
CDR_CLASSES = {0.0: "NonDemented", 0.5: "VeryMildDemented", 1.0: "MildDemented", 2.0: "ModerateDemented", 3.0: "SevereDemented"}
BLANK = ("", "na", "n/a", "nan", "none", "null", "-", ".", "?")


@dataclass(frozen=True)
class Table:
    """A table as it was read: text in every cell, '' where unknown."""

    path: Path
    rows: pd.DataFrame

    def names(self, wanted: Sequence[str]) -> list[str]:
        """The table's columns of these names, without regard to case, spaces and underscores, in the order wanted."""
        have = {re.sub(r"[\s_]+", " ", name.strip().lower()): name for name in reversed(self.rows.columns)}
        return [have[name] for name in wanted if name in have]


def find_table(*folders: Path) -> Path | None:
    """The table that belongs to a folder of slices: the first of the usual names, in the folders in turn."""
    for folder in filter(Path.is_dir, folders):
        with contextlib.suppress(OSError):  # one may pass through the folder around without being allowed to list it
            there = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_file()}
            found = [there[name] for name in TABLE_NAMES if name in there]
            if found:
                return found[0]
    return None


def read_table(path: str | Path) -> Table:
    """Read a csv (comma, semicolon or tab; UTF-8, UTF-16 or Windows-1252). Raises FileNotFoundError, or ValueError for no such table."""
    import pandas as pd  # half a second to import: only who has a table pays

    path = Path(os.path.expanduser(path))
    if not path.is_file():
        raise FileNotFoundError(f"There is no table {path}.")
    data = path.read_bytes()
    if data[:4] in (b"PK\3\4", b"\xd0\xcf\x11\xe0"):
        raise ValueError(f"{path} is an Excel file; save it as .csv in Excel or LibreOffice and give that.")
    text = re.sub("\r\n?", "\n", _decoded(data).replace("\0", ""))  # Excel for Mac ends lines with \r alone
    told = re.match(r'\s*"?sep=(.)"?\s*\n', text, re.I)  # Excel's own first line
    text = text[told.end() :] if told else text
    first = re.sub(r'"[^"]*"', '""', text.lstrip("\n")).partition("\n")[0]  # what is quoted separates nothing
    if not first.strip():
        raise ValueError(f"{path} is empty; it needs a first line with column names.")
    separator = told[1] if told else max(",;\t", key=first.count)
    width = len(first.split(separator))
    try:
        rows = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, engine="python", skipinitialspace=True,
                           index_col=False, on_bad_lines=lambda cells: cells[:width])  # fmt: skip
    except Exception as error:  # whatever a file that is no table makes the reader stumble over
        raise ValueError(f"{path} is no table of comma-separated values ({' '.join(str(error).split())}).") from None
    rows = rows.fillna("").astype(str).apply(lambda column: column.str.strip())
    rows = rows.apply(_without_groups) if separator == "," else rows
    table = Table(path, rows.mask(rows.map(lambda cell: cell.lower() in BLANK), ""))
    if not table.names(ID_COLUMNS):
        there = ", ".join(map(str, rows.columns))
        raise ValueError(f"{path} has no column of ids; name one 'subject' or 'ID' (columns: {there}).")
    return table


def _decoded(data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _without_groups(column: pd.Series) -> pd.Series:
    """The column, without its commas where all of them part thousands, as in "1,987": a decimal comma would make that 1.987."""
    cells = column[column.str.contains(",", regex=False)]
    return column.str.replace(",", "") if cells.str.fullmatch(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?").all() else column


@dataclass(frozen=True)
class Joined:
    """A table beside the slices: one entry per slice."""

    columns: dict[str, np.ndarray] = field(default_factory=dict)  # float (NaN unknown) or str ('' unknown)
    people: np.ndarray | None = None  # str, the person of each slice ('' unknown) where the table was joined by something else
    classes: np.ndarray | None = None  # str, what a column such as Group says
    warnings: tuple[str, ...] = ()


def join(table: Table, keys: Sequence[Sequence[str]]) -> Joined | None:
    """The table's rows for the slices by the id column that fits most of them; None where none fits anyone.

    ``keys``: per kind of id (scan, image, person, file) the id of each slice, the narrowest kind first. Of columns that fit about
    alike the one with the most different ids counts, so that a table by visit gives each visit its own row.
    """
    fits = []
    for name in table.names(ID_COLUMNS):
        ids = [normal(value) for value in table.rows[name]]
        short = [value.rpartition("/")[2] for value in ids]
        ids = short if len(set(short)) == len(set(ids)) else ids
        at = _match(ids, keys)
        fits.append((int((at >= 0).sum()), len(set(ids) - {""}), name, ids, at))
    fits = [fit for fit in fits if not _counts(fit[3]) or all(_counts(other[3]) or not other[0] for other in fits)]
    most = max(fit[0] for fit in fits)
    if not most:
        return None
    _, _, key, ids, at = max((fit for fit in fits if 2 * fit[0] >= most), key=lambda fit: fit[1])
    warnings = _doubts(table, ids, keys, at)
    people = next((name for name in table.names(PERSON_COLUMNS) if name != key), None)
    classes = next((name for name in table.names(CLASS_COLUMNS) if name != key), None)
    others = [name for name in table.rows.columns if name not in (key, people) and name.strip()]
    columns = {name: _column(table, name, at, warnings) for name in others}
    taken = {name: _take(table.rows[name].to_numpy(str), at, "") for name in (people, classes) if name}
    by_person = people is None or all(person(normal(a)) == person(b) for a, b in zip(table.rows[people], ids, strict=True))
    return Joined(columns, None if by_person else taken[people], taken.get(classes), tuple(warnings))


def join_index(data: Path, root: Path, subjects_csv: str | Path | None, index: dict) -> Joined:
    """The given table, else one in the folder or beside it (beside the .zip for an archive), joined; empty, with a warning, without.

    Raises ValueError where the given table cannot be used: what the user asks for is not skipped.
    """
    shared = Path(os.path.commonpath([plain(file) for file in index["files"]]))  # wrappers: a folder around the tree, or two
    places = [*(root / folder for folder in reversed(shared.parents)), root / shared, root.resolve().parent]
    path = subjects_csv or find_table(*places, data.resolve().parent)
    if not path:
        return Joined()
    found = [re.search(r"(?<![A-Za-z0-9])I(\d{4,})(?![A-Za-z0-9])", file) for file in index["files"]]
    images = [match[1] if match else "" for match in found]
    names = [Path(file).name for file in index["files"]]
    files = names if len(set(names)) == len(names) else [""] * len(names)
    try:
        joined = join(read_table(path), [index["scans"], images, index["subjects"], files])
        if joined is None:
            raise ValueError(f"None of the ids in {path} is one of this set, such as {index['scans'][0]!r}.")
    except ValueError as error:
        if subjects_csv:
            raise
        return Joined(warnings=(f"A table was found but is not used. {error}",))
    return joined


def classes_of(names: list[str], joined: Joined) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels and class names from the folders; where they tell none, from the table's CDR (0, 0.5, 1, 2) or its Group."""
    cdr = [values for name, values in joined.columns.items() if name.strip().upper() == "CDR" and values.dtype.kind == "f"]
    if not any(names) and cdr and np.isfinite(cdr[0]).any():
        names = [CDR_CLASSES.get(float(value), "") for value in cdr[0]]
    elif not any(names) and joined.classes is not None and 2 <= len(set(joined.classes) - {""}) <= 20:
        names = joined.classes.tolist()
    spelt: dict[str, str] = {}
    names = [spelt.setdefault(name.casefold(), name) for name in names]  # AD and ad are one class
    classes = tuple(sorted(set(names) - {""}, key=class_order))
    if len(classes) < 2:  # one class is no class
        names, classes = [""] * len(names), ()
    number = {name: i for i, name in enumerate(classes)} | {"": -1}
    return np.array([number[name] for name in names], dtype=np.int64), classes


def _counts(ids: Sequence[str]) -> bool:
    """Whether a column only numbers its rows."""
    return list(ids) in ([str(i + first) for i in range(len(ids))] for first in (0, 1))


def _match(ids: Sequence[str], keys: Sequence[Sequence[str]]) -> np.ndarray:
    """The row of each slice, -1 without one: by equal ids, else by the person, but never by another visit of the person."""
    rows = {value: i for i, value in reversed(list(enumerate(ids))) if value}
    people = {_bare(value): i for value, i in rows.items() if value}
    without_visit = {_bare(value): i for value, i in rows.items() if person(value) == value}
    at = np.full(len(keys[0]), -1)
    for kind in keys:
        for i in np.flatnonzero(at < 0):
            at[i] = rows.get(normal(kind[i]), -1) if kind[i] else -1
    for kind in keys:
        for i in np.flatnonzero(at < 0):
            visited = person(keys[0][i]) != keys[0][i]
            at[i] = (without_visit if visited else people).get(_bare(normal(kind[i])), -1) if kind[i] else -1
    return at


def normal(value: str) -> str:
    """Ids compare without case and endings, and ADNI's image ids with or without their I."""
    folder, slash, value = plain(value.strip().lower()).rpartition("/")
    value = folder + slash + (stem(value) if re.search(r"\.[a-z]{3,4}(\.gz)?$", value) else value)
    return value[1:] if re.fullmatch(r"i\d+", value) else value


def _bare(value: str) -> str:
    """The person in an id, without `sub-` and leading zeros: participant_id 50772 is sub-0050772."""
    who = person(find_id(value)[0] or value).lower().removeprefix("sub-")
    return who.lstrip("0") or who if who.isdigit() else who


def _doubts(table: Table, ids: Sequence[str], keys: Sequence[Sequence[str]], at: np.ndarray) -> list[str]:
    count, unmatched = Counter(ids), sorted({keys[0][i] for i in np.flatnonzero(at < 0)})
    missing, twice = count.pop("", 0), sorted(value for value, times in count.items() if times > 1)
    doubts = {
        f"{missing} rows without an id were skipped.": missing,
        f"{len(twice)} ids occur twice, the first row counts ({', '.join(twice[:5])}).": twice,
        f"there is no row for {len(unmatched)} of {len(set(keys[0]))} ids ({', '.join(unmatched[:3])}).": unmatched,
    }
    return [f"{table.path.name}: {sentence}" for sentence, doubt in doubts.items() if doubt]


def _take(values: np.ndarray, at: np.ndarray, unknown: object) -> np.ndarray:
    return np.concatenate([values, np.array([unknown], dtype=values.dtype)])[at]  # row -1 is the unknown one


def _column(table: Table, name: str, at: np.ndarray, warnings: list[str]) -> np.ndarray:
    """Numbers where at least four fifths of the cells are, else text. Damaged numbers become NaN, and that is said.

    Damaged are cells that are no finite number, and decimals that lost their point (nWBV "823" among 0.743 and 0.708).
    """
    import pandas as pd

    cells = table.rows[name]
    filled = cells != ""
    points = cells.str.replace(r"^([+-]?\d+),(\d+)$", r"\1.\2", regex=True)
    numbers = pd.to_numeric(points, errors="coerce").to_numpy(float, copy=True)
    numbers[~np.isfinite(numbers)] = np.nan
    known = ~np.isnan(numbers)
    if not filled.any() or known.sum() < 0.8 * filled.sum():
        return _take(cells.to_numpy(str), at, "")
    decimal = cells.str.contains(r"[.,]\d").to_numpy(bool)
    if decimal.sum() >= max(1, 0.5 * known.sum()):
        typical = max(float(np.median(np.abs(numbers[decimal & known]))), 1e-9)
        numbers[known & ~decimal & (np.abs(numbers) > 50 * typical)] = np.nan
    damaged = list(cells[filled & np.isnan(numbers)])
    if damaged:
        such = ", ".join(damaged[:5])
        warnings.append(f"{table.path.name}: {len(damaged)} damaged values in {name} are taken as unknown ({such}).")
    return _take(numbers, at, np.nan)
