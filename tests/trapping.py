"""System calls that kill their process, fail, or write less than they were given.

A *trap* sits on the k-th call of one of the functions through which featpipe changes a
disk. `counted` lists the calls that a job makes, each with what it is done to ("fsync
part"), so that every one can be tried.
"""

import errno
import fcntl
import io
import json
import os
import re
import resource
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from featpipe.files import ReservedFile, atomic, lock

CALLS = ("link", "fsync", "rename", "replace", "unlink", "mkdir", "rmdir", "fchmod")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EACCES)
_TEMPORARY = re.compile(r"^\.(.*)\.[0-9a-f]{32}\.tmp$")
_KINDS = (
    (r".*\.lock$", "lock"),
    (r".*\.parts$", "folder of parts"),
    (r"[0-9a-f]{32}-.*\.h5$", "part"),
    (r".*\.h5$", "codes file"),
    (r".*\.json$", "scores"),
    (r".*\.csv$", "table"),
    (r".*\.onnx$", "network"),
    (r".*\.work$", "checkpoint"),
    (r"[mt]$", "model"),
)


class Trap(NamedTuple):
    """What happens at the k-th call, from 1: a signal, an errno, or a short write."""

    call: str
    k: int
    act: str  # "kill before", "kill after", "short", or the name of an errno
    step: str = ""  # the call, and what it is done to

    @property
    def number(self) -> int:
        return getattr(errno, self.act, 0)


def kind_of(target: Any) -> str:
    """Name what sort of file a call is done to."""
    named = (
        Path(f"/proc/self/fd/{target}").readlink() if type(target) is int else target
    )
    path = Path(os.fsdecode(named))
    name = _TEMPORARY.sub(r"\1", path.name.removesuffix(" (deleted)"))
    for pattern, kind in _KINDS:
        if re.match(pattern, name):
            return kind
    return "folder" if path.is_dir() else "file"


class Traps:
    """Counts the calls and springs one trap."""

    def __init__(self, trap: Trap | None) -> None:
        self.trap = trap
        self.counts: Counter[str] = Counter()
        self.steps: defaultdict[str, list[str]] = defaultdict(list)

    def around(self, call: str, act: Callable[[], Any], target: Any) -> Any:
        self.counts[call] += 1
        trap = self.trap
        if trap is None:
            self.steps[call].append(f"{call} {kind_of(target)}")
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
            setattr(os, name, self._wrapped(name, getattr(os, name)))
        os.posix_fallocate = self._wrapped("fallocate", os.posix_fallocate)
        fcntl.flock = self._wrapped("flock", fcntl.flock)
        for module in (atomic, lock):
            module.create = self._create
        plain_write = ReservedFile.write

        def write(file: ReservedFile, content: Any) -> int:
            return self.around(
                "hdf5 write", lambda: plain_write(file, content), file._file.fileno()
            )

        ReservedFile.write = write

    def _wrapped(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        at = 1 if name in ("link", "rename", "replace") else 0

        def call(*args: Any, **kwargs: Any) -> Any:
            target = args[at]
            if not isinstance(target, int | str | os.PathLike):
                target = target.fileno()
            return self.around(name, lambda: plain(*args, **kwargs), target)

        return call

    def _create(self, path: Path) -> io.BufferedRandom:
        return self.around("create", lambda: io.BufferedRandom(_Raw(path, self)), path)


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

        return self._traps.around("write", act, self.name)

    def readinto(self, buffer: Any) -> int:
        """Read back what was written, for its digest."""
        act = super().readinto
        return self._traps.around("read back", lambda: act(buffer), self.name)

    def truncate(self, size: int | None = None) -> int:
        act = super().truncate
        return self._traps.around("truncate", lambda: act(size), self.name)


def apart(
    act: Callable[[], Any], seconds: float = 120, number: int = signal.SIGXCPU
) -> dict[str, Any]:
    """Run in a fork; return its value or its error, and the signal that ended it.

    A ``number`` of another signal kills it after so many seconds by the clock. SIGXCPU
    ends it after so many seconds of processor, or five times as many by the clock: on a
    busy machine it waits for others.
    """
    by_processor = number == signal.SIGXCPU
    reader, writer = os.pipe()
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reader)
        if by_processor:
            resource.setrlimit(
                resource.RLIMIT_CPU, (ceil(seconds), resource.RLIM_INFINITY)
            )
        try:
            results = {"value": act()}
        except BaseException as error:
            results = {"error": type(error).__name__, "text": str(error)}
        try:
            os.write(writer, json.dumps(results).encode())
        finally:
            os._exit(0)
    os.close(writer)
    wait = 5 * seconds if by_processor else seconds
    with limited(child, wait, number), os.fdopen(reader) as pipe:
        text = pipe.read()
    status = os.waitpid(child, 0)[1]
    ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    took = time.monotonic() - start
    return {"signal": ended, "seconds": took, **(json.loads(text) if text else {})}


@contextmanager
def limited(child: int, seconds: float, number: int) -> Iterator[None]:
    """Kill a child that takes longer."""

    def end(signum: int, frame: object) -> None:
        os.kill(child, number)

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def counted(act: Callable[[], Any]) -> dict[str, list[str]]:
    """Return the steps of a job: for each function, what its calls are done to."""

    def run() -> dict[str, list[str]]:
        traps = Traps(None)
        traps.set()
        act()
        return traps.steps

    result = apart(run)
    assert "value" in result, result
    return result["value"]


def kills(steps: dict[str, list[str]]) -> list[Trap]:
    """List every point at which a job can be killed."""
    return [
        Trap(call, k, act, step)
        for call, each in sorted(steps.items())
        for k, step in enumerate(each, 1)
        for act in ("kill before", "kill after")
    ]


def faults(steps: dict[str, list[str]]) -> list[Trap]:
    """List every call with every error that it may meet, and the short writes."""
    listed = []
    for call, each in sorted(steps.items()):
        # To libhdf5 itself no error goes: it meets those of "write" through a buffer.
        names = [] if call == "hdf5 write" else [errno.errorcode[e] for e in ERRORS]
        names += ["short"] if call == "write" else []
        listed += [
            Trap(call, k, name, step)
            for k, step in enumerate(each, 1)
            for name in names
        ]
    return listed
