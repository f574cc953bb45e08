"""Time, disk and memory of an extraction, estimated from a sample and a short trial.

The start, the network on real shapes, and reading and decoding a sample of the images
are timed; writing and merging are bytes at rates that benchmarks/cost_model.py
measures.
"""

import math
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featpipe.extraction.update_plan import UpdatePlan
from featpipe.images import ImageSet
from featpipe.inference import Decoding, Network, time_loading

__all__ = ["Cost", "estimate"]

# Bytes a second, measured on two cores of a Xeon: a part is built, written, synced and
# checked; the merge reads the parts, writes the file, and takes three digests of it.
WRITE_RATE, MERGE_RATE = 1.9e8, 1.9e8
# Seconds of every run beside its stages: the end of the scan, the first batch, the lock
# and the renames. Fitted to the runs of benchmarks/cost_model.py.
FIXED_SECONDS = 1.5
# Bytes of a row beside its codes: path, digest, size, time.
_ROW_BYTES = 150
# Batches and parts in flight.
_IN_FLIGHT = 256 * 2**20


@dataclass(frozen=True)
class Cost:
    """The estimated time, disk space and memory of an extraction.

    Parameters
    ----------
    n_images : int
        Images that will be computed.
    seconds : dict
        ``start``, ``read``, ``decode``, ``network``, ``write``, ``merge``: each as if
        it had the machine to itself, with all its threads.
    total : float
        Seconds of the whole run.
    bottleneck : str
        The slowest stage.
    disk : int
        Bytes of the file; twice that while there are parts too.
    memory : int
        Bytes, on the CPU.
    width : int
        Numbers in a code, of the depth that has most.

    Examples
    --------
    >>> cost = Cost(100, {"network": 2.0}, 2.5, "network", 400_000, 2**28, 384)
    >>> cost.total, cost.bottleneck
    (2.5, 'network')
    """

    n_images: int
    seconds: dict[str, float]
    total: float
    bottleneck: str
    disk: int
    memory: int
    width: int


def estimate(
    images: ImageSet,
    update: UpdatePlan,
    network: Network,
    slice_size: int,
    *,
    start_seconds: float = 0.0,
) -> Cost:
    """Estimate the cost of an update, computing next to nothing.

    Parameters
    ----------
    images : ImageSet
    update : UpdatePlan
    network : Network
        Loaded, and timed for about a second.
    slice_size : int
        The largest batch that is tried.
    start_seconds : float
        Seconds to import torch and load the network, which the run will take too.
    """
    todo = update.todo
    if update.added:
        # A new depth runs every kept image through the network again.
        todo = np.union1d(todo, np.array(sorted(update.kept), np.int64))
    n = len(todo)
    n_rows = n + len(update.kept)
    if not n:
        none = dict.fromkeys(("start", *_STAGES), 0.0)
        return Cost(0, none, FIXED_SECONDS, "start", 0, _memory(), 0)
    backbone = network.backbone(update.depths)
    precision = update.provenance["precision"]
    side = backbone.preprocessing.crop
    execution = network.choose_execution(
        update.depths, precision, side, n_images=n, largest_batch=slice_size
    )
    each = network.seconds_per_image(update.depths, precision, execution)
    read, decode = time_loading(
        images,
        todo,
        backbone.preprocessing,
        Decoding.recorded(update.provenance["decoding"]),
    )
    shapes = [math.prod(depth.shape) for depth in backbone.depths]
    size = 2 if update.provenance["dtype"] == "float16" else 4
    row = size * sum(shapes) + _ROW_BYTES
    # More threads than processors decode no faster.
    n_workers = min(network.machine.n_workers, os.cpu_count() or 1)
    seconds = {
        "start": start_seconds + FIXED_SECONDS,
        "read": n * read / n_workers,
        "decode": n * decode / n_workers,
        "network": n * each,
        "write": n * row / WRITE_RATE,
        "merge": n_rows * row / MERGE_RATE,
    }
    loading = seconds["read"] + seconds["decode"]
    # Threads that decode and lanes of the network share the processors of a CPU; a GPU
    # computes while they decode.
    together = loading + seconds["network"]
    busy = together if network.kind == "cpu" else max(loading, seconds["network"])
    total = seconds["start"] + max(busy, seconds["write"]) + seconds["merge"]
    bottleneck = max(_STAGES, key=lambda stage: seconds[stage])
    return Cost(n, seconds, total, bottleneck, n_rows * row, _memory(), max(shapes))


_STAGES = ("read", "decode", "network", "write", "merge")


def _memory() -> int:
    """Return the bytes that a run takes: those of this process, and batches in work.

    The network has run in this process, with real shapes.
    """
    return _peak() + _IN_FLIGHT


def _peak() -> int:
    """Return the most bytes of memory that this process has taken, 0 if not known."""
    # Linux: `ru_maxrss` of a process begins with the peak of the one that started it.
    with suppress(OSError, IndexError, ValueError):
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    try:
        import resource
    except ModuleNotFoundError:  # not on Windows
        return 0
    # In bytes on macOS and in KiB elsewhere.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
