"""List zip archives of images, and read their members."""

# ruff: noqa: PTH100, PTH123 - paths are text as in `folder`

from __future__ import annotations

import bz2
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from featpipe.images.archive import (
    ArchiveMember,
    archive_errors,
    identity_of,
    image_set_of_members,
    reopened,
    slice_of,
)
from featpipe.images.imageset import MAX_BYTES, ImageError, ImageSet, too_large

__all__ = ["scan_zip"]

# Image files never compress so far, but bombs do. Smaller members do no harm.
_MOST_RATIO = 100
_HARMLESS = 2**24


def scan_zip(source: str, unlabelled: bool = False) -> ImageSet:
    """List a zip archive; members that are encrypted, links or too large fail.

    Raises
    ------
    ValueError
        If the archive is damaged, holds no image, or its folders contradict each other.
    """
    with open(source, "rb") as file:
        identity = identity_of(file)
        with archive_errors(source, "zip"), zipfile.ZipFile(file) as archive:
            members = [_zip_member(info) for info in archive.infolist()]
    path = os.path.abspath(source)
    return image_set_of_members(
        source,
        identity,
        members,
        lambda places: _ZipReader(path, identity, places),
        unlabelled,
    )


def _zip_member(info: zipfile.ZipInfo) -> ArchiveMember:
    place = (
        info.header_offset,
        info.compress_size,
        info.compress_type,
        info.file_size,
        info.CRC,
    )
    reason = _zip_reason(info)
    return ArchiveMember(info.filename, info.file_size, place, reason)


def _zip_reason(info: zipfile.ZipInfo) -> str:
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or device in an archive"
    if info.flag_bits & 0x1:
        return "encrypted"
    if max(info.file_size, info.compress_size) > MAX_BYTES:
        return too_large(max(info.file_size, info.compress_size))
    if info.file_size > _HARMLESS and info.file_size > _MOST_RATIO * info.compress_size:
        return (
            f"{info.file_size:,} bytes out of {info.compress_size:,}, more than "
            f"{_MOST_RATIO} times as many; store it uncompressed if it is an image"
        )
    if info.compress_type not in _DECOMPRESS:
        return f"compressed by method {info.compress_type}; use deflate"
    return ""


# Each takes the stored bytes, and the most bytes to return.
_DECOMPRESS: dict[int, Callable[[bytes, int], bytes]] = {
    zipfile.ZIP_STORED: lambda stored, most: stored,
    zipfile.ZIP_DEFLATED: lambda stored, most: zlib.decompressobj(-15).decompress(
        stored, most
    ),
    zipfile.ZIP_BZIP2: lambda stored, most: bz2.BZ2Decompressor().decompress(
        stored, most
    ),
}


@dataclass(frozen=True)
class _ZipReader:
    archive: str
    identity: tuple[int, int]
    places: dict[str, tuple[int, ...]]

    def read(self, path: str) -> bytes:
        offset, stored_size, method, size, crc = self.places[path]
        with reopened(self.archive, self.identity) as file:
            # Name and extra field may have another length than in the directory.
            head = slice_of(file, offset, 30)
            if head[:4] != b"PK\x03\x04":
                raise ImageError("read", "the archive is damaged: no member there")
            n_name, n_extra = struct.unpack("<HH", head[26:30])
            # With the size of the central directory, since the local header of a
            # streamed archive has none.
            stored = slice_of(file, offset + 30 + n_name + n_extra, stored_size)
        try:
            # One byte more, which shows whether a member is longer than declared.
            content = _DECOMPRESS[method](stored, size + 1)
        except (zlib.error, OSError, ValueError, EOFError) as error:
            raise ImageError("read", f"damaged member: {error}") from error
        if len(content) != size or zlib.crc32(content) != crc:
            raise ImageError("read", "damaged member: size or checksum is wrong")
        return content

    def only(self, paths: Iterable[str]) -> _ZipReader:
        """Return a reader of these members alone."""
        return replace(self, places={path: self.places[path] for path in paths})
