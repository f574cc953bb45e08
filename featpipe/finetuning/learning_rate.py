"""The learning rate: its choice by short trials, and its schedule."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["MOST_TRIALS", "RATES", "choose", "factor"]

RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
MOST_TRIALS = 5
# The step schedule divides the rate by ten after each of so many parts but the last.
_PARTS = 3


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


def factor(schedule: str, at: float, step: float, *, warmup: float) -> float:
    """Return the factor of the learning rate at some point of the training.

    Parameters
    ----------
    schedule : {"cosine", "step", "constant"}
        ``cosine`` falls to zero (Loshchilov and Hutter 2017), ``step`` divides by ten
        after each third.
    at : float
        Share of all steps that are done.
    step : float
        Share of all steps that one step is.
    warmup : float
        Share of all steps over which the rate rises to its full size.

    Examples
    --------
    >>> [factor("cosine", at, 0.1, warmup=0.2) for at in (0.0, 0.2, 0.6)]
    [0.5, 1.0, 0.5]
    """
    if at < warmup:
        # Not zero in the first step.
        return min(1.0, (at + step) / warmup)
    if schedule == "constant":
        return 1.0
    if schedule == "step":
        return 0.1 ** math.floor(_PARTS * at)
    return 0.5 * (1 + math.cos(math.pi * (at - warmup) / (1 - warmup)))
