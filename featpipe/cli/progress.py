"""Show the progress of long work: a bar on a terminal, lines elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from featpipe.cli.terminal import Throttle, terminal

if TYPE_CHECKING:
    from featpipe.inference import Progress

__all__ = ["duration", "fit_progress", "image_progress", "summary", "training_progress"]


@contextmanager
def image_progress() -> Iterator[Callable[["Progress"], None]]:
    """Show the progress of an extraction until the block ends.

    Yields
    ------
    callable
        Takes the `Progress`.
    """
    # `Progress` knows the time left; the bar would count kept rows as computed.
    with _shown("images", guess=False) as show:
        yield lambda tally: show(tally.done, tally.n_images, pace(tally))


@contextmanager
def fit_progress() -> Iterator[Callable[[int, int, str], None]]:
    """Show the progress of a comparison until the block ends.

    Yields
    ------
    callable
        Takes the number of fits done, that of all fits, and the name of the present.
    """
    with _shown("fits", guess=True) as show:
        yield show


@contextmanager
def training_progress() -> Iterator[Callable[[int, int, str], None]]:
    """Show the progress of a training until the block ends.

    Yields
    ------
    callable
        Takes the number of images done, that of all images, and the present step.
    """
    with _shown("images", guess=True) as show:
        yield show


@contextmanager
def _shown(what: str, *, guess: bool) -> Iterator[Callable[[int, int, str], None]]:
    # The caller need not know whether anything is shown.
    if terminal.quiet:
        yield lambda done, total, text: None
    elif terminal.err.is_terminal:
        with _bar(what, guess) as show:
            yield show
    else:
        # A log file should not get a line for every batch.
        throttle = Throttle()

        def line(done: int, total: int, text: str) -> None:
            if throttle.is_due():
                terminal.info(f"{done:,} of {total:,} {what}, {text}")

        yield line


@contextmanager
def _bar(what: str, guess: bool) -> Iterator[Callable[[int, int, str], None]]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        MofNCompleteColumn(),
        TextColumn(what),
        BarColumn(bar_width=24),
        *([TimeRemainingColumn()] if guess else []),
        TextColumn("{task.description}", markup=False),
    )
    # Transient, so that only the results stay on the screen.
    with Progress(*columns, console=terminal.err, transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(done: int, total: int, text: str) -> None:
            bar.update(task, completed=done, total=total, description=text)

        yield show


def pace(tally: "Progress") -> str:
    """Return the rate, the time left and the bottleneck as text."""
    left = tally.left
    if left is None:
        return "reusing rows" if tally.kept else "starting"
    text = f"{tally.rate:,.1f} images/s"
    if tally.done < tally.n_images:
        text += f", {duration(left)} left"
    return f"{text}, held back by {tally.bottleneck}"


def duration(seconds: float) -> str:
    """Return a time as text, with at most two units."""
    # Two units are enough: nobody needs the seconds of a day.
    whole = round(seconds)
    for size, unit, smaller, name in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {name}"
    return f"{whole} s"


def summary(tally: "Progress") -> str:
    """Return on one line how many images have codes, and the time taken."""
    rows = tally.computed + tally.kept
    text = (
        f"{rows:,} of {tally.n_images:,} images have codes: {tally.computed:,} "
        f"computed, {tally.kept:,} kept, {tally.failed:,} failed"
    )
    if tally.computed:
        text += f"; {tally.elapsed:.1f} s, {pace(tally)}"
    return text
