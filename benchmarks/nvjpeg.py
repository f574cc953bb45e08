"""Why featpipe has no GPU decode JPEGs: what nvJPEG makes of whole and damaged files.

For a machine with CUDA::

    python benchmarks/nvjpeg.py PHOTOS --seconds 20

Printed: how many photos a second torchvision's decoder does; how far its pixels and the
codes of small images are from those by Pillow; and what becomes of damaged files, each
decoded twice, in another order the second time.
"""

import argparse
import io
import random
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from damage import KINDS, damaged, small_jpegs
from PIL import Image
from torchvision.io import ImageReadMode

from featpipe import images
from featpipe.backbones import Preprocessing
from featpipe.inference import Machine, Recipe
from featpipe.inference.network import Network

RGB = ImageReadMode.RGB.value
AT_ONCE = 64
GREY_LEVELS = 2  # on average, and they are different pictures


def decoded(contents: list[bytes], device: str) -> list[np.ndarray | None]:
    """Decode to (H, W, 3) uint8; None if the decoder objects."""
    try:
        return [each.permute(1, 2, 0).cpu().numpy() for each in there(contents, device)]
    except RuntimeError:
        if len(contents) == 1:
            return [None]
    return [decoded([content], device)[0] for content in contents]


def there(contents: list[bytes], device: str) -> list[torch.Tensor]:
    """Decode to (3, H, W) uint8 on the device, all or none of them."""
    files = [torch.frombuffer(bytearray(c), dtype=torch.uint8) for c in contents]
    if device == "cpu":
        return [torch.ops.image.decode_jpeg(file, RGB, False) for file in files]
    result: list[torch.Tensor] = torch.ops.image.decode_jpegs_cuda(
        files, RGB, torch.device(device)
    )
    return result


def rates(contents: list[bytes], device: str) -> None:
    """Time it alone, files in memory and pixels left on the device."""
    there(contents[:32], device)
    for at_once in (1, 32, 128):
        n_images, start = 0, time.perf_counter()
        while time.perf_counter() - start < 2:
            there(random.choices(contents, k=at_once), device)
            n_images += at_once
        rate = n_images / (time.perf_counter() - start)
        print(f"{rate:>9,.0f} photos a second, {at_once} at once")


def differences(photos: list[bytes], device: str) -> None:
    """Compare with Pillow, by kind of JPEG."""
    for options in KINDS:
        levels = []
        for photo in photos[::20]:
            content = saved(photo, None, **options)
            (result,) = decoded([content], device)
            expected = np.asarray(images.decode(content).image).astype(int)
            if result is not None:
                levels.append(np.abs(result - expected).mean())
        text = f"{np.mean(levels):9.2f}" if levels else "     none"
        print(f"{text} grey levels from Pillow's on average: {options}")


def cosines(photos: list[bytes], device: str) -> None:
    """Compare codes of ``mini`` of small images with chromas at half the size."""
    square = Preprocessing(resize=72, crop=64)
    contents = [saved(photo, (96, 80), subsampling=2) for photo in photos]
    backbone = Network(Recipe("mini"), Machine(device)).lanes(["penultimate"], "fp32")[
        0
    ]

    def codes(pictures: list[np.ndarray]) -> torch.Tensor:
        squares = [square.apply(Image.fromarray(picture)) for picture in pictures]
        return backbone(torch.from_numpy(np.stack(squares)).to(device))["penultimate"]

    expected = codes([np.asarray(images.decode(c).image) for c in contents])
    result = codes([each for each in decoded(contents, device) if each is not None])
    cosine = torch.cosine_similarity(result, expected)
    print(f"{cosine.min():9.5f} least cosine of {len(cosine)} codes with Pillow's")


def saved(photo: bytes, size: tuple[int, int] | None, **options: object) -> bytes:
    """Save a photo anew, as another kind of JPEG."""
    image = images.decode(photo).image
    file = io.BytesIO()
    (image.resize(size) if size else image).save(file, "JPEG", **options)
    return file.getvalue()


def damage(photos: Path, seconds: float, device: str) -> None:
    """Try damaged files, and count what becomes of them."""
    some = random.Random(1)
    jpegs = small_jpegs(photos, some)
    text: Counter[str] = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        contents = [damaged(some.choice(jpegs), jpegs, some) for _ in range(AT_ONCE)]
        first = decoded(contents, device)
        decoded(some.choices(jpegs, k=AT_ONCE), device)
        again = decoded(contents[::-1], device)[::-1]
        for content, one, other in zip(contents, first, again, strict=True):
            text.update(outcomes(content, one, other))
    for words, count in text.most_common():
        print(f"{count:>9,} damaged files {words}")


def outcomes(
    content: bytes, one: np.ndarray | None, other: np.ndarray | None
) -> list[str]:
    """Put into words what became of one file."""
    if one is None or other is None:
        return ["objected to"]
    result = [] if np.array_equal(one, other) else ["not the same the second time"]
    try:
        expected = np.asarray(images.decode(content).image)
    except images.ImageError:
        return [*result, "decoded, refused by Pillow"]
    same = one.shape == expected.shape
    same = same and float(np.abs(one.astype(int) - expected).mean()) < GREY_LEVELS
    return [*result, "decoded as by Pillow" if same else "decoded otherwise"]


def main() -> None:
    """Measure what the arguments ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of Pillow's, about EXIF
    photos = [path.read_bytes() for path in sorted(options.photos.rglob("*.jpg"))]
    rates(photos, options.device)
    differences(photos, options.device)
    cosines(photos, options.device)
    damage(options.photos, options.seconds, options.device)


if __name__ == "__main__":
    main()
