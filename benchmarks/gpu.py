"""How near a GPU is kept to its limit by decoding, and whether its codes are right.

For a machine with CUDA::

    python benchmarks/gpu.py PHOTOS --images 24000

``PHOTOS`` is any folder of class folders with JPEGs; as many files as asked are made of
them, each with bytes of its own. Printed, in images a second: forward passes alone
(plain torch, batch norm folded, channels last), loading alone (in threads, and in
processes) and whole extractions, from the first image and once they run; then, how far
codes of the GPU are from those of the CPU. What the GPU's own JPEG decoder would do is
measured by ``nvjpeg.py``.
"""

import argparse
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from extraction import fastest_of

from featpipe import images
from featpipe.backbones import Preprocessing
from featpipe.extraction import extract
from featpipe.inference import Machine, Progress, Recipe
from featpipe.inference.loader import Loader, LoadingBatch, worker_server
from featpipe.inference.network import Network
from featpipe.inference.pixels import Decoding, pixels_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def say(what: str, rate: float) -> None:
    """Print one line of the result."""
    print(f"{what:<60} {rate:>9,.0f} images/s", flush=True)


def rate_of(act: Callable[[], object], n_images: int, seconds: float = 1.0) -> float:
    """Return the images a second of an act on so many, done over and over."""
    act()
    n_done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        act()
        n_done += n_images
        if DEVICE == "cuda":
            torch.cuda.synchronize()
    return n_done / (time.perf_counter() - start)


@torch.inference_mode()
def forward_alone(name: str, batches: Sequence[int]) -> None:
    """Time plain torch on pixels that are on the device, and featpipe's backbone."""
    for precision, dtype in PRECISIONS.items():
        plain = fastest_of(name, dtype).to(DEVICE)
        recipe = Recipe(name, "none")
        ours = Network(recipe, Machine(DEVICE)).lanes(["penultimate"], precision)[0]
        for batch in batches:
            x = torch.randn(batch, 3, 224, 224, device=DEVICE, dtype=dtype)
            x = x.to(memory_format=torch.channels_last)
            rate = rate_of(partial(pooled, plain, x), batch)
            say(f"forward alone, {precision}, batch {batch}", rate)
            pixels = torch.randint(0, 255, x.shape, dtype=torch.uint8, device=DEVICE)
            rate = rate_of(partial(ours, pixels), batch)
            say(f"featpipe's backbone, {precision}, batch {batch}", rate)


def pooled(network: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Run a plain network, and average its last maps."""
    maps: torch.Tensor = network(x)["map"]
    return maps.mean((2, 3))


def loading_alone(photos: Path, n_threads: int, n_images: int) -> None:
    """Time loading alone, in threads and in processes, as the engine does it."""
    image_set = images.scan(photos)
    square = Preprocessing(resize=256, crop=224)
    for exact in (True, False):
        how = "exact" if exact else "scaled"
        for way, enough in (("threads", 0), ("processes", n_images)):
            with worker_server(n_threads, enough, exact=exact) as server:
                loader = Loader(
                    image_set,
                    128,
                    lambda: square,
                    n_workers=n_threads,
                    in_lanes=0,
                    decoding=Decoding(exact),
                    progress=Progress(),
                    server=server,
                )
                begin = time.perf_counter()
                while time.perf_counter() - begin < 5:  # until processes have come
                    loaded(loader, range(128))
                start = time.perf_counter()
                loaded(loader, range(n_images))
                seconds = time.perf_counter() - start
                loader.close()
            say(f"loading alone, {how}, {n_threads} {way}", n_images / seconds)


def loaded(loader: Loader, positions: range) -> None:
    """Load images and forget them, as many batches at once as the engine would."""
    waiting: deque[LoadingBatch] = deque()
    for first in range(0, len(positions), 128):
        waiting.append(loader.submit(positions[first : first + 128]))
        while len(waiting) > loader.ahead:
            waiting[0].images()
            waiting.popleft().release()
    for batch in waiting:
        batch.images()
        batch.release()


def whole(photos: Path, name: str, precision: str) -> None:
    """Time an extraction, from its first image, and from a quarter of them on."""
    marks: list[tuple[float, int]] = []

    def progress(tally: Progress) -> None:
        marks.append((time.perf_counter(), tally.computed))
        tallies.append(tally)

    tallies: list[Progress] = []
    with tempfile.TemporaryDirectory() as folder:
        extract(
            photos,
            Path(folder) / "x.h5",
            backbone=name,
            weights="none",
            device=DEVICE,
            precision=precision,
            progress=progress,
        )
        tally = tallies[-1]
        rate, held = tally.rate, tally.bottleneck
    say(f"extraction, {precision}, from the first image", rate)
    late = [mark for mark in marks if mark[1] > tally.n_images / 4]
    (begin, few), (end, many) = late[0], late[-1]
    say(f"extraction, {precision}, once it runs", (many - few) / (end - begin))
    busy = ", ".join(f"{stage} {took:.1f}" for stage, took in tally.seconds.items())
    print(f"  held back by {held}; busy seconds of all threads: {busy}")


def agreement(contents: list[bytes], name: str) -> None:
    """Compare the codes of the device with those of the CPU in float32."""
    square = Preprocessing(resize=256, crop=224)
    squares = [pixels_of(c, square, Decoding())[0] for c in contents]
    exact = torch.from_numpy(np.stack(squares))

    def codes(device: str, precision: str, pixels: torch.Tensor) -> torch.Tensor:
        lanes = Network(Recipe(name, "none"), Machine(device)).lanes(
            ["penultimate"], precision
        )
        parts = [lanes[0](part)["penultimate"].cpu() for part in pixels.split(32)]
        return torch.cat(parts).double()

    def compare(what: str, result: torch.Tensor) -> None:
        least = torch.cosine_similarity(result, expected).min()
        error = ((result - expected).norm(dim=1) / expected.norm(dim=1)).max()
        print(
            f"{what}, fp32 on cpu: least cosine {least:.7f}, largest relative "
            f"difference {error:.1e}"
        )

    expected = codes("cpu", "fp32", exact)
    for precision in PRECISIONS:
        compare(f"{precision} on {DEVICE}", codes(DEVICE, precision, exact))


def made(photos: Path, folder: Path, count: int) -> list[bytes]:
    """Write so many different JPEGs; give the contents they were made of."""
    contents = [path.read_bytes() for path in sorted(photos.rglob("*.jp*g"))]
    (folder / "photo").mkdir()
    for k in range(count):
        content = contents[k % len(contents)] + k.to_bytes(8, "little")
        (folder / "photo" / f"{k:06d}.jpg").write_bytes(content)
    return contents


def main() -> None:
    """Measure what the arguments ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--images", type=int, default=24_000)
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 256])
    options = parser.parse_args()
    where = torch.cuda.get_device_name() if DEVICE == "cuda" else "no GPU"
    n_threads = os.cpu_count() or 1
    print(f"torch {torch.__version__}, {where}, {n_threads} processors")
    with tempfile.TemporaryDirectory() as folder:
        contents = made(options.photos, Path(folder), options.images)
        forward_alone(options.network, options.batches)
        loading_alone(Path(folder), n_threads, min(options.images, 6000))
        for precision in PRECISIONS:
            whole(Path(folder), options.network, precision=precision)
        agreement(contents[::4], options.network)


if __name__ == "__main__":
    main()
