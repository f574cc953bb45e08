"""Choose C inside each part of a nested cross-validation, with one path for all parts.

A part that leaves out fold i chooses C by leaving out fold j as well. The part that
leaves out fold j solves the same problem, so each problem is solved once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.base import clone

from featpipe.classifiers.choosing import PathClassifier
from featpipe.classifiers.folding import Split
from featpipe.classifiers.measures import make_judge

if TYPE_CHECKING:
    from featpipe import solvers

__all__ = ["NestedPart", "fit_nested"]


class NestedPart(NamedTuple):
    """The training rows of one model, and the folds among them that choose its C.

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
    """Fit a clone of the model to each part; the result is that of separate fits.

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
        One for each part.

    Raises
    ------
    ValueError
        As ``PathClassifier.fit``.

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

    # The models of a user who fits each part alone, which the shared path must equal.
    models = [clone(model).set_params(cv=part.selection) for part in parts]
    all_rows = clone(model)._prepare(X, y)
    if not _can_share(model, all_rows.problem, parts):
        return [
            of_part.fit(X[part.train], y[part.train])
            for of_part, part in zip(models, parts, strict=True)
        ]
    shared = _SharedFits(parts)
    prepared = [
        of_part._prepare(solvers.shared_rows(X, part.train), y[part.train])
        for of_part, part in zip(models, parts, strict=True)
    ]
    judges = [
        make_judge(job.labels, shared.held_out(part), model.metric)
        for job, part in zip(prepared, parts, strict=True)
    ]
    path = solvers.solve_path(
        all_rows.problem,
        model._grid(),
        shared.splits,
        judges=judges,
        options=all_rows.options,
    )
    for of_part, job, part, judge in zip(models, prepared, parts, judges, strict=True):
        numbers = [shared.number(part, fitted) for fitted, _ in part.selection]
        of_part._choose_from(job.labels, part.selection, judge, path.gaps[numbers])
        of_part._refit(job, path, numbers)
    return models


class _SharedFits:
    """The distinct problems of all parts.

    ``splits`` has the (train, held-out) of each problem. Its held-out rows, in
    ascending order, are all those that some part needs predicted.
    """

    def __init__(self, parts: Sequence[NestedPart]) -> None:
        # By the bytes of their rows, since arrays cannot be keys.
        self._numbers: dict[bytes, int] = {}
        trains: list[np.ndarray] = []
        held: list[np.ndarray] = []
        for part in parts:
            for fitted, scored in part.selection:
                train = np.sort(part.train[fitted])
                # Two parts that learn from the same rows share a problem.
                k = self._numbers.setdefault(train.tobytes(), len(trains))
                if k == len(trains):
                    trains.append(train)
                    held.append(part.train[:0])
                held[k] = np.union1d(held[k], part.train[scored])
        self.splits: list[Split] = list(zip(trains, held, strict=True))

    def held_out(self, part: NestedPart) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """Return the predictions that choose the C of a part, as for `make_judge`."""
        held_out = []
        for fitted, scored in part.selection:
            k = self.number(part, fitted)
            at = np.searchsorted(self.splits[k][1], part.train[scored])
            held_out.append((k, at, scored))
        return held_out

    def number(self, part: NestedPart, fitted: np.ndarray) -> int:
        """Return the number of the problem that learns from these rows of a part."""
        return self._numbers[np.sort(part.train[fitted]).tobytes()]


def _can_share(
    model: PathClassifier, problem: solvers.Problem, parts: Sequence[NestedPart]
) -> bool:
    """Return whether one path for all parts gives the results of separate fits.

    It does not where classes are weighted by their counts, or missing from a part.
    """
    complete = all(
        len(np.unique(problem.labels[part.train])) == problem.n_classes
        for part in parts
    )
    # "balanced" weighs by the counts in each part, which differ from those of all rows.
    return complete and not isinstance(model.class_weight, str)
