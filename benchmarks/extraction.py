"""How fast images become codes, beside the usual script and the limit of the chip.

In one run, contenders taking turns round after round, each in a process of its own::

    python benchmarks/extraction.py PHOTOS --networks resnet50 mini --rounds 3

``PHOTOS`` is any folder of class folders with JPEGs, of which ``--images`` are taken
evenly; the 12-megapixel set is made from them by upscaling and encoding again. Printed
are medians over rounds: images a second, each contender's ratio to the usual script
(the better of two batch sizes) and to the forward passes alone, and the peak memory of
its process. Building the network is left out for everybody (featpipe builds it inside;
that time is measured and taken off). bf16 takes part where the processor has it.
"""

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.fx.experimental.optimization import fuse
from torchvision.datasets import ImageFolder
from torchvision.models import get_model, get_model_weights
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.transforms import v2

import featpipe
from featpipe.backbones.mini import Mini
from featpipe.inference import Recipe
from featpipe.inference.network import Network

# The last maps of each network; averaged, they are what featpipe calls penultimate.
NODES = {
    "mini": "stage4",
    "squeezenet1_0": "features",
    "mobilenet_v2": "features",
    "resnet50": "layer4",
}
BATCHES = (4, 8, 16, 32)
Contender = Callable[[Path], float]


def network_of(name: str) -> nn.Module:
    """Build the whole network, random weights, evaluation mode."""
    network = Mini() if name == "mini" else get_model(name, weights=None)
    return network.eval()


@cache
def cut_of(name: str) -> nn.Module:
    """Build the network as the usual script does, up to its last maps."""
    return create_feature_extractor(network_of(name), {NODES[name]: "map"}).eval()


def transform_of(name: str) -> Callable[[Image.Image], torch.Tensor]:
    """Give the preprocessing the usual script would use."""
    if name == "mini":
        own = Network(Recipe("mini", "none")).backbone(["penultimate"]).preprocessing
        return v2.Compose(
            [
                v2.Resize(own.resize, antialias=True),
                v2.CenterCrop(own.crop),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(own.mean, own.std),
            ]
        )
    return get_model_weights(name).DEFAULT.transforms()


def usual_script(name: str, batch: int, photos: Path) -> float:
    """Run the script of torchvision's documentation: DataLoader, two workers, fp32."""
    network = cut_of(name)
    images = ImageFolder(str(photos), transform_of(name))
    start = time.perf_counter()
    # Forked, as it is from a script; here, in a spawned process, it would be spawned.
    loader = torch.utils.data.DataLoader(
        images, batch_size=batch, num_workers=2, multiprocessing_context="fork"
    )
    with torch.no_grad():
        codes = [network(x)["map"].mean(dim=(2, 3)) for x, _ in loader]
    torch.cat(codes).numpy()
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
    return network.to(dtype, memory_format=torch.channels_last)


def forward_alone(name: str, dtype: torch.dtype, photos: Path) -> float:
    """Run the network on pixels in memory, as many as there are photos.

    The best of several batch sizes, and of two ways to use the processors: all of them
    for one batch, or each of them for a batch of its own.
    """
    count = min(sum(path.is_file() for path in photos.rglob("*")), 96)
    threads = torch.get_num_threads()
    rates = [
        rate(name, dtype, count, batch, *way)
        for batch in BATCHES
        for way in {(1, threads), (threads, 1)}
    ]
    torch.set_num_threads(threads)
    return max(rates)


def rate(
    name: str, dtype: torch.dtype, count: int, batch: int, lanes: int, threads: int
) -> float:
    """Give the images a second of so many lanes of so many threads."""
    network = fastest_of(name, dtype)
    side = 64 if name == "mini" else 224
    x = torch.randn(batch, 3, side, side).to(dtype)
    x = x.to(memory_format=torch.channels_last)

    def forward(_: int) -> None:
        with torch.inference_mode():
            network(x)["map"].mean(dim=(2, 3))

    begin = partial(torch.set_num_threads, threads)
    with ThreadPoolExecutor(lanes, initializer=begin) as pool:
        list(pool.map(forward, range(lanes)))
        n_batches = -(-count // batch)
        start = time.perf_counter()
        list(pool.map(forward, range(n_batches)))
        return n_batches * batch / (time.perf_counter() - start)


def with_featpipe(name: str, asked: dict[str, str], photos: Path) -> float:
    """Run the whole of `featpipe.extract`, file and all, less building the network."""
    asked = {"weights": "none", **asked}
    start = time.perf_counter()
    Network(Recipe(name, **asked)).lanes(["penultimate"], asked["precision"])
    building = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        codes = featpipe.extract(photos, Path(folder) / "x.h5", backbone=name, **asked)
        seconds = time.perf_counter() - start - building
    return len(codes) / seconds


def contenders(name: str) -> dict[str, Contender]:
    """List who takes part."""
    fp32 = {"precision": "fp32"}
    scaled = {"precision": "fp32", "decoding": "scaled"}
    found = {
        "featpipe fp32": partial(with_featpipe, name, fp32),
        "featpipe fp32, scaled": partial(with_featpipe, name, scaled),
        "usual script, batch 32": partial(usual_script, name, 32),
        "usual script, batch 64": partial(usual_script, name, 64),
        "one at a time": partial(one_at_a_time, name),
        "forward alone, fp32": partial(forward_alone, name, torch.float32),
    }
    able = torch.cpu.get_capabilities()
    if able.get("avx512_bf16") or able.get("amx_bf16"):
        bf16 = {"precision": "bf16"}
        found["featpipe bf16"] = partial(with_featpipe, name, bf16)
        found["forward alone, bf16"] = partial(forward_alone, name, torch.bfloat16)
    return found


def turn(run: Contender, photos: Path) -> tuple[float, float]:
    """Let a contender run; give images a second and the peak memory in GB."""
    found = run(photos)
    return found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(name: str, photos: dict[str, Path], warm: Path, rounds: int) -> None:
    """Run all contenders in turn, round after round, and print a table a set."""
    spawn = multiprocessing.get_context("spawn")
    taking_part = contenders(name)
    seats = {key: ProcessPoolExecutor(1, mp_context=spawn) for key in taking_part}
    for key, run in taking_part.items():
        seats[key].submit(turn, run, warm).result()
    for what, folder in photos.items():
        found: dict[str, list[tuple[float, float]]] = {key: [] for key in taking_part}
        for _ in range(rounds):
            for key, run in taking_part.items():
                found[key].append(seats[key].submit(turn, run, folder).result())
        show(f"{name}, {what}", found)
    for seat in seats.values():
        seat.shutdown()


def show(title: str, found: dict[str, list[tuple[float, float]]]) -> None:
    """Print what was measured."""
    rates = {key: [rate for rate, _ in turns] for key, turns in found.items()}
    median = {key: statistics.median(values) for key, values in rates.items()}
    usual = max(rate for key, rate in median.items() if key.startswith("usual"))
    print(f"\n### {title}\n")
    print("| | images/s | of the usual script | of forward alone | spread | peak GB |")
    print("|---|---|---|---|---|---|")
    for key, rate in median.items():
        bound = median[f"forward alone, {'bf16' if 'bf16' in key else 'fp32'}"]
        spread = f"{min(rates[key]):.1f} – {max(rates[key]):.1f}"
        peak = max(memory for _, memory in found[key])
        print(
            f"| {key} | {rate:.1f} | {rate / usual:.2f} | {rate / bound:.2f} "
            f"| {spread} | {peak:.2f} |",
            flush=True,
        )


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
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=384, help="ordinary photos")
    parser.add_argument("--large", type=int, default=24, help="12-megapixel ones; or 0")
    asked = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        photos = {"ordinary photos": some(asked.photos, folder / "some", asked.images)}
        if asked.large:
            path = large(asked.photos, folder / "large", asked.large)
            photos["12-megapixel photos"] = path
        warm = some(asked.photos, folder / "warm", 8)
        for name in asked.networks:
            measure(name, photos, warm, asked.rounds)


if __name__ == "__main__":
    main()
