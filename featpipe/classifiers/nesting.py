"""Choosing C inside each part of a nested cross-validation, from one batch.

Where part i leaves out fold i and chooses C by leaving out fold j as well, part j meets
the same problem. Each is solved once, and all of them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.base import clone

from featpipe.classifiers.choosing import PathClassifier
from featpipe.classifiers.folding import Split
from featpipe.classifiers.measures import judge

if TYPE_CHECKING:
    from featpipe import solvers

__all__ = ["NestedPart", "fit_nested"]


class NestedPart(NamedTuple):
    """Rows that one model learns from, and how its C is chosen among them.

    Attributes
    ----------
    train : (n_train,) int64
    selection : list of (train, held-out)
        Positions within ``train``.

    Examples
    --------
    >>> from featpipe.protocol import folds
    >>> y = np.array([0, 1] * 4)
    >>> part = NestedPart(np.arange(8), folds(y, n_folds=2))
    >>> [(len(fitted), len(scored)) for fitted, scored in part.selection]
    [(4, 4), (4, 4)]
    """

    train: np.ndarray
    selection: list[Split]


def fit_nested(
    model: PathClassifier, X: Any, y: np.ndarray, parts: Sequence[NestedPart]
) -> list[PathClassifier]:
    """Fit a clone of the model to each part, as if alone.

    Parameters
    ----------
    model : PathClassifier
        With ``C="auto"``; its ``cv`` is not used.
    X : (n, width) float32 or float64, or a `BlockReader` that is indexed like an array
    y : (n,)
    parts : sequence of NestedPart

    Returns
    -------
    list of PathClassifier
        One a part; `ValueError` as for ``PathClassifier.fit``.

    Examples
    --------
    >>> from featpipe.classifiers import NestedPart, make
    >>> from featpipe.protocol import folds
    >>> X, y = np.random.default_rng(0).normal(size=(24, 3)), np.repeat([0, 1], 12)
    >>> outer = folds(y, n_folds=2)
    >>> parts = [NestedPart(train, folds(y[train], n_folds=2)) for train, _ in outer]
    >>> models = fit_nested(make("linear", device="cpu"), X, y, parts)
    >>> [model.coef_.shape for model in models]
    [(1, 3), (1, 3)]
    """
    from featpipe import solvers

    # What a user gets who fits each part alone: the batch must give the same.
    models = [clone(model).set_params(cv=part.selection) for part in parts]
    whole = clone(model)._prepare(X, y)
    if not _together(model, whole.problem, parts):
        return [
            one.fit(X[part.train], y[part.train])
            for one, part in zip(models, parts, strict=True)
        ]
    batch = _SharedFits(parts)
    prepared = [
        one._prepare(solvers.shared_rows(X, part.train), y[part.train])
        for one, part in zip(models, parts, strict=True)
    ]
    judges = [
        judge(job.labels, batch.held_out(part), model.metric)
        for job, part in zip(prepared, parts, strict=True)
    ]
    path = solvers.solve_path(
        whole.problem,
        model._grid(),
        batch.splits,
        judges=judges,
        options=whole.options,
    )
    for one, job, part, chooses in zip(models, prepared, parts, judges, strict=True):
        numbers = [batch.number(part, fitted) for fitted, _ in part.selection]
        one._choose_from(job.labels, part.selection, chooses, path.gaps[numbers])
        one._refit(job, path, numbers)
    return models


class _SharedFits:
    """The different problems of all parts; each predicts all rows that any part needs.

    ``splits`` holds their (train, held-out), the latter sorted.
    """

    def __init__(self, parts: Sequence[NestedPart]) -> None:
        self._numbers: dict[bytes, int] = {}
        trains: list[np.ndarray] = []
        held: list[np.ndarray] = []
        for part in parts:
            for fitted, scored in part.selection:
                train = np.sort(part.train[fitted])
                # Two parts may ask for a fit on the same rows; it is done once for
                # both.
                k = self._numbers.setdefault(train.tobytes(), len(trains))
                if k == len(trains):
                    trains.append(train)
                    held.append(part.train[:0])
                # Every row that any part needs is predicted once.
                held[k] = np.union1d(held[k], part.train[scored])
        self.splits: list[Split] = list(zip(trains, held, strict=True))

    def held_out(self, part: NestedPart) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """Return what `judge` takes: which predictions choose the C of a part."""
        held_out = []
        for fitted, scored in part.selection:
            k = self.number(part, fitted)
            at = np.searchsorted(self.splits[k][1], part.train[scored])
            held_out.append((k, at, scored))
        return held_out

    def number(self, part: NestedPart, fitted: np.ndarray) -> int:
        """Return the number of the problem that learns from these rows of a part."""
        return self._numbers[np.sort(part.train[fitted]).tobytes()]


def _together(
    model: PathClassifier, problem: solvers.Problem, parts: Sequence[NestedPart]
) -> bool:
    """Return whether one batch gives each part what it would find alone.

    Not where classes are weighted by their counts, or missing from a part.
    """
    complete = all(
        len(np.unique(problem.labels[part.train])) == problem.n_classes
        for part in parts
    )
    # "balanced" weighs by the counts of each part, which are other ones than those of
    # all rows.
    return complete and not isinstance(model.class_weight, str)
