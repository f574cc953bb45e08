"""Accuracy against labels per class, from cached codes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student
from sklearn.exceptions import ConvergenceWarning

from featpipe import classifiers
from featpipe.bounds import require_number, require_seed

__all__ = ["CurvePoint", "LearningCurve", "learning_curve"]

SHOTS = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
"""Labels per class that are tried, as far as the training images reach."""


@dataclass(frozen=True)
class CurvePoint:
    """The accuracy that a number of labels per class reaches.

    Attributes
    ----------
    n_per_class : int
        Training images drawn of every class; fewer of a class that has fewer.
    accuracies : tuple of float
        On the judged images, one for each draw.
    low, high : float
        95 % interval of the mean over draws (Student's t); it ignores that the judged
        images are a sample too.

    Examples
    --------
    >>> CurvePoint(5, (0.7, 0.8), low=0.1, high=1.0).mean
    0.75
    """

    n_per_class: int
    accuracies: tuple[float, ...]
    low: float
    high: float

    @property
    def mean(self) -> float:
        """Mean accuracy over the draws."""
        return float(np.mean(self.accuracies))


@dataclass(frozen=True)
class LearningCurve:
    """Accuracy against labels per class, and what it suggests.

    Attributes
    ----------
    points : list of CurvePoint
        Fewest labels first; the last uses all training images.
    n_judged : int
        Images that judge.
    classifier : str
        That was fitted.

    Examples
    --------
    >>> few = CurvePoint(5, (0.7,), low=0.68, high=0.72)
    >>> many = CurvePoint(10, (0.8,), low=0.78, high=0.82)
    >>> LearningCurve([few, many], n_judged=200, classifier="linear").suggestion
    'label more: the last doubling of the labels gained 10.0 ± 2.8 points, ...'
    """

    points: list[CurvePoint]
    n_judged: int
    classifier: str

    @property
    def suggestion(self) -> str:
        """A sentence on what more labels would gain."""
        if len(self.points) < 2:
            return "too few training images for a learning curve"
        before, last = self.points[-2], self.points[-1]
        doublings = np.log2(last.n_per_class / before.n_per_class)
        gain = 100 * (last.mean - before.mean) / doublings
        # Half-widths add in squares: the draws of the two sizes are independent.
        halves = (before.high - before.low) / 2, (last.high - last.low) / 2
        wide = 100 * float(np.hypot(*halves))
        # Half an image of those judged: a difference below it is no difference.
        wide = max(wide / doublings, 50 / self.n_judged)
        figures = (
            f"the last doubling of the labels gained {gain:.1f} ± {wide:.1f} points"
        )
        if gain > wide:
            return f"label more: {figures}, and the next may gain nearly as much"
        return f"more labels promise little: {figures}"


def learning_curve(
    X: np.ndarray,
    y: np.ndarray,
    train: np.ndarray,
    judged: np.ndarray,
    *,
    classifier: str = "logistic",
    C: float = 1.0,
    shots: Sequence[int] = SHOTS,
    n_draws: int = 10,
    device: str = "auto",
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> LearningCurve:
    """Fit on more and more labels per class, and judge on the same images.

    Parameters
    ----------
    X : (n, width) float32
        Codes of one depth.
    y : (n,) int64
        Class numbers.
    train, judged : (n_train,) and (n_judged,) int64
        Row numbers to draw from, and to judge on.
    classifier : {"linear", "svm", "logistic"}
    C : float
        Of every fit; usually the one that `compare` chose.
    shots : sequence of int
        Labels per class; those beyond three quarters of the largest class are left
        out, and all training images come last.
    n_draws : int
        Independent draws per size; all images are one draw.
    device : str
        As for the classifier.
    seed : int
        The same seed draws the same images.
    progress : callable, optional
        Called as ``progress(n_done, n_fits, what)``.

    Returns
    -------
    LearningCurve

    Raises
    ------
    ValueError
        If there is nothing to learn from or to judge.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(200) % 2
    >>> X = (y[:, None] + rng.normal(size=(200, 3))).astype(np.float32)
    >>> curve = learning_curve(X, y, np.arange(100), np.arange(100, 200))
    >>> [point.n_per_class for point in curve.points]
    [5, 10, 20, 50]
    """
    if len(np.unique(y[train])) < 2 or not len(judged):
        raise ValueError(
            f"a learning curve needs training images of two classes and images to "
            f"judge on, got {len(train)} and {len(judged)}"
        )
    require_number("n_draws", n_draws, 1, 10_000)
    require_seed(seed)
    for n in shots:
        require_number("shots", n, 1, 10**9)
    largest = int(np.bincount(y[train]).max())
    # A size close to the whole would be drawn from nearly the same images each time,
    # and look more certain than it is.
    sizes = [n for n in shots if n <= 0.75 * largest]
    # One generator for all draws, so that the draws of a size differ.
    rng = np.random.default_rng(seed)
    total = len(sizes) * n_draws + 1
    points: list[CurvePoint] = []
    for size in [*sizes, largest]:
        accuracies: list[float] = []
        # All images can be drawn in one way only.
        for _ in range(n_draws if size < largest else 1):
            if progress is not None:
                done = sum(len(point.accuracies) for point in points) + len(accuracies)
                progress(done, total, f"{size} labels per class")
            rows = _draw(y, train, size, rng)
            model = classifiers.make(classifier, C=C, device=device, random_state=seed)
            with warnings.catch_warnings():
                # A C chosen for many images may not converge on few; only the
                # predictions count here.
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(X[rows], y[rows])
            accuracies.append(float((model.predict(X[judged]) == y[judged]).mean()))
        points.append(CurvePoint(size, tuple(accuracies), *_interval(accuracies)))
    if progress is not None:
        progress(total, total, "done")
    return LearningCurve(points, len(judged), classifier)


def _draw(
    y: np.ndarray, train: np.ndarray, size: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw ``size`` training rows of every class, all of a smaller one."""
    of_classes = [train[y[train] == label] for label in np.unique(y[train])]
    drawn = [rng.permutation(rows)[:size] for rows in of_classes]
    return np.sort(np.concatenate(drawn))


def _interval(accuracies: Sequence[float]) -> tuple[float, float]:
    mean, n = float(np.mean(accuracies)), len(accuracies)
    if n < 2:
        return mean, mean
    half = student.ppf(0.975, n - 1) * float(np.std(accuracies, ddof=1)) / np.sqrt(n)
    # Student's interval may leave the range of an accuracy.
    return max(0.0, mean - half), min(1.0, mean + half)
