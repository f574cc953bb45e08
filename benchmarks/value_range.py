"""What 12 bits in files of 16 cost a linear probe, and what a value range gives back.

    python benchmarks/value_range.py PHOTOS --backbone squeezenet1_0 --weights FILE

Copies the photos of a folder (class folders, or splits with class folders below) twice,
with the shorter side of 224 pixels: as PNG of 8 bits, and as PNG of 16 bits with the
values of a camera of 12. Prints the accuracy of `linear` on each, the second as the
file says, with ``0:4095``, and with ``auto``.
"""

import argparse
import struct
import tempfile
import warnings
import zlib
from pathlib import Path

import numpy as np

import featpipe
from featpipe import images


def png_of_16_bits(values: np.ndarray) -> bytes:
    """Return an RGB PNG, which Pillow cannot write with 16 bits."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    height, width, _ = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = {b"IHDR": header, b"IDAT": zlib.compress(rows, 1), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(k, v) for k, v in parts.items())


def write(source: str, folder: Path) -> tuple[Path, Path]:
    """Write both copies; return their folders."""
    photos = images.scan(source)
    rng = np.random.default_rng(0)
    for i, name in enumerate(photos.paths):
        try:
            image = images.decode(photos.read(i)).image
        except images.ImageError:
            continue
        scale = 224 / min(image.size)
        image = image.resize([round(side * scale) for side in image.size])
        pixels = np.asarray(image)
        # The four bits below those that a photo has left are noise.
        values = pixels.astype(np.uint16) * 16 + rng.integers(0, 16, pixels.shape)
        for kind in ("8", "12"):
            path = (folder / kind / name).with_suffix(".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "8":
                image.save(path)
            else:
                path.write_bytes(png_of_16_bits(values))
    return folder / "8", folder / "12"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos")
    parser.add_argument("--backbone", default="mini")
    parser.add_argument("--weights")
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        eight, twelve = write(options.photos, folder)
        for source, value_range in [
            (eight, "file"),
            (twelve, "file"),
            (twelve, "0:4095"),
            (twelve, "auto"),
        ]:
            path = folder / f"{source.name}-{value_range.replace(':', '-')}.h5"
            codes = featpipe.extract(
                source,
                path,
                backbone=options.backbone,
                weights=options.weights,
                value_range=value_range,
            )
            (score,) = featpipe.compare(codes, classifiers=["linear"]).scores
            low, high = 100 * score.accuracy_low, 100 * score.accuracy_high
            print(
                f"{source.name} bits, {value_range}: {100 * score.accuracy:.1f} % "
                f"[{low:.1f}, {high:.1f}] of {score.n_test}",
                flush=True,
            )


if __name__ == "__main__":
    main()
