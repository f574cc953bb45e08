"""Make the head before its first step: new, or the logistic classifier on the codes."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from featpipe import classifiers
from featpipe.codes import Codes
from featpipe.finetuning.network import Head
from featpipe.finetuning.settings import Settings
from featpipe.protocol import Pairs, TuningRows, folds

__all__ = ["head_initialiser"]


def head_initialiser(
    settings: Settings,
    codes: Codes,
    depth: str,
    rows: TuningRows,
    labels: np.ndarray,
    weights: np.ndarray | None = None,
) -> Callable[[np.ndarray], Head]:
    """Return the function that makes the initial head for training on some rows.

    Scaler and classifier learn from these rows only, not from rows that choose or
    judge. The same rows get the same head.

    Parameters
    ----------
    settings : Settings
    codes : Codes
    depth : str
    rows : TuningRows
    labels : (n_rows,) int64
        Class numbers of the rows that train.
    weights : (n_classes,) float, optional
        Of the classes.
    """
    made: dict[bytes, Head] = {}
    n_classes = int(labels.max()) + 1

    def head(fitted: np.ndarray) -> Head:
        # For each set of rows (those that fit, and all) the probe is fitted once.
        key = fitted.tobytes()
        if key not in made:
            X = codes.take(depth, fitted).astype(np.float32, copy=False)
            made[key] = Head(X, n_classes, seed=settings.seed)
            if settings.init == "probe":
                pairs = _folds(codes, rows, fitted, settings)
                probe = _probe(X, labels[fitted], pairs, n_classes, weights, settings)
                made[key].start_from(*probe)
        return made[key]

    return head


def _folds(
    codes: Codes, rows: TuningRows, fitted: np.ndarray, settings: Settings
) -> Pairs:
    """Return the folds that choose the C of a probe; none where there are too few."""
    if len(fitted) == len(rows.train):
        return rows.folds
    labels = codes.labels[fitted]
    try:
        pairs = folds(
            labels, codes.groups[fitted], n_folds=settings.folds, seed=settings.seed
        )
    except ValueError:
        return []
    return [pair for pair in pairs if len(np.unique(labels[pair[0]])) > 1]


def _probe(
    X: np.ndarray,
    y: np.ndarray,
    pairs: Pairs,
    n_classes: int,
    weights: np.ndarray | None,
    settings: Settings,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the logistic classifier; return coef and intercept of all classes."""
    weight_by_number = None if weights is None else dict(enumerate(weights.tolist()))
    balanced = settings.class_weight == "balanced"
    estimator = classifiers.make(
        "logistic",
        C="auto" if pairs else 1.0,
        cv=pairs or 5,
        metric=settings.metric,
        # Balanced over these rows, as in `compare`.
        class_weight="balanced" if balanced else weight_by_number,
        random_state=settings.seed,
    )
    with warnings.catch_warnings():
        # An inexact start does no harm.
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(X, y)
    coef, intercept = estimator.coef_, estimator.intercept_
    if len(estimator.classes_) == n_classes:
        return coef, intercept
    if len(coef) == 1:
        # Two scores whose difference is the decision value: their softmax is its
        # sigmoid.
        coef = np.concatenate([-coef / 2, coef / 2])
        intercept = np.concatenate([-intercept / 2, intercept / 2])
    # A class that these rows lack starts as unlikely.
    every = np.zeros((n_classes, coef.shape[1]))
    every[estimator.classes_] = coef
    offsets = np.full(n_classes, intercept.min() - np.log(len(X) + 1))
    offsets[estimator.classes_] = intercept
    return every, offsets
