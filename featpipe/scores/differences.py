"""Differences of two contenders on the same images, and the smallest detectable."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm, t

from featpipe.scores.intervals import wilson

__all__ = [
    "detectable_difference",
    "difference_interval",
    "grouped_difference",
    "images_needed",
]

Interval = tuple[float, float, float]


def difference_interval(correct: np.ndarray, other_correct: np.ndarray) -> Interval:
    """Return the difference of two accuracies on the same images, with 95 % limits.

    Newcombe's square-and-add interval for paired proportions (his method 10) [1]_: the
    Wilson limits of both accuracies, joined by how often the two are right together.

    Parameters
    ----------
    correct, other_correct : (n_images,) bool
        Whether each contender is right on each image, in the same order.

    Returns
    -------
    difference, low, high : float
        Of the first accuracy less the second, as shares.

    References
    ----------
    .. [1] R. G. Newcombe, "Improved confidence intervals for the difference between
       binomial proportions based on paired data", Statistics in Medicine 17, 1998.

    Examples
    --------
    >>> first = np.repeat([True, True, False, False], [20, 12, 2, 16])
    >>> second = np.repeat([True, False, True, False], [20, 12, 2, 16])
    >>> [round(value, 3) for value in difference_interval(first, second)]
    [0.2, 0.056, 0.329]
    """
    first, second = np.asarray(correct, bool), np.asarray(other_correct, bool)
    n = len(first)
    p1, p2 = float(first.mean()), float(second.mean())
    low1, high1 = wilson(int(first.sum()), n)
    low2, high2 = wilson(int(second.sum()), n)
    phi = _phi(first, second)
    # Newcombe 1998, method 10: Wilson limits of each share, joined with their
    # correlation. Two limits that point away from each other are added, hence low with
    # high.
    below = _joined(p1 - low1, high2 - p2, phi)
    above = _joined(high1 - p1, p2 - low2, phi)
    return p1 - p2, p1 - p2 - below, p1 - p2 + above


def _joined(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2))


def _phi(first: np.ndarray, second: np.ndarray) -> float:
    """Return the correlation of the two, corrected for continuity as Newcombe does."""
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    margins = (
        (both + only_first)
        * (only_second + neither)
        * (both + only_second)
        * (only_first + neither)
    )
    if not margins:
        return 0.0
    product = float(both * neither - only_first * only_second)
    if product > 0:
        # A positive correlation narrows the interval, so it is estimated on the safe
        # side.
        product = max(product - len(first) / 2, 0.0)
    return product / math.sqrt(margins)


def grouped_difference(
    correct: np.ndarray, other_correct: np.ndarray, groups: np.ndarray
) -> Interval:
    """Return the difference of two accuracies on images in groups, with 95 % limits.

    The variance is that between groups, the quantile Student's with one degree of
    freedom fewer than there are groups.

    Parameters
    ----------
    correct, other_correct : (n_images,) bool
    groups : (n_images,) int64

    Returns
    -------
    difference, low, high : float
        Within [-1, 1]; of a single group the limits are these.

    Examples
    --------
    >>> first, second = np.ones(6, bool), np.array([1, 1, 1, 0, 1, 1], bool)
    >>> [round(v, 2) for v in grouped_difference(first, second, np.arange(6) // 2)]
    [0.17, -0.55, 0.88]
    """
    _, number = np.unique(groups, return_inverse=True)
    sizes = np.bincount(number).astype(float)
    gain = np.asarray(correct, float) - np.asarray(other_correct, float)
    n, n_groups = len(gain), len(sizes)
    difference = float(gain.mean())
    if n_groups < 2:
        return difference, -1.0, 1.0
    # Groups are of unequal size, so the variance is that of a ratio of two sums.
    residuals = np.bincount(number, weights=gain) - difference * sizes
    variance = n_groups / (n_groups - 1) * (residuals**2).sum() / n**2
    margin = float(t.ppf(0.975, n_groups - 1)) * math.sqrt(variance)
    return difference, max(-1.0, difference - margin), min(1.0, difference + margin)


def detectable_difference(
    n: int, discordance: float, *, level: float = 0.05, power: float = 0.8
) -> float:
    """Return the smallest difference of accuracy that McNemar's test would often show.

    Solves Connor's sample size [1]_ for the difference.

    Parameters
    ----------
    n : int
        Images.
    discordance : float
        Share of the images on which exactly one of the two is right.
    level, power : float
        Of the two-sided test, and how often it shows a difference this large.

    Returns
    -------
    float
        A share; nan where not even rows that differ only in one direction
        (difference = discordance) would differ significantly so often.

    References
    ----------
    .. [1] R. J. Connor, "Sample size for testing differences in proportions for the
       paired-sample design", Biometrics 43, 1987.

    Examples
    --------
    >>> round(detectable_difference(153, 0.08), 3)
    0.064
    """
    z_level, z_power = norm.isf(level / 2), norm.ppf(power)

    # Connor 1987, solved for the difference instead of the number of images.
    def lacking(difference: float) -> float:
        spread = math.sqrt(max(discordance - difference**2, 0.0))
        needed = (z_level * math.sqrt(discordance) + z_power * spread) / difference
        return float(needed) ** 2 - n

    if discordance <= 0 or lacking(discordance) > 0:
        return math.nan
    # The difference cannot exceed the share of images on which the two disagree.
    return float(brentq(lacking, 1e-9, discordance))


def images_needed(
    difference: float, discordance: float, *, level: float = 0.05, power: float = 0.8
) -> float:
    """Return how many images McNemar's test needs to show a difference so often [1]_.

    Parameters
    ----------
    difference : float
        Of two accuracies, a share; its sign does not matter.
    discordance : float
        Share of the images on which exactly one of the two is right.
    level, power : float
        As for `detectable_difference`, whose inverse this is.

    Returns
    -------
    float
        Images, rounded up; infinite for no difference.

    References
    ----------
    .. [1] R. J. Connor, "Sample size for testing differences in proportions for the
       paired-sample design", Biometrics 43, 1987.

    Examples
    --------
    >>> images_needed(0.05, 0.1)
    312.0
    """
    difference = abs(difference)
    if difference == 0:
        return math.inf
    z_level, z_power = norm.isf(level / 2), norm.ppf(power)
    spread = math.sqrt(max(discordance - difference**2, 0.0))
    root = (z_level * math.sqrt(discordance) + z_power * spread) / difference
    return float(math.ceil(root**2))
