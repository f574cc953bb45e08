"""How good what has been solved is, by the rows held out of each split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from featpipe.solvers._plan import has_fallen
from featpipe.solvers._predictions import Predictions

__all__ = ["Judge"]


@dataclass(frozen=True, eq=False)
class Judge:
    """Scores what has been solved of a group of splits.

    Parameters
    ----------
    predictions : Predictions
    score : callable
        As `featpipe.solvers.solve_path` takes it.
    first : int
        The number of the group's first split.
    """

    predictions: Predictions
    score: Callable[[int, np.ndarray], float]
    first: int

    @property
    def n_held_out(self) -> int:
        """Rows held out, by all splits of the group."""
        return self._held_out(range(len(self.predictions.found)))

    def __call__(self, position: int) -> float:
        """Give the mean score of the splits at one position of the grid."""
        self.predictions.flush()
        return self._mean([(p, position) for p in range(len(self.predictions.found))])

    def has_hope(
        self, here: Sequence[tuple[int, int, torch.Tensor]], solved: np.ndarray
    ) -> bool:
        """Say whether splits may yet become better than they have been.

        Not where they score three standard errors less than they did at one C.

        Parameters
        ----------
        here : sequence of (split, position, theta)
            Where they stand, solved or not.
        solved : (n_splits, n_C) bool
        """
        for split, position, theta in here:
            self.predictions.add(split, position, theta)
        self.predictions.flush()
        splits = [split for split, *_ in here]
        before = np.flatnonzero(solved[splits].all(axis=0))
        if not (splits and len(before)):
            return True
        best = max(self._mean([(p, int(c)) for p in splits]) for c in before)
        now = self._mean([(split, position) for split, position, _ in here])
        return not has_fallen(now, best, self._held_out(splits))

    def _mean(self, cells: Sequence[tuple[int, int]]) -> float:
        found = self.predictions.found
        return float(
            np.mean([self.score(self.first + p, found[p][c]) for p, c in cells])
        )

    def _held_out(self, splits: Sequence[int]) -> int:
        return sum(self.predictions.found[p].shape[1] for p in splits)
