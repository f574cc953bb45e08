"""Fit codes that are larger than the memory allowed; measure time and memory.

Writes a synthetic file block by block, measures what reading and products take alone,
fits one classifier with five values of C, and prints the largest resident size::

    python benchmarks/streaming.py --rows 1500000 --width 2048 --memory 2GB

Then it fits the first rows twice, streamed and in memory, and prints how far apart the
two are. ``--file F`` keeps the file, or takes the one that is there.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

import featpipe
from featpipe import codes, files
from featpipe.classifiers import make
from featpipe.codes import CodesView, assembly, layout
from featpipe.solvers import objective

N_CLASSES, N_FACTORS, BLOCK = 10, 32, 1024
CS = np.logspace(-6, -2, 5)


def main() -> None:
    """Write, measure, fit, compare, print."""
    parser = argparse.ArgumentParser(description="A fit on codes from the disk.")
    parser.add_argument("--rows", type=int, default=1_500_000)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--memory", default="2GB")
    parser.add_argument("--classifier", default="logistic")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--sample", type=int, default=40_000)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--only", choices=["write", "limits", "fit", "sample"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.file or Path(folder) / "codes.h5"
        if not path.exists():
            timed("write", lambda: write(path, options.rows, options.width))
        print(f"{path.stat().st_size / 1e9:.2f} GB", flush=True)
        if options.only in (None, "limits"):
            view = CodesView(codes.read(path, check=False), "penultimate")
            limits(view, options.folds * N_CLASSES)
        if options.only in (None, "fit"):
            with counted_passes() as seconds:
                model = timed("fit", lambda: fit(path, options))
            print(f"C {model.C:g}, cross-validated {model.training['cv_score']:.4f}")
            print(f"{len(seconds)} evaluations, median {np.median(seconds):.2f} s")
        if options.only in (None, "sample"):
            compare(path, options)


def timed(what: str, work: Callable[[], Any]) -> Any:
    """Do some work, and print its time and memory."""
    start, processor = time.perf_counter(), time.process_time()
    result = work()
    seconds, used = time.perf_counter() - start, time.process_time() - processor
    # Kilobytes on Linux.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{what}: {seconds:.1f} s ({used:.1f} s of processor); peak {peak:.2f} GB",
        flush=True,
    )
    return result


def write(path: Path, n_rows: int, width: int) -> None:
    """Write codes like those behind a ReLU, correlated, of ten classes that overlap."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, N_CLASSES, n_rows)
    centres = draw.normal(0, 0.06, (N_CLASSES, width)).astype(np.float32)
    factors = draw.normal(0, 0.3, (N_FACTORS, width)).astype(np.float32)

    def rows(start: int, stop: int) -> np.ndarray:
        block = np.random.default_rng(start)
        noise = block.standard_normal((stop - start, width), np.float32)
        noise += block.standard_normal((stop - start, N_FACTORS), np.float32) @ factors
        noise += centres[labels[start:stop]]
        return np.maximum(noise, 0, out=noise).astype(np.float16)

    facts = dict.fromkeys(codes.FINGERPRINT, "x") | {
        "depths": ["penultimate"],
        "preprocessing": {"resize": None, "crop": 8, "mean": [0.0], "std": [1.0]}
        | {"antialias": True, "hflip": False, "interpolation": "bilinear"},
        "decoding": {"mode": "RGB"},
        "weights": "none",
        "dtype": "float16",
        "request": {"seed": 0, "weights_file_sha256": None},
    }
    tables = layout.Tables(
        paths=[f"{k:07}.jpg" for k in range(n_rows)],
        labels=labels,
        class_names=[str(k) for k in range(N_CLASSES)],
        splits=[""] * n_rows,
        groups=[""] * n_rows,
        images_root="",
        sizes=np.zeros(n_rows, np.int64),
        mtimes=np.zeros(n_rows, np.int64),
        sha256=np.zeros((n_rows, 32), np.uint8),
        failures=[],
        provenance=facts,
    )
    store = layout.Store((n_rows, width), np.dtype(np.float16), rows)
    with files.replacing(path) as file:
        reserved = files.ReservedFile(file, layout.size_bound({"x": store}, tables))
        layout.build(reserved, {"penultimate": store}, tables)
        reserved.finish()
        assembly._seal(file)


def limits(X: CodesView, n_columns: int) -> None:
    """Print what one pass cannot be faster than: its bytes, and its products."""
    n, width = X.shape
    start = time.perf_counter()
    for first in range(0, n, BLOCK):
        X.rows(first, min(first + BLOCK, n))
    seconds = time.perf_counter() - start
    size = n * width * X.dtype.itemsize
    print(f"read alone: {seconds:.2f} s a pass, {size / seconds / 1e9:.2f} GB/s")
    z, w = torch.randn(BLOCK, width), torch.randn(n_columns, width)
    r, n_blocks = torch.randn(n_columns, BLOCK), min(400, n // BLOCK)
    start = time.perf_counter()
    for _ in range(n_blocks):
        w @ z.T
        r @ z
    seconds = time.perf_counter() - start
    rate = 4 * n_blocks * BLOCK * width * len(w) / seconds
    whole = seconds * n / (n_blocks * BLOCK)
    print(f"products alone: {whole:.2f} s a pass, {rate / 1e9:.0f} GFLOP/s", flush=True)


@contextmanager
def counted_passes() -> Iterator[list[float]]:
    """Collect the seconds of each evaluation of the objective on all rows."""
    seconds: list[float] = []
    plain = objective.Objective.evaluate

    def timed(self: Any, theta: torch.Tensor) -> Any:
        start = time.perf_counter()
        result = plain(self, theta)
        seconds.append(time.perf_counter() - start)
        now = time.strftime("%X")
        print(f"{now} pass {len(seconds)}: {seconds[-1]:.2f} s", file=sys.stderr)
        return result

    # Nothing of the package reports the passes.
    with patch.object(objective.Objective, "evaluate", timed):
        yield seconds


def fit(path: Path, options: argparse.Namespace) -> Any:
    """Fit with C chosen from five values."""
    return featpipe.fit(
        path,
        options.classifier,
        Cs=CS,
        folds=options.folds,
        memory=options.memory,
        device="cpu",
    ).model


def compare(path: Path, options: argparse.Namespace) -> None:
    """Print how far apart streamed and in memory are, on the first rows.

    Which are of all classes, in no order.
    """
    file = codes.read(path, check=False)
    n_rows = min(options.sample, len(file))
    X, y = CodesView(file, "penultimate")[np.arange(n_rows)], file.labels[:n_rows]
    fits = {
        "streamed": (X, f"{n_rows * X.shape[1] * 2 // 1000}KB"),
        "in memory": (np.asarray(X.rows(0, n_rows), np.float32), "8GB"),
    }
    models = []
    for name, (value, memory) in fits.items():
        model = make(options.classifier, Cs=CS, memory=memory, device="cpu")
        models.append(timed(name, partial(model.fit, value, y)))
    one, two = models
    apart = np.abs(one.coef_ - two.coef_).max() / np.abs(two.coef_).max()
    print(f"{n_rows:,} rows, C {one.C_:g} and {two.C_:g}; coefficients {apart:.1e}")
    print(
        f"of the largest; C curves apart by {np.abs(one.C_curve_ - two.C_curve_).max()}"
    )


if __name__ == "__main__":
    main()
