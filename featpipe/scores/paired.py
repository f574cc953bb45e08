"""Exact paired tests of two contenders on the same images, and their correction."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from scipy.stats import binom, binomtest

__all__ = ["SIGNIFICANT", "holm", "least_p_value", "mcnemar", "sign_flip"]

SIGNIFICANT = 0.05
"""Corrected p-values at or above this leave two contenders tied."""

_ROUNDING = 1e-9


def mcnemar(correct: np.ndarray, other_correct: np.ndarray) -> float:
    """Test two contenders on the same images: exact, two-sided McNemar [1]_.

    Only images on which exactly one of the two is right count; if the two are equally
    good, either is right with probability one half. It is the same test as permuting
    the two predictions image by image.

    Parameters
    ----------
    correct, other_correct : (n_images,) bool
        Whether each contender is right on each image, in the same order.

    Returns
    -------
    float
        The p-value; 1 where the two are right on the same images.

    References
    ----------
    .. [1] Q. McNemar, "Note on the sampling error of the difference between
       correlated proportions or percentages", Psychometrika 12, 1947.

    Examples
    --------
    >>> mcnemar(np.array([True] * 6 + [False]), np.array([False] * 6 + [False]))
    0.03125
    """
    correct, other_correct = _paired(correct, other_correct)
    only_first = int((correct & ~other_correct).sum())
    n_different = int((correct != other_correct).sum())
    return float(binomtest(only_first, n_different).pvalue) if n_different else 1.0


def sign_flip(
    correct: np.ndarray, other_correct: np.ndarray, groups: np.ndarray
) -> float:
    """Test two contenders on images that come in groups: exact sign-flip test.

    Images of one patient, place or video are right or wrong together, so McNemar
    counts them as more evidence than they are. Here the two contenders change
    places a whole group at a time: under the hypothesis that they are equally good,
    each group's difference in correct images is as likely to have the other sign.
    The distribution of the summed difference over all sign patterns is computed
    exactly, by convolution, so nothing is drawn at random. With one image a group
    it is `mcnemar`.

    Parameters
    ----------
    correct, other_correct : (n_images,) bool
        Whether each contender is right on each image, in the same order.
    groups : (n_images,) int64
        The number of each image's group, as `featpipe.protocol.group_numbers` has it.

    Returns
    -------
    float
        The two-sided p-value, never below ``2 ** (1 - n_groups)``.

    Examples
    --------
    >>> sign_flip(np.ones(6, bool), np.zeros(6, bool), np.array([0, 0, 1, 1, 2, 2]))
    0.25
    """
    correct, other_correct = _paired(correct, other_correct)
    _, number = np.unique(groups, return_inverse=True)
    difference = np.bincount(
        number, weights=correct.astype(float) - other_correct, minlength=1
    ).astype(np.int64)
    observed = abs(int(difference.sum()))
    sums, chances = _flipped_sums(difference)
    # The sum of rounded probabilities may exceed 1 by an ulp.
    return float(min(1.0, chances[np.abs(sums) >= observed].sum()))


def least_p_value(difference: np.ndarray, *, variance_ratio: float = 1.0) -> float:
    """Return the p-value if each image, or group, had favoured the same contender.

    No test on these images can have a smaller one.

    Parameters
    ----------
    difference : (n_units,) int64
        Difference in correct answers on each image or group; only its size counts.
    variance_ratio : float
        As for `max_t`.

    Returns
    -------
    float
        Two-sided, uncorrected; 1 where there is no difference.

    Examples
    --------
    >>> round(least_p_value(np.array([1, -1, 1, 0, -1, 1])), 4)
    0.0625
    """
    sums, chances = _flipped_sums(np.asarray(difference, np.int64))
    # Not exactly: the square root of the ratio is rounded.
    largest = sums.max() / math.sqrt(variance_ratio) - _ROUNDING
    return float(min(1.0, chances[np.abs(sums) >= largest].sum()))


def _flipped_sums(difference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each sum under random signs of the terms, and its probability."""
    # Whole numbers, so the distribution is computed exactly and without drawing.
    chances = np.ones(1)
    sizes, counts = np.unique(np.abs(difference[difference != 0]), return_counts=True)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        # `count` terms of one size add a binomial on a grid of 2 * size.
        step = np.zeros(2 * size * count + 1)
        step[:: 2 * size] = binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, step)
    return np.arange(len(chances)) - len(chances) // 2, chances


def _paired(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(
            f"a paired test needs the same images in the same order, got "
            f"{first.shape} and {second.shape} of them"
        )
    return first, second


def holm(p_values: Iterable[float]) -> list[float]:
    """Correct p-values for their number, by Holm's step-down procedure [1]_.

    Keeps the probability of even one false claim at the level, whatever the dependence
    between the tests; never weaker than Bonferroni.

    References
    ----------
    .. [1] S. Holm, "A simple sequentially rejective multiple test procedure",
       Scandinavian Journal of Statistics 6, 1979.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(list(p_values), dtype=np.float64)
    order = np.argsort(p, kind="stable")
    # The running maximum keeps corrected values in the order of the given ones.
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1.0)
    values: list[float] = corrected.tolist()
    return values
