"""What fits share: rows, Gram matrices and bases of the same codes; and their end.

Inside ``with share_codes():`` two fits of the same array, splits and weights read,
standardise and rotate it once. Outside, nothing is kept. Inside ``with
cancellable(event):`` fits end at their next step once the event is set, since no signal
reaches a thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event, Lock
from typing import Any, TypeVar

import numpy as np

__all__ = [
    "Cancelled",
    "cancellable",
    "digest_of",
    "make_once",
    "raise_if_cancelled",
    "share_codes",
    "shared_rows",
]

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


_cancelled: ContextVar[Event | None] = ContextVar("cancelled", default=None)


class Cancelled(Exception):
    """The fit was ended by another thread; there is no result."""


@contextmanager
def cancellable(cancelled: Event) -> Iterator[None]:
    """Let fits inside the block, and in copies of its context, end at an event.

    Examples
    --------
    >>> from featpipe import solvers
    >>> import numpy as np
    >>> from threading import Event
    >>> X, y = np.arange(8.0).reshape(4, 2), np.array([0, 1, 0, 1])
    >>> problem = solvers.Problem(X, y, 2, "logistic", np.ones(4), np.ones(4))
    >>> cancelled = Event()
    >>> cancelled.set()
    >>> with solvers.cancellable(cancelled):
    ...     solvers.solve(problem, 1.0)
    Traceback (most recent call last):
    featpipe.solvers.sharing.Cancelled
    """
    token = _cancelled.set(cancelled)
    try:
        yield
    finally:
        _cancelled.reset(token)


def raise_if_cancelled() -> None:
    """Raise `Cancelled` where the event of the context is set."""
    cancelled = _cancelled.get()
    if cancelled is not None and cancelled.is_set():
        raise Cancelled
