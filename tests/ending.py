"""Reading for worker processes that meet what a broken file does to a decoder.

In a module of its own, so that a worker imports nothing else.
"""

import os
import signal
import time
from pathlib import Path

from featpipe.images import ImageError
from featpipe.inference.serving import MEMORY_LIMIT

__all__ = ["read_or_end"]


def read_or_end(path: str) -> bytes:
    if "deadly" in path:
        os.kill(os.getpid(), signal.SIGKILL)
    if "endless" in path:
        # As after a second of decoding.
        signal.alarm(1)
        time.sleep(60)
    if "greedy" in path:
        try:
            bytearray(2 * MEMORY_LIMIT)
        except MemoryError:
            raise ImageError("decode", "not enough memory to decode it") from None
    return Path(path).read_bytes()
