"""A lock file that allows one writer for each file, and names its holder.

HDF5's own locks can be switched off, and fail on network file systems. This lock is a
file that a hard link creates, which is atomic on every file system.
"""

import errno
import json
import os
import socket
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from featpipe.files.atomic import create, free_space, remove_temporaries, temporary_name

try:
    import fcntl
except ModuleNotFoundError:  # not on Windows
    fcntl = None  # type: ignore[assignment]  # None: the module is missing

__all__ = ["Lock", "LockedError", "key_of"]

# Bytes that are read of a lock file; featpipe's own have some 150.
_LONGEST = 4096
_TIMEOUT = 5.0  # seconds, for other processes that change a lock in the same folder


class LockedError(RuntimeError):
    """Another process is writing the same file.

    Examples
    --------
    >>> from pathlib import Path
    >>> from featpipe import files
    >>> with files.Lock(Path("a.h5")):
    ...     try:
    ...         files.Lock(Path("a.h5")).__enter__()
    ...     except files.LockedError as error:
    ...         print(str(error)[:32])
    a.h5 is being written by process
    """


class Lock:
    """Hold ``FILE.lock`` while a file is being written.

    The lock of a process of this host that has ended is taken over; every other lock is
    respected.

    Parameters
    ----------
    path : Path
        The file to write.
    break_lock : bool
        Take over the lock of any other process.

    Raises
    ------
    LockedError
        On entering, if another process holds the lock; the message has its host and
        number.
    OSError
        If no file can be made in the folder.

    Attributes
    ----------
    path : Path
        The lock file.
    key : str
        Different for every lock; `key_of` reads it from the lock file.

    Examples
    --------
    >>> from pathlib import Path
    >>> from featpipe import files
    >>> with files.Lock(Path("codes.h5")) as lock:
    ...     print(lock.path, files.key_of(Path("codes.h5")) == lock.key)
    codes.h5.lock True
    """

    def __init__(self, path: Path, *, break_lock: bool = False) -> None:
        self.path = path.with_name(f"{path.name}.lock")
        self._break = break_lock
        self.key = uuid.uuid4().hex
        self._content = json.dumps(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                # After a restart of the machine another process may have this number.
                "started": _start_of(os.getpid()),
                "key": self.key,
            }
        )

    def __enter__(self) -> "Lock":
        # One step, or two processes could both take over the lock of a dead one.
        with _exclusive_on_host(self.path.parent):
            if not self._take():
                holder = _holder(self.path)
                if holder is not None and not self._break and not _is_dead(holder):
                    raise LockedError(self._locked_message(holder))
                self._remove()
                if not self._take():
                    raise LockedError(self._locked_message(_holder(self.path) or {}))
            # Processes that were killed on the way to the lock leave files behind.
            remove_temporaries(self.path)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError, LockedError), _exclusive_on_host(self.path.parent):
            # After --break-lock in another process, the lock file is that of the other.
            if _read(self.path) == self._content:
                self.path.unlink()

    def _take(self) -> bool:
        temporary = temporary_name(self.path)
        try:
            # Under a temporary name first: an empty lock file would name no holder.
            with create(temporary) as file:
                file.write(self._content.encode())
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            target = self.path.name.removesuffix(".lock")
            raise OSError(
                error.errno,
                f"no file can be made in {self.path.parent} ({error.strerror}); it "
                f"needs {len(self._content):,} bytes{free_space(self.path)}; make room "
                f"there or choose another place for {target}",
            ) from error
        try:
            # Unlike O_EXCL, a link also fails on old network file systems if the name
            # exists (open(2)).
            os.link(temporary, self.path)
        except FileExistsError:
            return False
        except OSError:
            # FAT and some network file systems have no hard links.
            return self._take_exclusively()
        finally:
            # If this fails, the next process that takes the lock removes the file.
            with suppress(OSError):
                temporary.unlink()
        return True

    def _take_exclusively(self) -> bool:
        try:
            with create(self.path) as file:
                file.write(self._content.encode())
        except FileExistsError:
            return False
        except OSError:
            # A lock file without a holder would be respected for ever.
            with suppress(OSError):
                self.path.unlink()
            raise
        return True

    def _remove(self) -> None:
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise OSError(
                error.errno, f"{self.path} is in the way of a lock; remove it"
            ) from error

    def _locked_message(self, holder: dict[str, Any]) -> str:
        name = str(self.path)[: -len(".lock")]
        return (
            f"{name} is being written by process {holder.get('pid', '?')} on host "
            f"{holder.get('host', '?')}; wait for it, or if you know that it is gone, "
            f"delete {self.path} (`extract` does it with --break-lock)"
        )


def key_of(path: Path) -> str | None:
    """Return the key of the `Lock` on ``path``; None if there is no lock.

    Examples
    --------
    >>> from pathlib import Path
    >>> from featpipe import files
    >>> files.key_of(Path("flowers.h5")) is None
    True
    """
    key = (_holder(path.with_name(f"{path.name}.lock")) or {}).get("key")
    return key if isinstance(key, str) else None


def _holder(path: Path) -> dict[str, Any] | None:
    """Return what a lock file records of its holder; None if there is no lock."""
    try:
        holder = json.loads(_read(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        holder = {}
    return holder if isinstance(holder, dict) else {}


def _read(path: Path) -> str:
    # O_NONBLOCK: to open a FIFO of this name would otherwise wait for ever. Windows has
    # neither flag.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0))
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a file")
        return file.read(_LONGEST).decode()


@contextmanager
def _exclusive_on_host(folder: Path) -> Iterator[None]:
    """Exclude other processes of this host while a lock is read and changed.

    This host is enough, since only its locks are ever taken over. Some network file
    systems have no such locks; there two processes can collide within microseconds.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _wait_for_folder(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _wait_for_folder(descriptor: int, folder: Path) -> None:
    deadline = time.monotonic() + _TIMEOUT
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise LockedError(
                    f"another process has kept the folder {folder} locked (flock) for "
                    f"{_TIMEOUT:g} seconds; end it, or choose another folder"
                ) from None
            time.sleep(0.002)
        except OSError:
            return  # this file system has no such locks


def _is_dead(holder: dict[str, Any]) -> bool:
    pid = holder.get("pid")
    if holder.get("host") != socket.gethostname() or type(pid) is not int or pid < 1:
        return False
    try:
        # Signal 0 is not delivered; it only shows whether the process exists.
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # another user's process, and so alive
    except (OSError, OverflowError):
        return False
    # Meanwhile another process may have got the number.
    return holder.get("started") != _start_of(pid)


def _start_of(pid: int) -> str | None:
    """Return the start of a process as a text that can only be compared."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # The name in brackets may hold spaces; the start is the 20th field after it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return f"{boot} {fields[19]}"
    except (OSError, IndexError):
        return None
