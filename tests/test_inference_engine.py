"""Batches go through a network that gives the pixels back, so every code is known."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from featpipe.backbones import Preprocessing
from featpipe.images import ImageError, ImageSet
from featpipe.inference import Progress, from_items, loading
from featpipe.inference.engine import Engine, placed
from featpipe.inference.pixels import Decoding
from featpipe.inference.processes import WorkerPool, WorkerServer

quick = settings(deadline=None, max_examples=12)

SIDE = 6
PIXELS = np.random.default_rng(0).integers(0, 256, (24, SIDE, SIDE, 3), np.uint8)
ROWS = PIXELS.transpose(0, 3, 1, 2).reshape(len(PIXELS), -1).astype(np.float32)


def file_of(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


IMAGES = from_items([(f"{k}.png", file_of(pixels)) for k, pixels in enumerate(PIXELS)])


class Mirror:
    """A backbone whose code is the image itself, as numbers in a row."""

    device = "cpu"
    preprocessing = Preprocessing(None, SIDE)

    def __init__(self, before: Callable[[int], object] = lambda n: None) -> None:
        self.before = before

    def __call__(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        self.before(len(batch))
        return {"pixels": batch.flatten(1).float()}


@dataclass(frozen=True)
class Slow:
    """A reader that takes its time with some images."""

    reader: Any
    seconds: dict[str, float]

    def read(self, path: str) -> bytes:
        time.sleep(self.seconds.get(path, 0.0))
        content: bytes = self.reader.read(path)
        return content


def engine_of(
    *backbones: Any, image_set: ImageSet = IMAGES, batch_size: int = 4, **changes: Any
) -> Engine:
    options = {"decoding": Decoding(), "hflip": False, "workers": 2}
    options |= {"progress": Progress(), **changes}
    return Engine(image_set, batch_size, lambda: backbones, **options)


def nothing(i: int, sha256: bytes) -> None:
    """Find no code."""


@quick
@given(
    st.lists(st.integers(0, 23), unique=True, min_size=1),
    st.integers(1, 5),
    st.sets(st.integers(0, 23), max_size=3),
    st.integers(1, 3),
)
def test_slow_images_and_slow_batches_change_no_order(order, size, slow, n_lanes):
    reader = Slow(IMAGES.reader, {f"{k}.png": 0.01 for k in slow})
    pauses = iter([0.01, 0.0, 0.005] * 24)
    lanes = [Mirror(lambda n: time.sleep(next(pauses))) for _ in range(n_lanes)]
    engine = engine_of(*lanes, image_set=replace(IMAGES, reader=reader))
    groups = [order[k : k + size] for k in range(0, len(order), size)]
    batches = list(engine.batches(groups, nothing))
    assert [batch.fresh for batch in batches] == groups
    for group, batch in zip(groups, batches, strict=True):
        np.testing.assert_array_equal(batch.codes["pixels"], ROWS[group])


def too_many(limit: int, tried: list[int]) -> Callable[[int], None]:
    """Have no memory for more than so many images."""

    def check(n: int) -> None:
        tried.append(n)
        if n > limit:
            raise torch.OutOfMemoryError

    return check


@quick
@given(
    st.lists(st.integers(0, 23), unique=True, min_size=1).map(sorted),
    st.integers(1, 8),
    st.integers(2, 24),
)
def test_halved_batches_give_each_row_its_code_once(rows, limit, batch_size):
    tried: list[int] = []
    backbone = Mirror(too_many(limit, tried))
    progress = Progress()
    engine = engine_of(backbone, batch_size=batch_size, progress=progress)
    pixels = PIXELS.transpose(0, 3, 1, 2).copy()
    codes = engine.run(backbone, pixels, rows)["pixels"]
    np.testing.assert_array_equal(codes, ROWS[rows])
    # No size that failed is tried again, in this batch or in later ones.
    failed = [n for n in tried if n > limit]
    assert failed == sorted(set(failed), reverse=True)
    assert sum(n for n in tried if n <= limit) == len(rows)
    told = [f"out of memory on cpu: batches are halved, to {n // 2}" for n in failed]
    assert progress.messages == told
    tried.clear()
    engine.run(backbone, pixels, rows)
    assert max(tried) <= limit


def test_a_lane_that_fails_later_does_not_raise_the_size_again():
    tried: list[int] = []
    pixels = PIXELS.transpose(0, 3, 1, 2).copy()
    small = Mirror(too_many(1, tried))

    def fail_after_the_other(n: int) -> None:
        # Meanwhile another lane has found that only single images fit.
        if n == 8:
            engine.run(small, pixels, range(8))
            tried.clear()
            raise torch.OutOfMemoryError
        tried.append(n)

    engine = engine_of(small, batch_size=8)
    engine.run(Mirror(fail_after_the_other), pixels, range(8))
    assert tried == [1] * 8


def live_threads() -> set[str]:
    names = {thread.name.partition("_")[0] for thread in threading.enumerate()}
    return names & {"load", "network"}


def wait_for_no_threads() -> None:
    until = time.monotonic() + 5
    while live_threads() and time.monotonic() < until:
        time.sleep(0.005)
    assert live_threads() == set()


def test_no_memory_for_a_single_image_is_said_and_ends_all_threads():
    engine = engine_of(Mirror(too_many(0, [])))
    with pytest.raises(torch.OutOfMemoryError, match="cpu has no memory for a single"):
        list(engine.batches([[0, 1], [2, 3]], nothing))
    wait_for_no_threads()


def test_freed_blocks_of_a_gpu_are_given_back_when_batches_are_halved(monkeypatch):
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))
    monkeypatch.setattr(
        "featpipe.inference.engine.placed",
        lambda pixels, rows, backbone: torch.from_numpy(pixels[list(rows)]),
    )
    pixels = PIXELS.transpose(0, 3, 1, 2).copy()
    for device, times in (("cpu", 0), ("cuda:0", 2)):
        backbone = Mirror(too_many(2, []))
        backbone.device = device
        engine_of(backbone, batch_size=8).run(backbone, pixels, range(8))
        assert len(emptied) == times


class Maps(Mirror):
    """A backbone that keeps where everything is, in float16."""

    scale = 1.0

    def __call__(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return {
            "map": (batch.half() * self.scale),
            "corner": batch[:, :, 0, 0].float(),
        }


def test_mirror_images_turn_maps_back_and_average_vectors():
    pixels = PIXELS.transpose(0, 3, 1, 2).copy()
    codes = engine_of(Maps(), hflip=True).run(Maps(), pixels, [1, 5])
    # The mirror image's map, turned back, is that of the image.
    np.testing.assert_array_equal(codes["map"], pixels[[1, 5]].astype(np.float16))
    left, right = (pixels[[1, 5], :, 0, at].astype(float) for at in (0, -1))
    np.testing.assert_array_equal(codes["corner"], (left + right) / 2)


def test_the_mean_of_large_float16_maps_does_not_overflow():
    loud = Maps()
    loud.scale = 240.0  # times 255: 61,200, and float16 ends at 65,504
    white = np.full((1, 3, SIDE, SIDE), 255, np.uint8)
    codes = engine_of(loud, hflip=True).run(loud, white, [0])
    assert (codes["map"] == np.float16(61_200)).all()


@quick
@given(st.sets(st.integers(0, 23), min_size=1).map(sorted))
def test_placed_rows_are_those_of_numpy_without_a_copy_where_there_is_no_gap(rows):
    pixels = PIXELS.transpose(0, 3, 1, 2).copy()
    batch = placed(pixels, rows, Mirror()).numpy()
    np.testing.assert_array_equal(batch, pixels[rows])
    has_gap = any(b - a > 1 for a, b in pairwise(rows))
    assert np.shares_memory(batch, pixels) != has_gap


def digests() -> list[bytes]:
    ready = engine_of(Mirror()).batches([range(24)], nothing)
    return [image.sha256 for image in next(ready).images]


def test_images_that_have_codes_are_not_decoded_and_load_no_network(monkeypatch):
    known = digests()
    monkeypatch.setattr(loading.pixels, "pixels_of", None)
    options: dict[str, Any] = {"decoding": Decoding(), "hflip": False, "workers": 2}
    engine = Engine(IMAGES, 4, None, progress=Progress(), **options)  # type: ignore[arg-type]  # None: not called
    found: dict[int, bytes] = {}

    def find(i: int, sha256: bytes) -> str:
        found[i] = sha256
        return f"row {i}"

    groups = [range(0, 4), range(4, 6)]
    batches = list(engine.batches(groups, find, known))
    assert [batch.codes for batch in batches] == [{}, {}]
    existing = [image.existing for batch in batches for image in batch.images]
    assert existing == [f"row {i}" for i in range(6)]
    assert found == dict(enumerate(known[:6]))


def test_an_image_taken_for_another_by_its_digest_is_no_silent_gap():
    # Its digest is known, and yet nobody has its code.
    engine = engine_of(Mirror())
    with pytest.raises(RuntimeError, match=r"image 2 was taken .*run the same command"):
        list(engine.batches([range(4)], nothing, digests()[2:3]))


def test_an_image_that_must_not_be_computed_is_a_failure_with_its_digest():
    def refuse(i: int, sha256: bytes) -> None:
        if i == 1:
            raise ImageError("network", "not again")

    (batch,) = engine_of(Mirror()).batches([range(3)], refuse)
    assert batch.fresh == [0, 2]
    np.testing.assert_array_equal(batch.codes["pixels"], ROWS[[0, 2]])
    assert str(batch.images[1].failure) == "not again"
    assert batch.images[1].sha256 == digests()[1]


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_a_caller_that_stops_early_leaves_no_thread_and_no_limit(taken):
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        engine = engine_of(Mirror(), Mirror(), workers=3)
        batches = engine.batches(([k] for k in range(24)), nothing)
        for _ in range(taken):
            next(batches)
        batches.close()
        wait_for_no_threads()
        # Nor for threads that begin later.
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 4
    finally:
        torch.set_num_threads(before)


def test_as_many_batches_are_sent_ahead_as_lanes_can_take():
    begun: list[int] = []
    gate = threading.Event()
    lanes = [Mirror(lambda n: begun.append(n) or gate.wait(5)) for _ in range(5)]
    batches = engine_of(*lanes).batches(([k] for k in range(24)), nothing)
    taker = threading.Thread(target=lambda: next(batches))
    taker.start()
    until = time.monotonic() + 5
    while len(begun) < 5 and time.monotonic() < until:
        time.sleep(0.002)
    # One in each lane, all at the same time, and none of them is done.
    assert len(begun) == 5
    gate.set()
    taker.join()
    batches.close()


def test_progress_knows_the_threads_and_when_the_first_image_was_read():
    progress = Progress()
    engine = engine_of(Mirror(), Mirror(), workers=3, progress=progress)
    assert progress.begun is None
    batches = engine.batches([[0], [1]], nothing)
    next(batches)
    begun = progress.begun
    assert progress.started <= begun <= time.perf_counter()
    assert list(batches)
    assert progress.begun == begun
    assert progress.threads == {"read": 3, "decode": 3, "network": 2, "write": 1}
    assert min(progress.seconds[name] for name in ("read", "decode", "network")) > 0


@pytest.fixture(scope="module")
def server() -> Iterator[WorkerServer]:
    made = WorkerServer(with_torch=False)
    yield made
    made.close()


def test_shared_memory_never_runs_out_however_many_batches_there_are(
    server, monkeypatch
):
    free = WorkerPool.free

    def waiting(self: WorkerPool) -> Any:
        while (worker := free(self)) is None:
            time.sleep(0.001)
        return worker

    monkeypatch.setattr(WorkerPool, "free", waiting)
    taken = []
    take = WorkerPool.take
    monkeypatch.setattr(WorkerPool, "take", lambda self: taken.append(1) or take(self))
    engine = engine_of(Mirror(), Mirror(), server=server, batch_size=2)
    # Every second batch was decoded in vain, since it turns out to have a code.
    order = [[k % 24, (k + 5) % 24] for k in range(300)]
    turns = iter(range(600))

    def find(i: int, sha256: bytes) -> str | None:
        return "a row" if next(turns) // 2 % 2 else None

    results: list[Any] = []
    run = threading.Thread(
        target=lambda: results.extend(engine.batches(order, find)), daemon=True
    )
    run.start()
    run.join(30)
    assert len(results) == len(order)
    for k, batch in enumerate(results):
        assert batch.fresh == ([] if k % 2 else order[k])
        if batch.fresh:
            np.testing.assert_array_equal(batch.codes["pixels"], ROWS[order[k]])
    assert len(taken) == len(order)
