"""Decide whether a fit holds its codes in memory, and how much memory solving gets."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import NamedTuple

__all__ = ["Budget", "budget"]

# Copies of float32 that a fit in memory holds: the codes as given, their training rows,
# the rows as stored while they are read, and the standardised rows of the solver.
COPIES = 4
# Share of the available memory that a fit uses without a limit.
OF_AVAILABLE = 0.5
# Bytes per image that a fit takes outside the solver: weights in five folds, labels,
# predictions, and the decision values of some ten classes.
OF_IMAGE = 200
# Sum of the shares that a streaming solver takes of its memory: the sample of rows
# 0.45, bases 0.5, curvatures 0.3, factors 0.5. With 0.85 GB it took 1.5.
SHARES = 1.75
# Bytes that the program takes before a fit, where the system does not tell.
TYPICAL = 700 * 10**6
# The least that streaming takes, images apart: bytes for blocks of rows, and the number
# of (width, width) matrices.
LEAST_BLOCKS, LEAST_MATRICES = 64 * 10**6, 6


class Budget(NamedTuple):
    """The memory of a fit, and whether it reads codes in blocks.

    Attributes
    ----------
    streams : bool
        Whether every pass reads the codes from the file.
    memory : int or None
        Bytes that solving may take; None for the default of the solver.
    warning : str or None
        A sentence if the limit is too low to be kept.

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
        Bytes that the whole program may take, its libraries included, or a text like
        "8GB". None is half of the memory that this machine has available now.
    n_processes : int
        Number of processes that share the limit; each has its own copies.

    Returns
    -------
    Budget

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
        _trim_heap()
        taken = resident()
        left = Options(memory=memory).n_bytes / n_processes - taken
    if COPIES * copy <= left:
        # The codes as given and their training rows are not the solver's.
        return Budget(False, None if memory is None else int(left - 2 * copy))
    least = LEAST_BLOCKS + OF_IMAGE * n_rows + LEAST_MATRICES * 8 * width**2
    solving = max(1000, int((left - OF_IMAGE * n_rows) / SHARES))
    if left >= least:
        return Budget(True, solving)
    warning = (
        f"the limit of memory cannot be kept: the program took {taken / 1e9:.2f} GB "
        f"before the fit, which needs at least {least / 1e9:.2f} GB more"
    )
    return Budget(True, solving, warning)


def _trim_heap() -> None:
    """Hand freed memory that the C library keeps back to the system."""
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
        # The limit of a container, or of a job of a batch system.
        return min(available, float(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # "max" where there is no limit
        return available
