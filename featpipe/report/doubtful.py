"""Find images whose label is doubtful, by confident learning."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Doubtful", "doubtful_labels"]


class Doubtful(NamedTuple):
    """Images ranked by how doubtful their labels are.

    Attributes
    ----------
    order : (n,) int64
        All images, the most doubtful first.
    margin : (n,) float64
        Probability of the label minus that of the likeliest other class.
    likelier : (n,) int64
        The likeliest other class.
    suspected : (n,) bool
        Whether confident learning counts the label as wrong.

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
    """Rank labels by their probability for a model that never saw the image [1]_.

    A label is suspected where another class is at least as probable as it is, on
    average, for the images that have that class as their label (the confident joint).
    The order is that of the normalised margin, as in the paper.

    Parameters
    ----------
    probabilities : (n, n_classes) float
        Probabilities of each image by a model that was fitted without it.
    labels : (n,) int64
        Class numbers.

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
    # No image can count for a class that is no image's label.
    threshold = np.where(size > 0, mean_own / np.maximum(size, 1), np.inf)
    others = probabilities.copy()
    others[np.arange(n), labels] = -np.inf
    likelier = others.argmax(axis=1)
    # The order is by margin, since `suspected` alone does not order images.
    margin = own - others.max(axis=1)
    # An image counts for a class if the class is as probable for it as for its own
    # images on average. So a class that is always improbable is not suspected for that.
    above = np.where(probabilities >= threshold, probabilities, -np.inf)
    counted = above.argmax(axis=1)
    suspected = np.isfinite(above.max(axis=1)) & (counted != labels)
    return Doubtful(np.argsort(margin, kind="stable"), margin, likelier, suspected)
