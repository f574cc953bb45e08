"""Who decodes: the thread that asks, or a process that works for it.

A few threads decode side by side, because Pillow lets go of the interpreter while it
works. More of them stand in each other's way: of 16 threads on 16 processors 6 were
measured to get on. So, beyond a few threads, each has a process (`serving`) and waits
for it, as soon as there are images enough and the processes have come.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Lock, local
from typing import TYPE_CHECKING

from threadpoolctl import ThreadpoolController

from featpipe.images import ImageError
from featpipe.inference import serving
from featpipe.inference.pixels import pixels_of
from featpipe.inference.serving import Outcome

if TYPE_CHECKING:
    from featpipe.backbones.preprocessing import Preprocessing

__all__ = ["Decoders"]

_ENDED = "it ended the process that decoded it"

# Up to so many threads lose less than a tenth to each other.
_MOST_THREADS = 4
# Processes take two seconds to come; for fewer images they are not sent for.
_FEW_IMAGES = 500
# Images that a process is sent at once: every message lets other threads in between.
_AT_ONCE = 8
# Bytes on their way: more than most images have, so that nobody waits in the middle.
_ROOM = 1 << 20
_WITHOUT_WAITING = getattr(socket, "MSG_DONTWAIT", 0)


class Decoders:
    """Turn contents into pixels, for some threads; to be closed.

    Parameters
    ----------
    n_threads : int
        Threads that will ask.
    exact : bool
        As in `pixels_of`.
    """

    def __init__(self, n_threads: int, *, exact: bool) -> None:
        able = hasattr(os, "fork") and bool(sys.executable)
        n_at_once = min(n_threads, os.cpu_count() or 1)
        self._n_processes = n_threads if able and n_at_once > _MOST_THREADS else 0
        self._exact = exact
        self._n_asked = 0
        self._coming: list[_Process] = []
        self._free: SimpleQueue[_Process] = SimpleQueue()
        self._all: list[_Process] = []
        self._parents: list[subprocess.Popen[bytes]] = []
        self._closed = False
        self._guard = Lock()
        self._here = local()

    @property
    def at_once(self) -> int:
        """How many images to ask for at once."""
        return _AT_ONCE if self._n_processes else 1

    def pixels_of(
        self, contents: Sequence[bytes], preprocessing: "Preprocessing"
    ) -> list[Outcome]:
        """Do what `pixels.pixels_of` does, in a process if there is one.

        Returns
        -------
        list of (pixels, notes) or ImageError
            Of each; the latter if it cannot be decoded, or has ended two processes.
        """
        process = self._taken(len(contents))
        if process is None:
            return [self._alone(content, preprocessing) for content in contents]
        try:
            found = process.answer(contents, preprocessing)
        except (EOFError, OSError):
            return self._again(contents, preprocessing)
        self._free.put(process)
        return found

    def _alone(self, content: bytes, preprocessing: "Preprocessing") -> Outcome:
        """Decode in this thread."""
        if not self._exact:
            self._take_one_processor()
        try:
            return pixels_of(content, preprocessing, exact=self._exact)
        except ImageError as error:
            return error

    def _again(
        self, contents: Sequence[bytes], preprocessing: "Preprocessing"
    ) -> list[Outcome]:
        """Decode one by one, in a new process: the old one was ended by one of them.

        Not here: what ends a process would end the program.
        """
        found: list[Outcome] = []
        process = None
        for content in contents:
            try:
                process = process or self._another()
                found += process.answer([content], preprocessing)
            except ImageError as error:
                found.append(error)
            except (EOFError, OSError):
                found.append(ImageError("decode", f"{_ENDED}, twice"))
                process = None
        if process is not None:
            self._free.put(process)
        return found

    def close(self) -> None:
        """End the processes, also those that are at work."""
        with self._guard:
            self._closed = True
            for process in self._all:
                process.end()
            for parent in self._parents:
                parent.wait()

    def _taken(self, count: int) -> "_Process | None":
        """Give a process that is free, for so many images; None if none is there."""
        # Once all have come, without the lock, at which many threads were seen to wait.
        if self._n_processes and (self._coming or not self._all):
            with self._guard:
                self._look_for_processes(count)
        with suppress(Empty):
            return self._free.get_nowait()
        return None

    def _look_for_processes(self, count: int) -> None:
        """Send for processes if there are images enough; see which have come."""
        self._n_asked += count
        if self._n_asked >= _FEW_IMAGES and not self._all:
            try:
                self._coming = self._started(self._n_processes)
            except OSError:
                self._n_processes = 0
        for process in self._coming:
            if process.is_ready():
                self._free.put(process)
        self._coming = [each for each in self._coming if not each.came]

    def _another(self) -> "_Process":
        """Start a process, and wait for it."""
        with self._guard:
            if self._closed:
                raise ImageError("decode", "the work was ended")
            try:
                (process,) = self._started(1)
            except OSError as error:
                raise ImageError("decode", _ENDED) from error
        # Not under the lock: it takes a second or two.
        if not process.is_ready(wait=True):
            raise ImageError("decode", _ENDED)
        return process

    def _take_one_processor(self) -> None:
        """Have torch use this thread alone: there is one for each processor."""
        if not hasattr(self._here, "is_alone"):
            import torch

            torch.get_num_threads()  # torch decides, for a thread, when first needed
            # Not by torch, which would tell the same to all threads that begin later.
            ThreadpoolController().limit(limits=1, user_api="openmp")
            self._here.is_alone = True

    def _started(self, count: int) -> "list[_Process]":
        """Start so many processes, each at the other end of a socket."""
        pairs = [socket.socketpair() for _ in range(count)]
        for pair in pairs:
            for end in pair:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)
        started = [_Process(here) for here, _ in pairs]
        try:
            self._parents.append(
                _parent([there.fileno() for _, there in pairs], self._exact)
            )
        except OSError:
            for process in started:
                process.end()
            raise
        finally:
            for _, there in pairs:
                there.close()
        self._all += started
        return started


def _parent(channels: list[int], exact: bool) -> "subprocess.Popen[bytes]":
    """Start the process that forks one for each of these descriptors."""
    program = (
        f"import sys; sys.path[:] = {sys.path!r}; "
        f"from featpipe.inference.serving import serve; "
        f"serve({channels!r}, exact={exact})"
    )
    nothing = subprocess.DEVNULL
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=nothing,
        stdout=nothing,
        stderr=nothing,
        pass_fds=channels,
        # One thread each, and so none that a fork would lose.
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )


class _Process:
    """One that decodes, as seen from here; for one thread at a time."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self.came = False

    def is_ready(self, *, wait: bool = False) -> bool:
        """Whether it is there; it says so itself, with one byte."""
        if not self.came:
            with suppress(OSError):  # nothing yet, or gone
                self.came = bool(self._channel.recv(1, 0 if wait else _WITHOUT_WAITING))
        return self.came

    def answer(
        self, contents: Sequence[bytes], preprocessing: "Preprocessing"
    ) -> list[Outcome]:
        """Ask, and wait; EOFError or OSError if it is gone."""
        serving.send(self._channel, [serving.encode_request(preprocessing), *contents])
        return serving.decode_reply(serving.receive(self._channel), preprocessing.crop)

    def end(self) -> None:
        """Let it end, and wake who waits for its answer, as closing alone would not."""
        with suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        self._channel.close()
