"""Compare what `extract --plan` foretells with what the extraction then takes.

First the rates at which codes are written and merged. Then, each in a process of its
own, a plan and the extraction, by the clock from before torch is imported::

    python benchmarks/cost_model.py tinyimagenet.zip --networks mini --limits 400,4000

Networks whose weights are not at hand get random ones, which take the same time.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from featpipe import images
from featpipe.codes import assembly, layout
from featpipe.extraction import Extraction
from featpipe.inference import Machine, Recipe
from featpipe.inference.progress import Progress


def main() -> None:
    """Run every case, its plan and its extraction each in a fresh process."""
    parser = argparse.ArgumentParser(description="Plans against runs.")
    parser.add_argument("source")
    parser.add_argument("--networks", default="mini,squeezenet1_0,resnet50")
    parser.add_argument("--limits", default="400,4000")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--here", choices=["plan", "run"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
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
