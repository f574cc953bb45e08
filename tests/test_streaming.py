"""Codes larger than the memory allowed: read in blocks, to the same answer."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import featpipe
from featpipe import codes, solvers
from featpipe.classifiers import LogisticClassifier, budgeting, make
from featpipe.classifiers.budgeting import budget
from featpipe.codes import CodesView
from featpipe.solvers import streaming
from featpipe.solvers.streaming import StreamedRows

N, WIDTH = 6000, 200


def write_codes(path: Path, X: np.ndarray, y: np.ndarray, **more: object) -> Path:
    """Write a codes file that says how its codes were made, as `fit` wants it."""
    facts = dict.fromkeys(codes.FINGERPRINT, "x") | {
        "preprocessing": {"resize": None, "crop": 8, "mean": [0.0], "std": [1.0]}
        | {"antialias": True, "hflip": False, "interpolation": "bilinear"},
        "decoding": {"mode": "RGB"},
        "weights": "none",
        "dtype": "float16",
        "request": {"seed": 0, "weights_file_sha256": None},
    }
    codes.write(
        path,
        codes={"penultimate": X},
        labels=y,
        class_names=["a", "b", "c", "d"],
        paths=[f"{k:05}.png" for k in range(len(X))],
        provenance=facts,
        **more,
    )
    return path


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Codes like those behind a ReLU in float16, and labels known up to noise."""
    draw = np.random.default_rng(0)
    y = draw.integers(0, 4, N)
    centres = draw.normal(0, 0.1, (4, WIDTH))
    X = np.maximum(draw.normal(size=(N, WIDTH)) + centres[y], 0)
    return X.astype(np.float16), y


class Counting:
    """A reader that notes what it is asked for."""

    def __init__(self, X: np.ndarray) -> None:
        self.X, self.shape, self.dtype = X, X.shape, X.dtype
        self.requests: list[tuple[int, int]] = []

    def rows(self, start: int, stop: int) -> np.ndarray:
        self.requests.append((start, stop))
        return self.X[start:stop]


@pytest.mark.parametrize("name", ["logistic", "svm", "linear"])
@pytest.mark.parametrize("two", [False, True])
def test_streamed_codes_give_the_coefficients_of_codes_in_memory(
    drawn, name, two, monkeypatch
):
    monkeypatch.setattr(streaming, "BLOCK_BYTES", 2**20)
    X, y = drawn
    y = y % 2 if two else y
    Cs = np.logspace(-5, -1, 5)
    reader = Counting(X)
    streamed = make(name, Cs=Cs, memory="4MB", device="cpu").fit(reader, y)
    held = make(name, Cs=Cs, device="cpu").fit(X.astype(np.float32), y)
    # Of two C that are equally good either may be chosen: rounding turns single rows.
    scores = dict(held.C_curve_.tolist())
    assert scores[streamed.C_] >= scores[held.C_] - 1.5 / N
    same = (
        held
        if streamed.C_ == held.C_
        else make(name, C=streamed.C_).fit(X.astype(np.float32), y)
    )
    np.testing.assert_allclose(
        streamed.coef_, same.coef_, atol=1e-3 * np.abs(same.coef_).max()
    )
    # C that are not near the best are solved to 1e-4 only: a few rows may differ.
    np.testing.assert_allclose(streamed.C_curve_, held.C_curve_, atol=9 / N)
    # Never more than a block at once, and the file more than once.
    assert max(stop - start for start, stop in reader.requests) * WIDTH * 4 <= 2**20
    assert len(reader.requests) > 3 * N * WIDTH * 4 / 2**20


def test_fit_streams_from_the_file_where_memory_is_short(drawn, tmp_path, monkeypatch):
    X, y = (part[:3000] for part in drawn)
    split = np.where(np.arange(3000) % 4, "train", "test")
    path = write_codes(tmp_path / "a.h5", X, y, splits=split)
    made = []
    plain = StreamedRows.__init__

    def noting(self, *args):
        made.append(self)
        plain(self, *args)

    monkeypatch.setattr(StreamedRows, "__init__", noting)
    for name in ("logistic", "svm"):
        kinds = {"Cs": [1e-4, 1e-3], "device": "cpu"}
        whole = featpipe.fit(path, name, **kinds).model
        assert not made
        short = featpipe.fit(path, name, memory="4MB", **kinds).model
        assert made
        made.clear()
        assert (whole.C, whole.training["n_images"]) == (short.C, 2250)
        for one, other in (
            (short.coef, whole.coef),
            (short.intercept, whole.intercept),
            (short.calibration, whole.calibration),
        ):
            if other is not None:
                np.testing.assert_allclose(one, other, atol=1e-3 * np.abs(other).max())
        confidence = [np.array(m.error_curve)[:, 0] for m in (short, whole)]
        np.testing.assert_allclose(*confidence, atol=2e-3)
        assert short.score.accuracy == pytest.approx(whole.score.accuracy, abs=2e-3)


# Not `ru_maxrss`, which begins with the peak of the process that started this one.
PEAK = """
import re, sys
from pathlib import Path
import featpipe
from featpipe.classifiers import budgeting

def peak():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s*(\\d+)", status)[1]) * 1024

path, small = sys.argv[1:]
kinds = {"Cs": [1e-5, 1e-4], "folds": 2, "device": "cpu"}
featpipe.fit(small, "logistic", **kinds)  # imports everything
limit = budgeting.resident() + 150 * 10**6
model = featpipe.fit(path, "logistic", memory=limit, **kinds).model
print(peak() - limit, model.training["warnings"])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_program_exceeds_the_memory_it_may_take_by_little(drawn, tmp_path):
    X, y = drawn
    many = np.tile(X, (25, 1))  # 60 MB, and 480 MB in four copies
    path = write_codes(tmp_path / "a.h5", many, np.tile(y, 25))
    small = write_codes(tmp_path / "b.h5", X[:200], y[:200])
    done = subprocess.run(
        [sys.executable, "-c", PEAK, path, small], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    excess, warnings = done.stdout.split(maxsplit=1)
    assert "cannot be kept" not in warnings
    # 74 MB when it was last measured: buffers of the libraries, and what is freed late.
    assert float(excess) < 100e6


@pytest.fixture(params=["plain", "gathered"])
def view(request, drawn, tmp_path, monkeypatch) -> CodesView:
    """A view of 1,000 rows; of a file in the layout of `write`, and of another one."""
    X, y = (part[:1000] for part in drawn)
    file = codes.read(write_codes(tmp_path / "a.h5", X, y))
    view = CodesView(file, "penultimate")
    assert view._chunks[0] is not None
    if request.param == "gathered":
        view._chunks = [None]
    return view


def test_a_view_chooses_rows_as_numpy_does(view, drawn):
    X = drawn[0][:1000]
    assert (view.shape, view.dtype, len(view)) == ((1000, WIDTH), np.float16, 1000)
    few = np.array([3, 400, 7, 8, 9, 0])
    for chosen in (slice(10, 90), few, np.arange(0, 1000, 3), X[:, 0] > 0.5):
        some, expected = view[chosen], X[chosen]
        assert some.shape == expected.shape
        np.testing.assert_array_equal(some.rows(0, len(some)), expected)
        np.testing.assert_array_equal(some.rows(2, 5), expected[2:5])
        np.testing.assert_array_equal(some[1:].rows(0, 3), expected[1:4])
    assert view[few[:0]].rows(0, 0).shape == (0, WIDTH)


def test_a_view_puts_depths_side_by_side(tmp_path, photos):
    from extracting import run

    file, _ = run(photos, tmp_path / "a.h5")
    both = "+".join(file.depths)
    X, _ = file.arrays(both)
    view = CodesView(file, both)
    assert view.shape == X.shape
    np.testing.assert_array_equal(view.rows(1, 5), X[1:5])


def test_a_view_refuses_a_file_that_has_changed(drawn, tmp_path):
    X, y = (part[:100] for part in drawn)
    path = write_codes(tmp_path / "a.h5", X, y)
    view = CodesView(codes.read(path), "penultimate")
    write_codes(path, X + 1, y)
    with pytest.raises(codes.CodesError, match="has changed since it was read"):
        view.rows(0, 10)


def problem(X: object, y: np.ndarray) -> solvers.Problem:
    ones = np.ones(len(y))
    return solvers.Problem(X, y, 4, "logistic", ones, ones)


def streamed(X: np.ndarray, y: np.ndarray) -> StreamedRows:
    return StreamedRows(problem(Counting(X), y), torch.device("cpu"), 10**6)


def test_rows_come_in_any_order_and_as_a_sample(drawn, monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK_BYTES", 2**18)
    X, y = drawn
    rows = streamed(X, y)
    expected = (X.astype(float) - rows.mean.numpy()) / rows.scale.numpy()
    for start, stop in ((0, 10), (10, 20), (20, 25), (0, 10), (5, 9), (5990, N)):
        file = rows.read(start, stop, torch.float64)
        np.testing.assert_allclose(file, expected[start:stop], atol=2e-6)
    # 6,000 rows of 400 bytes: every other one is more than a megabyte.
    assert [rows.every(stride).stride for stride in (7, 4, 1)] == [4, 4, 4]
    fine = rows.every(1)
    coarse = fine.every(3)
    for sample, stride in ((coarse, 8), (fine, 4)):
        assert sample.n_rows == len(expected[::stride])
        file = sample.read(0, sample.n_rows)
        np.testing.assert_allclose(file, expected[::stride], atol=2e-6)
    # One sample is held, whatever was asked for.
    assert rows._sample.held.nbytes == 600_000
    assert coarse._ahead.rows(0, 5).base is rows._sample.held
    few = StreamedRows(problem(Counting(X), y), torch.device("cpu"), 10**5)
    assert few.every(2) is few  # 250 rows say nothing of 200 columns


def test_codes_far_from_zero_are_standardised_in_double_precision(drawn):
    X, y = drawn[0].astype(np.float32), drawn[1]
    X[:, 0] += 5000
    rows = streamed(X, y)
    expected = (X[:50] - rows.mean.numpy()) / rows.scale.numpy()
    # Beyond it, only the rounding of the numbers as given, and of the result.
    np.testing.assert_allclose(rows.read(0, 50).numpy(), expected, atol=1e-5)


def test_constant_columns_and_columns_that_a_sample_misses_do_no_harm(drawn):
    X, y = drawn[0].astype(np.float32), drawn[1]
    X[:, 0], X[:, 1] = 1e4, 0
    X[100, 1] = 50  # between two runs of the sample
    held = LogisticClassifier(C=1e-3, device="cpu").fit(X, y)
    low = LogisticClassifier(C=1e-3, memory="4MB", device="cpu").fit(Counting(X), y)
    np.testing.assert_allclose(
        low.coef_, held.coef_, atol=1e-3 * np.abs(held.coef_).max()
    )


def test_a_code_that_is_not_finite_is_found_on_any_pass(drawn):
    X, y = drawn
    rows = streamed(X.copy(), y)
    rows.codes.X[40, 3] = np.inf
    with pytest.raises(ValueError, match="codes of rows 0 to 50 hold NaN or infinity"):
        rows.read(0, 50)


def test_an_error_of_reading_ahead_comes_when_that_block_is_asked_for(drawn):
    class Broken(Counting):
        def rows(self, start: int, stop: int) -> np.ndarray:
            if start == 10:
                raise OSError("the disk is gone")
            return super().rows(start, stop)

    ahead = streaming._Ahead(Broken(drawn[0]))
    ahead.rows(0, 10)
    with pytest.raises(OSError, match="the disk is gone"):
        ahead.rows(10, 20)
    assert ahead.rows(20, 30).shape == (10, WIDTH)


def test_codes_are_held_where_four_copies_fit_into_what_is_left(monkeypatch):
    monkeypatch.setattr(budgeting, "resident", lambda: 600 * 10**6)
    # Four copies are 400 MB; the solver has what two of them leave.
    assert budget(50_000, 500, "1GB") == (False, 200_000_000, None)
    assert budget(50_001, 500, "1GB").streams
    assert budget(50_000, 500, "2GB", n_processes=2) == (False, 200_000_000, None)
    assert budget(1000, 500, None) == (False, None, None)
    streams, memory, warning = budget(10**10, 500, None)
    assert streams
    assert warning
    assert memory < 10**14


def test_a_limit_that_cannot_be_kept_is_reported(monkeypatch):
    monkeypatch.setattr(budgeting, "resident", lambda: 600 * 10**6)
    # A gigabyte of codes takes 64 MB, 200 bytes an image, and 12 MB for matrices.
    assert budget(500_000, 500, "777MB").warning is None
    short = budget(500_000, 500, "775MB")
    assert short.streams
    assert "the program took 0.60 GB before the fit" in short.warning
    assert "needs at least 0.18 GB more" in short.warning
    assert budget(500_000, 500, "1MB").memory == 1000


def test_what_a_process_takes_is_what_the_system_tells():
    before = budgeting.resident()
    block = np.ones(30_000_000, np.uint8)
    assert 25e6 < budgeting.resident() - before < 60e6
    del block


def test_blocks_of_one_precision_share_their_memory(drawn):
    # Else small things kept between blocks scatter the memory, to the size of the file.
    rows = streamed(*drawn)
    for dtype in (torch.float32, torch.float64):
        blocks = [rows.read(start, start + 64, dtype) for start in (0, 64, 128)]
        assert len({block.data_ptr() for block in blocks}) == 1
    every, sample = rows.read(0, 64), rows.every(7).read(0, 64)
    assert every.data_ptr() != sample.data_ptr()
