"""Processors, GPUs and seconds: what a worker may use, and what progress says."""

import os
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featpipe import images
from featpipe.backbones import Preprocessing
from featpipe.inference import Machine, Progress, claims, loading, time_loading
from featpipe.inference.lanes import InferenceWorkers, lane_threads, with_threads
from featpipe.inference.pixels import Decoding
from featpipe.inference.progress import STAGES

quick = settings(deadline=None, max_examples=25)


@pytest.fixture
def locks(tmp_path, monkeypatch) -> Iterator[Path]:
    """Return the folder of the locks, in a temporary folder of its own."""
    monkeypatch.setattr(claims.tempfile, "tempdir", str(tmp_path))
    claims.claim_gpu.cache_clear()
    yield tmp_path / f"featpipe-{os.getuid()}"
    claims.claim_gpu.cache_clear()


class Claimant:
    """A process that has taken a GPU, and holds it until it ends."""

    def __init__(self, n_devices: int) -> None:
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.write(writer, bytes([claims.claim_gpu(n_devices)]))
                time.sleep(60)
            finally:
                os._exit(1)
        os.close(writer)
        self.gpu = os.read(reader, 1)[0]
        os.close(reader)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def test_each_process_has_a_gpu_of_its_own_until_it_is_killed(locks):
    alive = [Claimant(3) for _ in range(3)]
    try:
        assert [one.gpu for one in alive] == [0, 1, 2]
        alive.append(Claimant(3))
        # More processes than GPUs: the first one is shared.
        assert alive[3].gpu == 0
        alive.pop(1).kill()
        alive.append(Claimant(3))
        assert alive[-1].gpu == 1
    finally:
        for one in alive:
            one.kill()


def test_the_locks_are_nobody_elses_and_one_stays_open(locks):
    others = [Claimant(4) for _ in range(3)]
    try:
        before = len([*Path("/proc/self/fd").iterdir()])
        assert claims.claim_gpu(4) == 3
        # Those tried in vain are closed again.
        assert len([*Path("/proc/self/fd").iterdir()]) == before + 1
    finally:
        for one in others:
            one.kill()
    assert stat.S_IMODE(locks.stat().st_mode) & 0o077 == 0
    files = sorted(locks.iterdir())
    assert [file.name for file in files] == [f"gpu-{k}.lock" for k in range(4)]
    assert {stat.S_IMODE(file.stat().st_mode) & 0o077 for file in files} == {0}


def test_nothing_is_locked_where_there_is_nothing_to_share(locks, monkeypatch):
    assert claims.claim_gpu(1) == 0
    claims.claim_gpu.cache_clear()
    assert claims.claim_gpu(0) == 0
    monkeypatch.setattr(claims, "fcntl", None)  # as on Windows
    claims.claim_gpu.cache_clear()
    assert claims.claim_gpu(8) == 0
    assert not locks.exists()


@quick
@given(
    st.integers(1, 256),
    st.integers(1, 32),
    st.none() | st.integers(1, 64),
)
def test_a_share_is_the_part_of_the_processors_or_what_a_cluster_gave(
    n_processors, n_here, n_threads
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: n_processors)
        assert Machine().n_workers == n_processors
        share = Machine().share("cpu", n_here, n_threads)
        # A cluster's word is the least, and each has one at least.
        part = n_processors // n_here
        wanted = [part, 1] if n_threads is None else [part, n_threads]
        assert share.n_workers == max(wanted)
        assert Machine(workers=7).share("cpu", n_here, n_threads).n_workers == 7
        patch.setattr(os, "cpu_count", lambda: None)  # some systems do not tell
        assert Machine().n_workers == 1
        assert Machine().share("cpu", n_here).n_workers == 1


def test_a_worker_takes_the_gpu_that_is_named_or_else_a_free_one(locks, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    others = [Claimant(4) for _ in range(2)]
    try:
        assert Machine("cuda:1", 9).share("cuda", 2).device == "cuda:1"
        for device in ("auto", "cuda"):
            share = Machine(device, 9).share("cuda", 2)
            assert (share.device, share.batch_size) == ("cuda:2", 9)
    finally:
        for one in others:
            one.kill()
    assert Machine("auto").share("mps", 2).device == "mps"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    claims.claim_gpu.cache_clear()
    # A scheduler that shows one GPU to each has already divided them.
    assert Machine("cuda").share("cuda", 2).device == "cuda"


@pytest.mark.parametrize(
    ("name", "largest"), [("batch_size", 65_536), ("workers", 1024)]
)
def test_a_machine_takes_numbers_up_to_its_bounds(name, largest):
    for value in (1, largest):
        assert getattr(Machine(**{name: value}), name) == value
    for value in (0, largest + 1):
        with pytest.raises(ValueError, match=f"{name}={value} has to be"):
            Machine(**{name: value})


@quick
@given(
    st.integers(0, 99),
    st.integers(0, 99),
    st.integers(0, 99),
    st.integers(0, 400),
    st.floats(1, 1e4),
    st.none() | st.floats(0, 1),
)
def test_the_time_left_is_that_of_the_rest_at_the_rate_so_far(
    computed, kept, failed, n_images, since, begun
):
    now = time.perf_counter()
    progress = Progress(n_images, computed, kept, failed, started=now - since)
    if begun is not None:
        progress.begun = now - since * begun
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.perf_counter", lambda: now)
        busy = max(since if begun is None else since * begun, 1e-9)
        assert progress.elapsed == pytest.approx(since)
        assert progress.rate == pytest.approx(computed / busy, rel=1e-5)
        rest = max(n_images - computed - kept - failed, 0)
        if computed:
            assert progress.left == pytest.approx(rest * busy / computed, rel=1e-5)
        else:
            assert progress.left is None


def test_the_clock_starts_once_and_an_error_stops_no_clock():
    progress = Progress()
    progress.begin()
    begun = progress.begun
    progress.begin()
    assert progress.begun == begun
    with suppress(KeyError), progress.timing("write"):
        time.sleep(0.002)
        raise KeyError
    assert progress.seconds["write"] >= 0.002
    assert {stage: progress.seconds[stage] for stage in STAGES[:3]} == dict.fromkeys(
        STAGES[:3], 0.0
    )


def test_many_threads_lose_no_second_and_repeat_no_message():
    progress = Progress()

    def work() -> None:
        for k in range(200):
            progress.add("decode", 0.25)
            progress.add_message(f"message {k % 3}")

    threads = [Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert progress.seconds["decode"] == 8 * 200 * 0.25
    assert sorted(progress.messages) == [f"message {k}" for k in range(3)]


def test_lanes_have_a_thread_each_at_least_and_leave_the_rest_as_it_was():
    with with_threads(6):
        assert [lane_threads(n) for n in (1, 2, 4, 6, 7, 64)] == [6, 3, 1, 1, 1, 1]
        with suppress(KeyError), with_threads(2):
            assert torch.get_num_threads() == 2
            raise KeyError
        assert torch.get_num_threads() == 6


class Device:
    """What a lane needs of a backbone."""

    device = "cpu"


def test_no_two_lanes_use_one_backbone_and_waiting_batches_are_dropped():
    backbones, busy, done = [Device() for _ in range(3)], set(), []

    def work(backbone: Device, k: int) -> dict[str, np.ndarray]:
        assert backbone not in busy
        busy.add(backbone)
        time.sleep(0.002)
        busy.remove(backbone)
        done.append(k)
        return {"k": np.array(k)}

    lanes = InferenceWorkers(backbones, work)
    futures = [lanes.submit(k) for k in range(30)]
    assert [int(future.result()["k"]) for future in futures[:20]] == [*range(20)]
    more = [lanes.submit(k) for k in range(30, 100)]
    lanes.close()
    # Those that had begun are finished, and the others never begin.
    finished = [f for f in [*futures, *more] if not f.cancelled()]
    assert len(done) == len(finished) < 100
    assert all(future.done() for future in finished)
    assert len(lanes) == 3


class Sundial:
    """A clock that moves only where something is done."""

    def __init__(self, monkeypatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(loading.time, "perf_counter", lambda: self.now)

    def taking(self, seconds, act):
        """Have a function take so long, or as long as a function says."""

        def slow(*args, **kwargs):
            self.now += seconds(*args) if callable(seconds) else seconds
            return act(*args, **kwargs)

        return slow


SQUARE = Preprocessing(None, 4)
PICTURES = images.from_arrays(np.zeros((100, 4, 4, 3), np.uint8))


def test_reading_and_decoding_have_their_own_seconds(monkeypatch):
    dial = Sundial(monkeypatch)
    read = images.ImageSet.read
    decode = loading.pixels.pixels_of

    def broken(self, i):
        raise images.ImageError("read", "no such file")

    monkeypatch.setattr(loading.pixels, "pixels_of", dial.taking(0.5, decode))
    memory = np.empty((4, 3, 4, 4), np.uint8)

    def load(act, n, known=()):
        monkeypatch.setattr(images.ImageSet, "read", dial.taking(3.0, act))
        piece = loading.load(
            [lambda k=k: PICTURES.read(k) for k in range(n)],
            lambda: memory,
            lambda: SQUARE,
            loading.KnownDigests(known),
            Decoding(),
        )
        return piece.read_seconds, piece.decode_seconds

    assert load(read, 4) == (12.0, 2.0)
    assert load(broken, 2) == (6.0, 0.0)
    digest = loading.hashlib.sha256(read(PICTURES, 0)).digest()
    assert load(read, 4, [digest]) == (12.0, 0.0)  # all have the same content
    # A broken content is read, and decoding it in vain takes time too.
    assert load(lambda self, i: b"no image", 2) == (6.0, 1.0)


def test_the_seconds_of_an_image_leave_out_the_first_which_imports(monkeypatch):
    dial, turns = Sundial(monkeypatch), []

    def seconds(*args) -> float:
        turns.append(args)
        return 0.25 if len(turns) == 1 else 0.01

    read, decode = images.ImageSet.read, loading.pixels.pixels_of
    monkeypatch.setattr(images.ImageSet, "read", dial.taking(seconds, read))
    monkeypatch.setattr(loading.pixels, "pixels_of", dial.taking(0.02, decode))
    times = time_loading(PICTURES, np.arange(100), SQUARE, Decoding())
    assert times == pytest.approx((0.01, 0.02))
    # Forty-eight of them, from the first to the last.
    positions = [i for _, i in turns]
    assert len(set(positions)) == len(positions) == 48
    assert {0, 99} <= set(positions)
    turns.clear()
    # A single image counts, for there is no other.
    assert time_loading(PICTURES, np.array([7]), SQUARE, Decoding()) == pytest.approx(
        (0.25, 0.02)
    )
    assert turns[0][1] == 7


def test_slow_images_are_measured_for_two_seconds_only(monkeypatch):
    dial, turns = Sundial(monkeypatch), []

    def seconds(*args) -> float:
        turns.append(args[1])
        return 0.75

    read = images.ImageSet.read
    monkeypatch.setattr(images.ImageSet, "read", dial.taking(seconds, read))
    positions = np.arange(50, 100)
    times = time_loading(PICTURES, positions, SQUARE, Decoding())
    assert times == pytest.approx((0.75, 0.0))
    assert len(turns) == 3
    assert set(turns) <= set(positions.tolist())
    again = list(turns)
    turns.clear()
    # Two plans of a folder measure the same images.
    time_loading(PICTURES, positions, SQUARE, Decoding())
    assert turns == again
