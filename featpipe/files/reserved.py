"""A file for libhdf5 to write into, whose disk space is reserved beforehand.

libhdf5 ends the process by a signal when a write fails, even after it has reported the
error (h5py#914, #2160). This file hides errors from libhdf5, and raises them later.
"""

import errno
import io
import os
from collections.abc import Callable
from typing import Any

__all__ = ["ReservedFile"]

_CANNOT_RESERVE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


class ReservedFile(io.RawIOBase):
    """A file for libhdf5 to write into, whose disk space is reserved beforehand.

    A full disk is an ordinary OSError when the file is made. An error that comes later
    is hidden from libhdf5, which would end the process by a signal, and `finish` raises
    it.

    Parameters
    ----------
    file : io.BufferedRandom
        Empty, open for reading and writing.
    reserve : int
        Bytes to reserve on the disk now.

    Raises
    ------
    OSError
        If the disk has no room for ``reserve`` bytes.

    Examples
    --------
    >>> with open("reserved.bin", "xb+") as file:
    ...     reserved = ReservedFile(file, 4096)
    ...     _ = reserved.write(b"codes")
    ...     reserved.finish()
    >>> os.path.getsize("reserved.bin")
    5
    """

    def __init__(self, file: io.BufferedRandom, reserve: int) -> None:
        super().__init__()
        self._file = file
        # The end of the written part; the reserved file is longer.
        self._size = self._position = 0
        self._error: Exception | None = None
        # Some platforms and file systems lack it; there `finish` raises if the disk is
        # full.
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, reserve)
            except OSError as error:
                if error.errno not in _CANNOT_RESERVE:
                    raise

    def readable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position; the end is that of the written part."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}
        self._position = base[whence] + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read at the position into ``buffer``."""
        # Reserved space after the written part is not content.
        count = max(0, min(len(buffer), self._size - self._position))
        self._try(lambda: self._at().readinto(memoryview(buffer)[:count]))
        self._position += count
        return count

    def write(self, content: Any) -> int:
        """Write ``content`` at the position."""
        count = len(content)
        self._try(lambda: self._at().write(content))
        self._position += count
        self._size = max(self._size, self._position)
        return count

    def truncate(self, size: int | None = None) -> int:
        """Set the end of the file."""
        self._size = self._position if size is None else size
        return self._size

    def flush(self) -> None:
        """Hand buffered bytes to the system."""
        self._try(self._file.flush)

    def finish(self) -> None:
        """Cut off the reserved space; raise the first error of a write, if any."""
        self._try(lambda: self._file.truncate(self._size))
        if self._error is not None:
            raise self._error

    def _at(self) -> io.BufferedRandom:
        self._file.seek(self._position)
        return self._file

    def _try(self, act: Callable[[], object]) -> None:
        if self._error is None:
            try:
                act()
            # Of every kind, since any exception that reaches libhdf5 ends the process.
            except Exception as error:
                self._error = error
