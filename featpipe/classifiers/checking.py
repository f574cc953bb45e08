"""Check the parameters of a classifier, and recognise codes that are read in blocks."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np

from featpipe.bounds import require_number
from featpipe.classifiers.measures import METRICS

__all__ = ["BlockReader", "check_C_grid", "check_parameters", "is_reader"]

# Outside these bounds an objective of finite codes might not be finite.
SMALLEST_C, LARGEST_C = 1e-30, 1e30
# A longer grid is most likely a mistake.
MOST_C = 1000


@runtime_checkable
class BlockReader(Protocol):
    """Codes too large for memory, read some rows at a time.

    Any object with these attributes can be ``X``.

    Examples
    --------
    >>> from featpipe.classifiers import make
    >>> class Rows:
    ...     shape, dtype = (6, 2), np.dtype(np.float32)
    ...
    ...     def rows(self, start, stop):
    ...         first = np.arange(start, stop, dtype=np.float32)
    ...         return np.column_stack([first, -first])
    >>> make("linear", C=1.0).fit(Rows(), [0, 0, 0, 1, 1, 1]).coef_.shape
    (1, 2)
    """

    shape: tuple[int, int]
    dtype: np.dtype

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return the rows from ``start`` up to ``stop``, without it, as (n, width)."""
        ...


def is_reader(X: Any) -> bool:
    """Return whether codes are read in blocks."""
    # A runtime protocol compares names alone, and scipy's lil matrices have an array
    # named ``rows``.
    return isinstance(X, BlockReader) and callable(X.rows)


def check_parameters(model: Any) -> None:
    """Raise ValueError if a parameter of a classifier is out of its range."""
    if model.metric not in METRICS:
        raise ValueError(
            f"metric={model.metric!r} is not known; choose from {', '.join(METRICS)}"
        )
    if not (isinstance(model.C, str) and model.C == "auto") and not _usable(model.C):
        raise ValueError(
            f"C={model.C!r:.60} must be 'auto' or a number above zero, from 1e-30 to "
            "1e30"
        )
    check_C_grid(model.Cs)
    require_number("tol", model.tol, 0, 1, whole=False, above=True)
    require_number("max_iter", model.max_iter, 1, 10**9)


def check_C_grid(Cs: Any) -> None:
    """Raise ValueError unless ``Cs`` is None or holds usable values of C.

    Examples
    --------
    >>> check_C_grid([0.1, 1.0, 10.0])
    >>> check_C_grid([0.0, 1.0])
    Traceback (most recent call last):
        ...
    ValueError: Cs=[0.0, 1.0] must be numbers above zero, from 1e-30 to ...
    """
    if Cs is not None and not _are_usable(Cs):
        text = " ".join(repr(Cs).split())
        raise ValueError(
            f"Cs={text:.60} must be numbers above zero, from 1e-30 to 1e30, and at "
            f"most {MOST_C:,} of them"
        )


def _are_usable(Cs: Any) -> bool:
    try:
        return 0 < len(Cs) <= MOST_C and all(map(_usable, Cs))
    except TypeError:
        return False


def _usable(C: Any) -> bool:
    return _positive(C) and bool(SMALLEST_C <= C <= LARGEST_C)


def _positive(value: Any) -> bool:
    # To Python, numpy's float32 is not a float.
    numeric = isinstance(value, int | float | np.number)
    return numeric and not isinstance(value, bool) and bool(0 < value < np.inf)
