"""The predictions of a model for some images, as a table, and their accuracy.

Knows nothing of networks and models.
"""

from __future__ import annotations

import csv
import html
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featpipe import files
from featpipe.codes import FailureRecord
from featpipe.files import visible
from featpipe.predictor.rejecting import UNKNOWN
from featpipe.scores import judge

if TYPE_CHECKING:
    import pandas

__all__ = ["Predictions"]

# Images in the table of a notebook.
_SHOWN = 20


@dataclass(frozen=True, eq=False)
class Predictions:
    """Labels for images, in the order of the images.

    Parameters
    ----------
    paths : list of n str
        Of the images that could be read.
    class_names : list of str
        Of the model.
    scores : (n, n_classes) float64
        Decision values; the label is the class of the highest. With two classes those
        of the first are those of the second negated.
    probabilities : (n, n_classes) float64 or None
        None where the classifier gives none.
    failures : list of FailureRecord
        The images that could not be read, each with stage and reason.
    truth : list of n str
        The labels of the source, ``""`` where it has none.
    splits : list of n str
        Of the source.
    threshold : float or None
        Images whose likeliest class has a lower probability are ``"unknown"``; None
        where no image is rejected.

    Examples
    --------
    >>> scores = np.array([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]])
    >>> predictions = Predictions(
    ...     paths=["a.jpg", "b.jpg"],
    ...     class_names=["daisy", "rose", "tulip"],
    ...     scores=scores,
    ...     probabilities=None,
    ...     failures=[],
    ...     truth=["daisy", "rose"],
    ...     splits=["", ""],
    ... )
    >>> predictions.labels.tolist(), predictions.top(2)[0]
    (['daisy', 'rose'], [('daisy', 2.0), ('tulip', 0.5)])
    """

    paths: list[str]
    class_names: list[str]
    scores: np.ndarray
    probabilities: np.ndarray | None
    failures: list[FailureRecord]
    truth: list[str]
    splits: list[str]
    threshold: float | None = None

    def __len__(self) -> int:
        """Return the number of images with a label."""
        return len(self.paths)

    def __repr__(self) -> str:
        """Return one line: the number of images with a label, and their accuracy."""
        failed = f", {len(self.failures):,} failed" * bool(self.failures)
        measures = self.measures()
        right = ""
        if measures is not None:
            right = f", accuracy {100 * (measures['accuracy'] or 0):.1f} %"
        return (
            f"<Predictions for {len(self):,} images of {len(self.class_names):,} "
            f"classes{failed}{right}>"
        )

    def _repr_html_(self) -> str:
        """Return the first images with their labels as a table for a notebook."""
        what = "score" if self.probabilities is None else "probability"
        rows = [["image", "label", what]]
        rows += [
            [path, name, f"{value:.3f}"]
            for path, [(name, value)] in zip(
                self.paths[:_SHOWN], self.top(1), strict=False
            )
        ]
        if len(self) > _SHOWN:
            rows.append([f"… and {len(self) - _SHOWN:,} more", "", ""])
        lines = "".join(
            "<tr>"
            + "".join(f"<td>{html.escape(visible(cell))}</td>" for cell in row)
            + "</tr>"
            for row in rows
        )
        return (
            f"<table><caption>{html.escape(repr(self)[1:-1])}</caption>{lines}</table>"
        )

    @property
    def labels(self) -> np.ndarray:
        """(n,) str: the class name of each image, or ``"unknown"``."""
        # The last name is the answer for rejected images.
        names = np.array([*self.class_names, UNKNOWN], np.str_)
        likeliest = self._order(1)[:, 0]
        return names[np.where(self.rejected, len(self.class_names), likeliest)]

    @property
    def rejected(self) -> np.ndarray:
        """(n,) bool: the images whose likeliest class is too doubtful."""
        if self.threshold is None or self.probabilities is None:
            return np.zeros(len(self), bool)
        best = self._order(1)[:, 0]
        rejected: np.ndarray = (
            self.probabilities[np.arange(len(self)), best] < self.threshold
        )
        return rejected

    def top(self, k: int) -> list[list[tuple[str, float]]]:
        """Return the likeliest classes of each image, likeliest first.

        Parameters
        ----------
        k : int
            Number of classes.

        Returns
        -------
        list of n lists of (class name, probability)
            The decision value where the classifier gives no probability.
        """
        values = self.scores if self.probabilities is None else self.probabilities
        return [
            [(self.class_names[c], float(row[c])) for c in classes]
            for row, classes in zip(values, self._order(k).tolist(), strict=True)
        ]

    def _order(self, k: int) -> np.ndarray:
        """Return classes by descending score; ties in the order of the classes."""
        if k < 1:
            raise ValueError(f"top={k!r} takes no class; give 1 or more")
        # Stable, so that of equal scores the first class comes first, as in argmax.
        return np.argsort(-self.scores, axis=1, kind="stable")[:, :k]

    def measures(self, split: str | None = None) -> dict[str, float | None] | None:
        """Judge the labels by those of the source; rejected images are not judged.

        An image of a class that the model lacks counts as wrong, unless the model lacks
        all classes of the source: then nothing is judged.

        Parameters
        ----------
        split : str, optional
            Only the images of this split.

        Returns
        -------
        dict or None
            As `scores.judge`, and ``n``; None if no image is labelled with a class of
            the model.
        """
        rejected = self.rejected
        rows = [
            i
            for i, name in enumerate(self.truth)
            # Unlabelled and rejected images are not judged.
            if name and split in (None, self.splits[i]) and not rejected[i]
        ]
        if not rows or not {self.truth[i] for i in rows} & set(self.class_names):
            return None
        # Images of classes that the model lacks count as wrong, so these need numbers.
        names = [*self.class_names, *sorted(set(self.truth) - set(self.class_names))]
        number = {name: k for k, name in enumerate(names)}
        truth = np.array([number[self.truth[i]] for i in rows])
        predicted = self._order(1)[rows, 0]
        probabilities = self.probabilities
        if probabilities is not None:
            # Classes that the model lacks have probability zero.
            unknown = np.zeros((len(rows), len(names) - len(self.class_names)))
            probabilities = np.hstack([probabilities[rows], unknown])
        return {"n": len(rows), **judge(truth, predicted, probabilities)}

    def confusion(self) -> tuple[list[str], np.ndarray]:
        """Count the images judged by their true and their predicted class.

        Returns
        -------
        names : list of str
            The true classes, sorted.
        counts : (n_true, n_classes) int64
            Row: true class; column: predicted, in the order of ``class_names``.
        """
        names = sorted(set(self.truth) - {""})
        counts = np.zeros((len(names), len(self.class_names)), np.int64)
        predictions = zip(self.truth, self._order(1)[:, 0], self.rejected, strict=True)
        for truth, predicted, rejected in predictions:
            if truth and not rejected:
                counts[names.index(truth), predicted] += 1
        return names, counts

    def write_csv(self, path: str | os.PathLike[str], *, top: int = 1) -> None:
        """Write ``path,label,probability,score``, one line an image.

        With ``top`` above one the columns ``label_2,probability_2`` and so on follow
        (``label_2,score_2`` where the classifier gives no probabilities, which are then
        empty); where images are rejected, ``likeliest``, the class that an ``unknown``
        one is most like; where the source has labels, ``truth``. Images that could not
        be read go to a second file, ``F.failures.csv`` beside ``F.csv``; without any
        there is no such file, nor beside a device or a FIFO.

        Parameters
        ----------
        path : path
        top : int

        Raises
        ------
        OSError
            If it cannot be written.
        """
        order = self._order(top)
        header = ["path", "label", "probability", "score"]
        what = "score" if self.probabilities is None else "probability"
        for k in range(2, order.shape[1] + 1):
            header += [f"label_{k}", f"{what}_{k}"]
        columns = self._further_columns(order[:, 0].tolist())
        rows = [
            [*self._row(i, classes), *(column[i] for column in columns.values())]
            for i, classes in enumerate(order.tolist())
        ]
        for row, label in zip(rows, self.labels.tolist(), strict=True):
            row[1] = label
        files.write_text(path, _csv([[*header, *columns], *rows]))
        if files.is_stream(path):
            return  # a device or a FIFO has no file beside it
        beside = failures_path(path)
        if self.failures:
            lines = [list(failure[:3]) for failure in self.failures]
            files.write_text(beside, _csv([["path", "stage", "reason"], *lines]))
        elif beside.is_file():
            beside.unlink(missing_ok=True)  # left by an earlier run

    def _further_columns(self, likeliest: list[int]) -> dict[str, list[str]]:
        """Return the optional columns."""
        columns = {}
        if self.threshold is not None:
            columns["likeliest"] = [self.class_names[c] for c in likeliest]
        if any(self.truth):
            columns["truth"] = self.truth
        return columns

    def _row(self, i: int, classes: list[int]) -> list[Any]:
        probabilities = self.probabilities
        values = self.scores if probabilities is None else probabilities
        best = classes[0]
        probability = "" if probabilities is None else f"{probabilities[i, best]:.6g}"
        score = f"{self.scores[i, best]:.6g}"
        row = [self.paths[i], self.class_names[best], probability, score]
        for c in classes[1:]:
            row += [self.class_names[c], f"{values[i, c]:.6g}"]
        return row

    def to_frame(self) -> pandas.DataFrame:
        """Return a table indexed by path: label, score, and a column a probability.

        Raises
        ------
        ModuleNotFoundError
            If pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "to_frame needs pandas; pip install 'featpipe[frame]'"
            ) from error
        # Only an index of objects takes strings with surrogates.
        index = pandas.Index(self.paths, name="path")
        frame = pandas.DataFrame({"label": self.labels}, index=index)
        frame["score"] = self.scores.max(axis=1)
        if self.probabilities is not None:
            for name, column in zip(
                self.class_names, self.probabilities.T, strict=True
            ):
                frame[name] = column
        return frame


def failures_path(path: str | os.PathLike[str]) -> Path:
    """Return the name of the file that lists images that could not be read.

    Examples
    --------
    >>> failures_path("labels.csv").name
    'labels.failures.csv'
    """
    path = Path(path)
    return path.with_name(f"{path.name.removesuffix('.csv')}.failures.csv")


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def two_columns(decisions: np.ndarray) -> np.ndarray:
    """Return decision values with a column for each class, even of two classes."""
    if decisions.ndim == 1:
        return np.column_stack([-decisions, decisions])
    return decisions
