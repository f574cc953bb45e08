"""The start and end of the command line, and what Ctrl-C does there.

While a command works, Ctrl-C raises KeyboardInterrupt, so that it cleans up. Before
that nothing has been begun and after it nothing is left to do: the process ends at
once, without a traceback. This module imports nothing that takes time.
"""

import _thread
import atexit
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from types import FrameType

__all__ = ["INTERRUPTED", "interruptible", "main", "uninterrupted"]

INTERRUPTED = 130  # what shells report of a process that Ctrl-C ended


class _Phase(Enum):
    STARTING = "starting"
    WORKING = "working"
    REPORTING = "reporting"
    ENDING = "ending"


_phase = _Phase.STARTING


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt inside; afterwards it ends the process."""
    global _phase
    _phase = _Phase.WORKING
    try:
        yield
    finally:
        _phase = _Phase.ENDING


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore a second Ctrl-C while the line about the first is printed."""
    global _phase
    _phase = _Phase.REPORTING
    # CPython ends by the signal itself, not with our status, if the KeyboardInterrupt
    # passed through an exec of text (as of `dataclass`). Another exec resets that.
    exec("")
    try:
        yield
    finally:
        _phase = _Phase.ENDING


def main() -> None:
    """Run the command line.

    Examples
    --------
    >>> import sys
    >>> sys.argv = ["featpipe", "--version"]
    >>> from featpipe.cli import main
    >>> try:
    ...     main()
    ... except SystemExit as end:
    ...     print("status", end.code)
    featpipe ...
    status 0
    """
    global _phase
    _phase = _Phase.STARTING
    # A shell ignores it for jobs in the background; then it stays ignored.
    default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if default:
        signal.signal(signal.SIGINT, _interrupt)
        sys.unraisablehook = _repeat_lost_interrupt
        # Registered first, so run last: while modules are unloaded the status is set.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    try:
        from featpipe.cli.app import run_app

        run_app()
    finally:
        # After a command the process ends. While threads are joined and modules are
        # unloaded, an exception of Ctrl-C would be a traceback.
        if default and _phase is _Phase.STARTING:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.unraisablehook = sys.__unraisablehook__


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _phase is _Phase.WORKING:
        raise KeyboardInterrupt
    if _phase is _Phase.REPORTING:
        return
    if _phase is _Phase.STARTING and sys.__stderr__ is not None:
        os.write(sys.__stderr__.fileno(), b"interrupted; nothing was begun\n")
    # Not by an exception: imports that it ends turn it into errors of their own.
    os._exit(INTERRUPTED)


def _repeat_lost_interrupt(lost: "sys.UnraisableHookArgs") -> None:
    """Interrupt again where an object was just being deleted: Python drops the first.

    Parameters
    ----------
    lost : UnraisableHookArgs
        What Python passes to ``sys.unraisablehook``.
    """
    if not issubclass(lost.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    from threading import Timer

    # A moment later: here it would be dropped once more.
    again = Timer(0.01, _thread.interrupt_main)
    again.daemon = True
    again.start()
