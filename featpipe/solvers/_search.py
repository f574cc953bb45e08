"""Where a slope that only rises crosses zero."""

from __future__ import annotations

from collections.abc import Callable

import torch

__all__ = ["crossing"]

# How often the slope is asked for, and the share of the first that is near zero.
MOST, NEARLY = 12, 0.1

Slope = Callable[[torch.Tensor], torch.Tensor]


def crossing(
    slope_at: Slope,
    slope_start: torch.Tensor,
    end: torch.Tensor,
    slope_end: torch.Tensor,
) -> torch.Tensor:
    """Find about where each slope crosses zero.

    By false position and bisection in turn: a squared hinge has kinks, some of them
    right at the start, which would hold false position up.

    Parameters
    ----------
    slope_at : callable
        Takes lengths (n,), gives the slopes there, (n,).
    slope_start : (n,) tensor
        The slopes at zero: they fall.
    end : (n,) tensor
        Lengths at which they rise.
    slope_end : (n,) tensor
        The slopes there.

    Returns
    -------
    (n,) tensor
        Between zero and ``end``.

    Examples
    --------
    >>> one = torch.ones(1)
    >>> round(float(crossing(lambda x: x**3 - 0.125, -one / 8, one, 0.875 * one)), 2)
    0.5
    """
    low, high, length = torch.zeros_like(end), end, end
    below, above = slope_start, slope_end
    for i in range(MOST):
        share = (below / (below - above)).nan_to_num(0.5).clamp(0.01, 0.99)
        length = low + (share if i % 2 == 0 else 0.5) * (high - low)
        slope = slope_at(length)
        rises = slope > 0
        low, below, high, above = (
            torch.where(rises, low, length),
            torch.where(rises, below, slope),
            torch.where(rises, length, high),
            torch.where(rises, slope, above),
        )
        if (slope.abs() <= NEARLY * slope_start.abs()).all():
            break
    return length
