"""Fitting one classifier on one depth: selection, refit, predictions.

Sees the codes of all rows but the labels of training rows only, so nothing here can
choose by a held-out label.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.exceptions import ConvergenceWarning

from featpipe import classifiers
from featpipe.comparison.baselines import BASELINES, WITH_PROBABILITIES
from featpipe.comparison.sources import take
from featpipe.defaults import N_FOLDS
from featpipe.protocol import Pairs, Part, Protocol, resolve_C
from featpipe.scores import METRICS

__all__ = [
    "FitSettings",
    "Fitted",
    "align_probabilities",
    "fit_and_predict",
    "out_of_fold",
]


@dataclass(frozen=True)
class FitSettings:
    """The settings that all fits of a comparison share; as in `featpipe.compare`."""

    n_classes: int
    Cs: np.ndarray | None = None
    metric: str = "accuracy"
    class_weight: str | dict[int, float] | None = None
    device: str = "auto"
    memory: str | int | None = None
    seed: int = 0
    full_path: bool = False

    def make(
        self, name: str, C: float | str, cv: Pairs | int = N_FOLDS
    ) -> ClassifierMixin:
        """Make one of our estimators."""
        return classifiers.make(
            name,
            C=C,
            Cs=self.Cs,
            cv=cv,
            metric=self.metric,
            class_weight=self.class_weight,
            device=self.device,
            memory=self.memory,
            full_path=self.full_path,
            random_state=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The predictions of a fitted contender, made before any held-out label is read.

    Attributes
    ----------
    C, C_curve, cv_score
        Of the final fit, as in the score record.
    part_cv_scores, part_Cs : list
        Of the fits whose predictions are judged, one per part of the protocol.
    predicted : (n_judged,) int64
        Class numbers, in the order of ``protocol.judged``.
    probabilities : (n_judged, n_classes) float or None
        None where the classifier gives none.
    fit_seconds, predict_seconds : float
        Of all fits with their selection, and of all predictions.
    warnings : list of str
        Warnings of the fits.
    """

    C: float | None
    C_curve: list[list[float | None]]
    cv_score: float
    part_cv_scores: list[float]
    part_Cs: list[float | None]
    predicted: np.ndarray
    probabilities: np.ndarray | None
    fit_seconds: float
    predict_seconds: float
    warnings: list[str] = field(default_factory=list)


def fit_and_predict(
    name: str, X: Any, y: np.ndarray, protocol: Protocol, settings: FitSettings
) -> Fitted:
    """Fit a classifier by the protocol, and predict all judged rows.

    Parameters
    ----------
    name : str
        Of `classifiers.NAMES` or `BASELINES`.
    X : (n, width) float32, or a `CodesView`
        Codes of all rows.
    y : (n,) int64
        Class numbers of the training rows; those of held-out rows are never read.
    """
    # With a split the final fit is judged; without one the parts are judged, and the
    # final fit gives C and cv for the table.
    parts = [protocol.final, *protocol.parts] if protocol.nested else [protocol.final]
    start = time.perf_counter()
    with warnings.catch_warnings():
        # The estimator keeps it in warnings_, which the table shows.
        warnings.simplefilter("ignore", ConvergenceWarning)
        final, *models = _fit(name, X, y, parts, settings)
    cv_score = _repeated_score(final, X, y, protocol)
    fit_seconds = time.perf_counter() - start
    models = models or [final]
    start = time.perf_counter()
    judged = protocol.judged
    predicted = np.empty(len(judged), np.int64)
    shape = len(judged), settings.n_classes
    probabilities = np.zeros(shape) if name in WITH_PROBABILITIES else None
    for part, model in zip(protocol.parts, models, strict=True):
        # `judged` is sorted, so this finds the places of the part's images in it.
        at, held = np.searchsorted(judged, part.held), take(X, part.held)
        predicted[at] = model.predict(held)
        if probabilities is not None:
            probabilities[at] = align_probabilities(model, held, settings.n_classes)
    return Fitted(
        C=final.C_,
        C_curve=np.asarray(final.C_curve_, float).tolist(),
        cv_score=cv_score,
        part_cv_scores=[float(model.cv_score_) for model in models],
        part_Cs=[model.C_ for model in models],
        predicted=predicted,
        probabilities=probabilities,
        fit_seconds=fit_seconds,
        predict_seconds=time.perf_counter() - start,
        warnings=list(_gathered(final, models)),
    )


def _gathered(final: Any, models: Sequence[Any]) -> Iterator[str]:
    """Yield the warnings of the fit on all rows, then those of single folds."""
    yield from dict.fromkeys(final.warnings_)
    folds: dict[str, list[str]] = {}
    for k, model in enumerate(models, 1):
        for text in dict.fromkeys(model.warnings_):
            if model is not final and text not in final.warnings_:
                folds.setdefault(text, []).append(str(k))
    for text, numbers in folds.items():
        yield f"fold{'s' * (len(numbers) > 1)} {', '.join(numbers)}: {text}"


def _fit(
    name: str,
    X: Any,
    y: np.ndarray,
    parts: Sequence[Part],
    settings: FitSettings,
) -> list[Any]:
    """Fit a model to each part, choosing its C inside."""
    if name in BASELINES:
        make, metric = BASELINES[name], settings.metric
        return [
            _Baseline(make, part.selection, metric).fit(
                take(X, part.train), y[part.train]
            )
            for part in parts
        ]
    Cs = [resolve_C(part, Cs=settings.Cs) for part in parts]
    if len(parts) > 1 and set(Cs) == {"auto"}:
        inner = [classifiers.NestedPart(part.train, part.selection) for part in parts]
        return classifiers.fit_nested(settings.make(name, "auto"), X, y, inner)
    return [
        settings.make(name, C, part.selection).fit(
            _training_rows(X, part.train), y[part.train]
        )
        for part, C in zip(parts, Cs, strict=True)
    ]


def _training_rows(X: Any, rows: np.ndarray) -> Any:
    """Return training rows as a slice, or as the copy that all classifiers share."""
    from featpipe.solvers import shared_rows

    if isinstance(X, np.ndarray):
        taken = take(X, rows)
        if taken.base is not None:
            return taken
    return shared_rows(X, rows)


def _repeated_score(model: Any, X: Any, y: np.ndarray, protocol: Protocol) -> float:
    """Return the cross-validated score of the final fit, over all its folds."""
    part, repeats = protocol.final, protocol.repeats
    if not repeats:
        return float(model.cv_score_)
    X, y = take(X, part.train), y[part.train]
    if isinstance(model, _Baseline):
        return float(np.mean(model.fold_scores_ + model.score_folds(X, y, repeats)))
    return classifiers.repeated_score(model, X, y, part.selection, repeats)


def align_probabilities(model: Any, X: Any, n_classes: int) -> np.ndarray:
    """Return probabilities with a column for every class, zero where not learned."""
    # A class that the fold lacks has probability zero.
    probabilities = np.zeros((len(X), n_classes))
    probabilities[:, model.classes_] = model.predict_proba(X)
    return probabilities


def out_of_fold(
    X: Any, y: np.ndarray, part: Part, C: float | None, settings: FitSettings
) -> np.ndarray:
    """Predict the training rows of a part by logistic fits that never saw them.

    Returns
    -------
    (n_train, n_classes) float64
        Probabilities; nan for rows that no selection pair scores.
    """
    assert C is not None, "members are logistic rows, which have a C"
    # nan, so that a row that no fold predicts cannot pass for a prediction.
    probabilities = np.full((len(part.train), settings.n_classes), np.nan)
    X, y = take(X, part.train), y[part.train]
    for fitted, scored in part.selection:
        model = settings.make("logistic", C)
        with warnings.catch_warnings():
            # The fit that chose C has warned already if this C does not converge.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(take(X, fitted), y[fitted])
        probabilities[scored] = align_probabilities(
            model, take(X, scored), settings.n_classes
        )
    return probabilities


class _Baseline:
    """A classifier without a C, with the fitted attributes of those that choose one."""

    def __init__(self, make: Callable[[], Any], cv: Pairs, metric: str) -> None:
        self.make, self.cv, self.metric = make, cv, metric
        self.C_, self.C_curve_ = None, np.empty((0, 2))

    def fit(self, X: np.ndarray, y: np.ndarray) -> _Baseline:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.fold_scores_ = self.score_folds(X, y, self.cv)
            self.model_ = self.make().fit(X, y)
        scores = self.fold_scores_
        self.cv_score_ = float(np.mean(scores)) if scores else float("nan")
        self.classes_ = self.model_.classes_
        self.warnings_ = list(dict.fromkeys(str(w.message) for w in caught))
        return self

    def score_folds(self, X: np.ndarray, y: np.ndarray, folds: Pairs) -> list[float]:
        """Return the metric of each fold, by a model that learns from its rows."""
        measure = METRICS[self.metric]
        models = (self.make().fit(take(X, rows), y[rows]) for rows, _ in folds)
        return [
            measure(y[scored], model.predict(take(X, scored)))
            for (_, scored), model in zip(folds, models, strict=True)
        ]

    def predict(self, X: np.ndarray) -> np.ndarray:
        predicted: np.ndarray = self.model_.predict(X)
        return predicted

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        probabilities: np.ndarray = self.model_.predict_proba(X)
        return probabilities
