"""Read tables of images: CSV and TSV with ``path[,label][,split][,group]``."""

# Paths are text, as in `folder`, so that they stay as in the table.
# ruff: noqa: PTH100, PTH118, PTH120, PTH123

from __future__ import annotations

import csv
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from featpipe.images.columns import COLUMNS, describe_unread
from featpipe.images.folder_names import is_split, splits_of
from featpipe.images.imageset import Failure, ImageRow, ImageSet, build_image_set
from featpipe.images.reading import FileReader, problem, stat_file

__all__ = ["scan_table"]

_BEGINNING = "begin it with a line such as path,label,split,group"
_UNCLOSED = "look for a quotation mark that is never closed"


class _Line(NamedTuple):
    number: int
    row: ImageRow


def scan_table(source: str) -> ImageSet:
    """List the images that a table names.

    The table is UTF-8 or UTF-16, with or without a byte order mark, or cp1252 if it is
    not UTF-8. Fields are quoted as in spreadsheets. The delimiter is the first of
    comma, semicolon, tab and bar (tab first in a ``.tsv``) with which the header has a
    column ``path``. Columns come in any order, and their names in capitals or small
    letters; other columns are not read. If no file has the name of a path, its
    backslashes are read as slashes, and blanks around it are dropped. A file that does
    not exist is a `Failure`, and the rest of the table is used.

    Raises
    ------
    ValueError
        If there is no column ``path``, a line has another number of columns than the
        header, a path is empty or comes twice, or a split has an unknown name.

    Warns
    -----
    UserWarning
        If there is no column ``label``, or if another column than ``split`` has the
        splits.
    """
    root = os.path.dirname(os.path.abspath(source))
    rows: list[ImageRow] = []
    failures: list[Failure] = []
    for row in _checked(source):
        row = row._replace(path=_existing(root, row.path))
        try:
            status = stat_file(os.path.join(root, row.path))
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            failures.append(Failure(row.path, "scan", _missing(row.path, error)))
        else:
            rows.append(row._replace(size=status.st_size, mtime=status.st_mtime_ns))
    return build_image_set(source, root, rows, FileReader(root), failures=failures)


def _missing(path: str, error: Exception) -> str:
    """Return why there is no image at a path."""
    if "://" in path:
        return "a URL; featpipe downloads no images, fetch them first"
    hint = ""
    if "\0" not in path and _exists(path):
        hint = "; paths are taken from the folder of the table"
    return problem(error) + hint


def _existing(root: str, path: str) -> str:
    """Return the spelling of a path for which a file exists; itself if none does."""
    # The path itself first, since file names on the disk may be cp1252 too.
    for spelling in dict.fromkeys((path, _as_text(path))):
        slashed = spelling.replace("\\", "/")
        for candidate in dict.fromkeys((spelling, slashed, slashed.strip())):
            if "\0" not in candidate and _exists(os.path.join(root, candidate)):
                return candidate
    return path


def _exists(path: str) -> bool:
    try:
        stat_file(path)
    except OSError:
        return False
    return True


def _as_text(text: str) -> str:
    """Return text whose bytes are not UTF-8 as cp1252, which old spreadsheets write."""
    if text.isascii():
        return text
    content = text.encode("utf-8", "surrogateescape")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _decoded(content: bytes) -> str:
    """Return a table as text; bytes that are not UTF-8 become surrogates."""
    head = content[:64]
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    # Some spreadsheets export UTF-16 without a byte order mark.
    if head.count(b"\0") >= len(head) // 3 > 0:
        encoding = "utf-16-le" if head[1:2] == b"\0" else "utf-16-be"
        return content.decode(encoding, "replace")
    return content.decode("utf-8-sig", "surrogateescape")


def _checked(source: str) -> Iterator[ImageRow]:
    first: dict[str, int] = {}
    lines = list(_lines(source))
    splits = splits_of(line.row.split for line in lines if line.row.split) | {"": ""}
    for number, row in lines:
        if not row.path:
            raise ValueError(f"{source!r}, line {number}: the path is empty; give one")
        # `a/b.png` and `a/./b.png` are the same image.
        before = first.setdefault(os.path.normpath(row.path), number)
        if before != number:
            raise ValueError(
                f"{source!r}, line {number}: {row.path!r} is listed before, in line "
                f"{before}; list each image once"
            )
        if row.split not in splits:
            raise ValueError(
                f"{source!r}, line {number}: {row.split!r} is no split; write train, "
                "val or test, or leave it empty"
            )
        yield row._replace(split=splits[row.split])


def _lines(source: str) -> Iterator[_Line]:
    """Yield each line of the table with its number; splits are not read yet."""
    with open(source, "rb") as file:
        content = file.read()
    decoded = _decoded(content)
    if not decoded.strip():
        raise ValueError(f"{source!r} is empty; {_BEGINNING}")
    with io.StringIO(decoded, newline="") as text:
        delimiter, header = _header(source, text.readline())
        columns = {name: k for k, name in enumerate(header) if name in COLUMNS}
        # Other columns, until one of their values is not a split.
        splits = [k for k, name in enumerate(header) if name not in COLUMNS]
        reader = csv.reader(text, delimiter=delimiter)
        while True:
            # The header was line 1; a quoted field may span lines.
            number = reader.line_num + 2
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise _unreadable(source, number, error) from error
            if cells is None:
                for warning in describe_unread(header, [header[k] for k in splits]):
                    warnings.warn(f"{source!r} {warning}", UserWarning, stacklevel=2)
                return
            if not any(cells):
                continue
            if len(cells) != len(header):
                remedy = _remedy(cells, len(header), delimiter)
                raise ValueError(
                    f"{source!r}, line {number}: {len(cells)} "
                    f"column{'s' * (len(cells) > 1)} where the header has "
                    f"{len(header)}; {remedy}"
                )
            splits = [k for k in splits if is_split(cells[k].strip())]
            texts = {name: _as_text(cells[k].strip()) for name, k in columns.items()}
            label, split, group = (texts.get(name, "") for name in COLUMNS[1:])
            # Paths are not stripped, since file names may begin and end with spaces.
            path = cells[columns["path"]].removeprefix("./")
            yield _Line(number, ImageRow(path, label, split, group))


def _remedy(cells: Sequence[str], n_columns: int, delimiter: str) -> str:
    """Return what to do about a line of another number of columns."""
    if any("\n" in cell for cell in cells):
        return _UNCLOSED
    if len(cells) > n_columns:
        return f"quote texts that contain {delimiter!r}"
    end = (delimiter * (n_columns - len(cells)))[:9]
    return f"end it with {end!r} if the rest of it is empty"


def _unreadable(source: str, number: int, error: csv.Error) -> ValueError:
    return ValueError(f"{source!r}, line {number}: {error}; {_UNCLOSED}")


def _header(source: str, line: str) -> tuple[str, list[str]]:
    """Return the delimiter, and the names of the columns in small letters."""
    has_tabs = source.lower().endswith((".tsv", ".tab"))
    # Spreadsheets write semicolons in languages with a decimal comma.
    for delimiter in "\t,;|" if has_tabs else ",;\t|":
        try:
            cells = next(csv.reader([line], delimiter=delimiter), [])
        except csv.Error as error:
            raise _unreadable(source, 1, error) from error
        names = [cell.strip().casefold() for cell in cells]
        if "path" in names:
            if twice := [name for name in COLUMNS if names.count(name) > 1]:
                raise ValueError(f"{source!r} has two columns {twice[0]!r}; keep one")
            return delimiter, names
    if not line.strip().isprintable():
        raise ValueError(f"{source!r} is no text; {_BEGINNING}")
    raise ValueError(
        f"{source!r} has no column 'path' but the header {line.strip()[:100]!r}; "
        + _BEGINNING
    )
