"""The processes that load images for the program.

Forking the program itself, with its threads and its GPU, would be unsafe, and a new
interpreter for each worker would import torch each time. So the program starts one
server, which imports only what workers need and forks a worker on request.
`multiprocessing` would run the user's script again, and in torch's `DataLoader`, which
uses it, the death of one worker ends all of them (measured:
docs/inside/performance.md).

A worker shares memory with the program. It receives the names of some images and a row
number, writes their pixels from that row on, and replies with the result of each. It
ends when its channel is closed, however the program ended.
"""

from __future__ import annotations

import io
import mmap
import os
import signal
import socket
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featpipe.images import ImageError
from featpipe.inference.loading import KnownDigests, LoadedPiece, load
from featpipe.inference.pixels import Decoding, pixels_of

if TYPE_CHECKING:
    from featpipe.backbones import Preprocessing

__all__ = ["MEMORY_LIMIT", "SECONDS_PER_IMAGE", "Item", "Setup", "serve"]

SECONDS_PER_IMAGE = 60
"""A worker that decodes one image for longer than this ends itself."""

MEMORY_LIMIT = 8 * 2**30
"""Bytes of address space that a worker may take in addition to those at its start. The
largest image that decoding allows takes 0.7 GB as 16-bit RGBA, and there are copies."""

Item = str | bytes | ImageError
"""A path to read, the content of a file, or the reason why there is none."""


@dataclass(frozen=True)
class Setup:
    """The message that a worker receives once, before its first images.

    Parameters
    ----------
    read : callable
        Takes a path; returns the whole file or raises `ImageError`.
    preprocessing : Preprocessing
    decoding : Decoding
    known : KnownDigests
    """

    read: Callable[[str], bytes]
    preprocessing: Preprocessing
    decoding: Decoding
    known: KnownDigests


def serve(descriptor: int, *, with_torch: bool) -> None:
    """Fork a worker for each pair of descriptors that comes through a socket.

    Parameters
    ----------
    descriptor : int
        Of the socket; each message has the channel and the memory of a worker.
    with_torch : bool
        Whether to import torch before the first fork, once for all workers.
    """
    # Ctrl-C interrupts the program, which then closes the channels.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The system forgets workers that have ended.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    # Before the first fork, so that a worker starts in milliseconds.
    _import_all(with_torch)
    control = socket.socket(fileno=descriptor)
    while True:
        # An empty message: the program has closed the socket, or died.
        message, descriptors, _, _ = socket.recv_fds(control, 1, 2)
        if not message:
            os._exit(0)  # without torch's slow shutdown
        if os.fork() == 0:
            try:
                control.close()
                _work(Connection(descriptors[0]), descriptors[1])
            finally:
                os._exit(0)  # a fork must not run the rest, even after an error
        # The end of a channel shows only once the server has closed its copy too.
        for each in descriptors:
            os.close(each)


def _import_all(with_torch: bool) -> None:
    """Load one image, which imports all that decoding needs, before the first fork."""
    from PIL import Image

    from featpipe.backbones import Preprocessing

    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    pixels_of(file.getvalue(), Preprocessing(8, 8), Decoding(not with_torch))


def _work(channel: Connection, memory: int) -> None:
    """Load images until the channel is closed."""
    with suppress(EOFError, OSError):
        # Tells the program that the worker has started.
        channel.send(os.getpid())
        setup: Setup = channel.recv()
        side = setup.preprocessing.crop
        pixels = np.frombuffer(mmap.mmap(memory, 0), np.uint8).reshape(
            -1, 3, side, side
        )
        # After the setup, whose memory does not count.
        _limit_memory()
        while True:
            row, items = channel.recv()
            channel.send(_load(setup, items, pixels[row : row + len(items)]))


def _load(setup: Setup, items: Sequence[Item], rows: np.ndarray) -> LoadedPiece:
    try:
        return load(
            [partial(_read, setup, item) for item in items],
            lambda: rows,
            lambda: setup.preprocessing,
            setup.known,
            setup.decoding,
        )
    finally:
        # Otherwise the alarm would end the worker while it waits for the next piece.
        signal.alarm(0)


def _read(setup: Setup, item: Item) -> bytes:
    """Read one image, and set the alarm for its decoding."""
    # Reading does not count: a slow disk or network is not the image's fault.
    signal.alarm(0)
    if isinstance(item, ImageError):
        raise item
    content = item if isinstance(item, bytes) else setup.read(item)
    # Without a handler, this signal also ends a process that hangs in C.
    signal.alarm(SECONDS_PER_IMAGE)
    return content


def _limit_memory() -> None:
    """Limit the memory of this worker, so that the system kills no other process."""
    import resource  # Windows has none, and no workers either

    with suppress(OSError, ValueError):
        now = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = now + MEMORY_LIMIT
        if hard == resource.RLIM_INFINITY or limit < hard:
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
