"""Whether the fast JPEG decoders ever say otherwise than Pillow, or end the process.

JPEGs of all kinds, small ones made from a folder of photos, are cut, spliced and
overwritten at random for so many seconds; whatever `featpipe.images.turbo` decodes,
Pillow has to decode to the same pixels::

    python benchmarks/damage.py PHOTOS --seconds 200 --seed 1

With ``--device cuda`` it is the GPU's decoder (`featpipe.extraction.gpujpegs`): what
Pillow refuses it must not decode, and what it decodes must not depend on what it did
before. The last file tried is kept, for the case that it ends the process.
"""

import argparse
import io
import random
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from featpipe import images
from featpipe.backbones import Preprocessing
from featpipe.extraction.gpujpegs import GPUJpegs
from featpipe.extraction.pixels import pixels_of
from featpipe.images import turbo

KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"progressive": True},
    {"subsampling": 0},
    {"subsampling": 1},
    {"quality": 30, "restart_marker_blocks": 4},
    {"keep_rgb": True},
    {"optimize": True},
)
TARGETS = (3, 9, 30, 90, 3000)
HEADERS = 700  # bytes, where most of the damage does most
LAST = Path(tempfile.gettempdir()) / "damage.jpg"
AT_ONCE = 64
SQUARE = Preprocessing(resize=96, crop=84)
GREY_LEVELS = 2


def small_jpegs(photos: Path, some: random.Random, sides: range) -> list[bytes]:
    """Make small JPEGs of every kind from some of the photos."""
    found = []
    for path in sorted(photos.rglob("*.jpg"))[::8]:
        size = some.choice(sides), some.choice(sides)
        image = Image.open(path).convert("RGB").resize(size)
        for options in KINDS:
            file = io.BytesIO()
            image.save(file, "JPEG", **options)
            found.append(file.getvalue())
    return found


def damaged(content: bytes, all_: list[bytes], some: random.Random) -> bytes:
    """Cut a file, take out or put in a piece, splice two, or overwrite some bytes."""
    length, kind = len(content), some.random()
    at = some.randrange(1, length)
    if kind < 0.25:
        return content[:at]
    if kind < 0.35:
        return content[:at] + content[at + some.randrange(1, 200) :]
    if kind < 0.45:
        return content[:at] + some.randbytes(some.randrange(1, 40)) + content[at:]
    if kind < 0.55:
        other = some.choice(all_)
        return content[:at] + other[some.randrange(len(other)) :]
    result = bytearray(content)
    end = length if some.random() < 0.5 else min(length, HEADERS)
    for _ in range(some.choice((1, 1, 2, 5, 20))):
        result[some.randrange(end)] = some.choice((some.randrange(256), 255, 0))
    return bytes(result)


def same(content: bytes, target: int) -> bool | None:
    """Compare the decoders; None if Pillow has the word anyway."""
    try:
        image = Image.open(io.BytesIO(content), formats=["JPEG"])
    except Exception:
        return None
    if image.format != "JPEG" or image.mode != "RGB":
        return None
    image.draft(None, (target, target))
    pixels = turbo.decode(content, image.size)
    if pixels is None:
        return None
    try:
        return np.array_equal(pixels, np.asarray(image))
    except Exception:
        return False


def cpu_round(jpegs: list[bytes], some: random.Random) -> Counter[str]:
    """Try one file with the processors' decoder."""
    content = damaged(some.choice(jpegs), jpegs, some)
    LAST.write_bytes(content)
    outcome = same(content, some.choice(TARGETS))
    if outcome is False:
        LAST.with_suffix(f".{random.random()}.jpg").write_bytes(content)
    words = {True: "decoded as by Pillow", False: "otherwise", None: "left to Pillow"}
    return Counter([words[outcome]])


def gpu_round(gpu: GPUJpegs, jpegs: list[bytes], some: random.Random) -> Counter[str]:
    """Try some files with the GPU's decoder, twice and in another order."""
    contents = [damaged(some.choice(jpegs), jpegs, some) for _ in range(AT_ONCE)]
    LAST.write_bytes(b"".join(contents))
    first = gpu.pixels_of(contents, SQUARE)
    gpu.pixels_of(some.choices(jpegs, k=AT_ONCE), SQUARE)
    again = gpu.pixels_of(contents[::-1], SQUARE)[::-1]
    said: Counter[str] = Counter()
    for content, one, other in zip(contents, first, again, strict=True):
        if one is None or other is None:
            both = one is other
            said["left to Pillow" if both else "not the same again"] += 1
            continue
        said["not the same again"] += not bool((one == other).all())
        try:
            expected, _ = pixels_of(content, SQUARE, exact=True)
        except images.ImageError:
            said["refused by Pillow"] += 1
            continue
        close = np.abs(one.cpu().numpy().astype(int) - expected).mean() < GREY_LEVELS
        said["decoded as by Pillow" if close else "otherwise"] += 1
    return said


def main() -> None:
    """Try for as long as the arguments ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="a GPU, whose decoder to try")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")  # of Pillow's, about EXIF
    some = random.Random(asked.seed)
    # What is smaller is not left to a GPU.
    sides = range(200, 320) if asked.device else range(20, 150)
    jpegs = small_jpegs(asked.photos, some, sides)
    gpu = GPUJpegs(torch.device(asked.device)) if asked.device else None
    said: Counter[str] = Counter()
    end = time.monotonic() + asked.seconds
    while time.monotonic() < end:
        said += gpu_round(gpu, jpegs, some) if gpu else cpu_round(jpegs, some)
    for words, count in said.most_common():
        print(f"{count:>9,} damaged files {words}")


if __name__ == "__main__":
    main()
