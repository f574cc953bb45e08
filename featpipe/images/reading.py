"""Read one image file, and describe paths that cannot be read.

Paths are text: `pathlib.Path` drops a leading ``./`` and a trailing slash.
"""
# ruff: noqa: PTH116, PTH118

from __future__ import annotations

import errno
import io
import os
import stat
from dataclasses import dataclass

from featpipe.images.imageset import MAX_BYTES, ImageError, too_large

__all__ = ["FileReader", "kind", "problem", "stat_file"]

# Bytes to read at a time, from a file that is longer than its stated size.
_PIECE = 1 << 20


@dataclass(frozen=True)
class FileReader:
    """A reader of files below a folder, and of files with an absolute path.

    Examples
    --------
    >>> content = FileReader("flowers").read("train/rose/14.png")
    >>> content[1:4]
    b'PNG'
    """

    root: str

    def read(self, path: str) -> bytes:
        """Return the content of a regular file."""
        try:
            return _read_file(os.path.join(self.root, path))
        except ImageError:
            raise
        except (OSError, ValueError) as error:
            raise ImageError("read", problem(error)) from error


def _without_waiting(path: str, flags: int) -> int:
    # To open a FIFO would else wait for a writer. The flag does not change regular
    # files; Windows has neither the flag nor FIFOs.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _read_file(path: str) -> bytes:
    with open(path, "rb", buffering=0, opener=_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("read", kind(status.st_mode))
        if status.st_size > MAX_BYTES:
            raise ImageError("read", too_large(status.st_size))
        # One byte more than its size, since Python allocates what is asked for.
        content = file.read(status.st_size + 1)
        if len(content) != status.st_size:
            content = _to_the_end(file, content)
        return content


def _to_the_end(file: io.FileIO, begin: bytes) -> bytes:
    """Read the rest of a file that grows, or that a network sends in pieces."""
    pieces, length = [begin], len(begin)
    while length <= MAX_BYTES and (piece := file.read(_PIECE)):
        pieces.append(piece)
        length += len(piece)
    if length > MAX_BYTES:
        raise ImageError("read", too_large(length))
    return b"".join(pieces)


def stat_file(path: str) -> os.stat_result:
    """Return the status of a regular file; follow links.

    Raises
    ------
    OSError
        If it does not exist, or is not a regular file; `problem` describes the error.

    Examples
    --------
    >>> stat_file("flowers/train/rose/14.png").st_size > 60
    True
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, kind(status.st_mode))
    return status


def kind(mode: int) -> str:
    """Return what a path is that is not a regular file."""
    names = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a FIFO (named pipe)",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return names.get(stat.S_IFMT(mode), "something unknown") + ", not a file"


def problem(error: Exception) -> str:
    """Return a short reason why a path cannot be read."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "permission denied"
    if isinstance(error, OSError):
        if error.errno == errno.ELOOP:
            return "loop of links"
        return error.strerror or str(error) or type(error).__name__
    return str(error)
