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
from contextlib import suppress
from threading import Lock, local
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import ThreadpoolController

from featpipe.extraction import serving
from featpipe.extraction.pixels import pixels_of
from featpipe.images import ImageError

if TYPE_CHECKING:
    from featpipe.backbones.preprocessing import Preprocessing

__all__ = ["Decoders"]

_Pixels = tuple[np.ndarray, tuple[str, ...]]

_ENDED = "it ended the process that decoded it"

# Up to so many threads lose less than a tenth to each other.
_MOST_THREADS = 4
# Processes take two seconds to come; for fewer images they are not sent for.
_FEW_IMAGES = 500
# Bytes on their way: more than most images have, so that nobody waits in the middle.
_ROOM = 1 << 20
_AT_ONCE = getattr(socket, "MSG_DONTWAIT", 0)


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
        self._free: list[_Process] = []
        self._all: list[_Process] = []
        self._parents: list[subprocess.Popen[bytes]] = []
        self._closed = False
        self._guard = Lock()
        self._here = local()

    def pixels_of(self, content: bytes, preprocessing: "Preprocessing") -> _Pixels:
        """Do what `pixels.pixels_of` does, in a process if there is one.

        Raises
        ------
        ImageError
            If the image cannot be decoded, or has ended two processes.
        """
        process = self._taken()
        if process is None:
            if not self._exact:
                self._alone()
            return pixels_of(content, preprocessing, exact=self._exact)
        asked = serving.words(preprocessing)
        for _ in range(2):
            try:
                said, pixels = process.answer(asked, content)
            except (EOFError, OSError):
                # Not here: what ends a process would end the program.
                process = self._another()
            else:
                self._put_back(process)
                notes = serving.understood(said)
                shape = 3, preprocessing.crop, preprocessing.crop
                return np.frombuffer(pixels, np.uint8).reshape(shape), notes
        self._put_back(process)
        raise ImageError("decode", f"{_ENDED}, twice")

    def close(self) -> None:
        """End the processes, also those that are at work."""
        with self._guard:
            self._closed = True
            for process in self._all:
                process.end()
            for parent in self._parents:
                parent.wait()

    def _taken(self) -> "_Process | None":
        """Give a process that is free; None if none is there."""
        with self._guard:
            self._n_asked += 1
            if self._n_asked == _FEW_IMAGES and self._n_processes:
                with suppress(OSError):  # then there are none
                    self._coming = self._started(self._n_processes)
            if not self._free:
                self._free = [each for each in self._coming if each.has_come()]
                self._coming = [each for each in self._coming if not each.came]
            return self._free.pop() if self._free else None

    def _put_back(self, process: "_Process") -> None:
        with self._guard:
            self._free.append(process)

    def _another(self) -> "_Process":
        """Start a process, and wait for it."""
        with self._guard:
            if self._closed:
                raise ImageError("decode", "the extraction was ended")
            try:
                (process,) = self._started(1)
            except OSError as error:
                raise ImageError("decode", _ENDED) from error
        # Not under the lock: it takes a second or two.
        if not process.has_come(wait=True):
            raise ImageError("decode", _ENDED)
        return process

    def _alone(self) -> None:
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
        f"from featpipe.extraction.serving import serve; "
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

    def has_come(self, *, wait: bool = False) -> bool:
        """Whether it is there; it says so itself, with one byte."""
        if not self.came:
            with suppress(OSError):  # nothing yet, or gone
                self.came = bool(self._channel.recv(1, 0 if wait else _AT_ONCE))
        return self.came

    def answer(self, asked: bytes, content: bytes) -> tuple[bytes, memoryview]:
        """Ask, and wait; EOFError or OSError if it is gone."""
        serving.send(self._channel, asked, content)
        return serving.receive(self._channel)

    def end(self) -> None:
        """Let it end, and wake who waits for its answer, as closing alone would not."""
        with suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        self._channel.close()
