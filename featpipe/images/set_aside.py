"""Recognise names that a scan counts and does not list: systems' and non-images."""

from __future__ import annotations

import re

__all__ = ["is_image_name", "is_set_aside"]

_SYSTEM = {
    *("__macosx", "@eadir", "@tmp", "#recycle", "@recycle", "#snapshot"),
    *("$recycle.bin", "recycler", "recycled", "system volume information"),
    *("network trash folder", "temporary items", "thevolumesettingsfolder"),
    *("lost+found", "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini"),
    *("ehthumbs_vista.db", "icon\r", "picasa.ini", "zbthumbnail.info"),
}
_REPAIRED = re.compile(r"found\.\d{3}", re.IGNORECASE)  # chkdsk of Windows makes it
_DOCUMENTS = re.compile(
    r"(readme|licen[cs]e|copying|changelog|citation|authors|notice)([ ._-].*)?"
    r"|.*\.(md5|sha1|sha256|sha512|sfv|crc32)"
    r"|(md5|sha1|sha256|sha512)sums?(\.txt)?|checksums?(\..*)?"
    r"|(labels?|class(es)?|class_?names|categories|annotations?|metadata|notes|urls)\.txt"
    r"|.*\.(csv|tsv|json|jsonl|xml|yaml|yml|md|rst|xlsx|parquet|ipynb|url|lnk|xmp|aae|ini)"
    r"|.*:zone\.identifier",
    re.IGNORECASE,
)
_IMAGE_SUFFIX = re.compile(
    r".*\.(jpe?g|png|gif|webp|bmp|tiff?|avif|p[pgbn]m|jp2|j2k|mpo)", re.IGNORECASE
)


def is_set_aside(name: str, *, is_folder: bool) -> bool:
    """Return whether a file or folder of this name is counted and not listed.

    These are files of systems (``@eaDir``, ``Thumbs.db``), files about a collection
    (``README``, checksums, tables), and all names with a leading dot.

    Examples
    --------
    >>> [is_set_aside(n, is_folder=False) for n in ("Thumbs.db", "README.md", "a.jpg")]
    [True, True, False]
    """
    if name.startswith(".") or name.casefold() in _SYSTEM:
        return True
    if is_folder:
        return _REPAIRED.fullmatch(name) is not None
    # An image may be called readme.png.
    if _IMAGE_SUFFIX.fullmatch(name):
        return False
    return _DOCUMENTS.fullmatch(name) is not None


def is_image_name(name: str) -> bool:
    """Return whether a file name has the suffix of an image format.

    Examples
    --------
    >>> is_image_name("new.JPG"), is_image_name("photos.csv")
    (True, False)
    """
    return _IMAGE_SUFFIX.fullmatch(name.rpartition("/")[2]) is not None
