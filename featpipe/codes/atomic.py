"""Files that appear whole or not at all.

A file is built under a temporary name in the folder of its final one, synced,
renamed, and the folder synced. Knows nothing of HDF5 beyond its habit of dying by
signal when a write fails.
"""

import errno
import hashlib
import io
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = [
    "ReservedFile",
    "draft_of",
    "explained",
    "left_behind",
    "replacing",
    "write_bytes",
]

# A name that leaves room for what `draft_of` adds, in the 255 bytes of most systems.
_LONGEST_NAME = 200
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CANNOT_RESERVE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def draft_of(path: Path) -> Path:
    """Give a new temporary name in the folder of ``path``."""
    return path.with_name(f".{_short(path.name)}.{uuid.uuid4().hex}.tmp")


def left_behind(path: Path) -> list[Path]:
    """List the drafts of ``path`` that killed processes left.

    Only for who knows that nobody is writing ``path`` now.
    """
    draft = re.compile(rf"\.{re.escape(_short(path.name))}\.[0-9a-f]{{32}}\.tmp")
    here = path.parent.iterdir() if path.parent.is_dir() else ()
    return [name for name in here if draft.fullmatch(name.name)]


def _short(name: str) -> str:
    encoded = os.fsencode(name)
    if len(encoded) <= _LONGEST_NAME:
        return name
    return hashlib.sha256(encoded).hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[io.BufferedRandom]:
    """Open a temporary file that takes the name ``path`` when the block ends well.

    On any exception the temporary file is removed and ``path`` is left as it was. A
    link stays a link: the file it leads to is replaced.

    Parameters
    ----------
    path : Path
        The final name.

    Yields
    ------
    io.BufferedRandom
    """
    path = path.resolve() if path.is_symlink() else path
    temporary = draft_of(path)
    try:
        with temporary.open("xb+") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all.

    Raises
    ------
    OSError
        If it cannot be written; the message says how much room is needed.
    """
    with explained(path, len(content)), replacing(path) as file:
        file.write(content)


@contextmanager
def explained(path: Path, needed: int) -> Iterator[None]:
    """Turn an error of the system into a sentence that helps."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        text = f"cannot write {path}: {error.strerror}"
        if error.errno in _NO_ROOM:
            text += (
                f"; it needs {needed:,} bytes and "
                f"{shutil.disk_usage(path.parent).free:,} are free; make room there "
                "and run the same command again"
            )
        raise OSError(error.errno, text) from error


def _sync_folder(folder: Path) -> None:
    # Some file systems refuse to sync a folder; the rename itself has happened.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class ReservedFile(io.RawIOBase):
    """A file for libhdf5 to write into, its space taken from the disk beforehand.

    libhdf5 ends the process by a signal when a write fails, even after the error was
    reported (h5py#914, #2160). So the space is reserved first, where a full disk is an
    ordinary OSError; an error that comes later all the same is kept, hidden from
    libhdf5, and raised by `finish`.

    Parameters
    ----------
    file : io.BufferedRandom
        Empty, open for reading and writing.
    reserve : int
        Bytes to take from the disk now.

    Raises
    ------
    OSError
        If the disk has no room for ``reserve`` bytes.
    """

    def __init__(self, file: io.BufferedRandom, reserve: int) -> None:
        super().__init__()
        self._file = file
        self._size = self._position = 0
        self._error: Exception | None = None
        # Absent on some platforms and file systems; there a full disk shows in
        # `finish`.
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, reserve)
            except OSError as error:
                if error.errno not in _CANNOT_RESERVE:
                    raise

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move, as a file does; the end is what was written, not what is reserved."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}
        self._position = base[whence] + offset
        return self._position

    def tell(self) -> int:
        """Give the position."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read at the position into ``buffer``."""
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
        """Set where the file ends."""
        self._size = self._position if size is None else size
        return self._size

    def flush(self) -> None:
        """Hand buffered bytes to the system."""
        self._try(self._file.flush)

    def finish(self) -> None:
        """Cut the file at its end, and raise the error that was kept, if any."""
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
            # Whatever it is: an exception that reaches libhdf5 ends the process.
            except Exception as error:
                self._error = error
