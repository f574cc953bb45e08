"""What it costs to have processes load images: torch's DataLoader, and featpipe's own.

::

    python benchmarks/loading.py PHOTOS --workers 2 16 --batches 4 128

Both read, digest, decode (scaled) and stack whole batches of 224 px in processes.
Printed are the seconds until the first batch that a process has loaded, the program's
own processor time an image after that, and what the death of one process costs: the
seconds until all that was asked for has come. Importing torch here is left out; a
process that is spawned imports it again.
"""

import argparse
import hashlib
import os
import resource
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from featpipe import images
from featpipe.backbones import Preprocessing
from featpipe.inference import Progress, loader
from featpipe.inference.loader import Loader, LoadingBatch, worker_server
from featpipe.inference.pixels import Decoding, pixels_of

SQUARE = Preprocessing(resize=256, crop=224)


class Batches(Dataset[tuple[torch.Tensor, list[bytes]]]):
    """Whole batches, as a sampler of positions asks for them."""

    def __init__(self, image_set: images.ImageSet) -> None:
        self._images = image_set

    def __getitem__(self, at: range) -> tuple[torch.Tensor, list[bytes]]:
        """Load a batch."""
        pixels = np.empty((len(at), 3, 224, 224), np.uint8)
        digests = []
        for k, i in enumerate(at):
            content = self._images.read(i)
            digests.append(hashlib.sha256(content).digest())
            pixels[k], _ = pixels_of(content, SQUARE, Decoding(exact=False))
        return torch.from_numpy(pixels), digests


def own_seconds() -> float:
    """Return the processor time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def one_thread(worker: int) -> None:
    """Have a worker of the DataLoader use one processor."""
    torch.set_num_threads(1)


def torch_loader(
    image_set: images.ImageSet, at: list[range], n_workers: int, how: str
) -> None:
    """Time the DataLoader, with its processes started one way."""

    def begin() -> Iterator[object]:
        return iter(
            DataLoader(
                Batches(image_set),
                sampler=at,
                batch_size=None,
                num_workers=n_workers,
                multiprocessing_context=how,
                worker_init_fn=one_thread,
            )
        )

    start = time.perf_counter()
    batches = begin()
    next(batches)
    first = time.perf_counter() - start
    used = cost(batches, sum(map(len, at[1:])))
    batches = begin()
    next(batches)
    # torch has no public name for the processes of a loader, and its stubs have none.
    os.kill(batches._workers[0].pid, signal.SIGKILL)  # type: ignore[attr-defined]
    start = time.perf_counter()
    try:
        deque(batches, maxlen=0)
    except RuntimeError:
        del batches
        next(begin())
    death = time.perf_counter() - start
    show(f"DataLoader, {how}", n_workers, len(at[0]), first, used, death)


def own_loader(
    image_set: images.ImageSet, at: list[range], n_workers: int, how: str
) -> None:
    """Time featpipe's processes."""
    loader._MOST_THREADS = 0  # processes for any number of workers
    start = time.perf_counter()
    with worker_server(n_workers, 10**6, exact=False) as server:
        made = Loader(
            image_set,
            len(at[0]),
            lambda: SQUARE,
            n_workers=n_workers,
            in_lanes=0,
            decoding=Decoding(exact=False),
            progress=Progress(),
            server=server,
        )
        pool = made._processes
        assert pool is not None
        while pool._free.empty():
            worker = pool.free()
            if worker is not None:
                pool._free.put(worker)
            time.sleep(0.001)
        deque(own_batches(made, at[:1]), maxlen=0)
        first = time.perf_counter() - start
        while pool._coming:
            deque(own_batches(made, at[:1]), maxlen=0)
        used = cost(own_batches(made, at[1:]), sum(map(len, at[1:])))
        os.kill(pool._all[0].pid, signal.SIGKILL)
        start = time.perf_counter()
        deque(own_batches(made, at[: max(1, n_workers)]), maxlen=0)
        death = time.perf_counter() - start
        made.close()
    show(how, n_workers, len(at[0]), first, used, death)


def own_batches(made: Loader, at: list[range]) -> Iterator[LoadingBatch]:
    """Load batches as the engine does, some ahead."""
    waiting: deque[LoadingBatch] = deque()
    for positions in at:
        waiting.append(made.submit(positions))
        if len(waiting) > made.ahead:
            waiting[0].images()
            waiting[0].release()
            yield waiting.popleft()
    for batch in waiting:
        batch.images()
        batch.release()
        yield batch


def cost(batches: Iterator[object], n_images: int) -> float:
    """Return the program's own processor time an image, in microseconds."""
    begin = own_seconds()
    deque(batches, maxlen=0)
    return 1e6 * (own_seconds() - begin) / n_images


def show(
    what: str, n_workers: int, size: int, first: float, used: float, death: float
) -> None:
    """Print one row."""
    print(
        f"| {what} | {n_workers} | {size} | {first:.2f} | {used:.0f} | {death:.2f} |",
        flush=True,
    )


def main() -> None:
    """Measure what the arguments ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 16])
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 128])
    parser.add_argument("--images", type=int, default=2048)
    options = parser.parse_args()
    image_set = images.scan(options.photos)
    n_images = min(options.images, len(image_set))
    print(f"torch {torch.__version__}, {os.cpu_count()} processors")
    print("| | processes | batch | first, s | program, µs an image | a death, s |")
    print("|---|---|---|---|---|---|")
    ways: list[tuple[Callable[..., None], str]] = [
        (torch_loader, "fork"),
        (torch_loader, "forkserver"),
        (torch_loader, "spawn"),
        (own_loader, "featpipe"),
    ]
    for n_workers in options.workers:
        for size in options.batches:
            at = [range(k, min(k + size, n_images)) for k in range(0, n_images, size)]
            for act, how in ways:
                act(image_set, at, n_workers, how)


if __name__ == "__main__":
    main()
