"""Held-out predictions, and which C can still be chosen from those solved so far.

C is chosen by a score on held-out rows: the share that is right, or a like metric. As C
grows rows turn right and wrong one by one, so the score walks up and down by single
rows. How many rows turned between two solved C is known; which walk it was is not.
Three rules, all tests at `CHANCE`, say where nothing more is solved
(docs/inside/solvers.md):

* **Between** two solved C a walk from score a to score b, in which v rows turned,
  passes the best score s with probability exp(-2 (s - a) (s - b) / v), in rows (the
  maximum of a Brownian bridge). Small: no C between is solved.
* **Beyond** the largest solved C a walk from score a reaches s with probability
  2 (1 - Φ((s - a) / √v)) (the reflection principle), v being twice the rows that turned
  in the last tenfold of C, since fewer turn in each that follows. Small: no larger C is
  solved. Nor where hardly a row was told otherwise in the last tenfold, fewer than are
  missing to s: the solutions have come to rest (Chu et al. 2015).
* **On the way** to the minimum of one C rows turn too. A C whose predictions so far are
  worse than the best by a paired test (McNemar 1947), or whose walk since the last step
  cannot reach s any more, loses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.stats import norm

from featpipe.solvers.fold_codes import FoldCodes

__all__ = ["Judge", "predict_held_out"]

# Probability of a better C among those left out, at which they are left out.
CHANCE = 0.02
# Share of the held-out rows that may be told otherwise where solutions are at rest.
AT_REST = 0.005


@dataclass
class Judge:
    """One choice of C, by the held-out rows of some folds.

    Parameters
    ----------
    held_out : list of (fold, positions)
        Which of a fold's held-out rows count.
    truth : (n,) int64
        Class numbers of all of these rows, fold after fold.
    weight : (n,) float64
        What each row adds to the score if it is right; they sum to one.
    score : callable or None
        From predictions (n,) to the score; None where it is the weight of right rows.

    Examples
    --------
    >>> judge = Judge([(0, np.arange(3))], np.array([0, 1, 1]), np.full(3, 1 / 3), None)
    >>> judge.truth.shape
    (3,)
    """

    held_out: list[tuple[int, np.ndarray]]
    truth: np.ndarray
    weight: np.ndarray
    score: Callable[[np.ndarray], float] | None = None
    predicted: dict[int, np.ndarray] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)

    def add(self, position: int, predicted: list[np.ndarray]) -> None:
        """Note the held-out predictions of the C at a position, an array a fold."""
        self.predicted[position] = self._pool(predicted)
        self.scores[position] = self._score(self.predicted[position])

    @property
    def best(self) -> int:
        """The position of the best C so far; the smaller of equal ones."""
        top = max(self.scores.values())
        return min(p for p, score in self.scores.items() if score >= top - 1e-12)

    def within_one_row(self) -> list[int]:
        """Return the C whose score is at most one row below the best."""
        least = self.scores[self.best] - self.weight.max() - 1e-12
        return [p for p, score in self.scores.items() if score >= least]

    def rejects(self, before: list[np.ndarray], now: list[np.ndarray]) -> bool:
        """Return whether a C under way is out of reach of the best.

        Either it is worse on the same rows by more than chance, or hardly a row turns
        any more.

        Parameters
        ----------
        before, now : list of arrays
            Held-out predictions, as `add` takes them, by coefficients on the way to the
            minimum: where this was asked last, or the way began, and now.
        """
        then, here, best = *map(self._pool, (before, now)), self.predicted[self.best]
        v = min(2 * self._turned(then, here), self._turned(best, here))
        return not self._reaches(self._score(here), v)

    def needs_between(self, low: int, high: int) -> bool:
        """Return whether a C between two solved ones might be chosen."""
        best = self.scores[self.best]
        a, b = best - self.scores[low], best - self.scores[high]
        v = self._turned(self.predicted[low], self.predicted[high])
        return bool(v > 0 and np.exp(-2 * a * b / v) > CHANCE)

    def needs_beyond(self, low: int, high: int, growing: bool) -> bool:
        """Return whether a C above ``high``, ten times ``low``, might be chosen.

        ``growing`` says that coefficients still grow like C there: nothing has been
        fitted yet.
        """
        if growing:
            return True
        before, after = self.predicted[low], self.predicted[high]
        missing = self.scores[self.best] - self.scores[high]
        changed = self.weight @ (before != after)
        if changed <= AT_REST * self.weight.sum() and changed <= missing:
            return False
        return self._reaches(self.scores[high], 2 * self._turned(before, after))

    def _reaches(self, score: float, v: float) -> bool:
        """Return whether a walk of variance ``v`` may end above the best score."""
        missing = self.scores[self.best] - score
        if missing <= 0:
            return True
        return bool(v > 0 and 2 * norm.sf(missing / np.sqrt(v)) > CHANCE)

    def _turned(self, before: np.ndarray, after: np.ndarray) -> float:
        """Return the squared weight of the rows that are right in one of them only."""
        right = (before == self.truth) != (after == self.truth)
        return float(np.square(self.weight) @ right)

    def _pool(self, predicted: list[np.ndarray]) -> np.ndarray:
        """Return the predictions of the rows that count, fold after fold."""
        return np.concatenate([predicted[fold][at] for fold, at in self.held_out])

    def _score(self, pooled: np.ndarray) -> float:
        right = float(self.weight @ (pooled == self.truth))
        return right if self.score is None else self.score(pooled)


def predict_held_out(
    codes: FoldCodes,
    theta: torch.Tensor,
    held_out: list[np.ndarray],
    dtype: torch.dtype | None = None,
) -> list[np.ndarray]:
    """Predict the held-out rows of every fold.

    Parameters
    ----------
    codes : FoldCodes
    theta : (n_folds, n_C, n_columns, rank + 1) float64
    held_out : list of (n_held_out,) int64
        Row numbers, one array a fold.
    dtype : torch.dtype or None
        Of the scores; None is that of the codes.

    Returns
    -------
    list of (n_C, n_held_out) arrays of class numbers
        In the order of ``held_out``. Classes without a training row are never told.
    """
    _, n_C, n_columns, _ = theta.shape
    dtype = dtype or codes.rows.dtype
    v = codes.to_rows(theta.flatten(1, 2), dtype).clone()
    if n_columns > 1:
        absent = codes.class_weight == 0
        v[..., -1] = v[..., -1].masked_fill(absent.repeat(1, n_C), -torch.inf)
    kind = np.min_scalar_type(codes.class_weight.shape[1])
    predicted = [np.zeros((n_C, len(rows)), kind) for rows in held_out]
    order = [np.argsort(rows, kind="stable") for rows in held_out]
    for start, stop in codes.blocks(max(1, n_C * n_columns)):
        z = codes.block(start, stop, dtype)
        for fold, rows in enumerate(held_out):
            ordered = rows[order[fold]]
            low, high = np.searchsorted(ordered, [start, stop])
            if low == high:
                continue
            chosen = torch.from_numpy(ordered[low:high] - start).to(z.device)
            f = codes.fold_scores(z, v, fold, chosen).view(-1, n_C, n_columns)
            number = f[..., 0] > 0 if n_columns == 1 else f.argmax(2)
            predicted[fold][:, order[fold][low:high]] = number.T.cpu().numpy()
    return predicted
