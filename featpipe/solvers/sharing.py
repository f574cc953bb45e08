"""What fits of the same codes share: standardised rows, Gram matrices, bases.

Inside ``with share_codes():`` two fits of the same array, splits and weights read,
standardise and rotate it once. Outside, nothing is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any, TypeVar

import numpy as np

__all__ = ["digest_of", "make_once", "share_codes", "shared_rows"]

T = TypeVar("T")


class _Made:
    """What is made once of an array, which is kept so that its address stays its own.

    The lock lets one thread make it while others wait.
    """

    def __init__(self, codes: Any) -> None:
        self.codes, self.lock = codes, Lock()
        self.value: Any = None
        self.is_made = False


# What was made inside the block.
_made: ContextVar[dict[Hashable, _Made] | None] = ContextVar("made", default=None)


@contextmanager
def share_codes() -> Iterator[None]:
    """Share standardised and rotated codes among the fits inside the block.

    A block inside another shares with the outer one, and so do threads that run in a
    copy of its context (`contextvars.copy_context`).

    Examples
    --------
    >>> from featpipe import solvers
    >>> with solvers.share_codes():
    ...     X = np.zeros((4, 2), np.float32)
    ...     one = solvers.shared_rows(X, np.array([0, 2]))
    ...     print(one is solvers.shared_rows(X, np.array([0, 2])))
    True
    """
    if _made.get() is not None:
        yield
        return
    token = _made.set({})
    try:
        yield
    finally:
        _made.reset(token)


def make_once(codes: Any, key: Hashable, make: Callable[[], T]) -> T:
    """Return what ``make`` makes of the codes, made once inside the block."""
    made = _made.get()
    if made is None:
        return make()
    where: Hashable = id(codes)
    if isinstance(codes, np.ndarray):
        where = codes.__array_interface__["data"][0], codes.shape, codes.strides
    whole = where, codes.dtype.str, key
    cell = made.setdefault(whole, _Made(codes))
    with cell.lock:
        if not cell.is_made:
            cell.value, cell.is_made = make(), True
    value: T = cell.value
    return value


def digest_of(*arrays: np.ndarray) -> str:
    """Return a digest that differs where one of the arrays does."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes() + b"|")
    return digest.hexdigest()


def shared_rows(codes: Any, rows: np.ndarray) -> Any:
    """Return a copy, or a reader, of some rows; the same each time inside the block.

    Examples
    --------
    >>> from featpipe import solvers
    >>> solvers.shared_rows(np.arange(6.0).reshape(3, 2), np.array([0, 2])).tolist()
    [[0.0, 1.0], [4.0, 5.0]]
    """
    return make_once(codes, ("copy", digest_of(rows)), lambda: codes[rows])
