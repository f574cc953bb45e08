"""Print to the terminal: results on stdout, everything else on stderr.

This module also turns errors into one line and an exit status.
"""

import functools
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from featpipe.cli.kept import describe_kept, file_id
from featpipe.cli.starting import INTERRUPTED, interruptible, uninterrupted
from featpipe.files import visible

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Terminal", "Throttle", "terminal", "with_exit_status"]


@dataclass
class Terminal:
    """The two output streams, and the global options about them.

    Parameters
    ----------
    quiet : bool
        Whether to print results and errors only.
    verbose : bool
        Whether to print more detail.
    debug : bool
        Whether to print tracebacks.
    """

    quiet: bool = False
    verbose: bool = False
    debug: bool = False

    @functools.cached_property
    def out(self) -> "Console":
        """The console of results."""
        return _console(stderr=False)

    @functools.cached_property
    def err(self) -> "Console":
        """The console of progress, messages and errors."""
        return _console(stderr=True)

    def info(self, text: str) -> None:
        """Print a message to stderr, unless ``--quiet``."""
        if not self.quiet:
            self.err.print(visible(text), markup=False, highlight=False, soft_wrap=True)

    def result(self, text: str) -> None:
        """Print a line of the result to stdout."""
        self.out.print(visible(text), markup=False, highlight=False, soft_wrap=True)

    def fail(self, error: BaseException) -> NoReturn:
        """Print an error as one line and exit with status 1."""
        if self.debug:
            raise error
        text = " ".join(str(error).split()) or type(error).__name__
        # Python puts the number of a system error before its text: "[Errno 28] …".
        text = re.sub(r"^\[Errno -?\d+\] ", "", text)
        if not isinstance(error, _EXPECTED):
            text = (
                f"unexpected {type(error).__name__}: {text}; this is a bug in "
                "featpipe: run again with --debug and report what it prints"
            )
        self.err.print(
            f"error: {visible(text)}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(1)


# Other errors, such as a KeyError, are mistakes of this program, not of its user.
_EXPECTED = (ValueError, OSError, ImportError, RuntimeError, MemoryError)

terminal = Terminal()


def _console(*, stderr: bool) -> "Console":
    from rich.console import Console

    class PipeConsole(Console):
        """A console whose closed pipe (of head, less) is no error of the command."""

        def on_broken_pipe(self) -> None:
            if not self.stderr:
                raise BrokenPipeError
            self.quiet = True  # the work goes on if nobody reads its progress

    console = PipeConsole(stderr=stderr)
    if not console.is_terminal:
        # Programs read redirected output, so its paths should not be folded.
        console = PipeConsole(stderr=stderr, width=max(console.width, 120))
    return console


def with_exit_status(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that exits with status 0, 1 for an error, or 130 for Ctrl-C.

    Parameters
    ----------
    command : callable

    Returns
    -------
    callable
        With the same signature, which typer reads.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        # Batch systems end jobs by SIGTERM, which is handled like Ctrl-C.
        before = signal.signal(signal.SIGTERM, _interrupt)
        output = file_id(kwargs)
        try:
            with interruptible():
                command(*args, **kwargs)
                _flush()
        except KeyboardInterrupt:
            with uninterrupted():
                kept = describe_kept(command.__name__, kwargs, output)
                terminal.err.print(
                    f"interrupted; {visible(kept)}",
                    markup=False,
                    highlight=False,
                    soft_wrap=True,
                )
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # The reader, such as `head`, has closed the pipe. Python would report at
            # its end that it cannot flush stdout.
            sys.stdout = None
            raise typer.Exit(0) from None
        except (typer.Exit, typer.BadParameter):
            raise
        except Exception as error:
            terminal.fail(error)
        finally:
            signal.signal(signal.SIGTERM, before)

    return run


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


class Throttle:
    """Limit how often a line is printed.

    Parameters
    ----------
    seconds : float
        Least time between two lines.
    """

    def __init__(self, seconds: float = 5.0) -> None:
        self._seconds = seconds
        self._next = time.monotonic() + seconds

    def is_due(self) -> bool:
        """Return whether that time has passed since the last True."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True
