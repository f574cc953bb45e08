"""Memory, rows, limits and ends of the threads and processes that load images."""

import io
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from ending import read_or_end
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from featpipe.backbones import Preprocessing
from featpipe.images import ImageError, ImageSet
from featpipe.inference import Progress, from_items, loader, processes, serving
from featpipe.inference.loader import Loader, LoadingBatch, worker_server
from featpipe.inference.pixels import Decoding
from featpipe.inference.processes import SharedMemory, Worker, WorkerPool, WorkerServer

quick = settings(deadline=None, max_examples=20)

SIDE = 6
SQUARE = Preprocessing(None, SIDE)
N = 40
PIXELS = np.random.default_rng(0).integers(0, 256, (N, SIDE, SIDE, 3), np.uint8)
BROKEN, GONE = 11, 38


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def image_set() -> ImageSet:
    """Return forty images of their own pixels, one broken and one not there."""
    items: list[Any] = [(f"{k}.png", png(pixels)) for k, pixels in enumerate(PIXELS)]
    items[BROKEN] = ("broken.png", b"no image")
    items[GONE] = "/nowhere/gone.png"
    return from_items(items)


def waited(get: Callable[[], Any], seconds: float = 10) -> Any:
    """Return the first thing that is true, or the last one."""
    until = time.monotonic() + seconds
    while not (result := get()) and time.monotonic() < until:
        time.sleep(0.002)
    return result


@pytest.fixture
def patient(monkeypatch) -> None:
    """Have no image loaded by a thread: each waits for a process that is free."""
    free = WorkerPool.free
    monkeypatch.setattr(WorkerPool, "free", lambda self: waited(lambda: free(self)))


def loader_of(images: ImageSet, batch_size: int = N, **changes: Any) -> Loader:
    options: dict[str, Any] = {"n_workers": 2, "in_lanes": 2, "decoding": Decoding()}
    options |= {"progress": Progress(), **changes}
    return Loader(images, batch_size, lambda: SQUARE, **options)


@pytest.mark.parametrize("apart", [False, True])
def test_every_image_of_a_large_batch_is_in_its_own_row(own_server, patient, apart):
    progress = Progress()
    made = loader_of(
        image_set(), server=own_server if apart else None, progress=progress
    )
    for order in (range(N), range(N - 1, -1, -1)):
        batch = made.submit(order)
        loaded = batch.images()
        for row, (i, image) in enumerate(zip(order, loaded, strict=True)):
            assert image.has_pixels == (i not in (BROKEN, GONE))
            if image.has_pixels:
                pixels = batch.memory()[0][row]
                np.testing.assert_array_equal(pixels, PIXELS[i].transpose(2, 0, 1))
        failures = {i: loaded[order.index(i)].error for i in (BROKEN, GONE)}
        assert failures[BROKEN].stage == "decode"
        assert failures[GONE].stage == "read"
        assert loaded[order.index(GONE)].sha256 == b""
        assert len({image.sha256 for image in loaded}) == N
        batch.release()
    assert min(progress.seconds["read"], progress.seconds["decode"]) > 0
    made.close()


@quick
@given(st.integers(1, 700), st.integers(1, 9), st.integers(1, 90))
def test_pieces_are_small_and_some_images_are_loaded_ahead(
    batch_size, n_workers, n_images
):
    made = loader_of(from_items(["x"] * n_images), batch_size, n_workers=n_workers)
    made.close()
    # At least one batch is loaded while another is computed.
    assert made.ahead >= 2
    assert made.ahead == 2 or (made.ahead - 1) * batch_size < 128
    assert made.ahead * batch_size >= 128
    sizes: list[Any] = []
    now = SimpleNamespace(submit=lambda *args: sizes.append(args))
    made._threads = now  # type: ignore[assignment]  # notes what would be loaded
    made.submit(range(n_images))
    pieces = [piece for _, _, _, piece in sizes]
    assert [i for piece in pieces for i in piece] == [*range(n_images)]
    assert len(pieces) == math.ceil(n_images / min(batch_size, 8))
    assert [first for _, _, first, _ in sizes] == [piece[0] for piece in pieces]


def test_threads_that_load_one_batch_share_its_memory_which_is_given_back_once():
    taken, given_back = [], []

    def take() -> tuple[np.ndarray, int]:
        time.sleep(0.01)
        taken.append(np.empty(1))
        return taken[-1], 70 + len(taken)

    batch = LoadingBatch(range(3), take, given_back.append)
    batch.release()
    assert given_back == []  # none was taken
    for turn in (1, 2):
        with ThreadPoolExecutor(8) as pool:
            memories = [
                f.result() for f in [pool.submit(batch.memory) for _ in "x" * 8]
            ]
        assert {id(array) for array, _ in memories} == {id(taken[-1])}
        assert (len(taken), memories[0][1]) == (turn, 70 + turn)
        batch.release()
        batch.release()
        assert given_back == [70 + k for k in range(1, turn + 1)]


def test_images_that_wait_are_dropped_when_the_loader_is_closed(monkeypatch):
    read, gate = [], threading.Event()

    def slowly(self, i):
        read.append(i)
        gate.wait(10)
        raise ImageError("read", "too late")

    monkeypatch.setattr(ImageSet, "read", slowly)
    made = loader_of(image_set(), 1)
    batches = [made.submit([i]) for i in range(N)]
    waited(lambda: len(read) == 2)
    made.close()
    gate.set()
    waited(lambda: all(batch.pieces[0].done() for batch in batches))
    assert sorted(read) == [0, 1]
    assert [batch.pieces[0].cancelled() for batch in batches] == [False] * 2 + [
        True
    ] * (N - 2)


class Server:
    """A server that only tells what becomes of it."""

    made: ClassVar[list["Server"]] = []

    def __init__(self, *, with_torch: bool) -> None:
        self.with_torch, self.closed = with_torch, 0
        self.made.append(self)

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize(
    ("n_workers", "n_images", "starts"),
    [(4, 10**6, False), (5, 499, False), (5, 500, True), (64, 10**6, True)],
)
@pytest.mark.parametrize("exact", [True, False])
def test_processes_start_for_many_workers_and_images_and_always_end(
    monkeypatch, n_workers, n_images, starts, exact
):
    monkeypatch.setattr(loader, "WorkerServer", Server)
    monkeypatch.setattr(Server, "made", [])
    with (
        suppress(KeyError),
        worker_server(n_workers, n_images, exact=exact) as made,
    ):
        assert made is (Server.made[0] if starts else None)
        assert [one.closed for one in Server.made] == [0] * starts
        raise KeyError
    # Scaled images are resized by torch.
    assert [(one.with_torch, one.closed) for one in Server.made] == [
        (not exact, 1)
    ] * starts


def test_no_process_starts_where_the_system_cannot_fork(monkeypatch):
    for name in ("fork", "memfd_create"):
        monkeypatch.delattr(os, name)
    with worker_server(64, 10**6, exact=True) as made:
        assert made is None
    # A system without unnamed memory has files without a name.
    memory = SharedMemory((2, 3, 4, 4))
    memory.pixels[1] = 9
    assert os.pread(memory.descriptor, 48, 48) == bytes([9] * 48)
    for _ in range(2):
        memory.close()
    assert (memory.pixels[1] == 9).all()


def pool_of(server: WorkerServer, n_workers: int = 2, slots: int = 3) -> WorkerPool:
    setup = serving.Setup(read_or_end, SQUARE, Decoding(), loader.KnownDigests())
    return WorkerPool(server, n_workers, slots, 4, setup)


def workers_of(pool: WorkerPool) -> list[Worker]:
    """Take all workers that are free."""
    waited(lambda: put_back(pool))
    taken = []
    while (worker := pool.free()) is not None:
        taken.append(worker)
    return taken


def put_back(pool: WorkerPool) -> bool:
    """Let workers that have started be free."""
    if (worker := pool.free()) is not None:
        pool._free.put(worker)
    return not pool._coming


def test_a_pool_has_as_many_workers_after_some_have_died(own_server, tmp_path):
    (tmp_path / "x.png").write_bytes(png(PIXELS[0]))
    pool = pool_of(own_server)
    memory, row = pool.take()
    workers = workers_of(pool)
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker.pid, signal.SIGKILL)
        piece = pool.load(worker, row, [str(tmp_path / "x.png")] * 2)
        assert [image.has_pixels for image in piece.images] == [True, True]
        assert min(piece.read_seconds, piece.decode_seconds) > 0
        for k in (0, 1):
            np.testing.assert_array_equal(memory[k], PIXELS[0].transpose(2, 0, 1))
        memory[:] = 0
    again = workers_of(pool)
    assert len(again) == 2
    assert not {worker.pid for worker in again} & {worker.pid for worker in workers}
    # Those that were killed are no zombies either.
    gone = [Path(f"/proc/{worker.pid}") for worker in workers]
    assert waited(lambda: not any(path.exists() for path in gone))
    # A pool that is closed forks no more, whatever is still asked of it.
    pool.close()
    n = len(pool._all)
    piece = pool.load(again[0], row, [str(tmp_path / "x.png")])
    assert "ended each of 9 processes" in str(piece.images[0].error)
    assert len(pool._all) == n


def test_slots_do_not_overlap_and_each_is_used_again(own_server):
    pool = pool_of(own_server, 1, slots=5)
    for _ in range(2):
        slots = [pool.take() for _ in range(5)]
        for k, (memory, _) in enumerate(slots):
            assert memory.shape == (4, 3, SIDE, SIDE)
            memory[:] = k
        assert [set(memory.ravel().tolist()) for memory, _ in slots] == [
            {k} for k in range(5)
        ]
        assert {row for _, row in slots} == {0, 4, 8, 12, 16}
        for _, row in slots:
            pool.give_back(row)
    # The one used last is in the cache.
    assert pool.take()[1] == slots[-1][1]
    pool.close()


def test_a_worker_has_one_thread_a_limit_of_memory_and_ignores_ctrl_c(
    own_server, tmp_path
):
    (tmp_path / "x.png").write_bytes(png(PIXELS[0]))
    pool = pool_of(own_server, 1)
    (worker,) = workers_of(pool)
    for pid in (own_server._process.pid, worker.pid):
        os.kill(pid, signal.SIGINT)
    _, row = pool.take()
    for _ in range(3):
        piece = pool.load(worker, row, [str(tmp_path / "x.png")])
        assert piece.images[0].has_pixels
        assert pool.free() is worker  # it goes on, and is no new one
    environment = Path(f"/proc/{worker.pid}/environ").read_bytes().split(b"\0")
    assert {b"OMP_NUM_THREADS=1", b"OPENBLAS_NUM_THREADS=1"} <= {*environment}
    lines = Path(f"/proc/{worker.pid}/limits").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("Max address space"))
    pages = int(Path(f"/proc/{worker.pid}/statm").read_text().split()[0])
    beyond = int(line.split()[3]) - serving.MEMORY_LIMIT
    # What it had at its start, shared libraries and all, does not count.
    assert 0 < beyond <= pages * os.sysconf("SC_PAGE_SIZE")
    pool.close()


def test_reading_has_no_deadline_and_decoding_has_one():
    seen: list[float] = []
    content = png(PIXELS[0])

    def left() -> float:
        return signal.getitimer(signal.ITIMER_REAL)[0]

    def read(path: str) -> bytes:
        seen.append(left())
        if path == "gone":
            raise ImageError("read", "no such file")
        return content

    class Watched(Preprocessing):
        def cropped(self, image):
            seen.append(left())
            return super().cropped(image)

    setup = serving.Setup(read, Watched(None, SIDE), Decoding(), loader.KnownDigests())
    rows = np.empty((5, 3, SIDE, SIDE), np.uint8)
    items: list[Any] = ["a", "b", content, ImageError("read", "as it came"), "gone"]
    try:
        piece = serving._load(setup, items, rows)
        assert left() == 0  # nor while it waits for the next images
    finally:
        signal.alarm(0)
    within = [seconds > serving.SECONDS_PER_IMAGE - 5 for seconds in seen]
    assert within == [False, True, False, True, True, False]
    assert [seconds for seconds in seen if seconds < 50] == [0.0] * 3
    assert [str(image.error) for image in piece.images[3:]] == [
        "as it came",
        "no such file",
    ]


def test_a_server_that_is_still_importing_ends_at_once():
    made = WorkerServer(with_torch=True)
    start = time.monotonic()
    made.close()
    # It takes more than a second to import torch.
    assert time.monotonic() - start < 1
    assert made._process.returncode is not None


def test_a_server_that_is_gone_is_said_and_leaves_no_descriptor(monkeypatch):
    def descriptors() -> int:
        return len([*Path("/proc/self/fd").iterdir()])

    before = descriptors()
    monkeypatch.setattr(processes.sys, "executable", "/no/such/program")
    with pytest.raises(OSError, match="no/such/program"):
        WorkerServer(with_torch=False)
    monkeypatch.setattr(processes.sys, "executable", "/bin/false")
    made, memory = WorkerServer(with_torch=False), SharedMemory((1, 3, 4, 4))
    made._process.wait()
    setup = serving.Setup(read_or_end, SQUARE, Decoding(), loader.KnownDigests())
    with pytest.raises(BrokenPipeError):
        made.fork(setup, memory)
    made.close()
    memory.close()
    del memory  # the array has the file open until it is freed
    assert descriptors() == before
