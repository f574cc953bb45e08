"""Compare what `extract --plan` foretells with what the extraction then takes.

First the rates at which codes are written and merged. Then, each in a process of its
own, a plan and the extraction, by the clock from before torch is imported::

    python benchmarks/cost_model.py tinyimagenet.zip --networks mini --limits 400,4000

Networks whose weights are not at hand get random ones, which take the same time.

    python benchmarks/cost_model.py --solve

compares the range that a plan prints for each classifier with fits of codes drawn at
random, some shapes and distances of the classes.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from featpipe import images
from featpipe.classifiers import (
    LinearClassifier,
    LogisticClassifier,
    SVMClassifier,
    solve_cost,
)
from featpipe.codes import assembly, layout
from featpipe.extraction import Extraction
from featpipe.inference import Machine, Recipe
from featpipe.inference.progress import Progress


def main() -> None:
    """Run every case, its plan and its extraction each in a fresh process."""
    parser = argparse.ArgumentParser(description="Plans against runs.")
    parser.add_argument("source", nargs="?")
    parser.add_argument("--solve", action="store_true")
    parser.add_argument("--networks", default="mini,squeezenet1_0,resnet50")
    parser.add_argument("--limits", default="400,4000")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--here", choices=["plan", "run"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.solve:
        solves()
        return
    if options.source is None:
        parser.error("give the images, or --solve")
    if options.here:
        case(options)
        return
    rates()
    for network in options.networks.split(","):
        for limit in options.limits.split(","):
            command = [sys.executable, __file__, options.source]
            command += ["--networks", network, "--limits", limit]
            command += ["--precision", options.precision]
            with tempfile.TemporaryDirectory() as folder:
                for here in ("plan", "run"):
                    more = ["--here", here, "--folder", folder]
                    subprocess.run([*command, *more], check=True)


def case(options: argparse.Namespace) -> None:
    """Plan or run one network on so many images, and print its seconds."""
    name, limit = options.networks, int(options.limits)
    weights = random_weights(name, options.folder)
    recipe = Recipe(backbone=name, weights=weights, precision=options.precision)
    last: list[Progress] = []
    start = time.perf_counter()
    source = images.scan(options.source, limit=limit)
    path = options.folder / "a.h5"
    job = Extraction(recipe, source, path, Machine(), progress=last.append)
    if options.here == "plan":
        cost = job.cost(job.plan_update())
        total, seconds, more = cost.total, cost.seconds, f"; {cost.bottleneck}"
    else:
        job.run()
        total, more = time.perf_counter() - start, ""
        threads = last[-1].threads
        seconds = {k: v / threads[k] for k, v in last[-1].seconds.items()}
    each = ", ".join(f"{stage} {value:.2f}" for stage, value in seconds.items())
    print(f"{name} {limit} {options.here}: {total:.2f} s ({each}){more}", flush=True)


SHAPES = (
    *((250, 512, 2, 1.0), (1200, 64, 10, 0.5), (2000, 512, 10, 1.0)),
    *((2000, 512, 10, 0.3), (3000, 512, 50, 1.0), (3000, 2048, 10, 0.3)),
    *((5000, 384, 10, 0.5), (20_000, 512, 10, 0.5), (20_000, 512, 10, 0.1)),
)


def solves() -> None:
    """Print what is planned for each classifier and what a fit then takes."""
    classes = (LinearClassifier, SVMClassifier, LogisticClassifier)
    for n, width, n_classes, separation in SHAPES:
        X, y = drawn(n, width, n_classes, separation)
        cost = solve_cost(n, width, n_classes)
        print(
            f"{n} x {width}, {n_classes} classes {separation} apart: a pass of "
            f"{cost.operations / 1e9:.3g} GFLOP in {1e3 * cost.pass_seconds:.3g} ms"
        )
        for (name, (least, most)), made in zip(
            cost.seconds.items(), classes, strict=True
        ):
            start = time.perf_counter()
            score = made().fit(X, y).score(X, y)
            took = time.perf_counter() - start
            print(
                f"  {name}: planned {least:.2f} to {most:.2f} s, took {took:.2f} "
                f"({took / cost.pass_seconds:.0f} passes; {score:.3f} right)",
                flush=True,
            )


def drawn(
    n: int, width: int, n_classes: int, separation: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return correlated codes, none negative, of classes so far apart."""
    random = np.random.default_rng(0)
    y = random.integers(0, n_classes, n)
    centres = separation * (512 / width) ** 0.5 / 5 * random.normal(
        size=(n_classes, width)
    )  # fmt: skip
    mixed = random.normal(size=(width, width)) / width**0.5
    X = (centres[y] + random.normal(size=(n, width))) @ mixed
    return np.maximum(X, 0).astype(np.float32), y


def rates() -> None:
    """Print the bytes a second at which a part is written, and parts are merged."""
    width, n = 2048, 16_384
    X = np.random.default_rng(0).standard_normal((n, width), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for name in "ab":
            tables = synthetic_tables(n, name)
            start = time.perf_counter()
            files.append(assembly.save(Path(folder) / f"{name}.h5", {"x": X}, tables))
            print(f"write: {X.nbytes / (time.perf_counter() - start) / 1e6:.0f} MB/s")
        start = time.perf_counter()
        rows = [assembly.Row(k, i) for k in range(2) for i in range(n)]
        tables = synthetic_tables(2 * n, "c")
        assembly.assemble(Path(folder) / "c.h5", files, {"x": rows}, tables)
        seconds = time.perf_counter() - start
        print(f"merge: {2 * X.nbytes / seconds / 1e6:.0f} MB/s", flush=True)


def synthetic_tables(n: int, name: str) -> layout.Tables:
    """Return tables of n images without a class."""
    zeros = np.zeros(n, np.int64)
    return layout.Tables(
        paths=[f"{name}{k:07}.jpg" for k in range(n)],
        labels=zeros - 1,
        class_names=[],
        splits=[""] * n,
        groups=[""] * n,
        images_root="",
        sizes=zeros,
        mtimes=zeros,
        sha256=np.zeros((n, 32), np.uint8),
        failures=[],
        provenance={"depths": ["x"]},
    )


def random_weights(name: str, folder: Path) -> str | None:
    """Write random weights for a network of torchvision; None for our own."""
    if name == "mini":
        return None
    import torch
    import torchvision

    torch.manual_seed(0)
    state = torchvision.models.get_model(name, weights=None).state_dict()
    torch.save(state, folder / "random.pth")
    return str(folder / "random.pth")


if __name__ == "__main__":
    main()
