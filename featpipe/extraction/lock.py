"""One coordinator a file (codes, a model): a lock that names its holder.

HDF5's own locks can be off and fail on network file systems; this one is a file made
by a hard link, which is atomic everywhere.
"""

import json
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from featpipe.codes import draft_of, left_behind

try:
    import fcntl
except ModuleNotFoundError:  # not on Windows
    fcntl = None  # type: ignore[assignment]  # None stands for the missing module

__all__ = ["Lock", "LockedError"]


class LockedError(RuntimeError):
    """Another process is writing the same file."""


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
        On entering, if somebody else holds it; names host, process and start.
    OSError
        If the folder takes no file.
    """

    def __init__(self, path: Path, *, break_lock: bool = False) -> None:
        self.path = path.with_name(f"{path.name}.lock")
        self._break = break_lock
        self._mine = json.dumps(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "started": _start_of(os.getpid()),
                "key": uuid.uuid4().hex,
            }
        )

    def __enter__(self) -> "Lock":
        with _alone_on_this_host(self.path.parent):
            if not self._take():
                said = self._read()
                if said is not None and not self._break and not _is_dead(said):
                    raise LockedError(self._who(said))
                self.path.unlink(missing_ok=True)
                if not self._take():
                    raise LockedError(self._who(self._read() or {}))
            # Of processes that were killed while they asked for the lock.
            for draft in left_behind(self.path):
                draft.unlink(missing_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError), _alone_on_this_host(self.path.parent):
            if self.path.read_text() == self._mine:
                self.path.unlink()

    def _take(self) -> bool:
        draft = draft_of(self.path)
        try:
            draft.write_text(self._mine)
        except OSError as error:
            raise OSError(
                f"no file can be made in {self.path.parent} ({error.strerror}); choose "
                f"another place for {self.path.name.removesuffix('.lock')}"
            ) from error
        try:
            os.link(draft, self.path)
        except FileExistsError:
            return False
        except OSError:
            # No hard links here (some network and FAT file systems).
            return self._take_exclusively()
        finally:
            draft.unlink(missing_ok=True)
        return True

    def _take_exclusively(self) -> bool:
        try:
            with self.path.open("x") as file:
                file.write(self._mine)
        except FileExistsError:
            return False
        return True

    def _read(self) -> dict | None:
        try:
            said = json.loads(self.path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            said = {}
        return said if isinstance(said, dict) else {}

    def _who(self, said: dict) -> str:
        name = str(self.path)[: -len(".lock")]
        return (
            f"{name} is being written by process {said.get('pid', '?')} on host "
            f"{said.get('host', '?')}; wait for it, or if you know that it is gone, "
            f"delete {self.path} (`extract` does it with --break-lock)"
        )


@contextmanager
def _alone_on_this_host(folder: Path) -> Iterator[None]:
    """Keep other processes of this host from looking at a lock and changing it too.

    Only a lock of this host is ever taken over, so this host is all that matters. Some
    network file systems cannot do it; there the danger is that of a few microseconds.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_dead(said: dict) -> bool:
    if said.get("host") != socket.gethostname() or not isinstance(said.get("pid"), int):
        return False
    try:
        os.kill(said["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # somebody else's process, and so alive
    except (OSError, OverflowError):
        return False
    # The number may have been given to another process since.
    return said.get("started") != _start_of(said["pid"])


def _start_of(pid: int) -> str | None:
    """Tell when a process started, in a form only fit for comparing."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # The name in brackets may hold spaces; the start is the 20th field after it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return f"{boot} {fields[19]}"
    except (OSError, IndexError):
        return None
