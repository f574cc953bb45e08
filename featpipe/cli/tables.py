"""Print tables that fit the terminal, if need be without their optional columns."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featpipe.cli.facts import as_text
from featpipe.cli.terminal import terminal

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Column", "print_table"]

_UNBOUNDED = 100_000


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Parameters
    ----------
    title : str
    number : bool
        Whether to align the column to the right.
    optional : int
        Order in which columns are left out of a table that is too wide, 1 first; 0 is
        never left out.
    folds : bool
        Whether a cell may break inside a word, as long paths must.
    """

    title: str
    number: bool = False
    optional: int = 0
    folds: bool = False


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print a table as a result, without the optional columns that do not fit."""
    cells = [list(row) for row in rows]
    keep = list(range(len(columns)))
    optional = sorted(
        (k for k in keep if columns[k].optional), key=lambda k: columns[k].optional
    )
    table = _table(columns, cells, keep)
    for k in optional:
        if _least_width(table) <= terminal.out.width:
            break
        keep.remove(k)
        table = _table(columns, cells, keep)
    # Without optional columns left to drop, words break rather than disappear.
    if _least_width(table) > terminal.out.width:
        for column in table.columns:
            column.min_width, column.no_wrap = None, False
            column.overflow = "fold"
    terminal.out.print(table)


def _table(
    columns: Sequence[Column], rows: list[list[str]], keep: list[int]
) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for k in keep:
        column = columns[k]
        words = (word for row in rows for word in row[k].split())
        table.add_column(
            as_text(column.title),
            justify="right" if column.number else "left",
            no_wrap=column.number,
            overflow="fold",
            # So wide that cells break only between words.
            min_width=None if column.folds else max(map(len, words), default=0),
        )
    for row in rows:
        table.add_row(*(as_text(row[k]) for k in keep))
    return table


def _least_width(table: "Table") -> int:
    from rich.measure import Measurement

    options = terminal.out.options.update(max_width=_UNBOUNDED)
    return Measurement.get(terminal.out, options, table).minimum
