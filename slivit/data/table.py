"""Read a CSV or a sheet as text, with the line of every row, so that a message can name the line that is shown."""

from __future__ import annotations

import codecs
import csv
import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slivit.errors import ManifestError, gather, mounting, nearest, one_of
from slivit.files import whole_file
from slivit.targets.task import class_name

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "<na>"})
"""What an empty cell looks like, in lower case, as R, pandas and databases write it."""

TABLES = (".csv", ".tsv", ".xlsx", ".xls", ".ods")
"""How the names of tables end, a tab of a spreadsheet behind a # left aside."""
LARGEST_SHEET = 1 << 30
"""Bytes that the parts of a spreadsheet may unpack to."""

_FORMULA = re.compile(r"^'*[=+\-@\t\r]")
"""What a spreadsheet would compute instead of show, and what was quoted because of that."""
_NUMBER = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")
_CODE = re.compile(r"[-+]?0\d")
_SEPARATOR = re.compile(r'"?sep=(.)"?[,;]*$', re.IGNORECASE)
_WHOLE_FLOAT = re.compile(r"^(-?\d+)\.0+$")


def read_table(path: Path | str) -> pd.DataFrame:
    """Read a CSV (comma, semicolon or tab) or a tab of a spreadsheet with every cell as stripped text.

    Between semicolons and tabs, columns of numbers with a decimal comma get a point.

    Args:
        path: of the file. A tab of a spreadsheet is named behind it: scans.xlsx#Labels. Without a name the
            spreadsheet has to have one tab alone that holds something.

    Returns:
        A frame of `str`, whose index `row` is the line of the file on which each row starts (the header is line 1).

    Raises:
        ManifestError: no such file, an empty one, one that is neither UTF-8 nor marked UTF-16 text, rows with too many
            or too few cells, a spreadsheet of which no tab or none of this name can be read.
    """
    path = Path(path)
    lines, rows, delimiter = (*_sheet_rows(path), "") if is_sheet(path) else _rows(_text(path), path)
    header, rows, lines = rows[0], rows[1:], lines[1:]
    problems = [f'the header names column "{name}" twice' for name, n in Counter(header).items() if n > 1 and name]
    problems += [
        f"row {line} has {len(row)} cells, the header has {len(header)}; quote cells that hold a comma"
        for line, row in zip(lines, rows, strict=True)
        if len(row) != len(header)
    ]
    if not rows:
        problems.append("there is a header and no row below it")
    gather(problems, str(path), ManifestError)
    frame = pd.DataFrame(rows, columns=header, index=pd.Index(lines, name="row"), dtype=object)
    frame = frame.drop(columns=[""], errors="ignore")
    return frame.apply(_with_points) if delimiter in (";", "\t") else frame


def _with_points(column: pd.Series) -> pd.Series:
    """A column with points for decimal commas, where all its cells are numbers and a comma can be nothing else.

    1,234 may be more than a thousand: a column that has no other commas stays as it is.
    """
    cells = column[~column.str.lower().isin(MISSING)]
    commas = cells[cells.str.contains(",")]
    certain = commas[~commas.str.fullmatch(r"[+-]?[1-9]\d{0,2}(,\d{3})+")]
    if certain.empty or not cells.str.fullmatch(r"[+-]?\d+(,\d+)?([eE][+-]?\d+)?").all():
        return column
    return column.str.replace(",", ".", regex=False)


def is_table(path: Path | str) -> bool:
    """Whether a name is that of a CSV or a spreadsheet, perhaps with a tab behind a #."""
    return _ending(path) in TABLES


def is_sheet(path: Path | str) -> bool:
    """Whether a name is that of a spreadsheet, perhaps with a tab behind a #."""
    return _ending(path) in TABLES[2:]


def _ending(path: Path | str) -> str:
    name = Path(path).name
    endings = [Path(part).suffix.casefold() for part in (name, name.partition("#")[0])]
    return endings[0] if endings[0] in TABLES else endings[1]


def _sheet_rows(path: Path) -> tuple[list[int], list[list[str]]]:
    """The non-blank rows of a tab with their numbers, the header first; empty columns at the right are left out."""
    cells = _tab(path)
    cells.index = pd.RangeIndex(1, len(cells) + 1)
    text = cells.apply(as_text).map(unquoted)
    text = text.loc[(text != "").any(axis=1), (text != "").any(axis=0)]
    return text.index.tolist(), text.to_numpy(dtype=object).tolist()


def _tab(path: Path) -> pd.DataFrame:
    """All cells of the tab that is meant."""
    name, _, wanted = path.name.partition("#")
    file = path.with_name(name)
    if not file.is_file():
        near = [p.name for p in file.parent.iterdir()] if file.parent.is_dir() else []
        raise ManifestError(f"{file}: there is no such file.{nearest(name, near)}")
    if zipfile.is_zipfile(file) and _unpacked(file) > LARGEST_SHEET:
        raise ManifestError(f"{file}: unpacks to more than {LARGEST_SHEET >> 30} GB; save the sheet as CSV (UTF-8)")
    try:
        tabs = pd.read_excel(file, sheet_name=None, header=None, dtype=object, keep_default_na=False)
    except ImportError as error:
        extra = 'pip install "slivit[formats]"' if _ending(file) == ".xlsx" else "save it as .xlsx"
        raise ManifestError(f"{file}: this spreadsheet cannot be read here: {extra}, or save it as CSV") from error
    except Exception as error:  # openpyxl says of damaged files what its parts raise, of any kind
        raise ManifestError(f"{file}: this is no spreadsheet that can be read ({error}); save it as CSV") from error
    return tabs[_chosen({name: tab for name, tab in tabs.items() if tab.size}, wanted, file)]


def _unpacked(file: Path) -> int:
    try:
        with zipfile.ZipFile(file) as archive:
            return sum(part.file_size for part in archive.infolist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return 0  # what is wrong with it is said by who reads it


def _chosen(tabs: dict[Any, pd.DataFrame], wanted: str, file: Path) -> Any:
    """The name of the tab that is wanted, or of the only one."""
    names = [str(name) for name in tabs]
    if wanted and wanted not in names:
        raise ManifestError(
            f'{file}: has no tab "{wanted}" with cells.{nearest(wanted, names)} Its tabs: {one_of(names)}'
        )
    if not wanted and len(names) != 1:
        held = f"has {len(names)} tabs, {one_of(names)}; name one: {file}#{names[0]}" if names else "has no cells"
        raise ManifestError(f"{file}: {held}")
    return wanted or names[0]


def as_shown(frame: pd.DataFrame) -> pd.DataFrame:
    """A table as it is written to a CSV that people open: spreadsheets must show its texts and compute none of them.

    Before a text that begins as a formula does (=, +, -, @, a tab) stands a quote, which `read_table` takes off again.
    Numbers stay as they are.
    """
    quoted = frame.copy(deep=False)
    for place, (_, column) in enumerate(frame.items()):
        if column.dtype == object or not pd.api.types.is_any_real_numeric_dtype(column):
            quoted.isetitem(place, column.map(_quoted).array)
    return quoted.rename(columns=_quoted)


def write_table(path: Path | str, frame: pd.DataFrame) -> None:
    """Write a table as `as_shown` has it, whole or not at all."""
    with whole_file(path) as partial:
        as_shown(frame).to_csv(partial, index=False)


def read_shown(path: Path | str, **options: Any) -> pd.DataFrame:
    """A table of this package's own as pandas reads it, without the quotes of `as_shown`.

    Raises:
        ManifestError: the file is damaged.
    """
    try:
        frame = pd.read_csv(path, **options)
    except (ValueError, OverflowError) as error:
        raise ManifestError(f"{path}: is damaged ({error}); bring a copy back, or make anew what wrote it") from error
    for name in frame.columns[[not pd.api.types.is_any_real_numeric_dtype(t) for t in frame.dtypes]]:
        frame[name] = frame[name].map(lambda cell: unquoted(cell) if isinstance(cell, str) else cell)
    return frame.rename(columns=unquoted)


def _quoted(cell: Any) -> Any:
    risky = isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.match(cell)
    return f"'{cell}" if risky else cell


def unquoted(cell: str) -> str:
    """A cell without the quote that `as_shown` put before it."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _text(path: Path) -> str:
    if not path.is_file():
        if path.exists():
            way_out = ", of which slivit manifest NAME FOLDER TABLE.csv makes a table"
            raise ManifestError(f"{path}: is no file but a {'folder' + way_out if path.is_dir() else 'pipe or device'}")
        known = [p.name for p in path.parent.glob("*.csv")] if path.parent.is_dir() else []
        raise ManifestError(f"{path}: there is no such file.{mounting(path) or nearest(path.name, known)}")
    data = path.read_bytes()
    if not data.strip():
        raise ManifestError(f"{path}: the file is empty; a manifest is a CSV with a header and one row a scan")
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise ManifestError(f"{path}: this is a spreadsheet or an archive, not a CSV; save the sheet as CSV (UTF-8)")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # a spreadsheet's "Unicode text"
        return _decoded(data, "utf-16", path)
    if b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise ManifestError(f"{path}: line {line} holds a null byte, which no text does; save the table as CSV (UTF-8)")
    return _decoded(data, "utf-8-sig", path)


def _decoded(data: bytes, encoding: str, path: Path) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as err:
        line, name = data[: err.start].count(b"\n") + 1, encoding.removesuffix("-sig").upper()
        raise ManifestError(f"{path}: line {line} is not {name} text; save the table as CSV (UTF-8)") from None


def _rows(text: str, path: Path) -> tuple[list[int], list[list[str]], str]:
    """The non-blank rows with the lines that they start on, the header first; and what divides cells."""
    text, line, delimiter = _from_header(text, path)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    skipped, lines, rows = line - 1, [], []
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                lines.append(line)
                rows.append([unquoted(cell.strip()) for cell in row])
            line = skipped + reader.line_num + 1
    except csv.Error as err:
        raise ManifestError(f"{path}: line {line} is not CSV: {err}") from None
    return lines, rows, delimiter


def _from_header(text: str, path: Path) -> tuple[str, int, str]:
    """The table from its header on, the line of that, and the delimiter; what stands before it is passed over.

    Before the header a spreadsheet writes "sep=;", and people write comments behind a #.
    """
    lines, line, delimiter = text.splitlines(keepends=True), 0, ""
    for line, start in enumerate(lines):
        if match := _SEPARATOR.match(start.strip()):
            delimiter = match[1]
        elif start.strip() and not start.lstrip().startswith("#"):
            return "".join(lines[line:]), line + 1, delimiter or max(",;\t", key=start.count)
    raise ManifestError(f"{path}: there is no header; up to line {line + 1} there are comments and empty lines alone")


def missing_columns(frame: pd.DataFrame, wanted: Iterable[str]) -> list[str]:
    """One sentence for each column of `wanted` that `frame` lacks, with the nearest that it has."""
    have = [str(c) for c in frame.columns]
    return [
        f'column "{name}" is missing.{nearest(name, have)} The columns are {one_of(have)}'
        for name in dict.fromkeys(wanted)
        if name not in have
    ]


def as_text(column: pd.Series) -> pd.Series:
    """The cells as text: "" where empty, "7" for 7.0, so that a frame of a notebook and a CSV mean the same."""
    cells = [v.strip() if type(v) is str else _cell(v) for v in column.tolist()]
    return pd.Series(cells, index=column.index, name=column.name, dtype=object)


def _cell(value: Any) -> str:
    return "" if pd.api.types.is_scalar(value) and pd.isna(value) else class_name(value)


def without_missing(text: pd.Series, names: Iterable[str] = ()) -> pd.Series:
    """The cells with "" for those that say that nothing is known, such as "NA" and "null".

    Args:
        text: cells as text.
        names: names that are meant as they are, such as a class that is called "None".
    """
    return text.where(~text.str.lower().isin(MISSING) | text.isin([*names]), "")


def as_numbers(text: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Read text cells as numbers.

    Returns:
        The numbers (float64, NaN where empty or unreadable), and a mask of the cells that are neither.
    """
    codes, values = pd.factorize(text.to_numpy(dtype=object))
    cells = pd.Series(values, dtype=object)
    empty = cells.str.lower().isin(MISSING).to_numpy(dtype=bool)
    numbers = pd.to_numeric(cells.where(~empty), errors="coerce").to_numpy(dtype="float64")
    bad = np.isnan(numbers) & ~empty
    return pd.Series(numbers[codes], index=text.index, name=text.name), pd.Series(bad[codes], index=text.index)


def as_labels(text: pd.Series) -> pd.Series:
    """Read text cells as 0/1 labels: "True" and "False", as pandas writes them, count as 1 and 0."""
    return text.replace({"True": "1", "False": "0", "TRUE": "1", "FALSE": "0"})


def as_classes(text: pd.Series) -> pd.Series:
    """Read text cells as class names: "3.0", as pandas writes a column with a gap, is "3"."""
    return text.str.replace(_WHOLE_FLOAT, r"\1", regex=True)


def with_numbers(column: pd.Series) -> pd.Series:
    """Turn a column of text into numbers where all of it is (codes such as "007" stay text)."""
    if column.dtype != object and not pd.api.types.is_string_dtype(column):
        return column
    text = as_text(column)
    numbers, bad = as_numbers(text)
    if bad.any() or numbers.isna().all() or text.map(lambda t: _CODE.match(t) is not None).any():
        return without_missing(text)
    whole = numbers.notna().all() and (numbers % 1 == 0).all() and (numbers.abs() < 2**53).all()
    return numbers.astype("int64") if whole else numbers


def capped(problems: Iterator[str] | Sequence[str], total: int, what: str, limit: int = 10) -> list[str]:
    """The first `limit` problems of one sort and the number of the rest, so that other sorts are seen as well."""
    shown = [p for p, _ in zip(problems, range(limit), strict=False)]
    if total > len(shown):
        shown.append(f"... and {total - len(shown)} more {what}")
    return shown
