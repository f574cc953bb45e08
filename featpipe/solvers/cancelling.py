"""Ending the fits of other threads, which no signal reaches, at their next step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event

__all__ = ["Cancelled", "cancellable", "raise_if_cancelled"]

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
    featpipe.solvers.cancelling.Cancelled
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
