"""The processes that load images for the program: what they do.

A fork of the program itself, with its threads and its GPU, would be unsafe, and a new
interpreter for each process would import torch as often. So one process is started
that imports what is needed and nothing else, and forks a worker whenever it is asked
for one. Not `multiprocessing`, which would run a user's script again from its top; and
not torch's `DataLoader` on top of it, in which the death of one worker ends all of
them (measured: docs/inside/performance.md).

A worker shares memory with the program. It is sent the names of some images and a row
number, writes their pixels from that row on, and replies with what became of each. It
ends when its channel is closed, whatever became of the program.
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
"""Bytes of address space that a worker may take beside what it begins with. The largest
picture that decoding allows takes 0.7 GB as plain 16-bit RGBA, and has some copies."""

Item = str | bytes | ImageError
"""A path to read, the content of a file, or why there is none."""


@dataclass(frozen=True)
class Setup:
    """What a worker receives once, before its first images.

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
        Of the socket; each message brings the channel and the memory of a worker.
    with_torch : bool
        Import torch before the first fork, once for all.
    """
    # What interrupts the program closes the channels, and its filters are not here.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Workers that have ended are forgotten by themselves.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    # Before the first fork: a worker starts in milliseconds because it finds everything
    # imported.
    _import_all(with_torch)
    control = socket.socket(fileno=descriptor)
    while True:
        # An empty message is the end of the stream: the program has closed it, or died.
        message, descriptors, _, _ = socket.recv_fds(control, 1, 2)
        if not message:
            os._exit(0)  # taking torch down would take longer than all the rest
        if os.fork() == 0:
            try:
                control.close()
                _work(Connection(descriptors[0]), descriptors[1])
            finally:
                os._exit(0)  # whatever happened: what follows is not for a fork
        # The server's copies: a channel that it kept open would never report its end.
        for each in descriptors:
            os.close(each)


def _import_all(with_torch: bool) -> None:
    """Load one image, so that workers find imported whatever decoding imports late."""
    from PIL import Image

    from featpipe.backbones import Preprocessing

    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    pixels_of(file.getvalue(), Preprocessing(8, 8), Decoding(not with_torch))


def _work(channel: Connection, memory: int) -> None:
    """Load images until the channel is closed."""
    with suppress(EOFError, OSError):
        # The sign that the worker is there.
        channel.send(os.getpid())
        setup: Setup = channel.recv()
        side = setup.preprocessing.crop
        pixels = np.frombuffer(mmap.mmap(memory, 0), np.uint8).reshape(
            -1, 3, side, side
        )
        # After the setup, which counts as what the process begins with.
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
        # Otherwise the worker would be ended while it waits for the next piece.
        signal.alarm(0)


def _read(setup: Setup, item: Item) -> bytes:
    """Read one image, and begin to count the seconds that the rest takes."""
    # Reading is not counted: a tape or a slow network is no fault of the image.
    signal.alarm(0)
    if isinstance(item, ImageError):
        raise item
    content = item if isinstance(item, bytes) else setup.read(item)
    # Nothing handles this signal, so that it ends a process that hangs in C too.
    signal.alarm(SECONDS_PER_IMAGE)
    return content


def _limit_memory() -> None:
    """Limit the memory of this worker, so that the system kills no other process."""
    import resource  # which not every system has, as it has no workers

    with suppress(OSError, ValueError):
        now = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = now + MEMORY_LIMIT
        if hard == resource.RLIM_INFINITY or limit < hard:
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
