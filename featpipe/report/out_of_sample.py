"""Probabilities of every image by a classifier that never saw it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from featpipe.classifiers import LogisticClassifier
from featpipe.protocol import folds

__all__ = ["out_of_sample"]

_MOST_FOR_C = 4000  # images that choose it then
_CS = np.geomspace(1e-4, 1e2, 7)  # coarse: used only where no score names a C


def out_of_sample(
    X: np.ndarray,
    y: np.ndarray,
    judged: np.ndarray,
    *,
    C: float | None = None,
    groups: Sequence[str] | np.ndarray | None = None,
    n_folds: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """Predict each image by a logistic classifier fitted without it.

    Judged images are predicted by a fit on all others, the others by cross-validation
    among themselves; where all are judged, all are cross-validated.

    Parameters
    ----------
    X : (n, width) float32
        Codes.
    y : (n,) int64
        Class numbers.
    judged : (n,) bool
        The held-out images.
    C : float, optional
        Default: chosen by cross-validation on at most 4,000 of the images to learn
        from.
    groups : (n,) str, optional
        Groups are kept together.
    n_folds, seed : int
        As in `featpipe.compare`.

    Returns
    -------
    (n, n_classes) float64
        Zero for classes that a fit did not see.
    """
    n_classes = int(y.max()) + 1
    learned = np.flatnonzero(~judged) if not judged.all() else np.arange(len(y))
    if C is None:
        few = np.random.default_rng(seed).permutation(learned)[:_MOST_FOR_C]
        C = float(_fit(X[few], y[few], Cs=_CS).C_)
    found = np.zeros((len(y), n_classes))
    inner = None if groups is None else np.asarray(groups, object)[learned]
    for fitted, left_out in folds(y[learned], inner, n_folds=n_folds, seed=seed):
        model = _fit(X[learned[fitted]], y[learned[fitted]], C=C)
        rows = learned[left_out]
        found[np.ix_(rows, model.classes_)] = model.predict_proba(X[rows])
    if not judged.all() and judged.any():
        model = _fit(X[learned], y[learned], C=C)
        rows = np.flatnonzero(judged)
        found[np.ix_(rows, model.classes_)] = model.predict_proba(X[rows])
    return found


def _fit(X: np.ndarray, y: np.ndarray, **options: Any) -> LogisticClassifier:
    with warnings.catch_warnings():
        # The comparison has reported how this depth converges.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticClassifier(**options).fit(X, y)
