"""System calls that kill their process, fail, or write less than they were given.

A *trap* sits on the k-th call of one of the functions through which featpipe changes a
disk. `counted` tells how many calls a job makes, so that every one can be tried.
"""

import errno
import io
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from featpipe.files import ReservedFile, atomic, lock

CALLS = ("link", "fsync", "rename", "replace", "unlink", "mkdir", "rmdir")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EACCES)


class Trap(NamedTuple):
    """What happens at the k-th call, from 1: a signal, an errno, or a short write."""

    call: str
    k: int
    act: str  # "kill before", "kill after", "short", or the name of an errno

    @property
    def number(self) -> int:
        return getattr(errno, self.act, 0)


class Traps:
    """Counts the calls and springs one trap."""

    def __init__(self, trap: Trap | None) -> None:
        self.trap = trap
        self.counts: Counter[str] = Counter()

    def around(self, call: str, act: Callable[[], Any]) -> Any:
        self.counts[call] += 1
        trap = self.trap
        here = trap is not None and (trap.call, trap.k) == (call, self.counts[call])
        if here and trap.act == "kill before":
            os.kill(os.getpid(), signal.SIGKILL)
        if here and trap.number:
            raise OSError(trap.number, os.strerror(trap.number))
        result = act()
        if here and trap.act == "kill after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    def is_short(self) -> bool:
        trap = self.trap
        return trap is not None and (trap.call, trap.k, trap.act) == (
            "write",
            self.counts["write"],
            "short",
        )

    def set(self) -> None:
        """Replace the functions, for good: in a fork that ends soon."""
        for name in CALLS:
            plain = getattr(os, name)
            setattr(os, name, self._wrapped(name, plain))
        plain_reserve = os.posix_fallocate
        os.posix_fallocate = self._wrapped("fallocate", plain_reserve)
        for module in (atomic, lock):
            module.create = self._create
        ReservedFile.write = self._wrapped("hdf5 write", ReservedFile.write)

    def _wrapped(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return self.around(name, lambda: plain(*args, **kwargs))

        return call

    def _create(self, path: Path) -> io.BufferedRandom:
        return self.around("create", lambda: io.BufferedRandom(_Raw(path, self)))


class _Raw(io.FileIO):
    def __init__(self, path: Path, traps: Traps) -> None:
        super().__init__(path, "xb+")
        self._traps = traps

    def write(self, content: Any) -> int:
        def act() -> int:
            view = memoryview(content).cast("B")
            if self._traps.is_short() and len(view) > 1:
                view = view[: len(view) // 2]
            return super(_Raw, self).write(view)

        return self._traps.around("write", act)


def apart(act: Callable[[], Any], seconds: float = 120) -> dict[str, Any]:
    """Run in a fork; return its value or its error, and the signal that ended it."""
    reader, writer = os.pipe()
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            said = {"value": act()}
        except BaseException as error:
            said = {"error": type(error).__name__, "text": str(error)}
        try:
            os.write(writer, json.dumps(said).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with limited(child, seconds), os.fdopen(reader) as pipe:
        text = pipe.read()
    status = os.waitpid(child, 0)[1]
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    took = time.monotonic() - start
    return {"signal": number, "seconds": took, **(json.loads(text) if text else {})}


@contextmanager
def limited(child: int, seconds: float) -> Iterator[None]:
    """Kill a child that takes longer, by SIGALRM's number so that it shows."""

    def end(number: int, frame: object) -> None:
        os.kill(child, signal.SIGXCPU)

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def counted(act: Callable[[], Any]) -> dict[str, int]:
    """Return how often a job calls each function."""

    def run() -> dict[str, int]:
        traps = Traps(None)
        traps.set()
        act()
        return traps.counts

    found = apart(run)
    assert "value" in found, found
    return found["value"]


def kills(counts: dict[str, int]) -> list[Trap]:
    """List every point at which a job can be killed."""
    acts = ("kill before", "kill after")
    return [
        Trap(call, k, act)
        for call, n in sorted(counts.items())
        for k in range(1, n + 1)
        for act in acts
    ]


def faults(counts: dict[str, int]) -> list[Trap]:
    """List every call with every error that it may meet, and the short writes."""
    listed = []
    for call, n in sorted(counts.items()):
        # To libhdf5 itself no error goes: it meets those of "write" through a buffer.
        names = [] if call == "hdf5 write" else [errno.errorcode[e] for e in ERRORS]
        names += ["short"] if call == "write" else []
        listed += [Trap(call, k, name) for k in range(1, n + 1) for name in names]
    return listed
