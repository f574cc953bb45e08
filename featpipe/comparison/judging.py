"""Ranking contenders without held-out labels, then judging them with these."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from featpipe.comparison.contenders import Fitted
from featpipe.comparison.rivals import Rival
from featpipe.comparison.sources import Labelled, Source
from featpipe.protocol import Protocol, group_numbers
from featpipe.scores import (
    SIGNIFICANT,
    Score,
    holm,
    judge,
    mcnemar,
    sign_flip,
    wilson,
)

__all__ = ["Judged", "Row", "choice_inside", "judge_all", "rank"]


@dataclass(frozen=True, eq=False)
class Row:
    """One contender, fitted but not yet judged."""

    source: Source
    depth: str
    width: int
    classifier: str
    fitted: Fitted


def rank(rows: Sequence[Row]) -> list[Row]:
    """Order by cross-validated score; equal ones by width, then as they were asked.

    Rounding to nine digits keeps the order free of the last bit of a mean.
    """
    return sorted(rows, key=lambda row: (-_rounded(row.fitted.cv_score), row.width))


def _rounded(score: float) -> float:
    """Return a cross-validated score for ranking: the lowest where there is none."""
    return round(score, 9) if math.isfinite(score) else -math.inf


class Judged:
    """The judged images and their labels: read only once the order is fixed."""

    def __init__(self, labelled: Labelled, protocol: Protocol) -> None:
        self.protocol = protocol
        self.class_names = np.array(labelled.class_names, object)
        self.rows = protocol.judged
        self.labels = labelled.labels[self.rows]
        self.names: list[str] = self.class_names[self.labels].tolist()
        self.paths = [labelled.paths[row] for row in self.rows]
        self.groups = labelled.groups[self.rows]
        self.group_numbers = group_numbers(self.groups)
        self.grouped = bool((self.groups != "").any())
        self.test = "exact sign-flip test over groups" if self.grouped else (
            "exact McNemar test"
        )  # fmt: skip
        fold = protocol.parts[0].held if protocol.nested else self.rows[:0]
        self.first_fold = [labelled.paths[row] for row in fold]

    def score(self, row: Row) -> Score:
        """Judge a contender by the held-out labels."""
        fitted, provenance = row.fitted, row.source.codes.provenance
        measures: dict[str, Any] = judge(
            self.labels, fitted.predicted, fitted.probabilities
        )
        return Score(
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

    def p_value(
        self, first: Sequence[str], second: np.ndarray, at: np.ndarray
    ) -> float:
        """Test two contenders' predictions of the judged images ``at``."""
        truth = np.array(self.names, object)[at]
        correct = np.array(first, object)[at] == truth, second == truth
        if self.grouped:
            return sign_flip(*correct, self.group_numbers[at])
        return mcnemar(*correct)


def judge_all(
    rows: Sequence[Row], rivals: Sequence[Rival], judged: Judged
) -> list[Score]:
    """Judge ranked rows and rivals, and test each against the recommended, the first.

    Rivals take their place in the order by their own cross-validated score, behind the
    recommended row; those without one come last.
    """
    scores = [judged.score(row) for row in rows]
    recommended = replace(scores[0], recommended=True)
    everyone = np.arange(len(judged.rows))
    others = [
        *((s, np.array(s.test_predicted, object), everyone) for s in scores[1:]),
        *((rival.score, rival.predicted, rival.at) for rival in rivals),
    ]
    p_values = holm(
        judged.p_value(recommended.test_predicted, predicted, at)
        for _, predicted, at in others
    )
    tested = [
        replace(score, p_value=p, tied_with_recommended=p >= SIGNIFICANT)
        for (score, _, _), p in zip(others, p_values, strict=True)
    ]
    # Stable: own rows keep their order, a rival without a score comes last.
    tested.sort(key=lambda s: -1.0 if s.cv_accuracy is None else s.cv_accuracy,
                reverse=True)  # fmt: skip
    return [recommended, *tested]


def choice_inside(
    rows: Sequence[Row], protocol: Protocol, judged: Judged
) -> Iterator[str]:
    """Score the choice itself where every image also took part in choosing.

    With folds only, the recommended row's own accuracy has the winner's luck; choosing
    a row inside each training part has not.
    """
    if not protocol.nested or len(rows) < 2:
        return
    n_correct = 0
    for k, part in enumerate(protocol.parts):
        best = max(rows, key=lambda row: _rounded(row.fitted.part_cv_scores[k]))
        at = np.searchsorted(judged.rows, part.held)
        n_correct += int((best.fitted.predicted[at] == judged.labels[at]).sum())
    low, high = (100 * end for end in wilson(n_correct, len(judged.rows)))
    yield (
        f"choosing the row inside each training part as well gives "
        f"{100 * n_correct / len(judged.rows):.1f} % [{low:.1f}, {high:.1f}]: what to "
        "expect of the recommended row, free of the luck of having been chosen"
    )
