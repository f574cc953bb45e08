"""Score the chosen C over more folds than those that chose it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from featpipe.classifiers.choosing import PathClassifier
from featpipe.classifiers.folding import Split

__all__ = ["repeated_score"]


def repeated_score(
    model: PathClassifier,
    X: Any,
    y: np.ndarray,
    chosen_by: Sequence[Split],
    repeats: Sequence[Split],
) -> float:
    """Return the mean metric over the folds that chose C and over further ones.

    With few images the score depends on the folds. More folds make it steadier, and
    the score of folds that did not choose C is not biased by the choice.

    Parameters
    ----------
    model : PathClassifier
        Fitted, with its C chosen by ``chosen_by``.
    X : (n, width) float32 or float64
    y : (n,)
    chosen_by, repeats : sequence of (train, held-out)
        Row numbers.

    Returns
    -------
    float
        ``model.cv_score_`` where there are no ``repeats``, or C was given (nan).

    Examples
    --------
    >>> from featpipe.classifiers import make
    >>> from featpipe.protocol import folds
    >>> X, y = np.arange(24.0).reshape(12, 2), np.repeat([0, 1], 6)
    >>> first = folds(y, n_folds=3)
    >>> model = make("linear", cv=first, device="cpu").fit(X, y)
    >>> repeated_score(model, X, y, first, folds(y, n_folds=3, seed=1))
    1.0
    """
    if not repeats or not np.isfinite(model.cv_score_):
        return float(model.cv_score_)
    # With a single value in the grid, "auto" only computes its score.
    again = clone(model).set_params(C="auto", Cs=[model.C_], cv=list(repeats))
    with warnings.catch_warnings():
        # The path that chose C has reported how this C converges.
        warnings.simplefilter("ignore", ConvergenceWarning)
        again.fit(X, y)
    sums = len(chosen_by) * model.cv_score_ + len(repeats) * again.cv_score_
    return float(sums / (len(chosen_by) + len(repeats)))
