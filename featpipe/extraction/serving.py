"""The process that decodes for another: what it does, and how the two speak.

A fork of the program itself, with its threads and its GPU, would be unsafe, and a new
interpreter for each process would import torch as often. So one is started that
imports what is needed and nothing else, and forks. The processes end when their
channel is closed, whatever became of the program. Not multiprocessing, which would run
a user's script again from its top, nor a pool, which one broken image would break.

A message is two strings of bytes with their lengths before them: JSON, and an image
file or its pixels.
"""

import json
import os
import signal
import socket
import struct
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from featpipe.extraction.pixels import pixels_of
from featpipe.images import ImageError

if TYPE_CHECKING:
    from featpipe.backbones.preprocessing import Preprocessing

__all__ = ["receive", "send", "serve", "understood", "words"]

_LENGTHS = struct.Struct("<QQ")


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
            send(channel, *_answer(*receive(channel), exact=exact))
    except (EOFError, OSError):
        return


def _answer(
    asked: bytes, content: memoryview, *, exact: bool
) -> tuple[bytes, memoryview]:
    try:
        pixels, notes = pixels_of(bytes(content), _wanted(asked), exact=exact)
    except ImageError as error:
        failed = {"failed": [error.stage, error.reason]}
        return json.dumps(failed).encode(), memoryview(b"")
    return json.dumps({"notes": notes}).encode(), pixels.data.cast("B")


@lru_cache(maxsize=1)
def words(preprocessing: "Preprocessing") -> bytes:
    """Put into words what an image is to become."""
    return json.dumps(preprocessing.as_dict()).encode()


@lru_cache(maxsize=1)
def _wanted(said: bytes) -> "Preprocessing":
    from featpipe.backbones.preprocessing import Preprocessing

    return Preprocessing.from_dict(json.loads(said))


def understood(said: bytes) -> tuple[str, ...]:
    """Give the notes of an answer, or raise the `ImageError` it tells of."""
    answer = json.loads(said)
    if "failed" in answer:
        raise ImageError(*answer["failed"])
    return tuple(answer["notes"])


def send(channel: socket.socket, said: bytes, load: bytes | memoryview) -> None:
    """Send a message; OSError if nobody is there to take it."""
    head = _LENGTHS.pack(len(said), len(load)) + said
    # In one go where there is room: every call lets other threads in between.
    sent = channel.sendmsg([head, load])
    if sent < len(head):
        channel.sendall(head[sent:])
        sent = len(head)
    if sent < len(head) + len(load):
        channel.sendall(memoryview(load)[sent - len(head) :])


def receive(channel: socket.socket) -> tuple[bytes, memoryview]:
    """Wait for a message; EOFError if none will come."""
    said, load = _LENGTHS.unpack(_exactly(channel, _LENGTHS.size))
    message = _exactly(channel, said + load)
    return bytes(message[:said]), message[said:]


def _exactly(channel: socket.socket, n_bytes: int) -> memoryview:
    message = memoryview(bytearray(n_bytes))
    came = 0
    while came < n_bytes:
        more = channel.recv_into(message[came:], flags=socket.MSG_WAITALL)
        if not more:
            raise EOFError
        came += more
    return message
