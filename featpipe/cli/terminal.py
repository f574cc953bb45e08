"""The output of the command line: tables on stdout, everything else on stderr.

Also the one place where errors become a line and an exit status.
"""

import functools
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
    """The two output streams, and the global options that govern them.

    Parameters
    ----------
    quiet : bool
        No progress, no messages; tables, results and errors only.
    verbose : bool
        More detail.
    debug : bool
        Tracebacks.
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
        """Print a line that is no result to stderr, unless ``--quiet``."""
        if not self.quiet:
            self.err.print(visible(text), markup=False, highlight=False, soft_wrap=True)

    def result(self, text: str) -> None:
        """Print a line of the result to stdout."""
        self.out.print(visible(text), markup=False, highlight=False, soft_wrap=True)

    def fail(self, error: BaseException) -> NoReturn:
        """Print the error as one line and exit with status 1."""
        if self.debug:
            raise error
        text = " ".join(str(error).split()) or type(error).__name__
        # A KeyError or the like is a mistake of ours, and should not look like the
        # user's.
        if not isinstance(error, _EXPECTED):
            text = (
                f"unexpected {type(error).__name__}: {text}; this is a fault of "
                "featpipe: run again with --debug and report what it prints"
            )
        self.err.print(
            f"error: {visible(text)}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(1)


# KeyError and the like are not among them: they would be our own mistakes.
_EXPECTED = (ValueError, OSError, ImportError, RuntimeError, MemoryError)

terminal = Terminal()


def _console(*, stderr: bool) -> "Console":
    from rich.console import Console

    class PipeConsole(Console):
        """Ends neither work nor status 0 where a reader (head, less) has enough."""

        def on_broken_pipe(self) -> None:
            if not self.stderr:
                raise BrokenPipeError
            self.quiet = True  # progress that nobody reads must not stop the work

    console = PipeConsole(stderr=stderr)
    if not console.is_terminal:
        # Redirected output is read by programs and by less: never fold a path.
        console = PipeConsole(stderr=stderr, width=max(console.width, 120))
    return console


def with_exit_status(command: Callable[..., None]) -> Callable[..., None]:
    """Make a command exit with 0, 1 with one line, or 130 when interrupted.

    Parameters
    ----------
    command : callable

    Returns
    -------
    callable
        With the same signature, for typer to read.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        # A batch system ends jobs by SIGTERM: they get the same orderly end as Ctrl-C.
        before = signal.signal(signal.SIGTERM, _interrupt)
        output = file_id(kwargs)
        try:
            with interruptible():
                command(*args, **kwargs)
                _flush()
        except KeyboardInterrupt:
            with uninterrupted():
                what = describe_kept(command.__name__, kwargs, output)
                terminal.err.print(
                    f"interrupted; {visible(what)}",
                    markup=False,
                    highlight=False,
                    soft_wrap=True,
                )
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # The reader (head, less) has enough.
            # Or Python would complain at its end that it cannot flush it.
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
        Between two lines.
    """

    def __init__(self, seconds: float = 5.0) -> None:
        self._seconds = seconds
        self._next = time.monotonic() + seconds

    def is_due(self) -> bool:
        """Return whether the seconds have passed since the last True."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True
