"""Metrics of the predictions of one contender, with an interval."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from featpipe.scores.intervals import accuracy_interval, grouped_interval

__all__ = ["METRICS", "judge"]


# scikit-learn has all three, and takes 0.7 to 1.3 ms each for 60 images, most of it to
# check its input, where these take 0.03 ms at most. A comparison without a split calls
# them for every fold of every fold.
def _accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    return float(np.mean(labels == predicted))


def _balanced_accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    right, true, _ = _counts(labels, predicted)
    # Over the classes held out: others have no recall.
    return float(np.mean(right[true > 0] / true[true > 0]))


def _macro_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    right, true, named = _counts(labels, predicted)
    return float(np.mean(2 * right / (true + named)))


def _counts(
    labels: np.ndarray, predicted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return how often each class is named rightly, true, and named."""
    both = np.concatenate([labels, predicted])
    classes, numbers = np.unique(both, return_inverse=True)
    truth, named = np.split(numbers, 2)
    of_each = (truth[truth == named], truth, named)
    right, true, said = (np.bincount(x, minlength=len(classes)) for x in of_each)
    return right, true, said


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
}
"""Function of (labels, predicted) of each metric; higher is better."""


def judge(
    labels: np.ndarray,
    predicted: np.ndarray,
    probabilities: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> dict[str, float | None]:
    """Measure predictions against labels.

    Parameters
    ----------
    labels, predicted : (n_images,) int64
        Class numbers.
    probabilities : (n_images, n_classes) float, optional
        Column c is the probability of class number c.
    groups : (n_images,) int64, optional
        The number of each image's group, where images come in groups: the interval is
        that of `grouped_interval` then, and of `accuracy_interval` otherwise.

    Returns
    -------
    dict
        ``accuracy`` with ``accuracy_low`` and ``accuracy_high``,
        ``balanced_accuracy``, ``macro_f1`` and ``log_loss``: fields of `Score`.
        ``log_loss`` is None without probabilities and where it is infinite, which
        a class never seen in training makes it.

    Raises
    ------
    ValueError
        If there is nothing to judge or the shapes do not pair up.

    Examples
    --------
    >>> judged = judge(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0]))
    >>> judged["accuracy"], judged["balanced_accuracy"]
    (0.75, 0.75)
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    if labels.shape != predicted.shape or not labels.size:
        raise ValueError(
            f"{predicted.shape} predictions cannot be judged by {labels.shape} labels; "
            "give one prediction per label, and at least one"
        )
    # The interval is of accuracy, whatever metric chose.
    correct = labels == predicted
    low, high = (
        accuracy_interval(int(correct.sum()), labels.size)
        if groups is None
        else grouped_interval(correct, groups)
    )
    return {
        "accuracy": _accuracy(labels, predicted),
        "accuracy_low": low,
        "accuracy_high": high,
        "balanced_accuracy": _balanced_accuracy(labels, predicted),
        "macro_f1": _macro_f1(labels, predicted),
        "log_loss": _log_loss(labels, probabilities),
    }


def _log_loss(labels: np.ndarray, probabilities: np.ndarray | None) -> float | None:
    if probabilities is None:
        return None
    # Float64: log-loss of near-certain predictions is lost in float32.
    of_truth = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    # A probability of zero for the true class makes the loss infinite, which is no
    # number for a table or for JSON.
    return float(-np.log(of_truth).mean()) if of_truth.min() > 0 else None
