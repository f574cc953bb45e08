"""Turn decision values into probabilities, by rows that the classifier did not learn.

Has the out-of-fold decision values and Platt's sigmoid of them; `rejecting` decides
which answers are trusted.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator

__all__ = ["out_of_fold", "platt", "probabilities"]


def out_of_fold(
    estimator: Any,
    X: Any,
    y: np.ndarray,
    selection: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
    """Return decision values of rows by fits without those rows, at the chosen C.

    Folds that lack a class are left out, since they have no decision value for it.

    Parameters
    ----------
    estimator : PathClassifier
        Fitted on all of ``X``.
    X : (n, width) float32 or float64, or a `CodesView`
    y : (n,)
    selection : sequence of (fitted, scored)
        Positions within the rows.

    Returns
    -------
    rows : (m,) int64
        Positions of the rows predicted, fold by fold.
    decisions : (m, n_classes) float64, or (m,) for two classes
    """
    # If these folds chose C, their fits at the chosen one exist already.
    ready = estimator.fold_fits_ if estimator.cv is selection else []
    folds = [
        (k, fitted, scored)
        for k, (fitted, scored) in enumerate(selection)
        if len(np.unique(y[fitted])) == len(estimator.classes_)
    ]
    n_rows = sum(len(scored) for *_, scored in folds)
    n_columns = () if len(estimator.classes_) == 2 else (len(estimator.classes_),)
    # Filled fold by fold: of a million images, a copy is a hundred megabytes.
    rows, decisions = np.empty(n_rows, np.int64), np.empty((n_rows, *n_columns))
    start = 0
    for k, fitted, scored in folds:
        if ready:
            again = copy(estimator)
            again.coef_, again.intercept_ = ready[k]
        else:
            again = _fitted(estimator, X[fitted], y[fitted])
        stop = start + len(scored)
        rows[start:stop] = scored
        decisions[start:stop] = again.decision_function(X[scored])
        start = stop
    return rows, decisions


def _fitted(estimator: Any, X: Any, y: np.ndarray) -> Any:
    """Fit a clone at the chosen C."""
    again = clone(estimator).set_params(C=estimator.C_)
    with warnings.catch_warnings():
        # The fit on all rows has warned already if this C does not converge.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return again.fit(X, y)


class _Decisions(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose codes are its decision values."""

    def __init__(self, classes: np.ndarray) -> None:
        self.classes = classes

    @property
    def classes_(self) -> np.ndarray:
        return self.classes

    def fit(self, X: np.ndarray, y: np.ndarray) -> _Decisions:
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        values = self.decision_function(X)
        at = values > 0 if values.ndim == 1 else values.argmax(axis=1)
        labels: np.ndarray = self.classes[at.astype(int)]
        return labels

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        return X[:, 0] if len(self.classes) == 2 else X


def platt(decisions: np.ndarray, y: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Fit Platt's sigmoid to each column of decision values, by scikit-learn.

    Parameters
    ----------
    decisions : (n, n_classes) float64, or (n,) for two classes
    y : (n,)
    classes : (n_classes,)
        Sorted.

    Returns
    -------
    (n_classes, 2) float64, or (1, 2) for two classes
        a and b of 1 / (1 + exp(a f + b)).

    References
    ----------
    J. Platt, "Probabilistic outputs for support vector machines and comparisons to
    regularized likelihood methods", Advances in Large Margin Classifiers, 1999.
    """
    # scikit-learn calibrates estimators, so this one takes the values as its codes.
    X = decisions.reshape(len(decisions), -1)
    frozen = FrozenEstimator(_Decisions(np.asarray(classes)))
    rows = np.arange(len(X))
    # One "fold" of all rows, whose values are out-of-fold already.
    fitted = CalibratedClassifierCV(
        frozen, method="sigmoid", cv=[(rows, rows)], ensemble=False
    ).fit(X, y)
    sigmoids = fitted.calibrated_classifiers_[0].calibrators
    return np.array([[each.a_, each.b_] for each in sigmoids], np.float64)


def probabilities(scores: np.ndarray, calibration: np.ndarray | None) -> np.ndarray:
    """Return the probabilities of decision values.

    Parameters
    ----------
    scores : (n, n_classes) float64
        With two classes, the values of the first are those of the second negated.
    calibration : (n_classes, 2) or (1, 2) float64, or None
        Of `platt`; None for a classifier whose values are logits.

    Returns
    -------
    (n, n_classes) float64

    Examples
    --------
    >>> probabilities(np.array([[0.0, 0.0]]), None)
    array([[0.5, 0.5]])
    """
    two = scores.shape[1:] == (2,)
    if calibration is None:
        converted: np.ndarray = expit(scores) if two else softmax(scores, axis=1)
        return converted
    a, b = calibration.T
    if two:
        # Two classes have one sigmoid; the two probabilities have to add up to 1.
        second = expit(-(a * scores[:, 1] + b))
        return np.column_stack([1 - second, second])
    each = expit(-(a * scores + b))
    total = each.sum(axis=1, keepdims=True)
    # As in scikit-learn: where no class is likely, all are equally likely.
    shares: np.ndarray = np.full_like(each, 1 / len(a))
    np.divide(each, total, out=shares, where=total > 0)
    return shares
