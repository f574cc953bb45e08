"""One line of advice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

__all__ = ["Line"]


@dataclass(frozen=True)
class Line:
    """A statement with its figure and its source.

    Printed with ``rich``, it shows the source below the statement.

    Attributes
    ----------
    what : str
        The subject: ``"depth"``, ``"fine-tuning"``, ...
    text : str
        The statement.
    source : str
        The paper, test or measurement behind it.

    Examples
    --------
    >>> line = Line("depth", "penultimate", "LogME: You et al. 2021")
    >>> line.text
    'penultimate'
    """

    what: str
    text: str
    source: str

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Yield the statement, then its source."""
        from rich.padding import Padding
        from rich.text import Text

        yield Text.assemble((f"{self.what}: ", "bold"), self.text)
        yield Padding(Text(f"source: {self.source}", style="dim"), (0, 0, 0, 2))
