"""Whether the fast JPEG decoder ever says otherwise than Pillow, or ends the process.

JPEGs of all kinds, small ones made from a folder of photos, are cut, spliced and
overwritten at random for so many seconds; whatever `featpipe.images.plain_jpeg`
decodes, Pillow has to decode to the same pixels::

    python benchmarks/damage.py PHOTOS --seconds 200 --seed 1

The last file tried is kept, for the case that it ends the process.
"""

import argparse
import io
import random
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from featpipe.images import plain_jpeg

KINDS: tuple[dict[str, int | bool], ...] = (
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


def small_jpegs(photos: Path, some: random.Random) -> list[bytes]:
    """Make small JPEGs of every kind from some of the photos."""
    items = []
    for path in sorted(photos.rglob("*.jpg"))[::8]:
        size = some.randint(20, 150), some.randint(20, 150)
        image = Image.open(path).convert("RGB").resize(size)
        for options in KINDS:
            file = io.BytesIO()
            image.save(file, "JPEG", **options)
            items.append(file.getvalue())
    return items


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
    pixels = plain_jpeg.decode(content, image.size)
    if pixels is None:
        return None
    try:
        return np.array_equal(pixels, np.asarray(image))
    except Exception:
        return False


def main() -> None:
    """Try for as long as the arguments ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of Pillow's, about EXIF
    some = random.Random(options.seed)
    jpegs = small_jpegs(options.photos, some)
    last = Path(tempfile.gettempdir()) / f"damage-{options.seed}.jpg"
    results = {True: 0, False: 0, None: 0}
    end = time.monotonic() + options.seconds
    while time.monotonic() < end:
        content = damaged(some.choice(jpegs), jpegs, some)
        last.write_bytes(content)
        outcome = same(content, some.choice(TARGETS))
        results[outcome] += 1
        if outcome is False:
            last.with_suffix(f".{results[False]}.jpg").write_bytes(content)
    print(
        f"{sum(results.values()):,} damaged files: {results[True]:,} decoded as by "
        f"Pillow, {results[False]:,} otherwise, {results[None]:,} left to Pillow"
    )


if __name__ == "__main__":
    main()
