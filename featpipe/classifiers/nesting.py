"""Choosing C inside each part of a nested cross-validation, from one batch.

Where part i leaves out fold i and chooses C by leaving out fold j as well, part j meets
the same problem. Each is solved once, and all of them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from sklearn.base import clone

from featpipe.classifiers.choosing import PathClassifier, Split

if TYPE_CHECKING:
    from featpipe import solvers

__all__ = ["Part", "fit_nested"]


class Part(NamedTuple):
    """Rows that one model learns from, and how its C is chosen among them.

    Parameters
    ----------
    train : (n_train,) int64
    selection : list of (train, held-out)
        Positions within ``train``.
    """

    train: np.ndarray
    selection: list[Split]


def fit_nested(
    model: PathClassifier, X: np.ndarray, y: np.ndarray, parts: Sequence[Part]
) -> list[PathClassifier]:
    """Fit a clone of the model to each part, as if alone.

    Parameters
    ----------
    model : PathClassifier
        With ``C="auto"``; its ``cv`` is not used.
    X : (n, width) float32 or float64
    y : (n,)
    parts : sequence of Part

    Returns
    -------
    list of PathClassifier
        One a part; `ValueError` as for ``PathClassifier.fit``.
    """
    from featpipe import solvers

    models = [clone(model).set_params(cv=part.selection) for part in parts]
    whole = clone(model)._prepare(X, y)
    if not _together(model, whole.task, parts):
        return [
            one.fit(X[part.train], y[part.train])
            for one, part in zip(models, parts, strict=True)
        ]
    batch = _Batch(parts)
    path = solvers.solve_path(
        whole.task, model._grid(), batch.splits, options=whole.options
    )
    for one, part in zip(models, parts, strict=True):
        job = one._prepare(X[part.train], y[part.train])
        numbers = [batch.number(part, fitted) for fitted, _ in part.selection]
        predicted = [
            path.predicted[k][:, np.searchsorted(batch.splits[k][1], part.train[held])]
            for k, (_, held) in zip(numbers, part.selection, strict=True)
        ]
        one._take_path(job.labels, part.selection, predicted, path.gaps[numbers])
        one._refit(job)
    return models


class _Batch:
    """The different problems of all parts; each predicts all that any part asks of it.

    ``splits`` holds their (train, held-out), the latter sorted.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._numbers: dict[bytes, int] = {}
        trains: list[np.ndarray] = []
        held: list[np.ndarray] = []
        for part in parts:
            for fitted, scored in part.selection:
                train = np.sort(part.train[fitted])
                k = self._numbers.setdefault(train.tobytes(), len(trains))
                if k == len(trains):
                    trains.append(train)
                    held.append(part.train[:0])
                held[k] = np.union1d(held[k], part.train[scored])
        self.splits: list[Split] = list(zip(trains, held, strict=True))

    def number(self, part: Part, fitted: np.ndarray) -> int:
        """Give the number of the problem that learns from these rows of a part."""
        return self._numbers[np.sort(part.train[fitted]).tobytes()]


def _together(model: PathClassifier, task: solvers.Task, parts: Sequence[Part]) -> bool:
    """Say whether one batch gives each part what it would find alone.

    Not where classes are weighted by their counts or missing from a part, and not
    where some C are skipped, which held-out rows of other parts would decide.
    """
    from featpipe import solvers

    complete = all(
        len(np.unique(task.labels[part.train])) == task.n_classes for part in parts
    )
    counted = isinstance(model.class_weight, str)
    n_splits = max(len(part.selection) for part in parts)
    skipped = solvers.skips_Cs(task, n_splits, len(model._grid()))
    return complete and not counted and not skipped
