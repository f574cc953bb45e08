"""Lanes: threads that compute batches, each with its own share of the hardware.

On the CPU a lane is a thread that uses one processor, or a few: several batches are
computed at once, and none waits for the threads of another. On CUDA every GPU has two
lanes, each with its own stream, so that one batch is copied while another is computed.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Concatenate, Generic, ParamSpec

import numpy as np

if TYPE_CHECKING:
    from featpipe.backbones import Backbone

__all__ = ["InferenceWorkers", "lane_threads", "with_threads"]

_Codes = dict[str, np.ndarray]
_Rest = ParamSpec("_Rest")


class InferenceWorkers(Generic[_Rest]):
    """Threads that run batches; to be closed.

    Parameters
    ----------
    backbones : sequence of Backbone
        One for each lane, on its device; several lanes may share one.
    work : callable
        Takes the backbone of the lane and the arguments of `submit`; returns codes by
        depth.
    """

    def __init__(
        self,
        backbones: Sequence["Backbone"],
        work: Callable[Concatenate["Backbone", _Rest], _Codes],
    ) -> None:
        import torch

        self._work = work
        # Each thread takes one of these and keeps it, so that no backbone is used by
        # two threads at a time.
        self._free: queue.SimpleQueue[Backbone] = queue.SimpleQueue()
        for backbone in backbones:
            self._free.put(backbone)
        self._here = threading.local()
        self._n_threads = torch.get_num_threads()
        self._n_lanes = len(backbones)
        self._share = lane_threads(self._n_lanes)
        self._pool = ThreadPoolExecutor(
            len(backbones), thread_name_prefix="network", initializer=self._enter
        )

    def _enter(self) -> None:
        """Take a backbone, and a share of the hardware, for the life of this thread."""
        import torch

        self._here.backbone = backbone = self._free.get()
        # For this thread, and for threads that begin after it; see `close`.
        torch.set_num_threads(self._share)
        if torch.device(backbone.device).type == "cuda":
            torch.cuda.synchronize(backbone.device)  # its weights may be on their way
            # Lanes on the default stream would wait for one another.
            torch.cuda.set_stream(torch.cuda.Stream(backbone.device))

    def __len__(self) -> int:
        """Return the number of lanes."""
        return self._n_lanes

    def submit(self, *args: _Rest.args, **kwargs: _Rest.kwargs) -> Future[_Codes]:
        """Compute a batch in the next lane that is free."""
        return self._pool.submit(
            lambda: self._work(self._here.backbone, *args, **kwargs)
        )

    def close(self) -> None:
        """Finish the batches that have begun, drop the others, and end the threads."""
        import torch

        self._pool.shutdown(cancel_futures=True)
        # The share was also set for threads that begin later.
        torch.set_num_threads(self._n_threads)


def lane_threads(n_lanes: int) -> int:
    """Return how many threads each of some lanes computes with."""
    import torch

    # All lanes together use as many threads as torch alone would: more would only
    # compete.
    return max(1, torch.get_num_threads() // n_lanes)


@contextmanager
def with_threads(n_threads: int) -> Iterator[None]:
    """Let torch compute with so many threads inside the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
