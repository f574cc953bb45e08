"""The process that decodes for another: what it does, and how the two speak.

A fork of the program itself, with its threads and its GPU, would be unsafe, and a new
interpreter for each process would import torch as often. So one is started that
imports what is needed and nothing else, and forks. The processes end when their
channel is closed, whatever became of the program. Not multiprocessing, which would run
a user's script again from its top, nor a pool, which one broken image would break.

A message is strings of bytes with their number and lengths before them: JSON, and some
image files or their pixels.
"""

import json
import os
import signal
import socket
import struct
import warnings
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from featpipe.images import ImageError
from featpipe.inference.pixels import pixels_of

if TYPE_CHECKING:
    from featpipe.backbones.preprocessing import Preprocessing

__all__ = ["Outcome", "decode_reply", "encode_request", "receive", "send", "serve"]

Outcome = tuple[np.ndarray, tuple[str, ...]] | ImageError
"""Pixels (3, S, S) uint8 and notes, or why there are none."""

_Bytes = bytes | memoryview


def serve(channels: Sequence[int], *, exact: bool) -> None:
    """Fork a process for each channel, which decodes what comes through it.

    Parameters
    ----------
    channels : sequence of int
        File descriptors of sockets.
    exact : bool
        As in `pixels_of`.
    """
    # What interrupts the program closes the channels, and its filters are not here.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    if not exact:
        import torch  # noqa: F401  which resizes; once for all

    for channel in channels:
        if os.fork() == 0:
            try:
                for other in channels:
                    if other != channel:
                        os.close(other)
                _work(socket.socket(fileno=channel), exact)
            finally:
                os._exit(0)  # whatever happened: what follows is not for a fork
    for channel in channels:
        os.close(channel)
    for _ in channels:
        os.wait()
    os._exit(0)  # taking torch down would take longer than all the rest


def _work(channel: socket.socket, exact: bool) -> None:
    """Say that this process has come, then decode until the channel is closed."""
    try:
        channel.sendall(b"!")
        while True:
            send(channel, _answer(*receive(channel), exact=exact))
    except (EOFError, OSError):
        return


def _answer(
    asked: memoryview, *contents: memoryview, exact: bool
) -> list[bytes | memoryview]:
    preprocessing = _wanted(bytes(asked))
    said: list[dict[str, Sequence[str]]] = []
    loads: list[memoryview] = []
    for content in contents:
        try:
            pixels, notes = pixels_of(bytes(content), preprocessing, exact=exact)
        except ImageError as error:
            said.append({"failed": [error.stage, error.reason]})
            loads.append(memoryview(b""))
        else:
            said.append({"notes": notes})
            loads.append(pixels.data.cast("B"))
    return [json.dumps(said).encode(), *loads]


@lru_cache(maxsize=1)
def encode_request(preprocessing: "Preprocessing") -> bytes:
    """Put into words what an image is to become."""
    return json.dumps(preprocessing.as_dict()).encode()


@lru_cache(maxsize=1)
def _wanted(said: bytes) -> "Preprocessing":
    from featpipe.backbones.preprocessing import Preprocessing

    return Preprocessing.from_dict(json.loads(said))


def decode_reply(answer: Sequence[memoryview], side: int) -> list[Outcome]:
    """Take an answer apart; its images have this side."""
    found: list[Outcome] = []
    for said, load in zip(json.loads(bytes(answer[0])), answer[1:], strict=True):
        if "failed" in said:
            found.append(ImageError(*said["failed"]))
        else:
            pixels = np.frombuffer(load, np.uint8).reshape(3, side, side)
            found.append((pixels, tuple(said["notes"])))
    return found


def send(channel: socket.socket, parts: Sequence[_Bytes]) -> None:
    """Send a message; OSError if nobody is there to take it."""
    lengths = [len(part) for part in parts]
    head = struct.pack(f"<{1 + len(parts)}Q", len(parts), *lengths)
    left = [memoryview(part) for part in (head, *parts)]
    while left:
        # In one go where there is room: every call lets other threads in between.
        sent = channel.sendmsg(left)
        while left and sent >= len(left[0]):
            sent -= len(left.pop(0))
        if left:
            left[0] = left[0][sent:]


def receive(channel: socket.socket) -> list[memoryview]:
    """Wait for a message; EOFError if none will come."""
    (count,) = struct.unpack("<Q", _exactly(channel, 8))
    lengths = struct.unpack(f"<{count}Q", _exactly(channel, 8 * count))
    message = _exactly(channel, sum(lengths))
    ends = list(accumulate(lengths))
    return [message[end - n : end] for n, end in zip(lengths, ends, strict=True)]


def _exactly(channel: socket.socket, n_bytes: int) -> memoryview:
    message = memoryview(bytearray(n_bytes))
    came = 0
    while came < n_bytes:
        more = channel.recv_into(message[came:], flags=socket.MSG_WAITALL)
        if not more:
            raise EOFError
        came += more
    return message
