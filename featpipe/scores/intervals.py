"""95 % intervals of an accuracy: of single images, and of images in groups."""

from __future__ import annotations

import numpy as np
from scipy.stats import beta, binomtest, t

__all__ = ["accuracy_interval", "exact", "grouped_interval", "wilson"]

# Wilson's coverage of a nominal 95 % falls to 0.84 where so few images are wrong that
# one or two are expected; with the exact interval up to ten it is never below 0.93.
_FEW = 10


def wilson(n_correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a share of independent images [1]_.

    Unlike the normal approximation it stays inside [0, 1]. Near 0 and 100 % it is too
    narrow: `accuracy_interval` takes the exact one there.

    Raises
    ------
    ValueError
        If ``n`` is zero or ``n_correct`` is not between 0 and ``n``.

    References
    ----------
    .. [1] E. B. Wilson, "Probable inference, the law of succession, and
       statistical inference", JASA 22, 1927.

    Examples
    --------
    >>> [round(end, 3) for end in wilson(144, 153)]
    [0.892, 0.969]
    """
    interval = binomtest(n_correct, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def exact(n_correct: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a share of independent images [1]_.

    Its coverage is never below ``confidence``; mostly it is above.

    Parameters
    ----------
    n_correct, n : float
        Counts; those of an effective number of images need not be whole.

    References
    ----------
    .. [1] C. J. Clopper and E. S. Pearson, "The use of confidence or fiducial limits
       illustrated in the case of the binomial", Biometrika 26, 1934.

    Examples
    --------
    >>> [round(end, 3) for end in exact(152, 153)]
    [0.964, 1.0]
    """
    tail = (1 - confidence) / 2
    n_wrong = n - n_correct
    # Clopper and Pearson 1934 by quantiles of the beta distribution, which unlike a
    # binomial test take counts that are no whole numbers (groups give such).
    low = beta.ppf(tail, n_correct, n_wrong + 1) if n_correct > 0 else 0.0
    high = beta.ppf(1 - tail, n_correct + 1, n_wrong) if n_wrong > 0 else 1.0
    return float(low), float(high)


def accuracy_interval(n_correct: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of the accuracy on independent images.

    Wilson's, and the exact one where at most ten images are wrong or at most ten are
    right: there Wilson's covers the accuracy in as few as 84 % of cases
    (``benchmarks/judging.py``; Brown, Cai and DasGupta 2001 [1]_).

    Raises
    ------
    ValueError
        If ``n`` is zero or ``n_correct`` is not between 0 and ``n``.

    References
    ----------
    .. [1] L. D. Brown, T. T. Cai and A. DasGupta, "Interval estimation for a binomial
       proportion", Statistical Science 16, 2001.

    Examples
    --------
    >>> [round(end, 3) for end in accuracy_interval(152, 153)]
    [0.964, 1.0]
    """
    low, high = wilson(n_correct, n)
    return exact(n_correct, n) if min(n_correct, n - n_correct) <= _FEW else (low, high)


def grouped_interval(correct: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the accuracy on images that come in groups.

    Images of one patient, place or video are right or wrong together, so that n images
    count for fewer. The effective number is estimated from the variance of the accuracy
    between groups (a ratio estimate), corrected for the number of groups, and put into
    the exact interval [1]_. Where every image is right, or every one wrong, there is no
    variance: each group counts as one image.

    Parameters
    ----------
    correct : (n_images,) bool
    groups : (n_images,) int64
        The number of each image's group.

    References
    ----------
    .. [1] E. L. Korn and B. I. Graubard, "Confidence intervals for proportions with
       small expected number of positive counts estimated from survey data", Survey
       Methodology 24, 1998.

    Examples
    --------
    >>> right = np.repeat([True, True, True, False], 10)
    >>> [round(end, 2) for end in grouped_interval(right, np.repeat([0, 1, 2, 3], 10))]
    [0.01, 1.0]
    """
    _, number = np.unique(groups, return_inverse=True)
    sizes = np.bincount(number).astype(float)
    right = np.bincount(number, weights=np.asarray(correct, float))
    n, n_groups = sizes.sum(), len(sizes)
    p = float(right.sum() / n)
    if n_groups < 2:
        return 0.0, 1.0
    if p in (0.0, 1.0):
        # All right or all wrong: the variance between groups is zero; each group then
        # counts as one image.
        effective = float(n_groups)
    else:
        residuals = right - p * sizes
        variance = n_groups / (n_groups - 1) * (residuals**2).sum() / n**2
        effective = min(float(n), p * (1 - p) / variance) if variance > 0 else float(n)
        # Of independent images the quantile would be that of n - 1 degrees of freedom.
        effective *= float((t.ppf(0.975, n - 1) / t.ppf(0.975, n_groups - 1)) ** 2)
    return exact(p * effective, effective)
