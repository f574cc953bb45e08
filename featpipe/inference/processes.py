"""Worker processes, and the memory shared with them: the side of the program.

`serving` has the side of the workers. Knows nothing of batches.
"""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import Empty, LifoQueue, SimpleQueue
from threading import Lock

import numpy as np

from featpipe.images import ImageError
from featpipe.inference.loading import Loaded, LoadedPiece
from featpipe.inference.serving import SECONDS_PER_IMAGE, Item, Setup

__all__ = ["SharedMemory", "Worker", "WorkerPool", "WorkerServer", "can_fork"]

# An image that ends a process is tried again alone, so often that processes which end
# for another reason are not blamed on it.
_TRIES_ALONE = 8


def can_fork() -> bool:
    """Return whether this system can fork and pass descriptors."""
    return hasattr(os, "fork") and hasattr(socket, "send_fds") and bool(sys.executable)


class SharedMemory:
    """Pixels that worker processes write, and the program reads without a copy.

    torch's shared tensors and `multiprocessing.shared_memory` take their memory from
    ``/dev/shm``, of which containers have 64 MB.

    Parameters
    ----------
    shape : (n, 3, S, S)
        Only pages that are written to take memory.
    """

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        # A file without a name cannot be opened by others, and is gone with the last
        # process that has it open, however that process ends.
        self.descriptor = _unnamed_file()
        n_bytes = int(np.prod(shape))
        os.ftruncate(self.descriptor, n_bytes)
        memory = mmap.mmap(self.descriptor, n_bytes)
        self.pixels: np.ndarray = np.frombuffer(memory, np.uint8).reshape(shape)

    def close(self) -> None:
        """Close the file; the last array that uses it frees the memory."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _unnamed_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("featpipe")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class WorkerServer:
    """The process that forks workers; it starts while the caller goes on.

    Parameters
    ----------
    with_torch : bool
        Whether workers will need torch.

    Raises
    ------
    OSError
        If it cannot be started.

    Examples
    --------
    >>> server = WorkerServer(with_torch=False)
    >>> server.close()
    """

    def __init__(self, *, with_torch: bool) -> None:
        self._control, there = socket.socketpair()
        self._guard = Lock()
        # multiprocessing's spawn would run the user's main module again in the server.
        program = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from featpipe.inference.serving import serve; "
            f"serve({there.fileno()}, with_torch={with_torch})"
        )
        nothing = subprocess.DEVNULL
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", program],
                stdin=nothing,
                stdout=nothing,
                stderr=nothing,
                # A worker that inherited the lock's descriptor would keep the lock.
                pass_fds=[there.fileno()],
                # One thread each: a fork would lose other threads.
                env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        except OSError:
            self._control.close()
            raise
        finally:
            there.close()

    def fork(self, setup: Setup, memory: SharedMemory) -> Worker:
        """Have the server fork a worker, and return at once.

        Raises
        ------
        OSError
            If the server is gone.
        """
        here, there = socket.socketpair()
        try:
            with self._guard:
                # Passed through the server, which need not know the number of workers.
                descriptors = [there.fileno(), memory.descriptor]
                socket.send_fds(self._control, [b"!"], descriptors)
        except OSError:
            here.close()
            raise
        finally:
            there.close()
        return Worker(here, setup)

    def close(self) -> None:
        """End the server, and wait for it; workers end with their channels."""
        with self._guard:
            self._control.close()
        try:
            # It ends when the channel closes, unless it is still importing.
            self._process.wait(0.2)
        except subprocess.TimeoutExpired:  # it is importing
            self._process.kill()
            self._process.wait()


class Worker:
    """One worker process, for one thread at a time.

    Parameters
    ----------
    channel : socket
    setup : Setup
        Sent to it with the first images.
    """

    def __init__(self, channel: socket.socket, setup: Setup) -> None:
        self._socket = channel
        self._channel = Connection(os.dup(channel.fileno()))
        self._setup: Setup | None = setup
        self.pid = 0

    def is_ready(self, *, wait: bool = False) -> bool:
        """Return whether it has started; with ``wait``, False if it has died."""
        if not self.pid:
            with suppress(OSError, EOFError):
                if wait or self._channel.poll():
                    self.pid = self._channel.recv()
        return self.pid > 0

    def load(self, row: int, items: Sequence[Item]) -> LoadedPiece:
        """Load images into the shared memory, the first one into row ``row``.

        Raises
        ------
        EOFError, OSError
            If the worker is gone.
        """
        # With the first images: the setup may hold millions of digests, which a worker
        # that gets no images does not need.
        if self._setup is not None:
            self._channel.send(self._setup)
            self._setup = None
        self._channel.send((row, items))
        piece: LoadedPiece = self._channel.recv()
        return piece

    def end(self) -> None:
        """End it, and wake the thread that waits for its answer."""
        with suppress(OSError):
            # A thread may be blocked in `recv` on a copy of this descriptor; closing
            # would not wake it.
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class WorkerPool:
    """Worker processes, and the memory for batches that they write to.

    Parameters
    ----------
    server : WorkerServer
    n_workers : int
    n_slots : int
        Number of batches that fit the memory.
    batch_size : int
    setup : Setup
        Of each worker.
    """

    def __init__(
        self,
        server: WorkerServer,
        n_workers: int,
        n_slots: int,
        batch_size: int,
        setup: Setup,
    ) -> None:
        self._server = server
        self._setup = setup
        side = setup.preprocessing.crop
        self._memory = SharedMemory((n_slots * batch_size, 3, side, side))
        self._batch_size = batch_size
        # The slot used last is taken first: its pages are allocated and in the cache.
        self._slots: LifoQueue[int] = LifoQueue()
        for slot in range(n_slots):
            self._slots.put(slot * batch_size)
        self._guard = Lock()
        self._free: SimpleQueue[Worker] = SimpleQueue()
        self._coming: list[Worker] = []
        self._all: list[Worker] = []
        self._closed = False
        with suppress(OSError):
            for _ in range(n_workers):
                self._coming.append(self._fork())

    def take(self) -> tuple[np.ndarray, int]:
        """Return memory for a batch, and its first row."""
        row = self._slots.get()
        return self._memory.pixels[row : row + self._batch_size], row

    def give_back(self, row: int) -> None:
        """Free the memory that begins at this row for another batch."""
        self._slots.put(row)

    def free(self) -> Worker | None:
        """Return a free worker; None before the first has started, or if all died."""
        # Once all have started, without the lock, which would delay many threads.
        if self._coming:
            with self._guard:
                for worker in self._coming:
                    if worker.is_ready():
                        self._free.put(worker)
                self._coming = [each for each in self._coming if not each.pid]
        with suppress(Empty):
            return self._free.get_nowait()
        return None

    def load(self, worker: Worker, row: int, items: Sequence[Item]) -> LoadedPiece:
        """Load images in a worker; one by one if it ends."""
        try:
            piece = worker.load(row, items)
        except (EOFError, OSError):
            # One of the images has ended the process (a crash in C, the memory limit,
            # the alarm). Loading each alone shows which one.
            return self._one_by_one(row, items)
        self._free.put(worker)
        return piece

    def _one_by_one(self, row: int, items: Sequence[Item]) -> LoadedPiece:
        """Load each image alone, in a new worker where the last one has ended.

        Not in this process, which such an image would end.
        """
        whole, worker = LoadedPiece(), None
        for k, item in enumerate(items):
            for _ in range(_TRIES_ALONE):
                start = time.monotonic()
                try:
                    worker = worker or self._another()
                    piece = worker.load(row + k, [item])
                    break
                except (EOFError, OSError):
                    worker = None
                    if time.monotonic() - start >= SECONDS_PER_IMAGE:
                        piece = _failed(f"decoding it took over {SECONDS_PER_IMAGE} s")
                        break
                    piece = _failed(
                        f"it ended each of {1 + _TRIES_ALONE} processes that decoded it"
                    )
            whole.images += piece.images
            whole.read_seconds += piece.read_seconds
            whole.decode_seconds += piece.decode_seconds
        with suppress(EOFError, OSError):  # or the threads go on with fewer
            self._free.put(worker or self._another())
        return whole

    def _another(self) -> Worker:
        """Fork a worker, and wait for it."""
        with self._guard:
            if self._closed:
                raise EOFError
            worker = self._fork()
        # Not under the lock.
        if not worker.is_ready(wait=True):
            raise EOFError
        return worker

    def _fork(self) -> Worker:
        worker = self._server.fork(self._setup, self._memory)
        self._all.append(worker)
        return worker

    def close(self) -> None:
        """End the workers."""
        with self._guard:
            self._closed = True
            for worker in self._all:
                worker.end()
        self._memory.close()


def _failed(reason: str) -> LoadedPiece:
    return LoadedPiece([Loaded(error=ImageError("decode", reason))])
