"""Opening a codes file, and telling whether it is still the one that was checked."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from featpipe.codes.block import CodesError

__all__ = ["opened_file", "stamp_of"]


@contextmanager
def opened_file(path: Path) -> Iterator[BinaryIO]:
    """Open a codes file, or tell what is in its place."""
    if not path.exists():
        raise FileNotFoundError(
            f"no codes file {path}; `featpipe extract SOURCE -o {path}` makes one"
        )
    # A FIFO would be waited for, and a device never ends.
    if not path.is_file():
        raise CodesError(f"{path} is not a file; give the .h5 that extract wrote")
    with path.open("rb") as file:
        yield file


def stamp_of(file: BinaryIO) -> tuple[int, ...]:
    """Identify an open file: another one under its name has another stamp."""
    status = os.fstat(file.fileno())
    # Device and inode tell a file that was replaced, size and time one that was written
    # to.
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
