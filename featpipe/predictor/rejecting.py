"""The rejection threshold for a stated error rate.

It follows from how often answers of a given confidence were wrong on rows that the
classifier did not learn from. `calibrating` has the probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import beta

__all__ = ["UNKNOWN", "error_curve", "find_threshold", "smallest_rate", "usable_curve"]

UNKNOWN = "unknown"
"""The answer for an image whose class is too doubtful."""

_LEVEL = 0.05  # share of models whose true error rate may exceed the stated one
_POINTS = 256  # 6 kB in the model file


def error_curve(confidence: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Count the errors among the most confident answers, from few to all.

    Parameters
    ----------
    confidence : (n,) float64
    correct : (n,) bool

    Returns
    -------
    (m, 3) float64
        Threshold, answers at or above it, wrong ones among these; at most 256 points,
        evenly spaced in the answers. Empty where there are no rows.

    Examples
    --------
    >>> error_curve(np.array([0.9, 0.6, 0.8]), np.array([True, False, True])).tolist()
    [[0.9, 1.0, 0.0], [0.8, 2.0, 0.0], [0.6, 3.0, 1.0]]
    """
    n = len(confidence)
    if not n:
        return np.empty((0, 3))
    order = np.argsort(-confidence, kind="stable")
    ordered, wrong = confidence[order], np.cumsum(~correct[order])
    # Evenly spaced in answers, since most confidences are near 1.
    at = np.unique(np.linspace(0, n - 1, min(n, _POINTS)).round().astype(int))
    # Answers of the same confidence are taken or rejected together.
    last = np.unique(np.searchsorted(-ordered, -ordered[at], side="right") - 1)
    return np.column_stack([ordered[last], last + 1.0, wrong[last]])


def usable_curve(
    curve: np.ndarray | None, class_names: Sequence[str], name: str
) -> np.ndarray:
    """Return the error curve of a model; raise if there is none to use.

    Parameters
    ----------
    curve : (m, 3) float64 or None
    class_names : sequence of str
    name : str
        Of the model, for messages.

    Raises
    ------
    ValueError
        If there is none, or a class is called ``"unknown"``.
    """
    # An image with this label would look like a rejected one.
    if UNKNOWN in class_names:
        raise ValueError(
            f"a class of {name} is called {UNKNOWN!r}, the answer for rejected "
            "images; rename it and fit again"
        )
    # Without held-out errors a threshold would be a guess.
    if curve is None:
        raise ValueError(
            f"{name} has no record of its errors on training images, which reject "
            "needs: fine-tuned models have none, nor those of too few images or of an "
            "earlier version; fit linear, svm or logistic again"
        )
    return curve


def find_threshold(curve: np.ndarray, rate: float) -> float:
    """Return the lowest confidence at which at most a share of the answers is wrong.

    By "selection with guaranteed risk" [1]_: a binary search over the thresholds for
    the most answers whose error rate has an upper confidence bound, exact for a
    binomial count and corrected for the number of tries, of at most ``rate``. For
    images drawn as the rows of the curve were, the true error rate of the answers
    exceeds ``rate`` in at most 5 of 100 models.

    Parameters
    ----------
    curve : (m, 3) float64
        Of `error_curve`.
    rate : float
        Share of wrong answers among those given, between 0 and 1.

    Returns
    -------
    float
        Answers of this confidence and above are given.

    Raises
    ------
    ValueError
        If no threshold reaches the rate; names the lowest rate that one reaches.

    References
    ----------
    .. [1] Y. Geifman and R. El-Yaniv, "Selective classification for deep neural
       networks", NeurIPS 2017.
    """
    if not 0 < rate < 1:
        raise ValueError(
            f"reject={rate!r} is no share of wrong answers between 0 and 1; give 0.05 "
            "for at most 5 %"
        )
    threshold = _search(curve, rate)
    if threshold is None:
        raise ValueError(_out_of_reach(curve, rate))
    return threshold


def _search(curve: np.ndarray, rate: float) -> float | None:
    """Return the threshold of the last point found good, or None."""
    low, high, best = 0, len(curve) - 1, None
    # Bonferroni over the steps of the bisection, as in the paper.
    level = _LEVEL / max(1, math.ceil(math.log2(len(curve) + 1)))
    while low <= high:
        middle = (low + high) // 2
        threshold, n, wrong = curve[middle]
        if _upper_bound(wrong, n, level) <= rate:
            best, low = float(threshold), middle + 1
        else:
            high = middle - 1
    return best


def _upper_bound(wrong: float, n: float, level: float) -> float:
    """Return Clopper and Pearson's one-sided bound of a share."""
    # All wrong: the beta distribution has no such parameter.
    return 1.0 if wrong >= n else float(beta.ppf(1 - level, wrong + 1, n - wrong))


def smallest_rate(curve: np.ndarray) -> float | None:
    """Return the lowest of the rates 0.1 %, 0.2 %, … that a threshold reaches."""
    for rate in (k / 1000 for k in range(1, 1000)):
        if _search(curve, rate) is not None:
            return rate
    return None


def _out_of_reach(curve: np.ndarray, rate: float) -> str:
    n = int(curve[-1, 1])
    lowest = smallest_rate(curve)
    remedy = "" if lowest is None else f"; the lowest that can is {lowest:g}"
    return (
        f"reject={rate:g} cannot be promised from {n:,} training images with "
        f"{int(curve[-1, 2]):,} errors among them{remedy}"
    )
