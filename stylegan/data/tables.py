"""Tables with one row per person, visit or image: find, read, join by whichever id fits, and doubt what cannot be right."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stylegan.data.subjects import class_order, find_id, person, plain, stem

if TYPE_CHECKING:
    import pandas as pd

# ADNIMERGE_15Oct2024 too
TABLE_NAMES = re.compile(r"(?:subjects|labels|(?:participants|adnimerge|oasis[-_](?:cross|longitudinal)).*)\.[ct]sv", re.I)
ID_COLUMNS = ("image data id", "image id", "imageid", "image uid", "imageuid", "image", "filename", "file", "mri id", "mr id", "session id", "subject",
              "subject id", "subjectid", "sub id", "participant id", "patient id", "patient", "ptid", "patno", "oasisid", "person", "rid", "id")  # fmt: skip
PERSON_COLUMNS = ID_COLUMNS[ID_COLUMNS.index("subject") :]
CLASS_COLUMNS = ("group", "dx group", "diagnosis", "dx", "research group", "dx bl", "class", "label")
DATE = re.compile(r"\W*(exam|visit|scan|acq|mr)?[\s_]*date\W*", re.I)  # names of columns
SESSION = re.compile(r"(OAS3\d{4})_(?!MR_)\w+_d(\d{4})", re.I)  # OASIS-3 counts days since the person first came
CDR = re.compile(r"\W*(?:CDR|CDRTOT|CDRGLOB|CDGLOBAL)\W*", re.I)
SHEETS = (".csv", ".tsv", ".xls", ".xlsx")
DAY = re.compile(r"(?<!\d)((?:19|20)\d\d)[-_]?([01]\d)[-_]?([0-3]\d)(?:\d{6})?(?!\d)")  # with the time, as dcm2niix writes it
CDR_CLASSES = {0.0: "NonDemented", 0.5: "VeryMildDemented", 1.0: "MildDemented", 2.0: "ModerateDemented", 3.0: "SevereDemented"}
BLANK = ("", "na", "n/a", "#n/a", "<na>", "nan", "none", "null", "unknown", "missing", "-", ".", "?")


def read_table(path: str | Path) -> pd.DataFrame:
    """Text in every cell, '' where unknown, from a csv (comma, semicolon or tab; UTF-8, UTF-16 or Windows-1252). Raises
    FileNotFoundError, or ValueError for no such table."""
    import pandas as pd  # half a second to import: only who has a table pays

    path = Path(os.path.expanduser(path))
    if not path.is_file():
        raise FileNotFoundError(f"There is no table {path}.")
    data = path.read_bytes()
    if data[:4] in (b"PK\3\4", b"\xd0\xcf\x11\xe0"):
        raise ValueError(f"{path} is an Excel file; save it as .csv in Excel or LibreOffice and give that.")
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("utf-16" if wide else "cp1252", "replace")
    text = re.sub("\r\n?", "\n", text.replace("\0", ""))  # Excel for Mac ends lines with \r alone
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
    rows = rows.fillna("").astype(str).apply(_cleaned, thousands=separator == ",")
    if not _named(rows, ID_COLUMNS):
        there = ", ".join(map(str, rows.columns))
        raise ValueError(f"{path} has no column of ids; name one 'subject' or 'ID' (columns: {there}).")
    return rows


def _named(rows: pd.DataFrame, wanted: Sequence[str]) -> list[str]:
    """The columns of these names, without regard to case, spaces and underscores, in the order wanted."""
    have = {re.sub(r"[\s_]+", " ", name.strip().lower()): name for name in reversed(rows.columns)}
    return [have[name] for name in wanted if name in have]


def _cleaned(column: pd.Series, thousands: bool) -> pd.Series:
    """The cells, '' where unknown (-4 and -9999 too, where no other number is negative); ``thousands``: 1,987 without its comma."""
    column = column.str.strip()
    grouped = column[column.str.contains(",", regex=False)].str.fullmatch(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?").all()
    negative = column.str.match(r"-\d")
    coded = negative & column[negative].str.fullmatch(r"-(?:4|9{1,4})(?:[.,]0+)?").all()
    return (column.str.replace(",", "") if thousands and grouped else column).mask(column.str.lower().isin(BLANK) | coded, "")


@dataclass(frozen=True)
class Joined:
    """A table beside the slices: one entry per slice."""

    columns: dict[str, np.ndarray] = field(default_factory=dict)  # float (NaN unknown) or str ('' unknown)
    people: np.ndarray | None = None  # str, the person of each slice ('' unknown) where the table was joined by something else
    classes: np.ndarray | None = None  # str, what a column such as Group says
    warnings: tuple[str, ...] = ()


def join(rows: pd.DataFrame, keys: Sequence[Sequence[str]], dates: Sequence[str] = ()) -> Joined | None:
    """The table's rows for the slices by the id column that fits most of them; None where none fits anyone.

    ``keys``: per kind of id (scan, image, person, file) the id of each slice, the narrowest kind first. Of columns that fit about
    alike the one with the most different ids counts, so that a table by visit gives each visit its own row. Of an id's rows
    the one nearest in time to the slice's of ``dates`` (year-month-day, '' unknown) counts, else the first.
    """
    fits = []
    for name in _named(rows, ID_COLUMNS):
        ids = [SESSION.sub(r"\1", normal(value)) for value in rows[name]]
        short = [value.rpartition("/")[2] for value in ids]
        ids = short if len(set(short)) == len(set(ids)) else ids
        at = _match(ids, keys)
        only_counts = len(set(ids)) == len(ids) and all(value.isdecimal() and int(value) <= 2 * len(ids) for value in ids)
        fits.append(((at >= 0).sum(), len(set(ids) - {""}), name, ids, at, only_counts))
    fits = [fit for fit in fits if not fit[5] or all(other[5] or not other[0] for other in fits)]
    most = max(fit[0] for fit in fits)
    if not most:
        return None
    _, _, key, ids, at, _ = max((fit for fit in fits if 2 * fit[0] >= most), key=lambda fit: fit[1])
    count, unmatched = Counter(ids), sorted({keys[0][i] for i in np.flatnonzero(at < 0)})
    missing, twice = count.pop("", 0), sorted(value for value, times in count.items() if times > 1)
    warnings = [f"{missing} rows without an id were skipped."] if missing else []
    days, asked = _days(rows, keys[0], dates, warnings) if twice else ((), ())
    if timed := {value for value in asked if value == value}:
        own, near = rows.groupby(ids).groups, {}
        for i in (i for i in np.flatnonzero(at >= 0) if asked[i] in timed):
            if (place := (ids[at[i]], asked[i])) not in near:
                apart = (days[own[place[0]]] - asked[i]).abs()
                near[place] = apart.idxmin() if apart.notna().any() else at[i]
            at[i] = near[place]
    row = "row nearest in time" if timed else "first row"
    warnings += [f"{len(twice)} ids occur twice, the {row} counts ({', '.join(twice[:5])})."] if twice else []
    if unmatched:
        warnings.append(f"there is no row for {len(unmatched)} of {len(set(keys[0]))} ids ({', '.join(unmatched[:3])}).")
    people = next((name for name in _named(rows, PERSON_COLUMNS) if name != key and rows[name].nunique() > 3), None)
    classes = next((name for name in _named(rows, CLASS_COLUMNS) if name != key and len(set(rows[name]) - {""}) > 1), None)
    columns = {name: _column(rows[name], at, warnings) for name in rows.columns if name not in (key, people) and name.strip()}
    taken = {name: rows[name].reindex(at, fill_value="").to_numpy(str) for name in (people, classes) if name}
    by_person = people is None or all(person(normal(a)) == person(b) for a, b in zip(rows[people], ids, strict=True))
    return Joined(columns, None if by_person else taken[people], taken.get(classes), tuple(warnings))


def _days(rows: pd.DataFrame, scans: Sequence[str], dates: Sequence[str], warnings: list[str]) -> tuple[pd.Series, pd.Series]:
    """When each row and each slice is of, in days, NaN where unknown: by OASIS-3's own count, else by date."""
    import pandas as pd

    for name in rows:
        if (counted := rows[name].str.extract(SESSION)[1]).notna().any():
            return counted.astype(float), pd.Series(scans).str.extract(r"(?i)_MR_d(\d{4})$")[0].astype(float)
    when = next(filter(DATE.fullmatch, rows.columns), None)
    if when is None or not any(dates):
        return pd.Series(dtype=float), pd.Series(dtype=float)
    cells, numbers = rows[when], rows[when].str.extract(r"^(\d{1,2})([./-])(\d{1,2})[./-]\d{2,4}\b")
    first, second = numbers[0].astype(float), numbers[2].astype(float)
    if (numbers[1] == ".").any() or (first > 12).any():  # 25/12/2005, 25.12.2005
        cells = cells.str.replace(r"^(\d{1,2})[./-](\d{1,2})[./-]", r"\2/\1/", regex=True)
    elif first.notna().any() and not (second > 12).any():
        warnings.append(f"dates in {when} are read as month/day/year ({cells[first.notna()].iloc[0]}).")
    read = (pd.to_datetime(pd.Series(days), errors="coerce", format="mixed", utc=True) for days in (cells, dates))
    return tuple((days - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(days=1) for days in read)


def join_index(data: Path, root: Path, subjects_csv: str | Path | None, index: dict) -> Joined:
    """The given table, else one of the usual names in the folder or beside it (beside the .zip for an archive), joined.

    Empty without one, and with a warning where the one that was found cannot be used; ValueError where the given one cannot be.
    """
    shared = Path(os.path.commonpath([plain(file) for file in index["files"]]))  # wrappers: a folder around the tree, or two
    inside = [root / place for place in (*reversed(shared.parents), shared)]
    path, places, others = subjects_csv, [*inside, root.resolve().parent, data.resolve().parent], []
    while not path and places:
        folder = places.pop(0)
        with contextlib.suppress(OSError):  # one may pass through the folder around without being allowed to list it
            there = {file.name.lower(): file for file in sorted(folder.iterdir()) if file.is_file()}
            named = sorted(filter(TABLE_NAMES.fullmatch, there), key=lambda name: (name != "subjects.csv", name))
            path = there[named[0]] if named else None
            others += [file.name for file in there.values() if file.suffix.lower() in SHEETS and folder in inside]
    if not path:
        unused = f"The table {', '.join(others[:3])} lies beside the slices and is not used; join one by --subjects TABLE.csv."
        return Joined(warnings=(unused,) if others else ())
    images = [found[1] if (found := re.search(r"(?<![A-Za-z0-9])I(\d{4,})(?![A-Za-z0-9])", file)) else "" for file in index["files"]]  # fmt: skip
    dates = ["-".join(day.groups()) if (day := DAY.search(file)) else "" for file in index["files"]]
    names = [Path(file).name for file in index["files"]]
    files = names if len(set(names)) == len(names) else [""] * len(names)
    try:
        joined = join(read_table(path), [index["scans"], images, index["subjects"], files], dates)
        if joined is None:
            raise ValueError(f"None of the ids in {path} is one of this set, such as {index['scans'][0]!r}.")
    except ValueError as error:
        if subjects_csv:
            raise
        return Joined(warnings=(f"A table was found but is not used. {error}",))
    return replace(joined, warnings=tuple(f"{Path(path).name}: {sentence}" for sentence in joined.warnings))


def classes_of(names: list[str], joined: Joined) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels and class names from the folders; where they tell none, from the table's CDR (0, 0.5, 1, 2) or its Group."""
    cdr = next((values for name, values in joined.columns.items() if CDR.fullmatch(name) and values.dtype.kind == "f"), None)
    graded = [] if cdr is None else [CDR_CLASSES.get(float(value), "") for value in cdr]
    groups = [] if joined.classes is None else [re.sub(r"^(\d+)\.0+$", r"\1", name) for name in joined.classes]
    groups = groups if 2 <= len(set(groups) - {""}) <= 20 else []
    if not any(names):  # a CDR that only the ill have tells less than the group
        names = graded if sum(map(bool, graded)) >= 0.8 * max(1, sum(map(bool, groups))) else groups or names
    spelt: dict[str, str] = {}
    names = [spelt.setdefault(name.casefold(), name) for name in names]  # AD and ad are one class
    classes = tuple(sorted(set(names) - {""}, key=class_order))
    classes = classes if len(classes) > 1 else ()  # one class is no class
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number.get(name, -1) for name in names], dtype=np.int64), classes


def _match(ids: Sequence[str], keys: Sequence[Sequence[str]]) -> np.ndarray:
    """The row of each slice, -1 without one: by equal ids, else by the person, but never by another visit of the person."""
    rows = {value: i for i, value in reversed(list(enumerate(ids))) if value}
    people = {_bare(value): i for value, i in rows.items()}
    without_visit = {_bare(value): i for value, i in rows.items() if person(value) == value}
    at = []
    for of_slice in zip(*keys, strict=True):
        known = [normal(value) for value in of_slice if value]
        by_person = people if person(of_slice[0]) == of_slice[0] else without_visit
        found = [rows[value] for value in known if value in rows] or [by_person[p] for p in map(_bare, known) if p in by_person]
        at.append(found[0] if found else -1)
    return np.array(at)


def normal(value: str) -> str:
    """Ids compare without case, endings and Excel's ".0", and ADNI's image ids with or without their I."""
    folder, slash, value = plain(value.strip().lower()).rpartition("/")
    value = folder + slash + (stem(value) if re.search(r"\.[a-z]{3,4}(\.gz)?$", value) else value)
    return re.sub(r"^(?:i(\d+)|(\d+)\.0)$", r"\1\2", value)


def _bare(value: str) -> str:
    """The person in an id, without `sub-`, leading zeros and signs: participant_id 50772 is sub-0050772, P-7 is P007."""
    return re.sub(r"^sub[-_]|(?<=[a-z])[\W_]+(?=\d)|(?<!\d)0+(?=\d)", "", person(find_id(value)[0] or value).lower())


def _column(cells: pd.Series, at: np.ndarray, warnings: list[str]) -> np.ndarray:
    """Numbers where at least four fifths of the cells are, else text. Damaged numbers become NaN, and that is said. Damaged are
    cells that are no finite number, and decimals that lost their point (nWBV "823" among 0.743 and 0.708)."""
    import pandas as pd

    filled = cells != ""
    points = cells.str.replace(r"^([+-]?\d+),(\d+)$", r"\1.\2", regex=True)
    numbers = pd.to_numeric(points, errors="coerce").astype(float).replace([np.inf, -np.inf], np.nan)
    if not filled.any() or numbers.notna().sum() < 0.8 * filled.sum():
        return cells.reindex(at, fill_value="").to_numpy(str)
    numbers = numbers.where(numbers.isin(CDR_CLASSES) | (CDR.fullmatch(cells.name) is None))  # 5, 9, -1: unknown
    decimal = cells.str.contains(r"[.,]\d")
    if decimal.sum() >= max(1, 0.5 * numbers.notna().sum()):
        typical = max(numbers[decimal].abs().median(), 1e-9)
        numbers[~decimal & (numbers.abs() > 50 * typical)] = np.nan
    damaged = list(cells[filled & numbers.isna()])
    if damaged:
        warnings.append(f"{len(damaged)} damaged values in {cells.name} are taken as unknown ({', '.join(damaged[:5])}).")
    return numbers.reindex(at).to_numpy()
