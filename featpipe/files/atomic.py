"""Write files that appear whole or not at all.

A file is written under a temporary name in the folder of its final one, synced and
renamed; then the folder is synced. Devices, FIFOs and descriptors of this process are
written to, never replaced.
"""

import errno
import hashlib
import io
import os
import re
import shutil
import stat
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

from featpipe.files.outputs import descriptor_of, follow_links, require_own_name

try:
    import fcntl
except ModuleNotFoundError:  # not on Windows
    fcntl = None  # type: ignore[assignment]  # None: the module is missing

__all__ = [
    "create",
    "explained",
    "free_space",
    "is_stream",
    "remove_temporaries",
    "replacing",
    "sync_folder",
    "temporary_name",
    "write_bytes",
    "write_text",
]

# A name that leaves room for what `temporary_name` adds, in the 255 bytes of most
# file systems.
_LONGEST_NAME = 200
# Also of a quota, and of a limit of a file's size.
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def temporary_name(path: Path) -> Path:
    """Return a new temporary name in the folder of ``path``."""
    return path.with_name(f".{_short(path.name)}.{uuid.uuid4().hex}.tmp")


def create(path: Path) -> io.BufferedRandom:
    """Create a file that must not exist yet, and open it for reading and writing."""
    return path.open("xb+")


@contextmanager
def replacing(path: Path, *, sweep: bool = True) -> Iterator[io.BufferedRandom]:
    """Open a temporary file that replaces ``path`` when the block ends without error.

    On any exception the temporary file is removed and ``path`` stays as it was. A link
    stays a link: the file that it leads to is replaced, and keeps its permissions. A
    device, a FIFO or an open descriptor (``/dev/stdout``) gets the content when the
    block ends without error; a FIFO without a reader makes the writer wait, as usual.

    Parameters
    ----------
    path : Path
        The final name.
    sweep : bool
        Remove the temporary files of ``path`` that killed processes left.

    Yields
    ------
    io.BufferedRandom
        Empty, open for reading and writing; its ``name`` is a path.

    Raises
    ------
    OSError
        If it cannot be written.
    ValueError
        If the name is one that featpipe itself uses beside an output.

    Examples
    --------
    >>> from pathlib import Path
    >>> from featpipe import files
    >>> with files.replacing(Path("numbers.txt")) as file:
    ...     _ = file.write(b"1 2 3")
    ...     print(Path("numbers.txt").exists())
    False
    >>> Path("numbers.txt").read_text()
    '1 2 3'
    """
    require_own_name(path)
    # The file that a link leads to is replaced, not the link.
    path = follow_links(path)
    if is_stream(path):
        # No rename replaces a pipe or a device; it gets the whole content at the end.
        with tempfile.NamedTemporaryFile() as buffer:
            yield cast(io.BufferedRandom, buffer.file)
            buffer.seek(0)
            _send(buffer.file, path)
        return
    temporary, file = _create_locked(path)
    try:
        with file:
            yield file
            file.flush()
            # Before the rename, so that others can at no time read a private file.
            _copy_permissions(path, file)
            os.fsync(file.fileno())
            # Before the lock is released, or another writer could remove the file.
            temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)
    if sweep:
        remove_temporaries(path)


def write_bytes(
    path: str | os.PathLike[str], content: bytes, *, sweep: bool = True
) -> None:
    """Write ``content`` to ``path``, whole or not at all.

    Parameters
    ----------
    path : path
        Replaced if it is a file; written to if it is a device or a FIFO.
    content : bytes
    sweep : bool
        Remove the temporary files of ``path`` that killed processes left.

    Raises
    ------
    OSError
        If it cannot be written; the message has the bytes needed and free.

    Examples
    --------
    >>> write_bytes("empty.json", b"{}")
    >>> Path("empty.json").read_bytes()
    b'{}'
    """
    path = Path(path)
    with explained(path, len(content)), replacing(path, sweep=sweep) as file:
        file.write(content)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all.

    File names that are not UTF-8 are written as the bytes that the disk has.

    Raises
    ------
    OSError
        As `write_bytes`.

    Examples
    --------
    >>> from pathlib import Path
    >>> from featpipe import files
    >>> files.write_text("note.txt", "42 images")
    >>> Path("note.txt").read_text()
    '42 images'
    """
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


@contextmanager
def explained(path: Path, needed: int) -> Iterator[None]:
    """Raise a system error of the block again, with the path, the bytes and a remedy.

    Parameters
    ----------
    path : Path
        The file that the block writes.
    needed : int
        Bytes that it needs.

    Raises
    ------
    OSError
        With the number of the error that the block raised.

    Examples
    --------
    >>> with explained(Path("out.csv"), 12):
    ...     raise OSError(errno.EACCES, "Permission denied")
    Traceback (most recent call last):
        ...
    PermissionError: [Errno 13] cannot write out.csv: Permission denied; ...
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        is_full = error.errno in _DISK_FULL
        remedy = "make room there" if is_full else "choose another place"
        text = (
            f"cannot write {path}: {error.strerror}; it needs {needed:,} bytes"
            f"{free_space(path)}; {remedy} and run the same command again"
        )
        if error.errno == errno.EPIPE:
            # The number would make it a BrokenPipeError, which `cli` takes for the
            # normal end of a `| head`.
            raise OSError(text) from error
        raise OSError(error.errno, text) from error


def remove_temporaries(path: Path) -> None:
    """Remove the temporary files of ``path`` whose writers were killed.

    A living writer holds a lock on its temporary file.

    Examples
    --------
    >>> from pathlib import Path
    >>> from featpipe import files
    >>> files.remove_temporaries(Path("flowers.h5"))
    """
    if fcntl is None:
        return
    name = re.compile(rf"\.{re.escape(_short(path.name))}\.[0-9a-f]{{32}}\.tmp")
    with suppress(OSError), os.scandir(path.parent) as entries:
        matching = [Path(entry.path) for entry in entries if name.fullmatch(entry.name)]
        for temporary in matching:
            _remove_unless_held(temporary)


def sync_folder(folder: Path) -> None:
    """Write the entries of a folder to the disk, so that renames survive a crash.

    Examples
    --------
    >>> from pathlib import Path
    >>> from featpipe import files
    >>> files.sync_folder(Path("."))
    """
    # Some file systems cannot sync a folder; the rename itself has happened.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _short(name: str) -> str:
    encoded = os.fsencode(name)
    if len(encoded) <= _LONGEST_NAME:
        return name
    return hashlib.sha256(encoded).hexdigest()


def _create_locked(path: Path) -> tuple[Path, io.BufferedRandom]:
    """Create a temporary file, and lock it until it is closed."""
    while True:
        temporary = temporary_name(path)
        file = create(temporary)
        if fcntl is None:
            return temporary, file
        # Some network file systems have no locks; there a killed writer's file stays.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        # Before it was locked, another writer may have removed it.
        if temporary.exists():
            return temporary, file
        file.close()


def _remove_unless_held(temporary: Path) -> None:
    with suppress(OSError):
        # Another user may have made a link or a FIFO of this name: do not follow the
        # one, or wait for the other.
        descriptor = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # `flock` raises while the writer lives.
                temporary.unlink()
        finally:
            os.close(descriptor)


def _copy_permissions(path: Path, file: IO[bytes]) -> None:
    """Copy owner and permissions of ``path`` to the file that replaces it."""
    with suppress(OSError, AttributeError):
        before = path.stat()
        if os.fstat(file.fileno()).st_uid != before.st_uid:
            os.fchown(file.fileno(), before.st_uid, before.st_gid)
        os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Return whether ``path`` exists and is neither a regular file nor a folder.

    Examples
    --------
    >>> is_stream("flowers.h5"), is_stream(os.devnull)
    (False, True)
    """
    path = follow_links(path)
    if descriptor_of(path) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _send(file: IO[bytes], path: Path) -> None:
    number = descriptor_of(path)
    if number is None:
        descriptor = os.open(path, os.O_WRONLY)
    else:
        # So that text printed before comes before this content.
        sys.stdout.flush()
        sys.stderr.flush()
        # A copy, because closing the stream must not close the caller's descriptor.
        descriptor = os.dup(number)
    with os.fdopen(descriptor, "wb") as stream:
        shutil.copyfileobj(file, stream)


def free_space(path: Path) -> str:
    """Return " and N are free" for the disk of ``path``; an empty text if unknown."""
    try:
        return f" and {shutil.disk_usage(follow_links(path).parent).free:,} are free"
    except OSError:
        return ""
