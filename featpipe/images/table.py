"""Tables of images: CSV and TSV with ``path[,label][,split][,group]``.

Lives here: reading the table, and finding the files that it names. Never here: what is
in them.
"""

# Paths are text as in `folder`, so that they stay as the table has them.
# ruff: noqa: PTH100, PTH118, PTH120, PTH123

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from typing import NamedTuple

from featpipe.images.folder import SPLITS, FileReader, problem, stat_file
from featpipe.images.imageset import Failure, ImageSet, Row, build

__all__ = ["scan_table"]

_COLUMNS = ("path", "label", "split", "group")


class _Line(NamedTuple):
    number: int
    row: Row


def scan_table(source: str) -> ImageSet:
    """List the images that a table names.

    The table is UTF-8, with or without a byte order mark, and quoted as spreadsheets
    do. Its delimiter is the first of comma, semicolon and tab (tab first in a ``.tsv``)
    under which the header has a column ``path``; capitals do not matter in the header,
    columns in any order, others are ignored. A file that does not exist is a
    `Failure`: the rest of the table is still good.

    Raises
    ------
    ValueError
        If there is no column ``path``, a line has another number of columns than the
        header, a path is empty or comes twice, or a split has an unknown name.
    """
    root = os.path.dirname(os.path.abspath(source))
    rows: list[Row] = []
    failures: list[Failure] = []
    for row in _checked(source):
        try:
            status = stat_file(os.path.join(root, row.path))
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            failures.append(Failure(row.path, "scan", problem(error)))
        else:
            rows.append(row._replace(size=status.st_size, mtime=status.st_mtime_ns))
    return build(source, root, rows, FileReader(root), failures=failures)


def _checked(source: str) -> Iterator[Row]:
    first: dict[str, int] = {}
    for number, row in _lines(source):
        if not row.path:
            raise ValueError(f"{source!r}, line {number}: the path is empty; give one")
        before = first.setdefault(os.path.normpath(row.path), number)
        if before != number:
            raise ValueError(
                f"{source!r}, line {number}: {row.path!r} is listed before, in line "
                f"{before}; list each image once"
            )
        split = row.split.casefold()
        if split and split not in SPLITS:
            raise ValueError(
                f"{source!r}, line {number}: {row.split!r} is no split; choose from "
                f"{', '.join(SPLITS)}, or leave it empty"
            )
        yield row._replace(split=SPLITS.get(split, ""))


def _lines(source: str) -> Iterator[_Line]:
    """Yield each line of the table with its number, texts as they stand."""
    # Bytes that are no UTF-8 become the surrogates that file names have for them.
    with open(
        source, encoding="utf-8-sig", errors="surrogateescape", newline=""
    ) as text:
        delimiter, header = _header(source, text.readline())
        columns = {name: k for k, name in enumerate(header) if name in _COLUMNS}
        reader = csv.reader(text, delimiter=delimiter)
        while True:
            number = reader.line_num + 2
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise ValueError(f"{source!r}, line {number}: {error}") from error
            if cells is None:
                return
            if not any(cells):
                continue
            if len(cells) != len(header):
                raise ValueError(
                    f"{source!r}, line {number}: {len(cells)} columns where the header "
                    f"has {len(header)}; quote texts that contain {delimiter!r}"
                )
            found = {name: cells[k].strip() for name, k in columns.items()}
            label, split, group = (found.get(name, "") for name in _COLUMNS[1:])
            # The path alone is not stripped: file names may begin and end with spaces.
            path = cells[columns["path"]].removeprefix("./")
            yield _Line(number, Row(path, label, split, group))


def _header(source: str, line: str) -> tuple[str, list[str]]:
    """Return the delimiter, and the names of the columns in small letters."""
    tabbed = source.lower().endswith((".tsv", ".tab"))
    for delimiter in "\t,;" if tabbed else ",;\t":
        cells = next(csv.reader([line], delimiter=delimiter), [])
        names = [cell.strip().casefold() for cell in cells]
        if "path" in names:
            if twice := [name for name in _COLUMNS if names.count(name) > 1]:
                raise ValueError(f"{source!r} has two columns {twice[0]!r}; keep one")
            return delimiter, names
    raise ValueError(
        f"{source!r} has no column 'path' but the header {line.strip()[:100]!r}; begin "
        "it with a line such as path,label,split,group"
    )
