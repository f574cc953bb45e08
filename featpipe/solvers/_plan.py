"""Which C are worth solving where all of them would cost too much.

Every fourth C first, from the smallest, until accuracy has clearly fallen; then those
halfway to the neighbours of the best, and halfway again. What is skipped is skipped for
every split, and said.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch

__all__ = ["STRIDE", "Walk", "coarse_to_fine", "has_fallen", "is_large"]

# Products of one pass over all rows, columns and splits beyond which C are skipped.
LARGE = 6 * 10**9
STRIDE = 4
# Standard errors below the best at which a coarse C ends the walk.
FALLEN = 3.0


class Walk(Protocol):
    """What can be sent to one C after another."""

    theta: torch.Tensor

    def visit(self, position: int, *, rough: bool = False) -> None:
        """Solve all splits at one C, from where they stand."""

    def return_to(self, theta: torch.Tensor) -> None:
        """Stand there instead."""


def is_large(n_rows: int, width: int, n_columns: int, n_Cs: int) -> bool:
    """Say whether C are to be skipped."""
    return n_rows * width * n_columns > LARGE and n_Cs > 2 * STRIDE


def coarse_to_fine(
    walk: Walk, n_Cs: int, score: Callable[[int], float], n_held_out: int
) -> np.ndarray:
    """Solve the C worth solving.

    Parameters
    ----------
    walk : Walk
    n_Cs : int
    score : callable
        The share of held-out rows that a solved C gets right, or a like measure.
    n_held_out : int
        Rows that the score is of.

    Returns
    -------
    (n_Cs,) bool
        What was solved.
    """
    solved = np.zeros(n_Cs, bool)
    best, best_score, anchor = 0, -np.inf, walk.theta.clone()
    for position in range(0, n_Cs, STRIDE):
        before = walk.theta.clone()
        # What has clearly fallen need not be solved to be left out.
        walk.visit(position, rough=True)
        if has_fallen(score(position), best_score, n_held_out):
            break
        walk.visit(position)
        solved[position] = True
        now = score(position)
        if now > best_score:
            best, best_score, anchor = position, now, before
    walk.return_to(anchor)
    for step in (STRIDE // 2, 1):
        for position in (best - step, best + step):
            if 0 <= position < n_Cs and not solved[position]:
                walk.visit(position)
                solved[position] = True
                now = score(position)
                if now > best_score:
                    best, best_score = position, now
    return solved


def has_fallen(now: float, best: float, n_held_out: int) -> bool:
    """Say whether a score is so far below the best that no chance explains it."""
    share = min(max(best, 0.0), 1.0)
    return now < best - FALLEN * (share * (1 - share) / n_held_out) ** 0.5
