"""Load images in threads, or in a worker process for each thread.

A few threads decode at the same time, because Pillow releases the interpreter lock
while it works. More threads block one another: 16 of them on 16 processors were
measured to do the work of 6. So beyond a few threads each has a worker process and
waits for it, once the workers have started and if there are enough images. Until then,
and where no process can be started, the threads load images themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from threading import Lock, local
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import ThreadpoolController

from featpipe.images import FileReader, ImageError, ImageSet
from featpipe.inference.loading import KnownDigests, Loaded, LoadedPiece, load
from featpipe.inference.pixels import Decoding
from featpipe.inference.processes import (
    WorkerPool,
    WorkerServer,
    can_fork,
)
from featpipe.inference.serving import Item, Setup

if TYPE_CHECKING:
    from featpipe.backbones import Preprocessing
    from featpipe.inference.progress import Progress

__all__ = ["Loader", "LoadingBatch", "worker_server"]

# Up to so many threads lose less than a tenth of their speed.
_MOST_THREADS = 4
# Processes take two seconds to start; for fewer images none is started.
_FEW_IMAGES = 500
# Images of one batch that a thread or a process loads at once: few, so that several
# share the first and the last batch; more than one, since every message takes time.
_AT_ONCE, _AT_ONCE_APART = 8, 32
# Images loaded ahead of the network; more where there are many workers.
_AHEAD = 128


@contextmanager
def worker_server(
    n_workers: int, n_images: int, *, exact: bool
) -> Iterator[WorkerServer | None]:
    """Start a server of worker processes where they save time; close it at the end.

    It takes two seconds to start; meanwhile the caller may load its network.

    Parameters
    ----------
    n_workers, n_images : int
    exact : bool
        Whether images are decoded without torch.

    Yields
    ------
    WorkerServer or None
        None where threads are as fast, or no process can be started.

    Examples
    --------
    >>> with worker_server(2, 10, exact=True) as server:  # so few are for threads
    ...     print(server)
    None
    """
    server = None
    if _needs_processes(n_workers, n_images):
        # Without processes, or memory for them, threads do the same work more slowly.
        with suppress(OSError):
            server = WorkerServer(with_torch=not exact)
    try:
        yield server
    finally:
        if server is not None:
            server.close()


def _needs_processes(n_workers: int, n_images: int) -> bool:
    """Return whether the workers should be processes."""
    return can_fork() and n_workers > _MOST_THREADS and n_images >= _FEW_IMAGES


class LoadingBatch:
    """The images of one batch while they are loaded.

    Parameters
    ----------
    positions : sequence of int
        In the `ImageSet`.
    take : callable
        Returns memory for the pixels, (n, 3, S, S) uint8, and its first row in the
        memory shared with worker processes.
    give_back : callable
        Takes the array when it is no longer needed.
    """

    def __init__(
        self,
        positions: Sequence[int],
        take: Callable[[], tuple[np.ndarray, int]],
        give_back: Callable[[int], None],
    ) -> None:
        self.positions = positions
        self.pieces: list[Future[LoadedPiece]] = []
        self._take, self._give_back = take, give_back
        self._memory: tuple[np.ndarray, int] | None = None
        self._guard = Lock()

    def memory(self) -> tuple[np.ndarray, int]:
        """Return the memory for the pixels and its first row; see ``take``."""
        # Several threads load pieces of a batch; the first one that needs memory takes
        # it for all.
        with self._guard:
            if self._memory is None:
                self._memory = self._take()
            return self._memory

    def images(self) -> list[Loaded]:
        """Wait for the images, and return them."""
        return [image for piece in self.pieces for image in piece.result().images]

    def release(self) -> None:
        """Free the memory for another batch."""
        with self._guard:
            memory, self._memory = self._memory, None
        if memory is not None:
            self._give_back(memory[1])


class Loader:
    """Load batches of images, several at once; to be closed.

    Parameters
    ----------
    image_set : ImageSet
    batch_size : int
        Images of a batch, at most.
    preprocessing : callable
        Returns the `Preprocessing`; called when the first image is decoded, or when
        processes are started.
    n_workers : int
        Threads, or processes.
    in_lanes : int
        Number of batches that may be in the network, or wait for it.
    decoding : Decoding
    progress : Progress
        Collects the seconds of each stage.
    known : collection of bytes
        Digests of images that need not be decoded.
    server : WorkerServer, optional
        Forks a process for each worker; without it, workers are threads.
    """

    def __init__(
        self,
        image_set: ImageSet,
        batch_size: int,
        preprocessing: Callable[[], Preprocessing],
        *,
        n_workers: int,
        in_lanes: int,
        decoding: Decoding,
        progress: Progress,
        known: Collection[bytes] = (),
        server: WorkerServer | None = None,
    ) -> None:
        self._images = image_set
        self._preprocessing = preprocessing
        self._decoding = decoding
        self._progress = progress
        self._known = KnownDigests(known)
        # Each message to a process takes time, so processes get larger pieces.
        self._piece = min(batch_size, _AT_ONCE if server is None else _AT_ONCE_APART)
        n_ahead = _AHEAD if server is None else max(_AHEAD, 2 * n_workers * self._piece)
        # At least two: one that is loaded while the other is computed.
        self.ahead = max(2, math.ceil(n_ahead / batch_size))
        self._threads = ThreadPoolExecutor(n_workers, thread_name_prefix="load")
        self._here = local()
        self._processes: WorkerPool | None = None
        if server is not None:
            # One more than there are batches ahead, in lanes, and in between.
            n_slots = self.ahead + in_lanes + 3
            self._processes = WorkerPool(
                server, n_workers, n_slots, batch_size, self._setup()
            )

    def _setup(self) -> Setup:
        return Setup(
            _reader(self._images), self._preprocessing(), self._decoding, self._known
        )

    def submit(self, positions: Sequence[int]) -> LoadingBatch:
        """Begin to load the images of a batch, and return at once."""
        processes = self._processes
        if processes is None:
            batch = LoadingBatch(positions, lambda: self._own(len(positions)), _forget)
        else:
            batch = LoadingBatch(positions, processes.take, processes.give_back)
        for first in range(0, len(positions), self._piece):
            piece = positions[first : first + self._piece]
            batch.pieces.append(self._threads.submit(self._load, batch, first, piece))
        return batch

    def _own(self, n_images: int) -> tuple[np.ndarray, int]:
        side = self._preprocessing().crop
        return np.empty((n_images, 3, side, side), np.uint8), 0

    def close(self) -> None:
        """Drop images that are not loaded, and end all workers, even busy ones."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._processes is not None:
            self._processes.close()

    def _load(
        self, batch: LoadingBatch, first: int, positions: Sequence[int]
    ) -> LoadedPiece:
        """Load a piece of a batch in a process, or else in this thread."""
        # The thread loads it while the processes start, and once all have ended.
        worker = None if self._processes is None else self._processes.free()
        if worker is None or self._processes is None:
            piece = self._load_here(batch, first, positions)
        else:
            items = [self._item(i) for i in positions]
            row = batch.memory()[1] + first
            piece = self._processes.load(worker, row, items)
        self._progress.add("read", piece.read_seconds)
        self._progress.add("decode", piece.decode_seconds)
        return piece

    def _load_here(
        self, batch: LoadingBatch, first: int, positions: Sequence[int]
    ) -> LoadedPiece:
        # torch resizes scaled images, and would start threads in each of these threads.
        if not self._decoding.exact:
            self._take_one_processor()
        return load(
            [partial(self._images.read, i) for i in positions],
            # Called when the first image has been decoded: a batch of known images
            # needs no memory.
            lambda: batch.memory()[0][first:],
            self._preprocessing,
            self._known,
            self._decoding,
        )

    def _item(self, i: int) -> Item:
        """Return the message to a worker: the path of an image, or its content."""
        if isinstance(self._images.reader, FileReader):
            return self._images.paths[i]
        try:
            return self._images.read(i)
        except ImageError as error:
            return error

    def _take_one_processor(self) -> None:
        """Limit torch to one thread here: there is a thread for each processor."""
        if not hasattr(self._here, "is_alone"):
            import torch

            torch.get_num_threads()  # torch decides, for a thread, when first needed
            # Not by torch, whose limit would hold for all threads that begin later.
            ThreadpoolController().limit(limits=1, user_api="openmp")
            self._here.is_alone = True


def _forget(row: int) -> None:
    """Do nothing: memory that is not shared is freed by Python."""


def _no_path(path: str) -> bytes:
    raise ImageError("read", "a worker was sent a path, and not the content")


def _reader(image_set: ImageSet) -> Callable[[str], bytes]:
    # Other readers hold arrays, locks or unpacked archives, which cannot be sent.
    reader = image_set.reader
    return reader.read if isinstance(reader, FileReader) else _no_path
