"""One writer a file: a lock that names its holder.

HDF5's own locks can be off and fail on network file systems; this one is a file made
by a hard link, which is atomic everywhere.
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

# A lock of ours has some 150 bytes.
_LONGEST = 4096
_PATIENCE = 5.0  # seconds, for others that look at a lock of the same folder


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
    """Hold ``FILE.lock`` while the file is being made.

    A lock whose holder ran on this host and is gone is taken over; any other is
    respected.

    Parameters
    ----------
    path : Path
        What is being made.
    break_lock : bool
        Take over whatever lock there is.

    Raises
    ------
    LockedError
        On entering, if another process holds it; names host, process and start.
    OSError
        If no file can be made in the folder.

    Attributes
    ----------
    key : str
        No other lock has it; by `key_of` another process sees whose lock is there.

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
        self._mine = json.dumps(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                # A process number alone is given out again after a restart of the
                # machine.
                "started": _start_of(os.getpid()),
                "key": self.key,
            }
        )

    def __enter__(self) -> "Lock":
        # Reading the holder and removing its lock have to be one step, or two processes
        # could both take over the lock of a dead one.
        with _alone_on_this_host(self.path.parent):
            if not self._take():
                holder = self._holder()
                if holder is not None and not self._break and not _is_dead(holder):
                    raise LockedError(self._held_by(holder))
                self._remove()
                if not self._take():
                    raise LockedError(self._held_by(self._holder() or {}))
            # Of processes that were killed while they requested the lock.
            remove_temporaries(self.path)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError, LockedError), _alone_on_this_host(self.path.parent):
            # The lock may have been broken with --break-lock, and then belongs to
            # another process.
            if self._read() == self._mine:
                self.path.unlink()

    def _take(self) -> bool:
        temporary = temporary_name(self.path)
        try:
            # Written under another name first: a lock that is there but still empty
            # would name no holder.
            with create(temporary) as file:
                file.write(self._mine.encode())
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            target = self.path.name.removesuffix(".lock")
            raise OSError(
                error.errno,
                f"no file can be made in {self.path.parent} ({error.strerror}); it "
                f"needs {len(self._mine):,} bytes{free_space(self.path)}; make room "
                f"there or choose another place for {target}",
            ) from error
        try:
            # Fails if the name exists, also on network file systems, where O_EXCL has
            # not always been reliable (open(2)).
            os.link(temporary, self.path)
        except FileExistsError:
            return False
        except OSError:
            # No hard links here (some network and FAT file systems).
            return self._take_exclusively()
        finally:
            # Or who takes the lock next removes it.
            with suppress(OSError):
                temporary.unlink()
        return True

    def _take_exclusively(self) -> bool:
        try:
            with create(self.path) as file:
                file.write(self._mine.encode())
        except FileExistsError:
            return False
        except OSError:
            # A lock without a name in it would be respected for ever.
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

    def _read(self) -> str:
        return _read(self.path)

    def _holder(self) -> dict[str, Any] | None:
        return _holder(self.path)

    def _held_by(self, holder: dict[str, Any]) -> str:
        name = str(self.path)[: -len(".lock")]
        return (
            f"{name} is being written by process {holder.get('pid', '?')} on host "
            f"{holder.get('host', '?')}; wait for it, or if you know that it is gone, "
            f"delete {self.path} (`extract` does it with --break-lock)"
        )


def key_of(path: Path) -> str | None:
    """Return the key of the `Lock` on ``path``; None if it is not locked.

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
    """Return the facts of a lock about its holder; None if there is no lock."""
    try:
        holder = json.loads(_read(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        holder = {}
    return holder if isinstance(holder, dict) else {}


def _read(path: Path) -> str:
    # A FIFO in its place would make an ordinary open wait for ever.
    # Neither flag exists on Windows.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0))
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a file")
        return file.read(_LONGEST).decode()


@contextmanager
def _alone_on_this_host(folder: Path) -> Iterator[None]:
    """Exclude other processes of this host while a lock is read and changed.

    Only a lock of this host is ever taken over, so this host is all that matters. Some
    network file systems cannot do it; there the danger is that of a few microseconds.
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
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise LockedError(
                    f"another process has kept the folder {folder} locked (flock) for "
                    f"{_PATIENCE:g} seconds; end it, or choose another folder"
                ) from None
            time.sleep(0.002)
        except OSError:
            return  # this file system knows no such locks


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
    # The number may have been given to another process since.
    return holder.get("started") != _start_of(pid)


def _start_of(pid: int) -> str | None:
    """Return when a process started, in a form only fit for comparing."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # The name in brackets may hold spaces; the start is the 20th field after it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return f"{boot} {fields[19]}"
    except (OSError, IndexError):
        return None
