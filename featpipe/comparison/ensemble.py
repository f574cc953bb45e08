"""The mean probability of the logistic rows over depths.

Depths of one network err differently, and averaging their probabilities costs
nothing once each is fitted. Members are chosen greedily on training rows [1]_.

References
----------
.. [1] R. Caruana et al., "Ensemble selection from libraries of models", ICML 2004.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featpipe.comparison.contenders import FitSettings, Fitted, out_of_fold
from featpipe.protocol import Part, Protocol
from featpipe.scores import METRICS

__all__ = ["EnsembleMember", "combine", "prepare"]


@dataclass(frozen=True, eq=False)
class EnsembleMember:
    """One depth that may enter the ensemble.

    Attributes
    ----------
    depth, width
        As in the score record.
    fitted : Fitted
        Its logistic row.
    final, parts, repeats : (n_train, n_classes) float64 and lists of such
        Probabilities of the training rows by fits that never saw them: of the final
        fit, of each part whose predictions are judged, and of each repeated fold.
    seconds : float
        Of the fit and of these probabilities.
    """

    depth: str
    width: int
    fitted: Fitted
    final: np.ndarray
    parts: list[np.ndarray]
    repeats: list[np.ndarray]
    seconds: float


def prepare(
    depth: str,
    fitted: Fitted,
    X: np.ndarray,
    y: np.ndarray,
    protocol: Protocol,
    settings: FitSettings,
) -> EnsembleMember:
    """Predict training rows by the logistic row's C, each by a fit without it."""
    start = time.perf_counter()
    final = out_of_fold(X, y, protocol.final, fitted.C, settings)
    # Without a split each outer fold chooses its own members, from fits that never saw
    # it.
    parts = (
        [
            out_of_fold(X, y, part, C, settings)
            for part, C in zip(protocol.parts, fitted.part_Cs, strict=True)
        ]
        if protocol.nested
        else [final]
    )
    rows = protocol.final.train
    # Repeated folds have the C of the final fit: they score, and choose nothing.
    repeats = [
        out_of_fold(X, y, Part(rows, rows[:0], [pair]), fitted.C, settings)
        for pair in protocol.repeats
    ]
    seconds = fitted.fit_seconds + time.perf_counter() - start
    return EnsembleMember(depth, X.shape[1], fitted, final, parts, repeats, seconds)


def combine(
    members: Sequence[EnsembleMember],
    y: np.ndarray,
    protocol: Protocol,
    settings: FitSettings,
) -> tuple[str, int, Fitted]:
    """Choose members on training rows and average their probabilities.

    Where there is no split, each part chooses its own members inside its training
    part; the depth and width given are those chosen on all rows.

    Returns
    -------
    depth : str
        The chosen depths joined by ``+``, in the order of ``members``.
    width : int
        The sum of their widths.
    fitted : Fitted
        The ensemble as a contender.
    """
    start = time.perf_counter()
    chosen, cv_score = _choose([m.final for m in members], y, protocol.final, settings)
    if protocol.repeats:
        cv_score = _repeated_score(members, chosen, cv_score, y, protocol, settings)
    judged = protocol.judged
    probabilities = np.zeros((len(judged), settings.n_classes))
    part_scores = []
    for k, part in enumerate(protocol.parts):
        of_part, score = (
            _choose([m.parts[k] for m in members], y, part, settings)
            if protocol.nested
            else (chosen, cv_score)
        )
        # `judged` is sorted, so these are the positions of the part in it.
        at = np.searchsorted(judged, part.held)
        probabilities[at] = np.mean([_held(members[m], at) for m in of_part], axis=0)
        part_scores.append(score)
    depth = "+".join(members[m].depth for m in chosen)
    fitted = Fitted(
        C=None,
        C_curve=[],
        cv_score=cv_score,
        part_cv_scores=part_scores,
        part_Cs=[None] * len(part_scores),
        predicted=probabilities.argmax(axis=1),
        probabilities=probabilities,
        fit_seconds=sum(m.seconds for m in members) + time.perf_counter() - start,
        predict_seconds=sum(members[m].fitted.predict_seconds for m in chosen),
    )
    return depth, sum(members[m].width for m in chosen), fitted


def _repeated_score(
    members: Sequence[EnsembleMember],
    chosen: Sequence[int],
    cv_score: float,
    y: np.ndarray,
    protocol: Protocol,
    settings: FitSettings,
) -> float:
    """Return the mean score of the chosen members, over repeated folds too."""
    labels, measure = y[protocol.final.train], METRICS[settings.metric]
    n_first = len(protocol.final.selection)
    # Each fold counts the same, be it of the first cut or of a repeated one.
    total = n_first * cv_score
    for k, (_, scored) in enumerate(protocol.repeats):
        mean = np.mean([members[m].repeats[k][scored] for m in chosen], axis=0)
        total += measure(labels[scored], mean.argmax(axis=1))
    return float(total / (n_first + len(protocol.repeats)))


def _held(member: EnsembleMember, at: np.ndarray) -> np.ndarray:
    probabilities = member.fitted.probabilities
    assert probabilities is not None, "members are logistic rows"
    rows: np.ndarray = probabilities[at]
    return rows


def _choose(
    probabilities: Sequence[np.ndarray],
    y: np.ndarray,
    part: Part,
    settings: FitSettings,
) -> tuple[list[int], float]:
    """Add the best member until none improves the score; two members at least.

    Return all of them where the part has nothing to choose by.
    """
    if not part.selection:
        # No folds, so nothing to choose by: all members, and no score.
        return list(range(len(probabilities))), float("nan")
    labels = y[part.train]
    measure = METRICS[settings.metric]

    def score(members: list[int]) -> float:
        mean = np.mean([probabilities[m] for m in members], axis=0)
        return float(
            np.mean(
                [
                    measure(labels[scored], mean[scored].argmax(axis=1))
                    for _, scored in part.selection
                ]
            )
        )

    chosen: list[int] = []
    best = -np.inf
    while len(chosen) < len(probabilities):
        others = [m for m in range(len(probabilities)) if m not in chosen]
        scored = {m: score([*chosen, m]) for m in others}
        candidate = max(others, key=lambda m: scored[m])
        # Two members make an ensemble; a third has to raise the score.
        if len(chosen) >= 2 and scored[candidate] <= best:
            break
        chosen.append(candidate)
        best = scored[candidate]
    return sorted(chosen), best
