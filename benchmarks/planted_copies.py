"""How many planted copies under another label `compare` finds among real photos.

    python benchmarks/planted_copies.py PHOTOS --backbone squeezenet1_0 --weights FILE

Copies a folder of photos (class folders, or splits with class folders below), plants
2, 3, 4 and 8 copies of training photos in the next class, and prints for each way of
making a copy how many of the planted ones are found, and how many pairs are reported
that are none. The originals are another draw each time.
"""

import argparse
import io
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

import featpipe
from featpipe import images
from featpipe.comparison import duplicates
from featpipe.comparison.sources import align_files, choose_depths

_COUNTS = (2, 3, 4, 8)


def _reencoded(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=70)
    return Image.open(file)


def _cropped(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((0, 0, round(0.97 * width), round(0.97 * height)))


WAYS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "same bytes": lambda image: image,
    "JPEG 70": _reencoded,
    "half size": lambda image: image.reduce(2),
    "3 % crop": _cropped,
    "brighter by a fifth": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def plant(source: Path, way: str, n: int, rng: np.random.Generator) -> dict[str, str]:
    """Write ``n`` copies into the next class; return the original of each."""
    photos = images.scan(source)
    trains = [i for i, split in enumerate(photos.splits) if split in ("train", "")]
    planted: dict[str, str] = {}
    for i in rng.permutation(trains):
        if len(planted) == n:
            break
        original = Path(photos.paths[i])
        try:
            image = images.decode(photos.read(i)).image
        except images.ImageError:
            continue
        names = photos.class_names
        other = names[(int(photos.labels[i]) + 1) % len(names)]
        suffix = original.suffix if way == "same bytes" else ".png"
        copy = original.parent.with_name(other) / f"planted{len(planted)}{suffix}"
        if way == "same bytes":
            shutil.copy(source / original, source / copy)
        else:
            WAYS[way](image).convert("RGB").save(source / copy)
        planted[str(copy)] = str(original)
    return planted


def reported(codes: featpipe.Codes) -> tuple[set[frozenset[str]], float]:
    """Return the pairs that `compare` reports as relabelled, and its threshold."""
    labelled, (source,) = align_files([codes])
    ((depth,),) = choose_depths([source], None)
    X = source.arrays(depth)
    alike = duplicates.duplicate_threshold(X)
    sides = np.zeros(len(X), np.int64)
    result = duplicates.find_duplicates(
        X, labelled.digests, sides, labelled.labels, alike
    )
    pairs = {
        frozenset((labelled.paths[copy.row], labelled.paths[copy.other]))
        for copy in result
        if copy.kind == "relabelled"
    }
    return pairs, alike


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos")
    parser.add_argument("--backbone", default="mini")
    parser.add_argument("--weights")
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    rng = np.random.default_rng(0)
    print(
        "| copies | " + " | ".join(f"{n} planted" for n in _COUNTS) + " | threshold |"
    )
    print("|---" * (len(_COUNTS) + 2) + "|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "photos"
        shutil.copytree(options.photos, folder)
        for way in WAYS:
            cells, highest = [], 0.0
            for n in _COUNTS:
                planted = plant(folder, way, n, rng)
                codes = featpipe.extract(
                    folder,
                    Path(name) / "codes.h5",
                    backbone=options.backbone,
                    weights=options.weights,
                )
                pairs, alike = reported(codes)
                hits = {frozenset(pair) for pair in planted.items()} & pairs
                cells.append(f"{len(hits)}, {len(pairs - hits)} wrong")
                highest = max(highest, alike)
                for copy in planted:
                    (folder / copy).unlink()
            print(f"| {way} | {' | '.join(cells)} | {highest:.3f} |", flush=True)


if __name__ == "__main__":
    main()
