"""How the command line speaks: tables on stdout, everything else on stderr.

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

from featpipe.files import visible

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Ticker", "Voice", "guarded", "voice"]

_INTERRUPTED = 130


@dataclass
class Voice:
    """What the global options ask for.

    Parameters
    ----------
    quiet : bool
        No progress, no remarks; tables, results and errors only.
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
        """The console of progress, remarks and errors."""
        return _console(stderr=True)

    def remark(self, text: str) -> None:
        """Say something that is no result."""
        if not self.quiet:
            self.err.print(visible(text), markup=False, highlight=False, soft_wrap=True)

    def result(self, text: str) -> None:
        """Say what came out."""
        self.out.print(visible(text), markup=False, highlight=False, soft_wrap=True)

    def fail(self, error: BaseException) -> NoReturn:
        """Say what went wrong, in one line, and end with status 1."""
        if self.debug:
            raise error
        text = " ".join(str(error).split()) or type(error).__name__
        if not isinstance(error, _EXPECTED):
            text = (
                f"unexpected {type(error).__name__}: {text}; this is a fault of "
                "featpipe: run again with --debug and report what it prints"
            )
        self.err.print(
            f"error: {visible(text)}", markup=False, highlight=False, soft_wrap=True
        )
        raise typer.Exit(1)


# KeyError and the like are not among them: they would be our own mistakes.
_EXPECTED = (ValueError, OSError, ImportError, RuntimeError, MemoryError)

voice = Voice()


def _console(*, stderr: bool) -> "Console":
    from rich.console import Console

    console = Console(stderr=stderr)
    if not console.is_terminal:
        # Redirected output is read by programs and by less: never fold a path.
        console = Console(stderr=stderr, width=max(console.width, 120))
    return console


def guarded(
    command: Callable[..., None], *, kept: str | Callable[[dict[str, Any]], str]
) -> Callable[..., None]:
    """Make a command end as DESIGN says: 0, 1 with one line, 130 when interrupted.

    Parameters
    ----------
    command : callable
    kept : str or callable
        What is left of an interrupted command; told its arguments.

    Returns
    -------
    callable
        With the same signature, for typer to read.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            command(*args, **kwargs)
            _flush()
        except KeyboardInterrupt:
            what = kept if isinstance(kept, str) else kept(kwargs)
            voice.err.print(
                f"interrupted; {visible(what)}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
            raise typer.Exit(_INTERRUPTED) from None
        except BrokenPipeError:
            # The reader (head, less) has enough.
            sys.stdout = None
            raise typer.Exit(0) from None
        except (typer.Exit, typer.BadParameter):
            raise
        except Exception as error:
            voice.fail(error)
        finally:
            signal.signal(signal.SIGTERM, before)

    return run


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


class Ticker:
    """Says when a few seconds have passed.

    Parameters
    ----------
    seconds : float
        Between two ticks.
    """

    def __init__(self, seconds: float = 5.0) -> None:
        self._seconds = seconds
        self._next = time.monotonic() + seconds

    def due(self) -> bool:
        """Tell whether it is time again."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True
