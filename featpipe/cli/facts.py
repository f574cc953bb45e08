"""Print a table of two columns: names and values."""

from collections.abc import Mapping
from typing import Any

from featpipe.cli.terminal import terminal
from featpipe.files import visible

__all__ = ["as_text", "describe_decoding", "format_mapping", "print_facts"]


def print_facts(facts: Mapping[str, object]) -> None:
    """Print names and values as a table of two columns."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, as_text(str(value)))
    terminal.out.print(table)


def as_text(text: str) -> Any:
    """Return a cell that shows brackets as they are, and control characters escaped."""
    from rich.text import Text

    # In a string, rich would take `[red]` in a file name for markup.
    return Text(visible(text))


def format_mapping(values: Any) -> str:
    """Return a dict of JSON on one line, and any other value as text.

    Examples
    --------
    >>> format_mapping({"crop": 224, "mean": [0.5, 0.5, 0.5]})
    'crop 224, mean 0.5/0.5/0.5'
    """
    if not isinstance(values, dict):
        return str(values)
    return ", ".join(f"{name} {_plain(value)}" for name, value in values.items())


def describe_decoding(record: Mapping[str, Any]) -> str:
    """Return the settings of decoding: mode, value range, and a limit of pixels.

    Examples
    --------
    >>> describe_decoding({"mode": "exact", "value_range": [0, 4095]})
    'exact, value range 0:4095'
    """
    from featpipe.images import MAX_PIXELS

    parts = [str(record.get("mode"))]
    if (value_range := record.get("value_range")) is not None:
        is_text = isinstance(value_range, str)
        text = value_range if is_text else ":".join(f"{x:g}" for x in value_range)
        parts.append(f"value range {text}")
    limit = record.get("max_pixels", MAX_PIXELS)
    if limit != MAX_PIXELS:
        parts.append(
            "no limit of pixels" if limit is None else f"up to {limit:,} pixels"
        )
    return ", ".join(parts)


def _plain(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, list) else str(value)
