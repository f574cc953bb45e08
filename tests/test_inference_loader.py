"""Worker processes load images as threads do, whatever becomes of them."""

import io
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from ending import read_or_end
from extracting import run
from PIL import Image

from featpipe import images
from featpipe.backbones.preprocessing import Preprocessing
from featpipe.inference import Progress, loader, processes, serving
from featpipe.inference.loader import Loader, worker_server
from featpipe.inference.loading import Loaded
from featpipe.inference.pixels import Decoding, pixels_of
from featpipe.inference.processes import SharedMemory, Worker, WorkerPool, WorkerServer

SQUARE = Preprocessing(resize=40, crop=32)


@pytest.fixture
def eager(monkeypatch):
    """Have processes for any number of workers, from the first image on."""
    monkeypatch.setattr(loader, "_MOST_THREADS", 0)
    monkeypatch.setattr(loader, "_FEW_IMAGES", 1)


@pytest.fixture
def patient(eager, monkeypatch):
    """Have no image loaded by a thread: each waits for a process that is free."""
    free = WorkerPool.free

    def waiting(self: WorkerPool) -> Worker:
        while (worker := free(self)) is None:
            time.sleep(0.01)
        return worker

    monkeypatch.setattr(WorkerPool, "free", waiting)


@pytest.fixture(scope="module")
def server() -> Iterator[WorkerServer]:
    made = WorkerServer(with_torch=True)
    yield made
    made.close()


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def drawn(width: int, height: int, mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(width).integers(0, 255, (9, 9, 4), np.uint8)
    return Image.fromarray(noise, "RGBA").resize((width, height)).convert(mode)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Write files of many kinds, large and small, whole and broken."""
    turn = Image.Exif()
    turn[0x0112] = 6
    sizes = [(300, 200), (640, 481), (41, 97), (20, 20), (64, 32)]
    files = [saved(drawn(*size), "JPEG") for size in sizes]
    files += [saved(drawn(*size, "RGBA"), "PNG") for size in sizes]
    files += [saved(drawn(*size, "L"), "WEBP") for size in sizes]
    files += [saved(drawn(*size), "JPEG", exif=turn) for size in sizes]
    files += [
        b"",
        b"some text",
        files[0][:2000],
        files[0][:-2] + b"\0",
        b"\xff\xd8" * 9,
    ]
    path = tmp_path / "files"
    path.mkdir()
    for k, content in enumerate(files):
        (path / f"{k:02}.jpg").write_bytes(content)
    (path / "99.jpg").symlink_to("nowhere")
    return path


def loader_of(image_set, server=None, *, exact=True, **changes) -> Loader:
    return Loader(
        image_set,
        8,
        lambda: SQUARE,
        **{
            "n_workers": 2,
            "in_lanes": 2,
            "decoding": Decoding(exact),
            "progress": Progress(),
            "server": server,
            **changes,
        },
    )


def all_of(made: Loader, n_images: int) -> tuple[list[Loaded], np.ndarray]:
    """Load images in batches of 8; return what became of each, and the pixels."""
    loaded, pixels = [], []
    for first in range(0, n_images, 8):
        batch = made.submit(range(first, min(first + 8, n_images)))
        loaded += batch.images()
        pixels.append(batch.memory()[0][: len(batch.positions)].copy())
        batch.release()
    return loaded, np.concatenate(pixels)


def facts_of(loaded: list[Loaded]) -> list[tuple]:
    return [
        (one.sha256, one.has_pixels, one.notes, one.error and one.error.args)
        for one in loaded
    ]


@pytest.mark.parametrize("exact", [True, False])
def test_processes_load_what_threads_load(folder, server, patient, exact):
    image_set = images.scan(folder)
    n = len(image_set)
    alone, apart = (
        loader_of(image_set, exact=exact),
        loader_of(image_set, server, exact=exact),
    )
    one, pixels = all_of(alone, n)
    two, others = all_of(apart, n)
    assert facts_of(one) == facts_of(two)
    good = [k for k, image in enumerate(one) if image.has_pixels]
    assert 15 < len(good) < n
    assert np.array_equal(pixels[good], others[good])
    for k in good:
        content = image_set.read(k)
        assert np.array_equal(pixels[k], pixels_of(content, SQUARE, Decoding(exact))[0])
    alone.close()
    apart.close()


def test_images_in_memory_are_sent_to_processes(server, patient):
    pictures = [np.asarray(drawn(50 + k, 60)) for k in range(9)]
    image_set = images.from_arrays(pictures)
    made = loader_of(image_set, server)
    loaded, pixels = all_of(made, 9)
    made.close()
    assert all(image.has_pixels for image in loaded)
    for k, picture in enumerate(pictures):
        assert np.array_equal(pixels[k], SQUARE.apply(Image.fromarray(picture)))


def test_a_known_image_is_read_and_not_decoded(folder, server, patient):
    image_set = images.scan(folder)
    digest = all_of(loader_of(image_set), 8)[0][3].sha256
    for where in (None, server):
        made = loader_of(image_set, where, known=[digest])
        loaded, _ = all_of(made, 8)
        made.close()
        assert [k for k, image in enumerate(loaded) if not image.has_pixels] == [3]
        assert loaded[3] == Loaded(digest)


def pool(server: WorkerServer, read, **changes) -> WorkerPool:
    setup = serving.Setup(read, SQUARE, Decoding(), loader.KnownDigests())
    return WorkerPool(server, 2, 2, 8, setup)


def load(made: WorkerPool, items: list) -> list[Loaded]:
    while (worker := made.free()) is None:
        time.sleep(0.01)
    memory, row = made.take()
    images = made.load(worker, row, items).images
    for k, image in enumerate(images):
        if image.has_pixels:
            expected, _ = pixels_of(read_or_end(items[k]), SQUARE, Decoding())
            assert np.array_equal(memory[k], expected)
    made.give_back(row)
    return images


def test_an_image_that_ends_its_process_is_one_failure(folder, own_server):
    made = pool(own_server, read_or_end)
    for name in ("deadly", "endless"):
        items = [str(folder / f"{k:02}.jpg") for k in range(3)]
        loaded = load(made, [*items, name, *items])
        assert [image.has_pixels for image in loaded] == [True] * 3 + [False] + [
            True
        ] * 3
        assert "ended each of 9 processes" in str(loaded[3].error)
        assert loaded[3].error.stage == "decode"
    assert all(image.has_pixels for image in load(made, items))
    made.close()


def test_an_image_that_hangs_says_for_how_long(folder, own_server, monkeypatch):
    monkeypatch.setattr(processes, "SECONDS_PER_IMAGE", 1)
    made = pool(own_server, read_or_end)
    load(made, [str(folder / "00.jpg")])
    start = time.perf_counter()
    loaded = load(made, [str(folder / "00.jpg"), "endless"])
    # Once beside the other image, once alone; not once more.
    assert time.perf_counter() - start < 2.9
    assert [image.has_pixels for image in loaded] == [True, False]
    assert "decoding it took over 1 s" in str(loaded[1].error)
    made.close()


def test_a_worker_ends_itself_when_an_image_takes_too_long():
    handled = serving.signal.getsignal(signal.SIGALRM)
    assert handled == signal.SIG_DFL
    setup = serving.Setup(lambda path: b"", SQUARE, Decoding(), loader.KnownDigests())
    try:
        serving._read(setup, "x")
        assert signal.alarm(0) == serving.SECONDS_PER_IMAGE
    finally:
        signal.alarm(0)


def test_an_image_that_takes_too_much_memory_fails_alone(folder, own_server):
    made = pool(own_server, read_or_end)
    items = [str(folder / "00.jpg"), "greedy", str(folder / "01.jpg")]
    loaded = load(made, items)
    made.close()
    assert [image.has_pixels for image in loaded] == [True, False, True]


def test_where_no_process_can_be_started_threads_load(folder, eager, monkeypatch):
    image_set = images.scan(folder)
    expected = facts_of(all_of(loader_of(image_set), 8)[0])
    for executable in ("/bin/false", "/no/such/program"):
        monkeypatch.setattr(processes.sys, "executable", executable)
        with worker_server(2, 100, exact=True) as server:
            made = loader_of(image_set, server)
            assert facts_of(all_of(made, 8)[0]) == expected
            made.close()


def test_few_images_or_workers_start_no_process():
    for n_workers, n_images in ((2, 10**6), (16, 100)):
        with worker_server(n_workers, n_images, exact=True) as server:
            assert server is None


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def test_processes_end_with_the_loader_and_the_server(folder, eager, patient):
    with worker_server(2, 100, exact=True) as server:
        made = loader_of(images.scan(folder), server)
        all_of(made, 8)
        while made._processes._coming:
            made._processes.free()
        pids = [worker.pid for worker in made._processes._all]
        assert len(pids) == 2
        assert all(map(is_there, pids))
        made.close()
        own = server._process.pid
        assert is_there(own)
    pids.append(own)
    until = time.monotonic() + 5
    while any(map(is_there, pids)) and time.monotonic() < until:
        time.sleep(0.01)
    assert not any(map(is_there, pids))


def test_processes_end_when_the_program_is_killed(tmp_path):
    program = (
        "import time\n"
        "from featpipe.inference.processes import *\n"
        "server = WorkerServer(with_torch=False)\n"
        "memory = SharedMemory((1, 3, 8, 8))\n"
        "worker = server.fork(None, memory)\n"
        "assert worker.is_ready(wait=True)\n"
        "print(server._process.pid, worker.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert all(map(is_there, pids))
        process.kill()
    until = time.monotonic() + 5
    while any(map(is_there, pids)) and time.monotonic() < until:
        time.sleep(0.01)
    assert len(pids) == 2
    assert not any(map(is_there, pids))


def test_shared_memory_is_none_of_dev_shm():
    memory = SharedMemory((100_000, 3, 224, 224))  # 15 GB, of which one row is used
    memory.pixels[99_999] = 7
    target = Path(f"/proc/self/fd/{memory.descriptor}").readlink()
    assert not target.is_relative_to("/dev/shm")
    memory.close()
    assert memory.pixels[99_999].min() == 7


def test_threads_that_decode_leave_torch_the_others(folder):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    made = loader_of(images.scan(folder), exact=False, n_workers=1)
    try:
        all_of(made, 8)
        assert made._threads.submit(torch.get_num_threads).result() == 1
        with ThreadPoolExecutor(1) as another:
            assert another.submit(torch.get_num_threads).result() == 3
        assert torch.get_num_threads() == 3
    finally:
        made.close()
        torch.set_num_threads(before)


def test_codes_do_not_depend_on_who_loads(photos, tmp_path, eager, monkeypatch):
    one = run(photos, tmp_path / "1.h5", workers=1)[0]
    with monkeypatch.context() as patch:
        free = WorkerPool.free
        patch.setattr(WorkerPool, "free", lambda self: until_there(self, free))
        patch.setattr(Loader, "_load_here", None)
        sixteen = run(photos, tmp_path / "16.h5", workers=16)[0]
    assert one.path.read_bytes() == sixteen.path.read_bytes()


def until_there(made: WorkerPool, free) -> Worker:
    while (worker := free(made)) is None:
        time.sleep(0.01)
    return worker


def test_workers_killed_at_random_change_no_byte(tmp_path, draw, patient, monkeypatch):
    for k in range(400):
        draw(tmp_path / "photos" / f"{k:03}.png", k)
    whole, _ = run(tmp_path / "photos", tmp_path / "whole.h5", batch_size=8)
    pools: list[WorkerPool] = []
    make = WorkerPool.__init__

    def made(self, *args):
        make(self, *args)
        pools.append(self)

    monkeypatch.setattr(WorkerPool, "__init__", made)
    slowly = WorkerPool.load

    def load_slowly(self, *args):
        time.sleep(0.2)
        return slowly(self, *args)

    monkeypatch.setattr(WorkerPool, "load", load_slowly)
    done = threading.Event()
    killed = []

    def kill() -> None:
        pick = random.Random(0)
        while not done.wait(0.05) and len(killed) < 50:
            alive = [w.pid for p in pools for w in list(p._all) if w.pid]
            alive = [pid for pid in alive if is_there(pid)]
            if alive:
                killed.append(pick.choice(alive))
                os.kill(killed[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        killed_too, _ = run(
            tmp_path / "photos", tmp_path / "killed.h5", batch_size=8, workers=4
        )
    finally:
        done.set()
        killer.join()
    assert len(killed) == 50
    assert killed_too.path.read_bytes() == whole.path.read_bytes()
