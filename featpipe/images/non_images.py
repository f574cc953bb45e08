"""Describe a file that is not a readable image, and what to do about it."""

import re
from collections.abc import Sequence

__all__ = ["describe_non_image", "unknown"]

_FOREIGN = (
    (
        rb"version https://git-lfs",
        "a git-LFS pointer, not the image; run 'git lfs pull'",
    ),
    (rb"\s*<(!doctype html|html|head|body)", "an HTML page; was the download refused?"),
    (
        rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<svg",
        "an SVG drawing; convert it to PNG",
    ),
    (
        rb"....ftyp(heic|heix|heim|heis|hevc|hevx|mif1|msf1|mif2)",
        "a HEIC image; convert it to JPEG or PNG, for instance with the package "
        "pillow-heif",
    ),
    (
        rb"II\*\0....CR\x02|....ftypcrx|FUJIFILMCCD-RAW|II(U\0|RO|RS)",
        "a raw camera file; convert it to JPEG or PNG",
    ),
    (
        rb"....ftyp(?!avi[fs])|\x1aE\xdf\xa3|RIFF....AVI",
        "a video; store its frames as images",
    ),
    (rb"%PDF", "a PDF document; convert its pages to PNG"),
    (rb"PK\x03\x04", "a zip archive; give the archive itself as the source"),
    (rb"\x00\x05\x16\x07", "an AppleDouble file with a Mac's notes; delete it"),
    (
        rb"\x89PNG(?!\r\n\x1a\n)",
        "a PNG whose line ends a transfer in text mode changed",
    ),
    (rb"8BPS", "a Photoshop file; convert it to PNG"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript file; convert it to PNG"),
    (rb"\x00\x00[\x01\x02]\x00", "an icon, cursor or TGA image; convert it to PNG"),
    (rb".{128}DICM", "a DICOM file; convert its frames to 16-bit PNG"),
    (rb"\x93NUMPY", "a NumPy array; save its images as PNG"),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 file; save its images as PNG"),
    (rb"\x80[\x02-\x05][\x00-\xff]{2}", "a pickle of Python; save images as PNG"),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "a JPEG XL image; convert it to JPEG or PNG"),
)


def describe_non_image(content: bytes) -> str:
    """Return what a file is that is certainly not a readable image; "" if not known."""
    # The beginning is enough, and patterns on a whole video would take long.
    head = content[:512]
    for pattern, name in _FOREIGN:
        if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
            return name
    return ""


def unknown(content: bytes, formats: Sequence[str]) -> str:
    """Return a description of content that is in none of these formats."""
    allowed = ", ".join(formats)
    head = content[:512]
    # An interrupted copy often leaves a file of zeros of the right size.
    if not any(head):
        return "only zero bytes; was it copied in full?"
    kind = "a text file" if not re.search(rb"[\x00-\x08\x0e-\x1f]", head) else "unknown"
    return f"{kind}, not an image of an allowed format ({allowed})"
