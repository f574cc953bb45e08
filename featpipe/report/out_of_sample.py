"""Compute the probabilities of every image by a classifier that never saw it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.exceptions import ConvergenceWarning

from featpipe import classifiers
from featpipe.defaults import N_FOLDS
from featpipe.protocol import folds

__all__ = ["out_of_sample"]

_FEW = 4000  # images that choose C, or the scale of scores
_CS = np.geomspace(1e-4, 1e2, 7)  # coarse: used only where no score names a C


def out_of_sample(
    X: np.ndarray,
    y: np.ndarray,
    judged: np.ndarray,
    *,
    classifier: str = "logistic",
    C: float | None = None,
    groups: Sequence[str] | np.ndarray | None = None,
    n_folds: int = N_FOLDS,
    seed: int = 0,
) -> np.ndarray:
    """Predict each image by a classifier fitted without it.

    A fit on all other images predicts the judged ones; cross-validation predicts the
    others. If all images are judged, cross-validation predicts all of them.

    Parameters
    ----------
    X : (n, width) float32
        Codes.
    y : (n,) int64
        Class numbers.
    judged : (n,) bool
        The held-out images.
    classifier : {"logistic", "linear"}
        A softmax turns the scores of ``"linear"`` into probabilities, at the scale that
        has the lowest log-loss over the cross-validated images.
    C : float, optional
        Default: chosen by cross-validation on at most 4,000 training images.
    groups : (n,) str, optional
        Images of one group stay in one fold.
    n_folds, seed : int
        As in `featpipe.compare`.

    Returns
    -------
    (n, n_classes) float64
        Zero for a class that the fit has not learned.
    """
    learned = np.flatnonzero(~judged) if not judged.all() else np.arange(len(y))
    few = np.random.default_rng(seed).permutation(learned)[:_FEW]
    if C is None:
        C = float(_fit(classifier, X[few], y[few], Cs=_CS).C_)
    # Minus infinity becomes probability zero, for classes that a fit has not learned.
    scores = np.full((len(y), int(y.max()) + 1), -np.inf)
    inner = None if groups is None else np.asarray(groups, object)[learned]
    for fitted, left_out in folds(y[learned], inner, n_folds=n_folds, seed=seed):
        _score(classifier, C, X, y, learned[fitted], learned[left_out], scores)
    if not judged.all() and judged.any():
        _score(classifier, C, X, y, learned, np.flatnonzero(judged), scores)
    # Scores of least squares are no log-odds, so a softmax needs their scale.
    scale = 1.0 if classifier == "logistic" else _softmax_scale(scores[few], y[few])
    scores *= scale
    probabilities: np.ndarray = softmax(scores, axis=1)
    return probabilities


def _score(
    classifier: str,
    C: float,
    X: np.ndarray,
    y: np.ndarray,
    fitted: np.ndarray,
    rows: np.ndarray,
    scores: np.ndarray,
) -> None:
    """Fit on ``fitted``, and write the scores of ``rows`` into ``scores``."""
    model = _fit(classifier, X[fitted], y[fitted], C=C)
    values = model.decision_function(X[rows])
    if values.ndim == 1:  # two classes, whose two scores differ by the one score
        values = np.column_stack([-values, values]) / 2
    scores[np.ix_(rows, model.classes_)] = values


def _softmax_scale(scores: np.ndarray, y: np.ndarray) -> float:
    """Return the factor of scores whose softmax has the lowest log-loss."""
    # An image whose class the fold lacked would make every loss infinite.
    is_learned = np.isfinite(scores[np.arange(len(y)), y])
    scores, y = scores[is_learned], y[is_learned]

    def loss(log_scale: float) -> float:
        logs = log_softmax(np.exp(log_scale) * scores, axis=1)
        return -float(logs[np.arange(len(y)), y].mean())

    if not len(y):
        return 1.0
    return float(np.exp(minimize_scalar(loss, bounds=(-4, 8), method="bounded").x))


def _fit(classifier: str, X: np.ndarray, y: np.ndarray, **options: Any) -> Any:
    with warnings.catch_warnings():
        # The comparison has warned of it already.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return classifiers.make(classifier, **options).fit(X, y)
