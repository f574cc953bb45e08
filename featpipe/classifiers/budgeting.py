"""Whether codes are held in memory or read from the file, and what solving may take."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

__all__ = ["Budget", "budget"]

# What codes in memory come to, in copies of float32: as given, their training rows,
# the rows as stored while they are read, and the solver's own, which are standardised.
COPIES = 4
# Share of the available memory that is used if no limit is given, and the share of a
# limit that the solver may take: the rest is for tables, predictions and libraries.
OF_AVAILABLE, OF_LIMIT = 0.5, 0.5


class Budget(NamedTuple):
    """How a fit keeps within its memory.

    Attributes
    ----------
    streams : bool
        Whether the codes are read from the file on every pass.
    memory : int or None
        Bytes that solving may take; None for its default.

    Examples
    --------
    >>> Budget(streams=False, memory=2**30).memory
    1073741824
    """

    streams: bool
    memory: int | None


def budget(
    n_rows: int, width: int, memory: int | str | None, n_processes: int = 1
) -> Budget:
    """Divide a limit of memory between the codes and the solver.

    Parameters
    ----------
    n_rows, width : int
        Shape of the codes, which are float32 in memory.
    memory : int, str or None
        Bytes that the program may take, or a text like "8GB"; None is half of what
        this machine has available now.
    n_processes : int
        That share the limit; each has its own copies.

    Raises
    ------
    ValueError
        If ``memory`` is not a size.

    Examples
    --------
    >>> budget(1_000, 500, "8MB"), budget(1_001, 500, "8MB")
    (Budget(streams=False, memory=4000000), Budget(streams=True, memory=4000000))
    """
    from featpipe.solvers import Options  # which brings torch

    needed = COPIES * 4 * n_rows * width
    if memory is not None:
        limit = Options(memory=memory).n_bytes // n_processes
        return Budget(needed > limit, max(1000, int(OF_LIMIT * limit)))
    share = OF_AVAILABLE * _available() / n_processes
    if needed > share:
        return Budget(True, int(OF_LIMIT * share))
    return Budget(False, None)


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
