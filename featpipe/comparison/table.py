"""What a comparison found, as a table to read and as files to keep."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featpipe.files import write_text
from featpipe.scores import (
    OF_TRAINING,
    SIGNIFICANT,
    Score,
    write_json,
)

if TYPE_CHECKING:
    import pandas
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

__all__ = ["Comparison"]

_NOT_FLAT = ("test_paths", "test_predicted")
_FLAT = [
    each.name for each in fields(Score) if each.name not in (*_NOT_FLAT, *OF_TRAINING)
]


@dataclass(frozen=True, eq=False)
class Comparison:
    """The scores of all contenders, the recommended one first.

    Printing it with ``rich`` shows the table and the notes.

    Attributes
    ----------
    scores : list of Score
        Ordered by the cross-validated score on training rows; a score without one
        comes last.
    seed : int
        The same seed gives the same table, but for the seconds.
    metric : str
        What ``cv_accuracy`` and the C curves measure.
    test : str
        The paired test behind the p-values, in words.
    notes : list of str
        What a reader must know: the protocol, near-duplicates, classes too small, and
        what the fits said.
    paths, labels, splits : list of str
        The judged images, the names of their classes, and their splits (``""`` where
        there is none).
    """

    scores: list[Score]
    seed: int
    metric: str
    test: str
    notes: list[str]
    paths: list[str]
    labels: list[str]
    splits: list[str]

    @property
    def recommended(self) -> Score:
        """The row to use, chosen without looking at held-out images."""
        return self.scores[0]

    def table(self) -> Table:
        """Lay the scores out for a terminal of 80 columns; the caption is a legend."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(
            box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=Text(self._legend())
        )
        table.caption_justify = "left"
        several = len({score.codes for score in self.scores}) > 1
        table.add_column("", no_wrap=True)
        if several:
            table.add_column("codes", overflow="fold")
        table.add_column("depth", overflow="fold")
        table.add_column("classifier", overflow="fold")
        table.add_column("accuracy %", justify="right", no_wrap=True)
        for header in ("cv %", "C", "fit s"):
            table.add_column(header, justify="right", no_wrap=True)
        for score in self.scores:
            cells = _cells(score, several)
            table.add_row(*map(Text, cells), style="bold" if score.recommended else "")
        return table

    def _legend(self) -> str:
        nested = self.recommended.protocol.endswith("-fold")
        told_by = "" if nested else " without the held-out images"
        measured = "" if self.metric == "accuracy" else f", here {self.metric}"
        return (
            f"★ recommended: highest cross-validated score (cv{measured}), chosen"
            f"{told_by}; = cannot be told apart from it ({self.test}, Holm-corrected, "
            f"p >= {SIGNIFICANT}). Accuracy on {self.recommended.n_test} images with "
            "its 95 % interval."
        )

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Yield the table, then a line for each note."""
        from rich.text import Text

        yield self.table()
        for note in self.notes:
            yield Text(f"· {note}")

    def to_frame(self) -> pandas.DataFrame:
        """Give the scores as a table, one row a score, without paths and predictions.

        Raises
        ------
        ModuleNotFoundError
            If pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError as err:
            raise ModuleNotFoundError(
                "to_frame needs pandas; pip install 'featpipe[frame]'"
            ) from err
        rows = [_flat(score) for score in self.scores]
        return pandas.DataFrame(rows, columns=self._columns())

    def write_json(self, path: str | os.PathLike) -> None:
        """Write the score document: strict JSON, whole or not at all."""
        write_json(path, self.scores, seed=self.seed)

    def write_csv(self, path: str | os.PathLike) -> None:
        """Write the scores flat: the curve as JSON, warnings joined by ``; ``."""
        rows = []
        for score in self.scores:
            record = _flat(score)
            record["C_curve"] = json.dumps(record["C_curve"])
            record["warnings"] = "; ".join(record["warnings"])
            rows.append([record.get(name) for name in self._columns()])
        write_text(path, _csv(self._columns(), rows))

    def _columns(self) -> list[str]:
        """Name the columns of the record, with those of training where it is used."""
        trained = any(score.trained is not None for score in self.scores)
        return [*_FLAT, *(OF_TRAINING if trained else ())]

    def write_predictions(self, path: str | os.PathLike) -> None:
        """Write what every contender predicted for each judged image.

        Columns ``path,label,split``, then one per score, in their order: the predicted
        class name, empty where that score did not judge the image.
        """
        columns = [dict(zip(s.test_paths, s.test_predicted, strict=True))
                   for s in self.scores]  # fmt: skip
        rows = [
            [path, label, split, *(column.get(path, "") for column in columns)]
            for path, label, split in zip(
                self.paths, self.labels, self.splits, strict=True
            )
        ]
        write_text(path, _csv(["path", "label", "split", *_titles(self.scores)], rows))


def _cells(score: Score, several: bool) -> list[str]:
    mark = "★" if score.recommended else "=" if score.tied_with_recommended else ""
    low, high = 100 * score.accuracy_low, 100 * score.accuracy_high
    return [
        mark,
        *([Path(score.codes).stem] * several),
        score.depth,
        score.classifier if score.trained is None else f"finetune: {score.trained}",
        f"{100 * score.accuracy:.1f} [{low:.1f}, {high:.1f}]",
        "" if score.cv_accuracy is None else f"{100 * score.cv_accuracy:.1f}",
        "" if score.C is None else f"{score.C:.2g}",
        f"{score.fit_seconds:.1f}",
    ]


def _flat(score: Score) -> dict[str, Any]:
    record = score.as_dict()
    return {name: record.get(name) for name in (*_FLAT, *OF_TRAINING)}


def _titles(scores: Sequence[Score]) -> list[str]:
    """Name each score's column; the codes file joins in where there are several."""
    several = len({score.codes for score in scores}) > 1
    titles: list[str] = []
    for score in scores:
        file = f"{Path(score.codes).stem}:" * several
        title = f"{score.classifier}@{file}{score.depth}"
        again = sum(each.split(" #")[0] == title for each in titles)
        titles.append(f"{title} #{again + 1}" if again else title)
    return titles


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
