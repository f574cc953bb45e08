"""What a person sees while work goes on: a bar on a terminal, lines elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from featpipe.cli.voice import Ticker, voice

if TYPE_CHECKING:
    from featpipe.inference import Progress

__all__ = ["duration", "fit_progress", "image_progress", "summary", "training_progress"]


@contextmanager
def image_progress() -> Iterator[Callable[["Progress"], None]]:
    """Show how far an extraction is, for as long as the block lasts.

    Yields
    ------
    callable
        To be told the `Progress`.
    """
    # Its time left is that of the tally: a bar would count rows that were kept.
    with _shown("images", guess=False) as show:
        yield lambda tally: show(tally.done, tally.n_images, pace(tally))


@contextmanager
def fit_progress() -> Iterator[Callable[[int, int, str], None]]:
    """Show how far a comparison is.

    Yields
    ------
    callable
        To be told fits done, fits in all, and what is being fitted.
    """
    with _shown("fits", guess=True) as show:
        yield show


@contextmanager
def training_progress() -> Iterator[Callable[[int, int, str], None]]:
    """Show how far a training is.

    Yields
    ------
    callable
        To be told images done, images in all, and what is being done.
    """
    with _shown("images", guess=True) as show:
        yield show


@contextmanager
def _shown(what: str, *, guess: bool) -> Iterator[Callable[[int, int, str], None]]:
    if voice.quiet:
        yield lambda done, total, text: None
    elif voice.err.is_terminal:
        with _bar(what, guess) as show:
            yield show
    else:
        ticker = Ticker()

        def line(done: int, total: int, text: str) -> None:
            if ticker.due():
                voice.remark(f"{done:,} of {total:,} {what}, {text}")

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
    with Progress(*columns, console=voice.err, transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(done: int, total: int, text: str) -> None:
            bar.update(task, completed=done, total=total, description=text)

        yield show


def pace(tally: "Progress") -> str:
    """Say how fast it goes, how long it will take, and what holds it back.

    Parameters
    ----------
    tally : Progress

    Returns
    -------
    str
    """
    left = tally.left
    if left is None:
        return "reusing rows" if tally.kept else "starting"
    text = f"{tally.rate:,.1f} images/s"
    if tally.done < tally.n_images:
        text += f", {duration(left)} left"
    return f"{text}, held back by {tally.bottleneck}"


def duration(seconds: float) -> str:
    """Write seconds as a person says them: two units at most."""
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
    """Say in one line what became of the images, and what it took.

    Parameters
    ----------
    tally : Progress

    Returns
    -------
    str
    """
    rows = tally.computed + tally.kept
    text = (
        f"{rows:,} of {tally.n_images:,} images have codes: {tally.computed:,} "
        f"computed, {tally.kept:,} kept, {tally.failed:,} failed"
    )
    if tally.computed:
        text += f"; {tally.elapsed:.1f} s, {pace(tally)}"
    return text
