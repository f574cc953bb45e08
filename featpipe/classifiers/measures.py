"""Weigh rows, and score the out-of-fold predictions of every C.

These functions take and return arrays; they use neither estimators nor solvers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from featpipe.bounds import require_number

if TYPE_CHECKING:
    from featpipe.solvers import Judge

__all__ = ["METRICS", "Labels", "class_weights", "fold_scores", "make_judge"]

METRICS = ("accuracy", "balanced_accuracy", "macro_f1")


class Labels(NamedTuple):
    """The labels of a fit: the class number and the weights of every row.

    Attributes
    ----------
    classes : (n_classes,)
        Class names, ascending.
    numbers : (n,) int64
        Class number of each row.
    rows, loss : (n,) float64
        Weight of each row in the metric, and in the loss.
    """

    classes: np.ndarray
    numbers: np.ndarray
    rows: np.ndarray
    loss: np.ndarray


def class_weights(
    class_weight: dict[Any, float] | str | None, classes: np.ndarray, mass: np.ndarray
) -> np.ndarray:
    """Return the weight of each class; ``mass`` is the sum of its row weights."""
    if class_weight is None:
        return np.ones(len(classes))
    if isinstance(class_weight, str) and class_weight == "balanced":
        present = mass > 0
        # Classes without rows would divide by zero.
        share = np.where(present, mass, 1.0) * np.count_nonzero(present)
        return np.where(present, mass.sum() / share, 1.0)
    if not isinstance(class_weight, dict):
        raise ValueError(
            f"class_weight={class_weight!r} must be None, 'balanced' or a dict of "
            "class: weight"
        )
    for name, weight in class_weight.items():
        require_number(f"class_weight[{name!r}]", weight, 0, 1e12, whole=False)
    # The keys of the dict are Python's strings, not numpy's.
    return np.array([class_weight.get(name, 1.0) for name in classes.tolist()], float)


def fold_scores(
    labels: Labels, held_out: np.ndarray, predicted: np.ndarray, metric: str
) -> np.ndarray:
    """Return the metric of one fold for every C; predicted is (n_C, n_held_out)."""
    truth, weights = labels.numbers[held_out], labels.rows[held_out]
    n_classes = len(labels.classes)
    return np.array([_score(truth, p, weights, n_classes, metric) for p in predicted])


def make_judge(
    labels: Labels, held_out: Sequence[tuple[int, np.ndarray, np.ndarray]], metric: str
) -> Judge:
    """Return a judge that chooses C by the mean metric over folds.

    Parameters
    ----------
    labels : Labels
    held_out : sequence of (split, positions, rows)
        Positions of the held-out predictions of a split that count, and their rows in
        ``labels``.
    metric : str

    Returns
    -------
    Judge
    """
    from featpipe.solvers import Judge

    folds = [rows for *_, rows in held_out]
    truth = [labels.numbers[rows] for rows in folds]
    weights = [
        _row_weights(of_fold, labels.rows[rows], len(labels.classes), metric)
        for of_fold, rows in zip(truth, folds, strict=True)
    ]
    edges = np.cumsum([len(rows) for rows in folds])[:-1]

    def score(predicted: np.ndarray) -> float:
        # The mean of the scores of the folds, as in scikit-learn's cross_val_score.
        parts = zip(folds, np.split(predicted, edges), strict=True)
        scores = [fold_scores(labels, rows, p[None], metric)[0] for rows, p in parts]
        return float(np.mean(scores))

    return Judge(
        [(split, positions) for split, positions, _ in held_out],
        np.concatenate(truth),
        np.concatenate(weights) / len(folds),
        score,
    )


def _row_weights(
    truth: np.ndarray, weights: np.ndarray, n_classes: int, metric: str
) -> np.ndarray:
    """Return how much each held-out row adds to the metric of its fold if it is right.

    Macro F1 is not a sum over rows; the weights of balanced accuracy stand in for it.
    """
    if metric == "accuracy":
        shares: np.ndarray = weights / max(weights.sum(), np.finfo(float).tiny)
        return shares
    true = np.bincount(truth, weights, minlength=n_classes)
    share = np.count_nonzero(true) * np.where(true > 0, true, 1.0)
    shares = weights / share[truth]
    return shares


def _score(
    truth: np.ndarray,
    predicted: np.ndarray,
    weights: np.ndarray,
    n_classes: int,
    metric: str,
) -> float:
    # With weights, a row that weighs twice counts as two rows.
    hit = weights * (truth == predicted)
    if metric == "accuracy":
        return float(hit.sum() / max(weights.sum(), np.finfo(float).tiny))
    hits = np.bincount(truth, hit, minlength=n_classes)
    true = np.bincount(truth, weights, minlength=n_classes)
    if metric == "balanced_accuracy":
        return float(np.mean(hits[true > 0] / true[true > 0]))
    named = np.bincount(predicted, weights, minlength=n_classes)
    # Classes that are neither labels nor predictions of this fold have no F1.
    defined = true + named > 0
    return float(np.mean(2 * hits[defined] / (true + named)[defined]))
