"""What a classifier is given: its parameters, and codes that are read in blocks."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np

from featpipe.classifiers.measures import METRICS

__all__ = ["Reader", "check_parameters", "is_reader"]

# C beyond which an objective of finite codes might not be finite.
SMALLEST_C, LARGEST_C = 1e-30, 1e30


@runtime_checkable
class Reader(Protocol):
    """Codes too large for memory, read some rows at a time.

    Any object with these names can stand where ``X`` does.
    """

    shape: tuple[int, int]
    dtype: np.dtype

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return rows ``start`` to ``stop`` (not included) as (n, width)."""
        ...


def is_reader(X: Any) -> bool:
    """Decide whether codes are to be read in blocks."""
    # scipy's lil matrices have ``rows`` too, but as an array.
    return isinstance(X, Reader) and callable(X.rows)


def check_parameters(model: Any) -> None:
    """Raise ValueError if a parameter of a classifier is out of its range."""
    if model.metric not in METRICS:
        raise ValueError(
            f"metric={model.metric!r} is not known; choose from {', '.join(METRICS)}"
        )
    if not (isinstance(model.C, str) and model.C == "auto") and not _usable(model.C):
        raise ValueError(
            f"C={model.C!r} must be 'auto' or a number above zero, from 1e-30 to 1e30"
        )
    if model.Cs is not None and not (len(model.Cs) and all(map(_usable, model.Cs))):
        raise ValueError(
            f"Cs={model.Cs!r} must be numbers above zero, from 1e-30 to 1e30"
        )
    for name in ("tol", "max_iter"):
        if not _positive(getattr(model, name)):
            raise ValueError(f"{name}={getattr(model, name)!r} must be above zero")


def _usable(C: Any) -> bool:
    return _positive(C) and bool(SMALLEST_C <= C <= LARGEST_C)


def _positive(value: Any) -> bool:
    numeric = isinstance(value, int | float | np.number)
    return numeric and not isinstance(value, bool) and bool(0 < value < np.inf)
