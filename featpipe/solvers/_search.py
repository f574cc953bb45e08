"""Where a slope that only rises crosses zero."""

from __future__ import annotations

from collections.abc import Callable

import torch

__all__ = ["crossing"]

# How often the slope is asked for, and the share of the first that is near zero.
MOST, NEARLY = 8, 0.1

Slope = Callable[[torch.Tensor], torch.Tensor]


def crossing(
    slope_at: Slope,
    slope_start: torch.Tensor,
    end: torch.Tensor,
    slope_end: torch.Tensor,
) -> torch.Tensor:
    """Find about where each slope crosses zero, by false position.

    The end that stays is weighed as Anderson and Björck (1973) do, so that the kinks of
    a squared hinge, some of them right at the start, do not hold the search up.

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
    for _ in range(MOST):
        share = (below / (below - above)).nan_to_num(0.5).clamp(0.01, 0.99)
        length = low + share * (high - low)
        slope = slope_at(length)
        rises = slope > 0
        stayed = 1 - slope / torch.where(rises, above, below)
        stayed = torch.where(stayed > 0, stayed, 0.5)
        low, below, high, above = (
            torch.where(rises, low, length),
            torch.where(rises, below * stayed, slope),
            torch.where(rises, length, high),
            torch.where(rises, slope, above * stayed),
        )
        if (slope.abs() <= NEARLY * slope_start.abs()).all():
            break
    return length
