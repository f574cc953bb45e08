"""The recommended row's classes, confusions and mistakes, shown below the table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from sklearn.metrics import precision_recall_fscore_support

from featpipe.comparison.judging import Contender
from featpipe.comparison.table import Comparison
from featpipe.files import visible
from featpipe.scores import Score, images_needed

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = [
    "Mistake",
    "confidence_of",
    "describe_details",
    "describe_needed",
    "gather_warnings",
    "mistakes",
]

_MOST_CLASSES = 10  # lines of the table of classes; the worst are shown
_MOST_COLUMNS = 6  # classes whose confusion matrix fits 80 columns
_MOST = 10


class Mistake(NamedTuple):
    """A judged image that the recommended row gets wrong.

    Attributes
    ----------
    path, label, predicted : str
    confidence : float or None
        Probability of the predicted class.
    """

    path: str
    label: str
    predicted: str
    confidence: float | None


def confidence_of(rows: Sequence[Contender]) -> list[float] | None:
    """Return the probabilities of the recommended row's predictions.

    Parameters
    ----------
    rows : sequence of Contender
        Ranked, the recommended one first.

    Returns
    -------
    list of float or None
        For each judged image, by the recommended row's own probabilities, or else by
        those of another row on the same codes; None where no such row has any.
    """
    first = rows[0]
    for row in rows:
        p = row.fitted.probabilities
        # The recommended row may have no probabilities (svm); those of another
        # classifier on the same codes still order its mistakes.
        same = row.source is first.source and row.depth == first.depth
        if p is not None and same:
            confidence: list[float] = p[
                np.arange(len(p)), first.fitted.predicted
            ].tolist()
            return confidence
    return None


def mistakes(comparison: Comparison) -> list[Mistake]:
    """List the recommended row's mistakes, the most confident first, else by path."""
    predicted = comparison.recommended.test_predicted
    sure: Sequence[float | None] = comparison.confidence or [None] * len(predicted)
    wrong = [
        Mistake(*each)
        for each in zip(
            comparison.paths, comparison.labels, predicted, sure, strict=True
        )
        if each[1] != each[2]
    ]
    return sorted(wrong, key=lambda each: (-(each.confidence or 0.0), each.path))


def describe_details(comparison: Comparison) -> Iterator[RenderableType]:
    """Yield the parts printed below the table of a comparison, for 80 columns.

    The scores of each class, which classes are confused, and the ten most confident
    mistakes by path.

    Examples
    --------
    >>> import featpipe
    >>> names = ["linear"]
    >>> comparison = featpipe.compare("flowers.h5", classifiers=names, device="cpu")
    >>> print(next(describe_details(comparison)))
    <BLANKLINE>
    The recommended row, linear on penultimate, by class
    """
    from rich.text import Text

    best = comparison.recommended
    name = f"{best.classifier} on {best.depth}"
    yield Text(f"\nThe recommended row, {name}, by class", style="bold")
    yield _classes(comparison)
    yield from _confusions(comparison)
    yield from _mistakes(comparison)


def _table(*headers: tuple[str, bool]) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for text, number in headers:
        if number:
            table.add_column(Text(visible(text)), justify="right", no_wrap=True)
        else:
            table.add_column(text, overflow="fold")
    return table


def _classes(comparison: Comparison) -> RenderableType:
    from rich.text import Text

    names = sorted(set(comparison.labels))
    columns = precision_recall_fscore_support(
        comparison.labels,
        comparison.recommended.test_predicted,
        labels=names,
        zero_division=0,
    )
    # By F1, worst first: a class that is never predicted has a perfect precision of
    # nothing.
    lines = sorted(zip(*columns, names, strict=True), key=lambda line: line[2])
    figures = ("precision %", "recall %", "F1 %", "images")
    table = _table(("class", False), *((each, True) for each in figures))
    for *shares, n, name in lines[:_MOST_CLASSES]:
        cells = (f"{100 * share:.1f}" for share in shares)
        table.add_row(Text(visible(name)), *cells, f"{n:,}")  # type: ignore[union-attr]
    if len(lines) > _MOST_CLASSES:
        table.caption = f"the worst {_MOST_CLASSES} of {len(lines):,}"  # type: ignore[union-attr]
    return table


def _confusions(comparison: Comparison) -> Iterator[RenderableType]:
    """Yield a matrix of few classes, or the pairs that are confused most."""
    from rich.text import Text

    pairs = Counter(
        zip(comparison.labels, comparison.recommended.test_predicted, strict=True)
    )
    names = sorted({name for pair in pairs for name in pair})
    if all(label == predicted for label, predicted in pairs):
        return
    if len(names) <= _MOST_COLUMNS:
        yield Text("Label (lines) and prediction (columns)", style="bold")
        # Longer names would push the matrix beyond the width of a terminal.
        columns = [name if len(name) <= 10 else f"{name[:9]}…" for name in names]
        table = _table(("", False), *((name, True) for name in columns))
        for label in names:
            cells = [
                Text(
                    f"{pairs[label, other]:,}",
                    style="red" if label != other and pairs[label, other] else "",
                )
                for other in names
            ]
            table.add_row(Text(visible(label)), *cells)  # type: ignore[union-attr]
        yield table
        return
    yield Text("Confused most", style="bold")
    table = _table(("label", False), ("taken for", False), ("images", True))
    wrong = [(pair, n) for pair, n in pairs.most_common() if pair[0] != pair[1]]
    for (label, predicted), n in wrong[:_MOST]:
        table.add_row(Text(visible(label)), Text(visible(predicted)), f"{n:,}")  # type: ignore[union-attr]
    yield table


def _mistakes(comparison: Comparison) -> Iterator[RenderableType]:
    from rich.text import Text

    wrong = mistakes(comparison)
    if not wrong:
        yield Text("No mistake on the judged images.")
        return
    sure = wrong[0].confidence is not None
    order = "most confident" if sure else "first"
    title = (
        f"The {order} of {len(wrong):,} mistakes" if len(wrong) > 1 else "The mistake"
    )
    yield Text(title, style="bold")
    headers = [("path", False), ("label", False), ("taken for", False)]
    table = _table(*headers, *([("sure %", True)] if sure else []))
    for each in wrong[:_MOST]:
        cells = [Text(visible(t)) for t in (each.path, each.label, each.predicted)]
        if each.confidence is not None:
            cells.append(Text(f"{100 * each.confidence:.0f}"))
        table.add_row(*cells)  # type: ignore[union-attr]
    yield table


def describe_needed(scores: Sequence[Score], labels: Sequence[str]) -> str:
    """Return how many images would show the largest difference to a tied row.

    Parameters
    ----------
    scores : sequence of Score
        The recommended one first.
    labels : sequence of str
        Class names of the judged images, in the order of its ``test_paths``.

    Returns
    -------
    str
        A sentence; empty where no tied row differs.

    Examples
    --------
    >>> import featpipe
    >>> scores = featpipe.compare("flowers.h5", classifiers=["linear"]).scores
    >>> describe_needed(scores, ["daisy"] * 4 + ["rose"] * 4 + ["tulip"] * 4)
    'the largest difference to a tied row is 16.7 points (linear on layer3:avg); ...'
    """
    best = scores[0]
    tied = [s for s in scores if s.tied_with_recommended and s.difference]
    # Rows judged on other images (a fine-tuning on the first fold) have no paired
    # difference.
    tied = [score for score in tied if score.test_paths == best.test_paths]
    if not tied:
        return ""
    first = min(tied, key=lambda score: -abs(score.difference or 0.0))
    n = images_needed(first.difference or 0.0, _discordance(best, first, labels))
    if not math.isfinite(n):
        return ""
    points = 100 * abs(first.difference or 0.0)
    return (
        f"the largest difference to a tied row is {points:.1f} points "
        f"({first.classifier} on {first.depth}); were it real, about {n:,.0f} images "
        f"would show it, against {best.n_test:,} here (Connor 1987)"
    )


def _discordance(one: Score, other: Score, labels: Sequence[str]) -> float:
    """Return the share of images on which exactly one of two rows is right."""
    triples = zip(one.test_predicted, other.test_predicted, labels, strict=True)
    return float(np.mean([(a == label) != (b == label) for a, b, label in triples]))


def gather_warnings(scores: Sequence[Score]) -> Iterator[str]:
    """Yield each warning of the fits once, with the rows that it is about.

    Warnings that differ only in the number at their start are joined: "28 to 35 of 45
    values of C …".

    Parameters
    ----------
    scores : sequence of Score

    Yields
    ------
    str

    Examples
    --------
    >>> import featpipe
    >>> scores = featpipe.compare("flowers.h5", classifiers=["linear"]).scores
    >>> scores[0].warnings.append("3 of 9 values of C were not tried")
    >>> list(gather_warnings(scores[:1]))[-1]
    'linear on penultimate: 3 of 9 values of C were not tried'
    """
    concerned: dict[str, list[str]] = {}
    counts: dict[str, list[int]] = {}
    for score in scores:
        for text in score.warnings:
            number, space, rest = text.partition(" ")
            key = text if not number.isdecimal() else f"{{}}{space}{rest}"
            counts.setdefault(key, []).append(int(number) if key != text else 0)
            concerned.setdefault(key, []).append(f"{score.classifier} on {score.depth}")
    for key, names in concerned.items():
        low, high = min(counts[key]), max(counts[key])
        count = f"{low}" if low == high else f"{low} to {high}"
        text = key.replace("{}", count, 1) if key.startswith("{}") else key
        if len(names) == len(scores) > 1:
            yield f"every row: {text}"
        else:
            more = f" and {len(names) - 2} more" * (len(names) > 2)
            yield f"{', '.join(names[:2])}{more}: {text}"
