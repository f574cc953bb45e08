"""Assign a GPU to each of several worker processes of a machine.

Each process locks a GPU and keeps the lock until it ends, by whatever cause. Where a
scheduler gives a process its own GPU (``CUDA_VISIBLE_DEVICES``), it sees only that one.
"""

import os
import tempfile
from functools import lru_cache
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # not on Windows
    fcntl = None  # type: ignore[assignment]  # None: the module is missing

__all__ = ["claim_gpu"]


@lru_cache(maxsize=1)
def claim_gpu(n_devices: int) -> int:
    """Return the number of a GPU that no other worker of this user has taken.

    The number stays the same for the life of this process. More workers than GPUs share
    them evenly.
    """
    if fcntl is None or n_devices < 2:
        return 0
    # A folder for each user, since all users share the temporary folder.
    folder = Path(tempfile.gettempdir()) / f"featpipe-{os.getuid()}"
    # Other users must not be able to hold the locks, or replace them.
    folder.mkdir(mode=0o700, exist_ok=True)
    # More workers than GPUs share them in turn. The bound only keeps a broken lock
    # service from an endless loop.
    for turn in range(1024):
        path = folder / f"gpu-{turn}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            continue
        # Left open: the system closes it when the process ends, and so frees the lock.
        return turn % n_devices
    return 0
