"""What a person sees while work goes on: a bar on a terminal, lines elsewhere."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from featpipe.cli.voice import Ticker, voice

if TYPE_CHECKING:
    from featpipe.extraction import Tally

__all__ = ["fit_progress", "holding_back", "image_progress", "summary"]


@contextmanager
def image_progress(workers: int | None) -> Iterator[Callable[["Tally"], None]]:
    """Show how far an extraction is, for as long as the block lasts.

    Parameters
    ----------
    workers : int, optional
        Threads that decode; default one a processor.

    Yields
    ------
    callable
        To be told the `Tally`.
    """
    threads = workers or os.cpu_count() or 1
    with _shown("images") as show:

        def tell(tally: "Tally") -> None:
            show(tally.done, tally.n_images, pace(tally, threads))

        yield tell


@contextmanager
def fit_progress() -> Iterator[Callable[[int, int, str], None]]:
    """Show how far a comparison is.

    Yields
    ------
    callable
        To be told fits done, fits in all, and what is being fitted.
    """
    with _shown("fits") as show:
        yield show


@contextmanager
def _shown(what: str) -> Iterator[Callable[[int, int, str], None]]:
    if voice.quiet:
        yield lambda done, total, text: None
    elif voice.err.is_terminal:
        with _bar(what) as show:
            yield show
    else:
        ticker = Ticker()

        def line(done: int, total: int, text: str) -> None:
            if ticker.due():
                voice.remark(f"{done:,} of {total:,} {what}, {text}")

        yield line


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int, str], None]]:
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
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=voice.err, transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(done: int, total: int, text: str) -> None:
            bar.update(task, completed=done, total=total, description=text)

        yield show


def pace(tally: "Tally", threads: int) -> str:
    """Say how fast it goes and what holds it back.

    Parameters
    ----------
    tally : Tally
    threads : int
        Over which reading and decoding are spread.

    Returns
    -------
    str
    """
    if not tally.computed:
        return "starting" if not tally.kept else "reusing rows"
    return f"{tally.rate:,.1f} images/s, held back by {holding_back(tally, threads)}"


def holding_back(tally: "Tally", threads: int) -> str:
    """Name the stage that is busy for the largest share of the time.

    Parameters
    ----------
    tally : Tally
    threads : int

    Returns
    -------
    str
        ``read``, ``decode``, ``network`` or ``write``.
    """
    busy = dict(tally.seconds)
    for shared in ("read", "decode"):
        busy[shared] /= threads
    return max(busy, key=lambda what: busy[what])


def summary(tally: "Tally", workers: int | None) -> str:
    """Say in one line what became of the images, and what it took.

    Parameters
    ----------
    tally : Tally
    workers : int, optional
        As `image_progress`.

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
        text += (
            f"; {tally.elapsed:.1f} s, {pace(tally, workers or os.cpu_count() or 1)}"
        )
    return text
