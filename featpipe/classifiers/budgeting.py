"""Whether codes are held in memory or read from the file, and what solving may take."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import NamedTuple

__all__ = ["Budget", "budget"]

# What codes in memory come to, in copies of float32: as given, their training rows,
# the rows as stored while they are read, and the solver's own, which are standardised.
COPIES = 4
# Share of the available memory that is used if no limit is given.
OF_AVAILABLE = 0.5
# Bytes an image that a fit takes outside the solver: its weights in five folds, labels,
# predictions, and decision values of some ten classes.
OF_IMAGE = 200
# What the solver's shares of its memory add up to where it streams: the sample of rows
# 0.45, bases 0.5, curvatures 0.3, factors 0.5. Given 0.85 GB, it took 1.5 in the end.
SHARES = 1.75
# What the program takes before a fit, where that cannot be asked.
TYPICAL = 700 * 10**6
# What streaming takes however little it is given, beside that of images: blocks of
# rows, and matrices of the width.
LEAST_BLOCKS, LEAST_MATRICES = 64 * 10**6, 6


class Budget(NamedTuple):
    """The share of memory of a fit, and whether it reads codes in blocks.

    Attributes
    ----------
    streams : bool
        Whether the codes are read from the file on every pass.
    memory : int or None
        Bytes that solving may take; None for its default.
    warning : str or None
        That the limit cannot be kept, and what can.

    Examples
    --------
    >>> Budget(streams=False, memory=2**30).memory
    1073741824
    """

    streams: bool
    memory: int | None
    warning: str | None = None


def budget(
    n_rows: int, width: int, memory: int | str | None, n_processes: int = 1
) -> Budget:
    """Divide a limit of memory between the codes and the solver.

    Parameters
    ----------
    n_rows, width : int
        Shape of the codes, which are float32 in memory.
    memory : int, str or None
        Bytes that the program may take in all, or a text like "8GB": what it has taken
        so far, libraries included, counts. None is half of what this machine has
        available now.
    n_processes : int
        That share the limit; each has its own copies.

    Raises
    ------
    ValueError
        If ``memory`` is not a size.

    Examples
    --------
    >>> budget(1_000, 500, "900GB").streams, budget(10**9, 500, "900GB").streams
    (False, True)
    """
    from featpipe.solvers import Options  # which brings torch

    copy, taken = 4 * n_rows * width, 0
    if memory is None:
        left = OF_AVAILABLE * _available() / n_processes
    else:
        _give_back()
        taken = resident()
        left = Options(memory=memory).n_bytes / n_processes - taken
    if COPIES * copy <= left:
        # Beside the codes as given and their training rows.
        return Budget(False, None if memory is None else int(left - 2 * copy))
    least = LEAST_BLOCKS + OF_IMAGE * n_rows + LEAST_MATRICES * 8 * width**2
    solving = max(1000, int((left - OF_IMAGE * n_rows) / SHARES))
    if left >= least:
        return Budget(True, solving)
    warning = (
        f"the limit of memory cannot be kept: the program took {taken / 1e9:.2f} GB "
        f"before the fit, which takes {least / 1e9:.2f} GB more at the least"
    )
    return Budget(True, solving, warning)


def _give_back() -> None:
    """Return freed memory that the C library keeps to the system."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # only glibc has it
        return


def resident() -> int:
    """Return the bytes of memory that this process takes now."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):  # macOS and Windows
        return TYPICAL


def _available() -> float:
    """Return the bytes of memory that this process can have now."""
    try:
        text = Path("/proc/meminfo").read_text()
        available = 1024 * float(text.partition("MemAvailable:")[2].split()[0])
    except (OSError, ValueError, IndexError):  # not on macOS and Windows
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2
        except (AttributeError, ValueError, OSError):
            return float("inf")
    try:
        # Of a container, or a job of a batch system.
        return min(available, float(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # "max" where there is no limit
        return available
