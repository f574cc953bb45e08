"""Rank contenders without the held-out labels, then judge them by these labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from featpipe.comparison.contenders import Fitted
from featpipe.comparison.external import ExternalScore
from featpipe.comparison.sources import Labelled, Source
from featpipe.protocol import Protocol, group_numbers
from featpipe.scores import Score, fold_variance_ratio, judge

__all__ = ["Contender", "HeldOut", "JudgedContender", "nested_choice", "rank"]


@dataclass(frozen=True, eq=False)
class Contender:
    """One contender, fitted but not yet judged."""

    source: Source
    depth: str
    width: int
    classifier: str
    fitted: Fitted


@dataclass(frozen=True, eq=False)
class JudgedContender:
    """One contender, judged but not yet tested.

    Attributes
    ----------
    score : Score
    at : (n_at,) int64
        Positions among the judged images, sorted, of those this contender judged.
    correct : (n_at,) bool
        Whether it is right on each of them.
    """

    score: Score
    at: np.ndarray
    correct: np.ndarray


def rank(rows: Sequence[Contender]) -> list[Contender]:
    """Order by cross-validated score, ties by width, then by the order of options."""
    return sorted(rows, key=lambda row: (-_rounded(row.fitted.cv_score), row.width))


def _rounded(score: float) -> float:
    """Return a cross-validated score for ranking: the lowest where there is none.

    Nine digits keep the order free of the last bit of a mean.
    """
    # Rounded, so that the order does not depend on the last bits of one machine.
    return round(score, 9) if math.isfinite(score) else -math.inf


class HeldOut:
    """The judged images and their labels: read only once the order is fixed.

    Parameters
    ----------
    labelled : Labelled
    protocol : Protocol
    metric : str
        By which contenders are chosen.
    seed : int
        Of the tests that draw random signs.
    """

    def __init__(
        self, labelled: Labelled, protocol: Protocol, metric: str, seed: int
    ) -> None:
        self.protocol = protocol
        self.metric = metric
        self.seed = seed
        self.class_names = np.array(labelled.class_names, object)
        self.rows = protocol.judged
        # Nothing outside this class reads a held-out label.
        self.labels = labelled.labels[self.rows]
        self.names: list[str] = self.class_names[self.labels].tolist()
        self.paths = [labelled.paths[row] for row in self.rows]
        self.groups = labelled.groups[self.rows]
        self.group_numbers = group_numbers(self.groups)
        self.grouped = bool((self.groups != "").any())
        self.nested = protocol.nested
        fold = protocol.parts[0].held if self.nested else self.rows[:0]
        self.first_fold = [labelled.paths[row] for row in fold]
        # Of the training rows of each part: the held-out labels must not choose it.
        self.majority = _majority(labelled.labels, protocol)

    @property
    def variance_ratio(self) -> float:
        """Ratio of the variance of a difference to that over independent images."""
        n_folds = len(self.protocol.parts)
        return fold_variance_ratio(n_folds) if self.nested else 1.0

    @property
    def test(self) -> str:
        """The paired test behind the p-values, in words."""
        unit = "groups" if self.grouped else "images"
        if self.nested:
            return f"maxT over sign flips of {unit}, the choice of ★ inside"
        exact = "sign-flip test over groups" if self.grouped else "McNemar test"
        return f"exact {exact}, Holm-corrected"

    @property
    def majority_accuracy(self) -> float:
        """Accuracy of always naming the most frequent class of the training rows."""
        return float((self.majority == self.labels).mean())

    @property
    def majority_class(self) -> str:
        """Name of that class."""
        return str(self.class_names[np.bincount(self.majority).argmax()])

    def measure(
        self, predicted: np.ndarray, at: np.ndarray, probabilities: np.ndarray | None
    ) -> dict[str, Any]:
        """Judge predictions, (n_at,) class numbers, of the judged images ``at``."""
        groups = self.group_numbers[at] if self.grouped else None
        return judge(self.labels[at], predicted, probabilities, groups)

    def enter(self, row: Contender) -> JudgedContender:
        """Judge a contender by the held-out labels."""
        fitted, provenance = row.fitted, row.source.codes.provenance
        everywhere = np.arange(len(self.rows))
        measures = self.measure(fitted.predicted, everywhere, fitted.probabilities)
        score = Score(
            codes=row.source.name,
            backbone=str(provenance.get("backbone", "")),
            weights=str(provenance.get("weights", "")),
            depth=row.depth,
            width=row.width,
            classifier=row.classifier,
            C=None if fitted.C is None else float(fitted.C),
            protocol=self.protocol.name,
            n_train=len(self.protocol.final.train),
            n_test=len(self.rows),
            cv_accuracy=fitted.cv_score if math.isfinite(fitted.cv_score) else None,
            fit_seconds=fitted.fit_seconds,
            predict_seconds=fitted.predict_seconds,
            C_curve=fitted.C_curve,
            warnings=[*self.protocol.warnings, *fitted.warnings],
            test_paths=self.paths,
            test_predicted=self.class_names[fitted.predicted].tolist(),
            **measures,
        )
        return JudgedContender(score, everywhere, fitted.predicted == self.labels)

    def enter_external(self, external_score: ExternalScore) -> JudgedContender:
        """Judge an external score by its predictions.

        It keeps its log-loss, which needs probabilities.
        """
        names = [
            *self.class_names,
            *sorted({*external_score.predicted} - {*self.class_names}),
        ]
        number = {name: k for k, name in enumerate(names)}
        # Classes that only the other model has get numbers of their own: predicting
        # them is wrong, but no error.
        predicted = np.array(
            [number[name] for name in external_score.predicted], np.int64
        )
        measures = self.measure(predicted, external_score.at, None)
        # Without probabilities there is no log-loss; the score's own is kept.
        del measures["log_loss"]
        score = replace(external_score.score, **measures)
        return JudgedContender(
            score, external_score.at, predicted == self.labels[external_score.at]
        )


def _majority(labels: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Return the most frequent class of the training rows, for each judged row."""
    named = np.empty(len(labels), np.int64)
    for part in protocol.parts:
        # Ties go to the first class, as everywhere.
        named[part.held] = np.bincount(labels[part.train]).argmax()
    of_judged: np.ndarray = named[protocol.judged]
    return of_judged


def nested_choice(contenders: Sequence[Contender], judged: HeldOut) -> str:
    """Return a sentence on the accuracy to expect of a row chosen on all images.

    Without a split the recommended row was chosen on the images that judge it, so its
    own accuracy is optimistic; that of rows chosen inside each training part is not.
    Empty where nothing is chosen, or a split judges.

    Parameters
    ----------
    contenders : sequence of Contender
        In the order of the options: the ranking has used all images.
    judged : HeldOut
    """
    # With one row nothing is chosen; with a split the score is unbiased.
    if not judged.nested or len(contenders) < 2:
        return ""
    predicted = np.empty(len(judged.rows), np.int64)
    for k, part in enumerate(judged.protocol.parts):
        best = min(
            contenders,
            key=lambda row: (-_rounded(row.fitted.part_cv_scores[k]), row.width),
        )
        at = np.searchsorted(judged.rows, part.held)
        predicted[at] = best.fitted.predicted[at]
    measures = judged.measure(predicted, np.arange(len(judged.rows)), None)
    accuracy, low, high = (
        100 * measures[name] for name in ("accuracy", "accuracy_low", "accuracy_high")
    )
    return (
        f"To expect of the recommended row: {accuracy:.1f} % [{low:.1f}, {high:.1f}], "
        "the row chosen anew inside each training part"
    )
