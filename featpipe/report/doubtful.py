"""Images whose label is doubtful, by confident learning."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Doubtful", "doubtful_labels"]


class Doubtful(NamedTuple):
    """Images in the order in which their labels deserve a look.

    Attributes
    ----------
    order : (n,) int64
        All images, the most doubtful first.
    margin : (n,) float64
        By image: probability of the given label less that of the likeliest other one.
    likelier : (n,) int64
        By image: the likeliest other class.
    suspected : (n,) bool
        By image: whether confident learning counts the label as wrong.

    Examples
    --------
    >>> from featpipe.report import doubtful_labels
    >>> p = np.array([[0.9, 0.1], [0.2, 0.8], [0.8, 0.2]])
    >>> doubtful_labels(p, np.array([0, 1, 1])).order.tolist()
    [2, 1, 0]
    """

    order: np.ndarray
    margin: np.ndarray
    likelier: np.ndarray
    suspected: np.ndarray


def doubtful_labels(probabilities: np.ndarray, labels: np.ndarray) -> Doubtful:
    """Rank labels by how little a model that never saw the image believes them [1]_.

    A label is suspected where another class is at least as probable as it is, on
    average, for the images that carry that class's label (the confident joint). The
    order is by the normalised margin, the paper's ranking.

    Parameters
    ----------
    probabilities : (n, n_classes) float
        Of each image, by a model fitted without it.
    labels : (n,) int64
        The given class numbers.

    Returns
    -------
    Doubtful

    References
    ----------
    .. [1] C. G. Northcutt, L. Jiang and I. L. Chuang, "Confident learning: Estimating
       uncertainty in dataset labels", JAIR 70, 2021.

    Examples
    --------
    >>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.9, 0.1], [0.1, 0.9]])
    >>> doubtful = doubtful_labels(p, np.array([0, 0, 1, 1]))
    >>> doubtful.order.tolist(), doubtful.suspected.tolist()
    ([2, 1, 0, 3], [False, False, True, False])
    """
    probabilities = np.asarray(probabilities, np.float64)
    n, n_classes = probabilities.shape
    own = probabilities[np.arange(n), labels]
    size = np.bincount(labels, minlength=n_classes)
    mean_own = np.bincount(labels, weights=own, minlength=n_classes)
    # A class that no image is labelled with cannot be counted for.
    threshold = np.where(size > 0, mean_own / np.maximum(size, 1), np.inf)
    others = probabilities.copy()
    others[np.arange(n), labels] = -np.inf
    likelier = others.argmax(axis=1)
    # Ranked by margin and not by `suspected`, which would leave images of equal doubt
    # in no order.
    margin = own - others.max(axis=1)
    # An image counts for a class only if it is as likely there as that class's own
    # images are on average; a class that is hard everywhere does not become suspect by
    # that.
    above = np.where(probabilities >= threshold, probabilities, -np.inf)
    counted = above.argmax(axis=1)
    suspected = np.isfinite(above.max(axis=1)) & (counted != labels)
    return Doubtful(np.argsort(margin, kind="stable"), margin, likelier, suspected)
