"""Start and end the command line, and handle Ctrl-C at every moment.

While a command works, Ctrl-C raises KeyboardInterrupt, so that the command cleans up.
Before and after that there is nothing to clean up, and the process ends at once,
without a traceback. This module imports only what is quick to import.
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

INTERRUPTED = 130  # the exit status of a process that Ctrl-C ended, by convention


class _Phase(Enum):
    STARTING = "starting"
    WORKING = "working"
    REPORTING = "reporting"
    ENDING = "ending"


_phase = _Phase.STARTING


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt in the block, and end the process after it."""
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
    # If the KeyboardInterrupt passed through an exec of text (such as `dataclass`
    # uses), CPython ends by the signal, not with our status. Another exec resets that.
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
    # Jobs in the background of a shell ignore Ctrl-C, and go on doing so.
    default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if default:
        signal.signal(signal.SIGINT, _interrupt)
        sys.unraisablehook = _repeat_lost_interrupt
        # Registered first, so run last: an interruption while modules are unloaded
        # would change the exit status.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    try:
        from featpipe.cli.app import run_app

        run_app()
    finally:
        # After a command our handler stays: the process ends, and KeyboardInterrupt
        # would print a traceback while threads are joined and modules unloaded.
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
    # Without an exception, since an import may turn it into another error.
    os._exit(INTERRUPTED)


def _repeat_lost_interrupt(lost: "sys.UnraisableHookArgs") -> None:
    """Interrupt again after Python dropped a KeyboardInterrupt in a ``__del__``.

    Parameters
    ----------
    lost : UnraisableHookArgs
        What Python passes to ``sys.unraisablehook``.
    """
    if not issubclass(lost.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    from threading import Timer

    # A moment later, since Python would drop it here once more.
    again = Timer(0.01, _thread.interrupt_main)
    again.daemon = True
    again.start()
