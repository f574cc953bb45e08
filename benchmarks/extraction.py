"""How fast images become codes, beside the usual script and the limit of the chip.

In one run, contenders taking turns round after round, in one order and then the other,
each in a process of its own::

    python benchmarks/extraction.py PHOTOS --networks resnet50 mini --rounds 4
    python benchmarks/extraction.py PHOTOS --networks resnet50 --device cuda

``PHOTOS`` is any folder of class folders with JPEGs, of which ``--images`` are taken
evenly; the 12-megapixel set is made from them by upscaling and encoding again. Printed
are medians over rounds: images a second, each contender's ratio to the usual script
(the best of its batch sizes and numbers of workers: one, half of the processors, all)
and to the forward passes alone (the better of plain torch and featpipe's backbone), and
the peak memory of its process. Building the network is left out for everybody (featpipe
builds it inside; that time is measured and taken off). bf16 takes part where the device
has it. What featpipe remembers of earlier runs is left alone: it begins with none.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache, partial
from math import nan
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.fx.experimental.optimization import fuse
from torchvision.datasets import ImageFolder
from torchvision.models import get_model, get_model_weights
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.transforms import v2

import featpipe
from featpipe.backbones import Backbone
from featpipe.backbones.mini import Mini
from featpipe.inference import Machine, Recipe
from featpipe.inference.execution import processor
from featpipe.inference.network import Network

# The last maps of each network; averaged, they are what featpipe calls penultimate.
NODES = {
    "mini": "stage4",
    "squeezenet1_0": "features",
    "mobilenet_v2": "features",
    "resnet50": "layer4",
}
BATCHES = {"cpu": (4, 8, 16, 32), "cuda": (128, 256)}
USUAL_BATCHES = {"cpu": (32, 64), "cuda": (128, 256)}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
Contender = Callable[[Path], float]
Transform = Callable[[Image.Image], torch.Tensor]
# A forward pass, its batch, and how many batches at once by how many threads each.
Way = tuple[Callable[[], object], int, int, int]


def network_of(name: str) -> nn.Module:
    """Build the whole network, random weights, evaluation mode."""
    network: nn.Module = Mini() if name == "mini" else get_model(name, weights=None)
    return network.eval()


@cache
def cut_of(name: str) -> nn.Module:
    """Build the network as the usual script does, up to its last maps."""
    network: nn.Module = create_feature_extractor(
        network_of(name), {NODES[name]: "map"}
    )
    return network.eval()


def transform_of(name: str) -> Transform:
    """Return the preprocessing the usual script would use."""
    if name == "mini":
        own = Network(Recipe("mini", "none")).backbone(["penultimate"]).preprocessing
        composed: Transform = v2.Compose(
            [
                v2.Resize(own.resize, antialias=True),
                v2.CenterCrop(own.crop),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(own.mean, own.std),
            ]
        )
        return composed
    usual: Transform = get_model_weights(name).DEFAULT.transforms()
    return usual


def usual_script(
    name: str, batch: int, n_workers: int, device: str, photos: Path
) -> float:
    """Run the script of torchvision's documentation: DataLoader, eager network.

    In float32 on a processor; on a GPU in bf16 by autocast, from pinned memory.
    """
    network = cut_of(name).to(device)
    images = ImageFolder(str(photos), transform_of(name))
    on_gpu = device != "cpu"
    start = time.perf_counter()
    # Forked, as it is from a script; here, in a spawned process, it would be spawned.
    loader = torch.utils.data.DataLoader(
        images,
        batch_size=batch,
        num_workers=n_workers,
        pin_memory=on_gpu,
        multiprocessing_context="fork",
    )
    with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=on_gpu):
        codes = [
            network(x.to(device, non_blocking=True))["map"].mean(dim=(2, 3)).cpu()
            for x, _ in loader
        ]
    torch.cat(codes).float().numpy()
    return len(images) / (time.perf_counter() - start)


def one_at_a_time(name: str, photos: Path) -> float:
    """Open, transform and run every image by itself."""
    network, transform = cut_of(name), transform_of(name)
    paths = sorted(path for path in photos.rglob("*") if path.is_file())
    start = time.perf_counter()
    with torch.no_grad():
        for path in paths:
            image = Image.open(path).convert("RGB")
            network(transform(image)[None])["map"].mean(dim=(2, 3))
    return len(paths) / (time.perf_counter() - start)


@cache
def fastest_of(name: str, dtype: torch.dtype) -> nn.Module:
    """Build the network as plain torch runs it best: folded, channels last."""
    network = network_of(name)
    if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        network = fuse(network)
    network = create_feature_extractor(network, {NODES[name]: "map"}).eval()
    fast: nn.Module = network.to(dtype, memory_format=torch.channels_last)
    return fast


def forward_alone(name: str, precision: str, device: str, photos: Path) -> float:
    """Run the network on pixels in memory, as many as there are photos.

    The best of the three ways that were fastest on a few images, at the first call.
    """
    count = min(sum(path.is_file() for path in photos.rglob("*")), 96)
    rates = []
    for forward, batch, *way in fastest_ways(name, precision, device):
        n_images = count if device == "cpu" else 20 * batch
        rates.append(rate(forward, batch, n_images, *way))
    return max(rates)


@cache
def fastest_ways(name: str, precision: str, device: str) -> list[Way]:
    """Return the three fastest ways to run the network.

    Of several batch sizes, of plain torch and featpipe's backbone, and of two ways to
    use the processors: all of them for one batch, or each for one of its own.
    """
    threads = torch.get_num_threads()
    sharing = {(1, threads), (threads, 1)} if device == "cpu" else {(1, threads)}
    recipe = Recipe(name, "none")
    (ours, *_) = Network(recipe, Machine(device)).lanes(["penultimate"], precision)
    ways = [
        (forward, batch, *way)
        for batch in BATCHES[device]
        for forward in (
            plain_forward(name, PRECISIONS[precision], device, batch),
            own_forward(ours, batch),
        )
        for way in sharing
    ]
    few = {way: rate(*way[:2], max(32, 2 * way[1]), *way[2:]) for way in ways}
    return sorted(ways, key=few.__getitem__, reverse=True)[:3]


def side_of(name: str) -> int:
    """Return the side of the square that a network sees."""
    return 64 if name == "mini" else 224


def plain_forward(
    name: str, dtype: torch.dtype, device: str, batch: int
) -> Callable[[], object]:
    """Return a forward pass of plain torch on random pixels."""
    network = fastest_of(name, dtype).to(device)
    side = side_of(name)
    x = torch.randn(batch, 3, side, side).to(device, dtype)
    x = x.to(memory_format=torch.channels_last)
    return lambda: network(x)["map"].mean(dim=(2, 3))


def own_forward(backbone: Backbone, batch: int) -> Callable[[], object]:
    """Return a forward pass of featpipe's backbone on random pixels."""
    side = backbone.preprocessing.crop
    pixels = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    pixels = pixels.to(backbone.device)
    return lambda: backbone(pixels)


def rate(
    forward: Callable[[], object], batch: int, count: int, lanes: int, threads: int
) -> float:
    """Return the images a second of so many lanes of so many threads."""

    def once(_: int) -> None:
        with torch.inference_mode():
            forward()

    def finish() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    begin = partial(torch.set_num_threads, threads)
    with ThreadPoolExecutor(lanes, initializer=begin) as pool:
        list(pool.map(once, range(lanes)))
        n_batches = -(-count // batch)
        finish()
        start = time.perf_counter()
        list(pool.map(once, range(n_batches)))
        finish()
        return n_batches * batch / (time.perf_counter() - start)


def with_featpipe(
    name: str, options: dict[str, Any], device: str, photos: Path
) -> float:
    """Run the whole of `featpipe.extract`, file and all, less building the network."""
    recipe = Recipe(name, "none", **options)
    start = time.perf_counter()
    Network(recipe, Machine(device)).lanes(["penultimate"], options["precision"])
    building = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        codes = featpipe.extract(
            photos,
            Path(folder) / "x.h5",
            backbone=name,
            weights="none",
            device=device,
            **options,
        )
        seconds = time.perf_counter() - start - building
    return len(codes) / seconds


def contenders(name: str, device: str) -> dict[str, Contender]:
    """List who takes part."""
    results: dict[str, Contender] = {}
    for precision in precisions(device):
        for decoding in ("exact", "scaled"):
            options = {"precision": precision, "decoding": decoding}
            key = f"featpipe {precision}, {decoding}"
            results[key] = partial(with_featpipe, name, options, device)
    n = os.cpu_count() or 1
    for batch in USUAL_BATCHES[device]:
        for n_workers in sorted({1, max(n // 2, 1), n}):
            key = f"usual script, batch {batch}, workers {n_workers}"
            results[key] = partial(usual_script, name, batch, n_workers, device)
    if device == "cpu":
        results["one at a time"] = partial(one_at_a_time, name)
    for precision in precisions(device):
        forward = partial(forward_alone, name, precision, device)
        results[f"forward alone, {precision}"] = forward
    return results


def precisions(device: str) -> list[str]:
    """List what the device multiplies by itself."""
    if device != "cpu":
        return ["fp32", "bf16"]
    able = torch.cpu.get_capabilities()
    native = able.get("avx512_bf16") or able.get("amx_bf16")
    return ["fp32", "bf16"] if native else ["fp32"]


def turn(run: Contender, photos: Path) -> tuple[float, float]:
    """Let a contender run; give images a second and the peak memory in GB."""
    result = run(photos)
    return result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(
    name: str,
    taking_part: dict[str, Contender],
    photos: dict[str, Path],
    warm: Path,
    rounds: int,
) -> None:
    """Run all contenders in turn, round after round, and print a table a set."""
    spawn = multiprocessing.get_context("spawn")
    seats = {key: ProcessPoolExecutor(1, mp_context=spawn) for key in taking_part}
    for key, run in taking_part.items():
        seats[key].submit(turn, run, warm).result()
    for what, folder in photos.items():
        results: dict[str, list[tuple[float, float]]] = {key: [] for key in taking_part}
        for number in range(rounds):
            # In both orders: who comes first may find the machine quieter.
            for key, run in list(taking_part.items())[:: 1 if number % 2 == 0 else -1]:
                results[key].append(seats[key].submit(turn, run, folder).result())
        show(f"{name}, {what}", results)
    for seat in seats.values():
        seat.shutdown()


def show(title: str, result: dict[str, list[tuple[float, float]]]) -> None:
    """Print what was measured."""
    rates = {key: [rate for rate, _ in turns] for key, turns in result.items()}
    median = {key: statistics.median(values) for key, values in rates.items()}
    usual = best(median, "usual")
    print(f"\n### {title}\n")
    print("| | images/s | of the usual script | of forward alone | spread | peak GB |")
    print("|---|---|---|---|---|---|")
    for key, rate in median.items():
        bound = best(median, f"forward alone, {'bf16' if 'bf16' in key else 'fp32'}")
        spread = f"{min(rates[key]):.1f} – {max(rates[key]):.1f}"
        peak = max(memory for _, memory in result[key])
        print(
            f"| {key} | {rate:.1f} | {rate / usual:.2f} | {rate / bound:.2f} "
            f"| {spread} | {peak:.2f} |",
            flush=True,
        )


def best(median: dict[str, float], prefix: str) -> float:
    """Return the highest rate of the contenders whose names begin so; nan for none."""
    return max((x for key, x in median.items() if key.startswith(prefix)), default=nan)


def some(photos: Path, folder: Path, count: int) -> Path:
    """Link ``count`` JPEGs, evenly taken, into a folder of one class."""
    paths = sorted(path for path in photos.rglob("*.jp*g") if path.is_file())
    (folder / "photo").mkdir(parents=True)
    for k in range(min(count, len(paths))):
        path = paths[k * len(paths) // count if count < len(paths) else k]
        (folder / "photo" / f"{k}.jpg").symlink_to(path.resolve())
    return folder


def large(photos: Path, folder: Path, count: int) -> Path:
    """Make 12-megapixel JPEGs of ordinary ones."""
    paths = sorted(path for path in photos.rglob("*.jp*g") if path.is_file())
    (folder / "photo").mkdir(parents=True)
    for k in range(count):
        image = Image.open(paths[k % len(paths)]).convert("RGB").resize((4000, 3000))
        image.save(folder / "photo" / f"{k}.jpg", quality=90)
    return folder


def main() -> None:
    """Measure what the arguments ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--networks", nargs="+", default=list(NODES), choices=NODES)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--images", type=int, default=384, help="ordinary photos")
    parser.add_argument("--large", type=int, default=24, help="12-megapixel ones; or 0")
    help = "parts of the names of those that take part; all unless given"
    parser.add_argument("--only", nargs="+", default=[""], help=help)
    options = parser.parse_args()
    where = processor() if options.device == "cpu" else torch.cuda.get_device_name()
    print(f"torch {torch.__version__}, {where}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        photos = {
            "ordinary photos": some(options.photos, folder / "some", options.images)
        }
        if options.large:
            path = large(options.photos, folder / "large", options.large)
            photos["12-megapixel photos"] = path
        warm = some(options.photos, folder / "warm", 8)
        for name in options.networks:
            taking_part = {
                key: run
                for key, run in contenders(name, options.device).items()
                if any(part in key for part in options.only)
            }
            measure(name, taking_part, photos, warm, options.rounds)


if __name__ == "__main__":
    main()
