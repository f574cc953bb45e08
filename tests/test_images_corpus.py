"""The decoder on strange and broken files of other projects' test suites."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from featpipe.images import DECODING, ImageError, decode, scan

SHARED = Path(__file__).parents[2] / "shared" / "data"
pytestmark = [
    pytest.mark.skipif(
        not SHARED.exists(), reason=f"{SHARED} is missing; see CONTRIBUTING.md"
    ),
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
]

# Only these disagree with Pillow, each for a rule of ours.
NOT_ALLOWED = {"ICO", "CUR", "PSD", "TGA", "IM", "XBM", "QOI"}


ORIENTED = tuple("2345678")


def expected() -> Iterator[dict[str, str]]:
    with (SHARED / "odd_images.csv").open(newline="") as file:
        yield from csv.DictReader(file)


def read(path: str) -> bytes:
    return (SHARED / "odd_images" / path).read_bytes()


def outcome(content: bytes) -> list[int] | None:
    """Return the sides of the image, the shorter first, or None for a failure."""
    try:
        return sorted(decode(content).image.size)
    except ImageError as error:
        return None if error.stage == "decode" and error.reason.isprintable() else []


def upright(path: str) -> np.ndarray:
    return np.asarray(decode(read(path)).image, np.float32)


def test_every_file_is_an_image_or_a_failure_as_pillow_and_the_rules_say():
    images = scan(SHARED / "odd_images", unlabelled=True)
    results = {}
    for i, path in enumerate(images.paths):
        results[path] = outcome(images.read(i))
    rows = list(expected())
    assert set(results) == {row["path"] for row in rows}
    assert len(results) == 150
    for row in rows:
        if row["pil_ok"] == "1" and row["format"] not in NOT_ALLOWED:
            assert results[row["path"]] == sorted(
                [int(row["width"]), int(row["height"])]
            )
            assert row["format"] in DECODING["formats"]
        else:
            assert results[row["path"]] is None


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("heif/heif/L_xmp.heif", "pillow-heif"),
        ("pillow/bmp/b/badwidth.bmp", "more than the limit"),
        ("pillow/png_decompression_dos.png", "damaged PNG: .*too large"),
        ("pillow/duplicate_xref_entry.pdf", "PDF"),
        ("pngsuite/xlfn0g04.png", "line ends"),
        ("pngsuite/xhdn0g08.png", "damaged PNG"),
    ],
)
def test_the_reasons_help(path, reason):
    with pytest.raises(ImageError, match=reason):
        decode(read(path))


def test_one_picture_in_all_orientations_comes_out_as_one_picture():
    folder = SHARED / "odd_images" / "exif_orientation"
    for kind in ("Landscape", "Portrait"):
        pictures = [
            upright(str(path.relative_to(SHARED / "odd_images")))
            for path in sorted(folder.glob(f"{kind}_*.jpg"))
        ]
        assert len(pictures) >= 5
        for picture in pictures[1:]:
            # Each was compressed apart, which makes 0.3 to 3.6 grey levels; wrongly
            # turned they differ by 59 and more.
            assert np.abs(picture - pictures[0]).mean() < 5


def test_every_orientation_agrees_with_pillows_own_transposition():
    paths = [row["path"] for row in expected() if row["exif_orientation"] in ORIENTED]
    paths = [path for path in paths if "exif_orientation/" not in path]
    assert len(paths) > 5
    for path in paths:
        with Image.open(SHARED / "odd_images" / path) as image:
            image.load()
            reference = ImageOps.exif_transpose(image).convert("RGB")
        assert np.array_equal(upright(path), np.asarray(reference))


def test_no_16_bit_or_float_file_comes_out_white():
    paths = [row["path"] for row in expected() if row["mode"][:1] in ("I", "F")]
    paths = [path for path in paths if path]
    assert len(paths) >= 9
    for path in paths:
        # Clipped, as Pillow would convert them, three of these are pure white.
        assert upright(path).mean() < 200, path


def test_16_bit_pngs_keep_the_high_byte():
    for path in ("pngsuite/g03n0g16.png", "pngsuite/g07n0g16.png"):
        with Image.open(SHARED / "odd_images" / path) as image:
            values = np.asarray(image)
        assert np.array_equal(upright(path)[:, :, 0], values // 256)
