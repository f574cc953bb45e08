"""Choose the learning rate by short trials, from one rate towards better neighbours.

Knows nothing of what a trial does.
"""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["MOST_TRIALS", "RATES", "choose"]

RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
MOST_TRIALS = 5


def choose(trial: Callable[[float], float], start: float) -> dict[float, float]:
    """Try a rate and its neighbours, and go on towards lower losses.

    Parameters
    ----------
    trial : callable
        Takes a rate; returns a loss, infinite where training diverged.
    start : float
        One of `RATES`.

    Returns
    -------
    dict of float to float
        Rate to loss, best first; of equal ones the smaller rate.

    Raises
    ------
    ValueError
        If every trial diverged.

    Examples
    --------
    >>> next(iter(choose(lambda rate: abs(rate - 0.01), 1e-3)))
    0.01
    """
    at = RATES.index(start)
    tried: dict[int, float] = {}
    # Both neighbours, since the first rate is only a guess.
    waiting = [at, at + 1, at - 1]
    while waiting:
        for k in waiting:
            tried[k] = trial(RATES[k])
        # Of equal losses the smaller rate, which is the safer one.
        best = min(tried, key=lambda k: (tried[k], k))
        beyond = best + 1 if best == max(tried) else best - 1
        more = beyond not in tried and 0 <= beyond < len(RATES)
        waiting = [beyond] if more and len(tried) < MOST_TRIALS else []
    if not math.isfinite(tried[best]):
        rates = ", ".join(f"{RATES[k]:g}" for k in sorted(tried))
        raise ValueError(
            f"training diverged at every learning rate tried ({rates}); give a smaller "
            "one, or see whether the codes at this depth are finite (`featpipe verify`)"
        )
    order = sorted(tried, key=lambda k: (tried[k], k))
    return {RATES[k]: tried[k] for k in order}
