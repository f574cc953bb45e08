"""What makes extraction fast changes no codes; what it says of its pace is true."""

import io
import time

import numpy as np
import pytest
import torch
from extracting import run
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from predictor_models import SMALL

import featpipe
from featpipe import codes, files, images
from featpipe.backbones.preprocessing import Preprocessing
from featpipe.cli.progress import pace
from featpipe.extraction.parts import Parts
from featpipe.inference import Machine, Progress, Recipe, pixels
from featpipe.inference.engine import Engine
from featpipe.inference.lanes import InferenceWorkers
from featpipe.inference.network import Network
from featpipe.inference.pixels import Decoding, pixels_of


@pytest.fixture
def large(tmp_path):
    """Return a folder of 5 smooth JPEGs of 480 x 360 px, fit to be decoded smaller."""
    y, x = np.mgrid[0:360, 0:480]
    for k in range(5):
        channels = [127 + 120 * np.sin(x / (20 + k) + y / s) for s in (31, 43, 59)]
        image = Image.fromarray(np.stack(channels, -1).astype(np.uint8))
        path = tmp_path / "large" / f"{k}.jpg"
        path.parent.mkdir(exist_ok=True)
        image.save(path, quality=95)
    return tmp_path / "large"


def cosines(one: codes.Codes, two: codes.Codes) -> np.ndarray:
    a, b = one.arrays("penultimate")[0], two.arrays("penultimate")[0]
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_one_lane_and_several_give_the_same_bytes(photos, tmp_path):
    items = []
    before = torch.get_num_threads()
    try:
        for n_threads in (1, 3):
            torch.set_num_threads(n_threads)
            path = tmp_path / f"{n_threads}.h5"
            items.append(run(photos, path, batch_size=2)[0].path.read_bytes())
            assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)
    assert items[0] == items[1]


def test_lanes_share_the_threads_and_give_them_back():
    before = torch.get_num_threads()
    network = Network(Recipe("mini", "none"), Machine("cpu"))
    torch.set_num_threads(4)
    try:
        backbones = network.lanes(["penultimate"], "fp32")
        assert len(backbones) == 4
        lanes = InferenceWorkers(
            backbones[:2], lambda *_: {"n": torch.get_num_threads()}
        )
        seen = [lanes.submit([]).result()["n"] for _ in range(4)]
        lanes.close()
        assert seen == [2] * 4
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("side", "size"), [(224, 4), (64, 32), (512, 1), (299, 2)])
def test_a_batch_fits_the_cache_of_a_processor(side, size):
    assert Network(Recipe("mini"), Machine("cpu")).batch_size(side) == size
    assert Network(Recipe("mini"), Machine("cpu", 7)).batch_size(side) == 7


def test_exact_decoding_is_that_of_pillow_to_the_bit(large):
    preprocessing = Preprocessing(resize=64, crop=48)
    content = (large / "0.jpg").read_bytes()
    pixels, _ = pixels_of(content, preprocessing, Decoding())
    resized = Image.open(io.BytesIO(content)).resize(
        (85, 64), Image.Resampling.BILINEAR
    )
    expected = np.asarray(resized.crop((18, 8, 66, 56)))
    assert np.array_equal(pixels, expected.transpose(2, 0, 1))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_scaled_decoding_resizes_as_pillow_does_to_one_grey_level(large, interpolation):
    preprocessing = Preprocessing(40, 32, interpolation=interpolation)
    content = (large / "0.jpg").read_bytes()
    pixels, _ = pixels_of(content, preprocessing, Decoding(exact=False))
    half = images.decode(content, target=40).image
    assert half.size == (240, 180)
    expected = preprocessing.apply(half)
    assert pixels.shape == (3, 32, 32)
    assert np.abs(pixels.astype(int) - expected).max() <= 1


@given(
    st.integers(380, 420),
    st.integers(380, 420),
    st.sampled_from([1, 1, 3, 6]),
    st.sampled_from(["bilinear", "bicubic", "lanczos"]),
)
@settings(max_examples=40, deadline=None)
def test_scaled_decoding_shifts_no_picture_whatever_its_size(
    width, height, turn, interpolation
):
    y, x = np.mgrid[0:height, 0:width]
    image = Image.fromarray((255 * (x / width + y / height) / 2).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = turn
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=100, exif=exif)
    preprocessing = Preprocessing(31, 30, interpolation=interpolation)
    exact, scaled = (
        pixels_of(file.getvalue(), preprocessing, Decoding(exact))[0].astype(float)
        for exact in (True, False)
    )
    decoded = images.decode(file.getvalue(), target=31)
    assert decoded.full == images.decode(file.getvalue()).image.size
    scale = 4 if turn == 1 or width % 8 == height % 8 == 0 else 1
    assert decoded.extent == (decoded.full[0] / scale, decoded.full[1] / scale)
    # A shift of a quarter of a pixel, such as taking 96 rows for 95.25 does at the far
    # end, is a whole grey level there.
    assert np.abs((exact - scaled).mean(axis=(0, 2))).max() < 0.6
    assert np.abs((exact - scaled).mean(axis=(0, 1))).max() < 0.6


def test_scaled_decoding_leaves_alone_what_is_not_resized(large):
    content = (large / "0.jpg").read_bytes()
    whole = Preprocessing(resize=None, crop=32)
    exact, scaled = (
        pixels_of(content, whole, Decoding(exact))[0] for exact in (True, False)
    )
    assert np.array_equal(exact, scaled)


def test_scaled_codes_are_close_to_exact_ones_and_recorded(large, tmp_path):
    exact, _ = run(large, tmp_path / "e.h5")
    scaled, _ = run(large, tmp_path / "s.h5", decoding="scaled")
    assert exact.provenance["decoding"]["mode"] == "exact"
    assert scaled.provenance["decoding"]["mode"] == "scaled"
    assert scaled.path.read_bytes() != exact.path.read_bytes()
    assert cosines(exact, scaled).min() > 0.999


def test_decoding_auto_is_that_of_the_file_and_another_is_refused(large, tmp_path):
    path = tmp_path / "s.h5"
    run(large, path, decoding="scaled")
    assert run(large, path)[1].computed == 0
    with pytest.raises(featpipe.CodesError, match=r"decoding\.mode = 'scaled'"):
        run(large, path, decoding="exact")
    (large / "0.jpg").rename(large / "9.jpg")
    (large / "1.jpg").write_bytes((large / "2.jpg").read_bytes() + b"\0")
    file, progress = run(large, path)
    assert (progress.computed, file.provenance["decoding"]["mode"]) == (1, "scaled")
    with pytest.raises(ValueError, match="unknown decoding 'some'; use auto, exact"):
        run(large, path, decoding="some")


def test_bf16_may_decode_exactly_and_stays_close(large, tmp_path):
    fp32, _ = run(large, tmp_path / "a.h5")
    bf16, _ = run(large, tmp_path / "b.h5", precision="bf16", decoding="exact")
    assert bf16.provenance["decoding"]["mode"] == "exact"
    assert cosines(fp32, bf16).min() > 0.999


def test_a_model_of_scaled_codes_decodes_scaled(large, tmp_path):
    (large / "b").mkdir()
    for k in (3, 4):
        (large / f"{k}.jpg").rename(large / "b" / f"{k}.jpg")
    (large / "a").mkdir()
    for k in range(3):
        (large / f"{k}.jpg").rename(large / "a" / f"{k}.jpg")
    small = {**SMALL, "decoding": "scaled"}
    file = featpipe.extract(large, tmp_path / "s.h5", **small)
    predictor = featpipe.fit(file, C=1.0)
    np.testing.assert_array_equal(
        predictor.stream.whole(images.scan(large)), file.arrays("penultimate")[0]
    )


def test_the_rate_and_the_time_left_are_of_the_images_that_cost_time():
    now = time.perf_counter()
    progress = Progress(n_images=60_100, computed=50, kept=60_000, started=now - 100)
    progress.begun = now - 10
    assert progress.rate == pytest.approx(5, rel=0.01)
    assert progress.left == pytest.approx(10, rel=0.01)
    assert Progress(n_images=5, kept=2).left is None


def test_the_stage_whose_threads_are_busiest_holds_back():
    progress = Progress(n_images=20, computed=10, begun=time.perf_counter() - 100)
    progress.seconds |= {"read": 10, "decode": 150, "network": 90, "write": 20}
    progress.threads |= {"read": 2, "decode": 2, "network": 1}
    assert progress.bottleneck == "network"
    progress.threads["decode"] = 1
    assert progress.bottleneck == "decode"
    assert pace(progress) == "0.1 images/s, 1 min 40 s left, held back by decode"


def test_what_is_slow_is_what_holds_back(photos, tmp_path, monkeypatch):
    def slowly(act):
        def slow(*args, **kwargs):
            time.sleep(0.1)
            return act(*args, **kwargs)

        return slow

    for owner, name, stage in (
        (Engine, "_forward", "network"),
        (pixels, "pixels_of", "decode"),
        (images.ImageSet, "read", "read"),
        (Parts, "save", "write"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, slowly(getattr(owner, name)))
            _, progress = run(photos, tmp_path / f"{stage}.h5", batch_size=6, workers=1)
        assert progress.bottleneck == stage


def test_a_saved_file_is_what_reading_it_gives(photos, tmp_path, monkeypatch):
    file, _ = run(photos, tmp_path / "a.h5")
    arrays = {spec: file.rows(spec, 0, 6) for spec in file.depths}
    saved = codes.save(tmp_path / "b.h5", arrays, file.tables)
    again = codes.read(tmp_path / "b.h5")
    assert (saved.stamp, saved.shapes) == (again.stamp, again.shapes)
    assert (saved.paths, saved.provenance) == (again.paths, again.provenance)
    for spec, array in arrays.items():
        np.testing.assert_array_equal(saved.rows(spec, 0, 6), array)


def test_a_disk_that_gives_back_something_else_is_noticed(
    photos, tmp_path, monkeypatch
):
    write = files.write_bytes

    def forgetful(path, content, **options):
        write(path, content[:-9] + b"?" + content[-8:], **options)

    monkeypatch.setattr(files, "write_bytes", forgetful)
    with pytest.raises(featpipe.CodesError, match=r"a\.h5\.parts"):
        run(photos, tmp_path / "a.h5")
