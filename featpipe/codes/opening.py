"""Open a codes file, and identify it, so that a later change is noticed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from featpipe.codes.block import CodesError

__all__ = ["opened_file", "stamp_of"]


@contextmanager
def opened_file(path: Path) -> Iterator[BinaryIO]:
    """Open a codes file; raise an error that names what is there instead."""
    if not path.exists():
        raise FileNotFoundError(
            f"no codes file {path}; `featpipe extract SOURCE -o {path}` makes one"
        )
    # Opening a FIFO would block, and a device has no end.
    if not path.is_file():
        raise CodesError(f"{path} is not a file; give the .h5 that extract wrote")
    with path.open("rb") as file:
        yield file


def stamp_of(file: BinaryIO) -> tuple[int, ...]:
    """Return what identifies an open file; a file that replaces it differs."""
    status = os.fstat(file.fileno())
    # Device and inode change where a file is replaced, size and time where it is
    # written to.
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
