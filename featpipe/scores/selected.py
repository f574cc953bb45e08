"""Sign-flip tests by drawing, for a row chosen on the images that also judge it."""

from __future__ import annotations

import numpy as np

__all__ = ["fold_variance_ratio", "gain_p_value", "max_t"]

_DRAWS = 9_999
_AT_ONCE = 1_000  # sign patterns in memory: bounds it to some tens of megabytes
_ROUNDING = 1e-9


def max_t(
    correct: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    chosen: int = 0,
    variance_ratio: float = 1.0,
    seed: int = 0,
) -> np.ndarray:
    """Test a row that was chosen among the others on the same images.

    A row that was chosen because it did well on these images seems better than its
    equals. So each difference is compared with the largest among *all* pairs of rows:
    where all rows are equally good, the differences of an image (or group) are as
    likely to have the other sign, for all pairs together, and the largest difference
    over random sign flips is what choosing the best gains by luck. Differences are
    divided by their standard error, which flips do not change. Pairs are tested from
    the most different down, each against those that are left (step-down maxT [1]_), so
    the probability of even one false claim among all pairs stays below the level.

    Parameters
    ----------
    correct : (n_images, n_rows) bool
        Whether each row is right on each image.
    groups : (n_images,) int64, optional
        The number of each image's group; whole groups are flipped.
    chosen : int
        The row to test against.
    variance_ratio : float
        How much larger the variance of a difference is than that of independent
        images; `fold_variance_ratio` for pooled predictions of folds.
    seed : int
        Of the 9,999 sign patterns drawn.

    Returns
    -------
    (n_rows,) float64
        The corrected p-value of each row, at least 1e-4; nan for the chosen one.

    References
    ----------
    .. [1] P. H. Westfall and S. S. Young, "Resampling-based multiple testing", Wiley
       1993, algorithm 4.1.

    Examples
    --------
    >>> right = np.array([[True, True, False]] * 6 + [[True, False, False]])
    >>> max_t(right).round(2).tolist()
    [nan, 1.0, 0.01]
    """
    correct = np.asarray(correct, bool)
    first, second = np.triu_indices(correct.shape[1], 1)
    totals, counts = _units(correct, groups)
    spread = ((totals[:, first] - totals[:, second]) ** 2 * counts[:, None]).sum(axis=0)
    # Two rows that are right on the same images have no spread, and no difference
    # either.
    scale = np.sqrt(np.where(spread > 0, spread, 1.0))
    sums = (totals * counts[:, None]).sum(axis=0)
    observed = np.abs(sums[first] - sums[second]) / scale / np.sqrt(variance_ratio)
    order = np.argsort(-observed, kind="stable")
    # One set of draws for all pairs: the maximum over pairs is what the test is about.
    rng = np.random.default_rng(seed)
    exceeded = np.zeros(len(order))
    for start in range(0, _DRAWS, _AT_ONCE):
        # Images on which all rows agree in the same way are drawn together as one
        # binomial, so the cost depends on the patterns and not on the images.
        size = min(_AT_ONCE, _DRAWS - start), len(counts)
        signs = 2 * rng.binomial(counts, 0.5, size=size) - counts
        drawn = signs @ totals
        flipped = np.abs(drawn[:, first] - drawn[:, second]) / scale
        largest = np.maximum.accumulate(flipped[:, order[::-1]], axis=1)[:, ::-1]
        exceeded += (largest >= observed[order] - _ROUNDING).sum(axis=0)
    of_pair = np.empty(len(order))
    # With 1 added to both counts the p-value is valid for any number of draws, and
    # never zero (Phipson and Smyth 2010).
    of_pair[order] = np.maximum.accumulate((1 + exceeded) / (1 + _DRAWS))
    p_values = np.full(correct.shape[1], np.nan)
    for row, other in ((first, second), (second, first)):
        p_values[row[other == chosen]] = of_pair[other == chosen]
    return p_values


def gain_p_value(
    gain: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    variance_ratio: float = 1.0,
    seed: int = 0,
) -> float:
    """Test one-sidedly whether a sum over images is above zero, by sign flips.

    Parameters
    ----------
    gain : (n_images,) float
        What one contender gains over the other on each image.
    groups, variance_ratio, seed
        As for `max_t`.

    Returns
    -------
    float
        At least 1e-4; 1 where the sum is not above zero.

    Examples
    --------
    >>> round(gain_p_value(np.array([1.0, 1, 1, 1, 0])), 2)  # 1 / 16
    0.06
    """
    totals = np.asarray(gain, float)
    if groups is not None:
        _, number = np.unique(groups, return_inverse=True)
        totals = np.bincount(number, weights=totals)
    units, counts = np.unique(np.abs(totals[totals != 0]), return_counts=True)
    observed = totals.sum() / np.sqrt(variance_ratio)
    if observed <= 0:
        return 1.0
    rng = np.random.default_rng(seed)
    exceeded = 0
    for start in range(0, _DRAWS, _AT_ONCE):
        size = min(_AT_ONCE, _DRAWS - start), len(counts)
        signs = 2 * rng.binomial(counts, 0.5, size=size) - counts
        exceeded += int((signs @ units >= observed - _ROUNDING).sum())
    return (1 + exceeded) / (1 + _DRAWS)


def fold_variance_ratio(n_folds: int) -> float:
    """Return how much the variance over pooled folds exceeds that of single images.

    The models of two folds share training images, and each image judges one model and
    has trained the others, so that their answers are correlated. Nadeau and
    Bengio's correction [1]_ for held-out parts of 1/k of the images, over the variance
    without it: (1/k + 1/(k - 1)) / (1/k).

    References
    ----------
    .. [1] C. Nadeau and Y. Bengio, "Inference for the generalization error", Machine
       Learning 52, 2003.

    Examples
    --------
    >>> fold_variance_ratio(5)
    2.25
    """
    return 1 + n_folds / (n_folds - 1)


def _units(
    correct: np.ndarray, groups: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return what is flipped: the different rows of right images, and their numbers.

    Images, or groups, on which all rows do equally well are left out.
    """
    totals = correct.astype(np.int64)
    if groups is not None:
        _, number = np.unique(groups, return_inverse=True)
        summed = np.zeros((number.max(initial=-1) + 1, correct.shape[1]), np.int64)
        np.add.at(summed, number, totals)
        totals = summed
    totals = totals[(totals != totals[:, :1]).any(axis=1)]
    units, counts = np.unique(totals, axis=0, return_counts=True)
    return units.astype(float), counts
