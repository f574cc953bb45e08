"""How fast images become codes, beside the usual script and the limit of the chip.

In one run, contenders taking turns round after round::

    python benchmarks/extraction.py PHOTOS --networks resnet50 mini --rounds 3

``PHOTOS`` is any folder of class folders with JPEGs; the 12-megapixel set is made from
them by upscaling and encoding again. Printed are medians over rounds: images a second,
and each contender's ratio to the usual script and to the limit. Building the network is
left out for everybody (featpipe builds it inside; that time is measured and taken off).
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
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
from featpipe.extraction import Recipe
from featpipe.extraction.network import Network

# The last maps of each network; averaged, they are what featpipe calls penultimate.
NODES = {
    "mini": "stage4",
    "squeezenet1_0": "features",
    "mobilenet_v2": "features",
    "resnet50": "layer4",
}
BATCHES = (16, 32, 64)
Contender = Callable[[], float]


def network_of(name: str) -> nn.Module:
    """Build the whole network, random weights, evaluation mode."""
    network = Mini() if name == "mini" else get_model(name, weights=None)
    return network.eval()


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


def usual_script(name: str, photos: Path, batch: int) -> Contender:
    """Run the script of torchvision's documentation: DataLoader, two workers, fp32."""
    cut = create_feature_extractor(network_of(name), {NODES[name]: "map"})
    network = cut.eval()
    images = ImageFolder(str(photos), transform_of(name))

    def run() -> float:
        start = time.perf_counter()
        loader = torch.utils.data.DataLoader(images, batch_size=batch, num_workers=2)
        with torch.no_grad():
            codes = [network(x)["map"].mean(dim=(2, 3)) for x, _ in loader]
        torch.cat(codes).numpy()
        return len(images) / (time.perf_counter() - start)

    return run


def one_at_a_time(name: str, photos: Path) -> Contender:
    """Open, transform and run every image by itself."""
    cut = create_feature_extractor(network_of(name), {NODES[name]: "map"})
    network = cut.eval()
    transform = transform_of(name)
    paths = sorted(path for path in photos.rglob("*") if path.is_file())

    def run() -> float:
        start = time.perf_counter()
        with torch.no_grad():
            for path in paths:
                image = Image.open(path).convert("RGB")
                network(transform(image)[None])["map"].mean(dim=(2, 3))
        return len(paths) / (time.perf_counter() - start)

    return run


def limit(name: str, precision: str, count: int) -> Contender:
    """Forward passes alone: folded, channels last, best batch, cut like featpipe's."""
    network = network_of(name)
    if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        network = fuse(network)
    network = create_feature_extractor(network, {NODES[name]: "map"}).eval()
    network = network.to(memory_format=torch.channels_last)
    side = 64 if name == "mini" else 224
    lower = precision == "bf16"
    if lower:
        network = network.bfloat16()
    dtype = torch.bfloat16 if lower else torch.float32

    def rate(batch: int) -> float:
        x = torch.randn(batch, 3, side, side).to(dtype)
        x = x.to(memory_format=torch.channels_last)
        with torch.inference_mode():
            network(x)
            start = time.perf_counter()
            for _ in range(-(-count // batch)):
                network(x)["map"].mean(dim=(2, 3))
        return -(-count // batch) * batch / (time.perf_counter() - start)

    return lambda: max(rate(batch) for batch in BATCHES)


def with_featpipe(name: str, photos: Path, precision: str) -> Contender:
    """Run the whole of `featpipe.extract`, file and all, less building the network."""

    def run() -> float:
        asked = {"weights": "none", "precision": precision}
        start = time.perf_counter()
        Network(Recipe(name, **asked)).ready(["penultimate"], precision)
        building = time.perf_counter() - start
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            codes = featpipe.extract(
                photos, Path(folder) / "x.h5", backbone=name, **asked
            )
            seconds = time.perf_counter() - start - building
        return len(codes) / seconds

    return run


def large_photos(photos: Path, folder: Path, count: int) -> Path:
    """Make 12-megapixel JPEGs of ordinary ones."""
    paths = sorted(path for path in photos.rglob("*.jp*g") if path.is_file())
    for k in range(count):
        image = Image.open(paths[k % len(paths)]).convert("RGB").resize((4000, 3000))
        path = folder / "large" / f"{k}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=90)
    return folder


def contenders(name: str, photos: Path) -> Iterator[tuple[str, Contender]]:
    """List who takes part."""
    count = min(sum(path.is_file() for path in photos.rglob("*")), 192)
    yield "featpipe fp32", with_featpipe(name, photos, "fp32")
    yield "featpipe bf16", with_featpipe(name, photos, "bf16")
    for batch in (32, 64):
        yield f"usual script, batch {batch}", usual_script(name, photos, batch)
    yield "one at a time", one_at_a_time(name, photos)
    yield "forward alone, fp32", limit(name, "fp32", count)
    yield "forward alone, bf16", limit(name, "bf16", count)


def measure(name: str, photos: Path, what: str, rounds: int) -> None:
    """Run all contenders in turn, round after round, and print a table."""
    taking_part = dict(contenders(name, photos))
    rates: dict[str, list[float]] = {key: [] for key in taking_part}
    for _ in range(rounds):
        for key, run in taking_part.items():
            rates[key].append(run())
    median = {key: statistics.median(values) for key, values in rates.items()}
    usual = max(rate for key, rate in median.items() if key.startswith("usual"))
    print(f"\n### {name}, {what}\n")
    print("| | images/s | of the usual script | of forward alone | spread |")
    print("|---|---|---|---|---|")
    for key, rate in median.items():
        precision = "bf16" if key.endswith("bf16") else "fp32"
        bound = median[f"forward alone, {precision}"]
        spread = f"{min(rates[key]):.1f} – {max(rates[key]):.1f}"
        print(
            f"| {key} | {rate:.1f} | {rate / usual:.2f} | {rate / bound:.2f} "
            f"| {spread} |",
            flush=True,
        )


def main() -> None:
    """Measure what the arguments ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--networks", nargs="+", default=list(NODES), choices=NODES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", type=int, default=48, help="12-megapixel images")
    asked = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        large = large_photos(asked.photos, Path(folder), asked.large)
        for name in asked.networks:
            measure(name, asked.photos, "ordinary photos", asked.rounds)
            measure(name, large, "12-megapixel photos", asked.rounds)


if __name__ == "__main__":
    main()
