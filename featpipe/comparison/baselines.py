"""The classifiers without a C: nearest neighbours, nearest mean, linear discriminant.

They predict what scikit-learn's `KNeighborsClassifier`, `NearestCentroid` and
`LinearDiscriminantAnalysis` do. Without a split a comparison fits each some 60 times,
and on a few hundred images most of scikit-learn's time goes into checks of its input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
from scipy import linalg

__all__ = ["BASELINES", "WITH_PROBABILITIES"]

# Five, scikit-learn's default: a baseline is not tuned.
_N_NEIGHBOURS = 5
# Numbers in what is computed at a time: 128 MB in float64.
_BLOCK = 2**24


def _blocks(X: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """Yield blocks of rows of which so many numbers each are made."""
    step = max(1, _BLOCK // width)
    for start in range(0, len(X), step):
        yield X[start : start + step]


def _standards(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of the columns; constant columns have deviation one."""
    mean = X.mean(axis=0, dtype=np.float64)
    centred = (block - mean for block in _blocks(X, len(mean)))
    squares = sum(np.einsum("ij,ij->j", block, block) for block in centred)
    std: np.ndarray = np.sqrt(squares / len(X))
    # What is below it is the rounding of the mean.
    std[std <= len(X) * np.finfo(float).eps * np.abs(mean)] = 1.0
    return mean, std


def _class_means(X: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return the mean of each class, (n_classes, width) float64."""
    of_class = (X[numbers == k] for k in range(numbers.max() + 1))
    return np.array([rows.mean(axis=0, dtype=np.float64) for rows in of_class])


class _NearestNeighbours:
    """The most frequent class among the nearest five by angle."""

    # On codes scaled to length one, distance orders as the angle does, the usual rule
    # for codes of networks (Wu et al. 2018, arXiv:1805.01978).

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        self.classes_, self.numbers = np.unique(y, return_inverse=True)
        self.mean, self.std = _standards(X)
        blocks = _blocks(X, len(self.mean))
        self.rows = np.concatenate([self._directions(block) for block in blocks])
        # A row at the mean has no direction and length zero.
        self.offsets = np.einsum("ij,ij->i", self.rows, self.rows) / 2
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        blocks = _blocks(X, max(self.rows.shape))
        predicted: np.ndarray = np.concatenate([self._vote(block) for block in blocks])
        return predicted

    def _vote(self, X: np.ndarray) -> np.ndarray:
        closeness = self._directions(X) @ self.rows.T - self.offsets
        last = min(_N_NEIGHBOURS, len(self.rows)) - 1
        nearest = np.argpartition(-closeness, last, axis=1)[:, : last + 1]
        shape = len(X), len(self.classes_)
        places = np.arange(len(X))[:, None] * shape[1] + self.numbers[nearest]
        votes = np.bincount(places.ravel(), minlength=shape[0] * shape[1])
        named: np.ndarray = self.classes_[votes.reshape(shape).argmax(axis=1)]
        return named

    def _directions(self, X: np.ndarray) -> np.ndarray:
        """Return standardised rows, scaled to length one, in float32."""
        rows = (X - self.mean) / self.std
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        scaled: np.ndarray = rows / np.where(lengths > 0, lengths, 1.0)
        return scaled.astype(np.float32)


class _Linear:
    """The class of the highest score, linear in the codes."""

    classes_: np.ndarray
    coef: np.ndarray
    intercept: np.ndarray

    def predict(self, X: np.ndarray) -> np.ndarray:
        predicted: np.ndarray = self.classes_[self._scores(X).argmax(axis=1)]
        return predicted

    def _scores(self, X: np.ndarray) -> np.ndarray:
        scores: np.ndarray = X @ self.coef.T + self.intercept
        return scores


class _NearestMean(_Linear):
    """The class whose mean is nearest, on standardised codes."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        self.classes_, numbers = np.unique(y, return_inverse=True)
        mean, std = _standards(X)
        means = (_class_means(X, numbers) - mean) / std
        # The square of the distance without what is the same for all classes.
        self.coef = means / std
        self.intercept = -(means**2).sum(axis=1) / 2 - self.coef @ mean
        return self


class _LinearDiscriminant(_Linear):
    """Normal densities of one covariance, which is shrunk as Ledoit and Wolf do."""

    # Codes often have more columns than there are images; the shrinkage keeps the
    # covariance invertible and has nothing to tune.

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        self.classes_, numbers, counts = np.unique(
            y, return_inverse=True, return_counts=True
        )
        if len(X) == len(self.classes_):
            raise ValueError(
                f"lda cannot learn from {len(X)} images of as many classes; give two "
                "images of a class, or leave lda out"
            )
        means, shares = _class_means(X, numbers), counts / len(X)
        covariance = sum(
            share * _shrunk_covariance(X[numbers == k])
            for k, share in enumerate(shares)
        )
        self.coef = _solve(covariance, means.T).T
        self.intercept = np.log(shares) - (means * self.coef).sum(axis=1) / 2
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        scores = self._scores(X)
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        probabilities: np.ndarray = odds / odds.sum(axis=1, keepdims=True)
        return probabilities


def _shrunk_covariance(X: np.ndarray) -> np.ndarray:
    """Return the covariance of rows, shrunk on standardised columns.

    References
    ----------
    O. Ledoit and M. Wolf, "A well-conditioned estimator for large-dimensional
    covariance matrices", Journal of Multivariate Analysis 88, 2004.
    """
    n, width = X.shape
    mean, std = _standards(X)
    rows = (X - mean) / std
    covariance = rows.T @ rows / n
    variance = np.trace(covariance) / width
    squares = (covariance**2).sum()
    spread = squares / width - variance**2
    error = ((rows**2).sum(axis=1) ** 2).sum() / n - squares
    share = min(error / (n * width * spread), 1.0) if spread > 0 else 0.0
    covariance *= 1 - share
    covariance[np.diag_indices(width)] += share * variance
    shrunk: np.ndarray = covariance * np.outer(std, std)
    return shrunk


def _solve(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Solve for a positive semi-definite matrix; of many solutions the shortest."""
    try:
        solution: np.ndarray = linalg.cho_solve(linalg.cho_factor(A), B)
    except linalg.LinAlgError:
        solution = linalg.lstsq(A, B)[0]
    return solution


BASELINES: dict[str, Callable[[], Any]] = {
    "knn": _NearestNeighbours,
    "nearest-mean": _NearestMean,
    "lda": _LinearDiscriminant,
}
"""What makes each classifier without a C, with the methods of scikit-learn's."""

# Votes and distances are not probabilities, so the others get no log-loss.
WITH_PROBABILITIES = ("logistic", "lda")
