"""Processes decode as threads do, whatever becomes of them."""

import io
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from extracting import run
from PIL import Image

from featpipe.backbones.preprocessing import Preprocessing
from featpipe.images import ImageError
from featpipe.inference import decoders, serving
from featpipe.inference.decoders import Decoders
from featpipe.inference.pixels import pixels_of

SQUARE = Preprocessing(resize=40, crop=32)


@pytest.fixture
def eager(monkeypatch):
    """Have processes for any two threads, from the first image on."""
    monkeypatch.setattr(decoders, "_MOST_THREADS", 0)
    monkeypatch.setattr(decoders, "_FEW_IMAGES", 1)


@pytest.fixture
def some(eager, request):
    """Give decoders with two processes that have come."""
    made = Decoders(2, exact=getattr(request, "param", True))
    tried = 0
    while made._free.empty():
        made.pixels_of([b"no image"], SQUARE)
        time.sleep(0.05)
        tried += 1
        assert tried < 2000
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
def jpeg():
    return saved(drawn(300, 200), "JPEG")


@pytest.fixture
def every_image(jpeg):
    """Give files of many kinds, large and small, whole and broken."""
    turn = Image.Exif()
    turn[0x0112] = 6
    sizes = [(300, 200), (640, 481), (41, 97), (20, 20), (64, 32)]
    files = [saved(drawn(*size), "JPEG") for size in sizes]
    files += [saved(drawn(*size, "RGBA"), "PNG") for size in sizes]
    files += [saved(drawn(*size, "L"), "WEBP") for size in sizes]
    files += [saved(drawn(*size), "JPEG", exif=turn) for size in sizes]
    files += [b"", b"some text", jpeg[:2000], jpeg[:-2] + b"\0", b"\xff\xd8" * 9]
    return files


def decoded(content, exact):
    try:
        return pixels_of(content, SQUARE, exact=exact)
    except ImageError as error:
        return error


def told(outcome):
    failed = isinstance(outcome, ImageError)
    return (outcome.stage, outcome.reason) if failed else outcome


def children(process: subprocess.Popen) -> list[int]:
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


@pytest.mark.parametrize("at_once", [1, 8])
@pytest.mark.parametrize("some", [True, False], indirect=True)
def test_processes_give_the_pixels_notes_and_failures_of_threads(
    some, every_image, at_once
):
    assert len(every_image) > 20
    starts = range(0, len(every_image), at_once)
    pieces = [every_image[k : k + at_once] for k in starts]
    with ThreadPoolExecutor(4) as threads:
        done = threads.map(lambda piece: some.pixels_of(piece, SQUARE), pieces)
        found = [outcome for piece in done for outcome in piece]
    failed = 0
    for content, (one, two) in zip(every_image, map(told, found), strict=True):
        pixels, notes = told(decoded(content, exact=some._exact))
        assert np.array_equal(one, pixels)
        assert two == notes
        failed += isinstance(one, str)
    assert 0 < failed < len(every_image)


def test_images_are_tried_again_when_their_process_is_gone(some, jpeg):
    (parent,) = some._parents
    for pid in children(parent):
        os.kill(pid, signal.SIGKILL)
    expected, _ = pixels_of(jpeg, SQUARE, exact=True)
    for _ in range(4):
        for pixels, _ in some.pixels_of([jpeg, jpeg], SQUARE):
            assert np.array_equal(pixels, expected)
    assert len(some._parents) > 1


def test_an_image_that_ends_two_processes_fails_and_no_other(some, jpeg, monkeypatch):
    deadly, expected = saved(drawn(30, 30), "JPEG"), pixels_of(jpeg, SQUARE, exact=True)
    send = serving.send

    def ending(channel, parts):
        """Have the process meet what it does not survive."""
        send(channel, [b"nonsense", *parts[1:]] if deadly in parts else parts)

    monkeypatch.setattr(serving, "send", ending)
    first, failure, last = some.pixels_of([jpeg, deadly, jpeg], SQUARE)
    assert "ended the process that decoded it, twice" in failure.reason
    for pixels, notes in (first, last, *some.pixels_of([jpeg], SQUARE)):
        assert np.array_equal(pixels, expected[0])
        assert notes == expected[1]


def test_where_no_process_can_be_started_threads_decode(eager, jpeg, monkeypatch):
    expected, _ = pixels_of(jpeg, SQUARE, exact=True)
    for executable in ("/bin/false", "/no/such/program"):
        monkeypatch.setattr(decoders.sys, "executable", executable)
        alone = Decoders(2, exact=True)
        for _ in range(3):
            ((pixels, _),) = alone.pixels_of([jpeg], SQUARE)
            assert np.array_equal(pixels, expected)
        alone.close()


def test_processes_end_with_the_decoders(some):
    found = [pid for parent in some._parents for pid in children(parent)]
    assert len(found) == 2
    assert all(map(is_there, found))
    some.close()
    assert not any(map(is_there, found))


def test_threads_that_decode_leave_torch_the_others(jpeg):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    decoders = Decoders(1, exact=False)

    def seen_after_decoding():
        decoders.pixels_of([jpeg], SQUARE)
        return torch.get_num_threads()

    try:
        with ThreadPoolExecutor(1) as one:
            assert one.submit(seen_after_decoding).result() == 1
        with ThreadPoolExecutor(1) as another:
            assert another.submit(torch.get_num_threads).result() == 3
        assert torch.get_num_threads() == 3
    finally:
        decoders.close()
        torch.set_num_threads(before)


def test_few_images_start_no_process(jpeg, monkeypatch):
    monkeypatch.setattr(decoders, "_MOST_THREADS", 0)
    few = Decoders(2, exact=True)
    few.pixels_of([jpeg], SQUARE)
    assert not few._parents


def test_codes_do_not_depend_on_who_decodes(photos, tmp_path, eager, monkeypatch):
    one = run(photos, tmp_path / "1.h5", workers=1)[0]
    taken = Decoders._taken

    def patient(self, count):
        while (process := taken(self, count)) is None:
            time.sleep(0.05)
        return process

    monkeypatch.setattr(Decoders, "_taken", patient)
    monkeypatch.setattr(decoders, "pixels_of", None)
    two = run(photos, tmp_path / "2.h5", workers=2)[0]
    assert one.path.read_bytes() == two.path.read_bytes()
