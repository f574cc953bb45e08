"""The result of a comparison, as a table to read and as files to keep."""

from __future__ import annotations

import csv
import html
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featpipe.files import visible, write_text
from featpipe.scores import (
    FINETUNE_FIELDS,
    SIGNIFICANT,
    Score,
    write_json,
)

if TYPE_CHECKING:
    import pandas
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

__all__ = ["Comparison", "plain_text"]

# From this width on the chosen C is shown too.
_WIDE = 96
_MEASURES = {"balanced_accuracy": "bal. %", "macro_f1": "F1 %"}
_NOT_FLAT = ("test_paths", "test_predicted")
_FLAT = [
    each.name
    for each in fields(Score)
    if each.name not in (*_NOT_FLAT, *FINETUNE_FIELDS)
]


def plain_text(renderable: RenderableType) -> str:
    """Return what a terminal of 96 columns without colours would show.

    Examples
    --------
    >>> plain_text("a table")
    'a table'
    """
    from rich.console import Console

    console = Console(file=io.StringIO(), width=_WIDE, color_system=None)
    with console.capture() as captured:
        console.print(renderable, markup=False, highlight=False)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


@dataclass(frozen=True, eq=False)
class Comparison:
    """The scores of all contenders, the recommended one first.

    Printing it shows the table and the notes.

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
        the warnings of the fits.
    paths, labels, splits : list of str
        The judged images, the names of their classes, and their splits (``""`` where
        there is none).
    headline : str
        What to expect of the recommended row where all images took part in choosing it
        (no split); else empty.
    majority_accuracy : float
        Accuracy of always naming the most frequent class of the training images.
    confidence : list of float or None
        Probability of what the recommended row predicts, by judged image; None where
        no row on its codes has probabilities.
    options : dict
        Options beside the seed: ``folds``, ``metric``, ``class_weight``.

    Examples
    --------
    >>> import featpipe
    >>> names = ["linear", "knn"]
    >>> comparison = featpipe.compare("flowers.h5", classifiers=names, device="cpu")
    >>> len(comparison.scores), comparison.recommended.protocol
    (4, 'test')
    >>> comparison.write_json("scores.json")
    """

    scores: list[Score]
    seed: int
    metric: str
    test: str
    notes: list[str]
    paths: list[str]
    labels: list[str]
    splits: list[str]
    headline: str = ""
    majority_accuracy: float = float("nan")
    confidence: list[float] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def recommended(self) -> Score:
        """The row to use, chosen without looking at held-out images."""
        return self.scores[0]

    def __repr__(self) -> str:
        """Return one line: how many rows, and the recommended one."""
        best = self.recommended
        return (
            f"<Comparison of {len(self.scores)} rows on {best.n_test:,} images: "
            f"{best.classifier} on {best.depth}, {100 * best.accuracy:.1f} %>"
        )

    def __str__(self) -> str:
        """Return the table and the notes as plain text, for `print`."""
        return plain_text(self)

    def _repr_html_(self) -> str:
        """Return the table and the notes, for a notebook."""
        header, *rows = self._grid(full=True)
        lines = ["<table>", *([_html("caption", self.headline)] * bool(self.headline))]
        # Two lines in a terminal, one in HTML.
        titles = [text.replace("\n", ", ") for text, _ in header]
        lines.append(_html_row("th", titles))
        lines += [_html_row("td", cells) for cells in rows]
        notes = "".join(_html("li", note) for note in [self._legend(), *self.notes])
        return "\n".join([*lines, "</table>", f"<ul>{notes}</ul>"])

    def table(self, *, full: bool = True) -> Table:
        """Lay the scores out; the caption is a legend.

        Parameters
        ----------
        full : bool
            Whether to show the chosen C too, and the difference beside its interval;
            80 columns have no space for these.
        """
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            title=Text(visible(self.headline)) if self.headline else None,
            caption=Text(self._legend()),
        )
        table.title_justify = table.caption_justify = "left"
        header, *rows = self._grid(full=full)
        for text, folds in header:
            if folds:
                table.add_column(text, overflow="fold")
            else:
                # Numbers on the right; the column without a title has the marks.
                number = "right" if text else "left"
                table.add_column(text, justify=number, no_wrap=True)  # type: ignore[arg-type]
        for score, cells in zip(self.scores, rows, strict=True):
            table.add_row(
                *map(Text, map(visible, cells)),
                style="bold" if score.recommended else "",
            )
        return table

    @property
    def _nested(self) -> bool:
        return self.recommended.protocol.endswith("-fold")

    def _legend(self) -> str:
        chosen_by = "" if self._nested else ", chosen without the held-out images"
        measured = "" if self.metric == "accuracy" else f", here {self.metric}"
        narrow = (
            "; too narrow, for the folds share training images" if self._nested else ""
        )
        return (
            f"★ recommended: highest cross-validated score (cv{measured})"
            f"{chosen_by}; = not told apart from it ({self.test}, p >= {SIGNIFICANT}); "
            f"! not told apart from always naming the most frequent class. Accuracy on "
            f"{self.recommended.n_test} images, and the difference to ★, each with its "
            f"95 % interval{narrow}."
        )

    def _grid(self, *, full: bool) -> list[list[Any]]:
        """Lay out the header, as (text, whether it may be folded), and the cells."""
        # The codes file is shown only where there are several: 80 columns are few.
        several = len({score.codes for score in self.scores}) > 1
        narrow = " (too narrow)" if self._nested else ""
        measure = _MEASURES.get(self.metric)
        header = [
            ("", False),
            *([("codes", True)] * several),
            ("depth", True),
            ("classifier", True),
            (f"accuracy %\n95 %{narrow}", False),
            ("less ★\n95 %", False),
            *([(measure, False)] if measure else []),
            ("cv %", False),
            *([("C", False)] if full else []),
            *([("fit s", False)] if full or not measure else []),
        ]
        return [header, *(self._cells(score, several, full) for score in self.scores)]

    def _cells(self, score: Score, several: bool, full: bool) -> list[str]:
        measured = self.metric in _MEASURES
        return [
            _mark(score),
            *([Path(score.codes).stem] * several),
            score.depth,
            score.classifier if score.trained is None else f"finetune: {score.trained}",
            _with_interval(score.accuracy, score.accuracy_low, score.accuracy_high),
            _with_interval(
                score.difference, score.difference_low, score.difference_high, full
            ),
            *([f"{100 * getattr(score, self.metric):.1f}"] if measured else []),
            "" if score.cv_accuracy is None else f"{100 * score.cv_accuracy:.1f}",
            *(["" if score.C is None else f"{score.C:.2g}"] if full else []),
            *([f"{score.fit_seconds:.1f}"] if full or not measured else []),
        ]

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Yield the table, then a line for each note."""
        from rich.text import Text

        # A narrow terminal would fold the cells of a full table.
        yield self.table(full=options.max_width >= _WIDE)
        for note in self.notes:
            yield Text(f"· {visible(note)}")

    def to_frame(self) -> pandas.DataFrame:
        """Return the scores as a frame, one row a score, without paths and predictions.

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

    def write_json(self, path: str | os.PathLike[str]) -> None:
        """Write the score document: strict JSON, whole or not at all.

        Parameters
        ----------
        path : path
            An older file there is replaced.
        """
        write_json(path, self.scores, seed=self.seed, options=self.options)

    def write_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the scores as CSV, a line for each row of the table.

        Parameters
        ----------
        path : path
            Curves are JSON in one cell, warnings are joined by ``; ``.
        """
        rows = []
        for score in self.scores:
            record = _flat(score)
            # One cell of a CSV; JSON, so that it can be read back.
            record["C_curve"] = json.dumps(record["C_curve"])
            record["warnings"] = "; ".join(record["warnings"])
            rows.append([record.get(name) for name in self._columns()])
        write_text(path, _csv(self._columns(), rows))

    def _columns(self) -> list[str]:
        """Name the columns of the record, with those of training where it is used."""
        trained = any(score.trained is not None for score in self.scores)
        return [*_FLAT, *(FINETUNE_FIELDS if trained else ())]

    def write_predictions(self, path: str | os.PathLike[str]) -> None:
        """Write what every classifier predicted for each held-out image, as CSV.

        Parameters
        ----------
        path : path
            Gets the columns ``path,truth,split``, then one for each score, in their
            order: the predicted class name, empty where that score did not judge the
            image.
        """
        columns = [dict(zip(s.test_paths, s.test_predicted, strict=True))
                   for s in self.scores]  # fmt: skip
        rows = [
            [path, label, split, *(column.get(path, "") for column in columns)]
            for path, label, split in zip(
                self.paths, self.labels, self.splits, strict=True
            )
        ]
        write_text(path, _csv(["path", "truth", "split", *_titles(self.scores)], rows))


def _mark(score: Score) -> str:
    marks = "★" if score.recommended else "=" if score.tied_with_recommended else ""
    return marks + "!" * (score.better_than_majority is False)


def _with_interval(
    value: float | None, low: float | None, high: float | None, full: bool = True
) -> str:
    if value is None or low is None or high is None:
        return ""
    point = f"{100 * value:.1f} " if full else ""
    return f"{point}[{100 * low:.1f}, {100 * high:.1f}]"


def _html(tag: str, text: str) -> str:
    return f"<{tag}>{html.escape(text)}</{tag}>"


def _html_row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(_html(tag, cell) for cell in cells) + "</tr>"


def _flat(score: Score) -> dict[str, Any]:
    record = score.as_dict()
    return {name: record.get(name) for name in (*_FLAT, *FINETUNE_FIELDS)}


def _titles(scores: Sequence[Score]) -> list[str]:
    """Name each score's column; the codes file joins in where there are several."""
    several = len({score.codes for score in scores}) > 1
    titles: list[str] = []
    for score in scores:
        file = f"{Path(score.codes).stem}:" * several
        title = f"{score.classifier}@{file}{score.depth}"
        # Readers that make a dict of each line would lose one of two equal columns.
        again = sum(each.split(" #")[0] == title for each in titles)
        titles.append(f"{title} #{again + 1}" if again else title)
    return titles


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
