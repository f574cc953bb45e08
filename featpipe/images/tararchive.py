"""List tar archives of images, plain or compressed, and read their members.

A member of a compressed tar cannot be read alone. So each process decompresses the tar
once, into a temporary file without a name, which the system removes when the process
ends. That takes the space of the plain tar in the temporary folder, and time before the
first image. A plain tar or a zip is the better choice, since images hardly compress.
"""

# ruff: noqa: PTH100, PTH123 - paths are text as in `folder`

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tarfile
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import IO, Any

from featpipe.images.archive import (
    ArchiveMember,
    archive_errors,
    identity_of,
    image_set_of_members,
    reopened,
    slice_of,
)
from featpipe.images.imageset import (
    MAX_BYTES,
    ImageError,
    ImageReader,
    ImageSet,
    too_large,
)

__all__ = ["scan_tar"]


def scan_tar(source: str, unlabelled: bool = False) -> ImageSet:
    """List a tar archive; members that are links, devices or too large fail.

    Raises
    ------
    ValueError
        If the archive is damaged, decompresses to more than 1 GiB and a hundred times
        its own size, holds no image, or its folders contradict each other.
    """
    path = os.path.abspath(source)
    with open(source, "rb") as file:
        identity = identity_of(file)
        packed = _decompressor(file) is not None
    spool = _Spool(path, identity)
    with archive_errors(source, "tar"):
        if packed:
            members = _tar_members(spool.file())
        else:
            with reopened(path, identity) as plain:
                members = _tar_members(plain)

    def reader(places: dict[str, tuple[int, ...]]) -> ImageReader:
        if packed:
            return _PackedReader(spool, places)
        return _TarReader(path, identity, places)

    return image_set_of_members(source, identity, members, reader, unlabelled)


def _tar_members(file: IO[bytes]) -> list[ArchiveMember]:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    members = []
    offset = -1
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as archive:
        for info in archive:
            # With overlapping members, a small archive could list gigabytes.
            if info.offset <= offset or info.size < 0:
                raise tarfile.ReadError("its members overlap")
            offset = info.offset
            if _end(info) > size:
                raise tarfile.ReadError("it ends within a member")
            members.append(_tar_member(info))
            archive.members = []  # type: ignore[attr-defined]  # would keep them all
        # tarfile reads a damaged header, and a cut between two members, as the end of
        # the archive. Only the end mark shows that it is whole.
        file.seek(archive.offset)
        if file.read(512) != bytes(512):
            raise tarfile.ReadError(
                f"no end mark; damaged after {len(members)} members"
            )
    return members


def _end(info: tarfile.TarInfo) -> int:
    stored = info.isreg() and not info.issparse()
    return info.offset_data + (info.size if stored else 0)


def _tar_member(info: tarfile.TarInfo) -> ArchiveMember:
    reason = ""
    if info.issparse() or not (info.isreg() or info.isdir()):
        reason = "a link, device or sparse file in an archive"
    elif info.size > MAX_BYTES:
        reason = too_large(info.size)
    place = (info.offset_data, info.size)
    return ArchiveMember(info.name, info.size, place, reason, info.isdir())


@dataclass(frozen=True)
class _TarReader:
    archive: str
    identity: tuple[int, int]
    places: dict[str, tuple[int, ...]]

    def read(self, path: str) -> bytes:
        with reopened(self.archive, self.identity) as file:
            offset, size = self.places[path]
            return slice_of(file, offset, size)

    def only(self, paths: Iterable[str]) -> _TarReader:
        """Return a reader of these members alone."""
        return replace(self, places={path: self.places[path] for path in paths})


@dataclass(frozen=True)
class _PackedReader:
    spool: _Spool
    places: dict[str, tuple[int, ...]]

    def read(self, path: str) -> bytes:
        offset, size = self.places[path]
        with self.spool.lock:
            try:
                return slice_of(self.spool.file(), offset, size)
            except Exception as error:
                raise ImageError("read", str(error)) from error

    def only(self, paths: Iterable[str]) -> _PackedReader:
        """Return a reader of these members alone."""
        return replace(self, places={path: self.places[path] for path in paths})


@dataclass
class _Spool:
    """The decompressed content of an archive, made when a process first needs it.

    Unpickling returns the same object for the same archive, so that the tasks of a
    process decompress it once.
    """

    archive: str
    identity: tuple[int, int]
    lock: Any = field(default_factory=threading.RLock, repr=False)
    _file: IO[bytes] | None = field(default=None, repr=False)

    def __reduce__(self) -> tuple[Callable[..., _Spool], tuple[Any, ...]]:
        return _spool_of_process, (self.archive, self.identity)

    def file(self) -> IO[bytes]:
        if self._file is None:
            with reopened(self.archive, self.identity) as packed:
                self._file = _decompressed(packed)
            weakref.finalize(self, self._file.close)
        return self._file


@lru_cache(maxsize=1)
def _spool_of_process(archive: str, identity: tuple[int, int]) -> _Spool:
    return _Spool(archive, identity)


_MAGIC: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}


def _decompressor(file: IO[bytes]) -> Callable[[IO[bytes]], Any] | None:
    head = file.read(6)
    file.seek(0)
    return next((_MAGIC[magic] for magic in _MAGIC if head.startswith(magic)), None)


_LEAST_LIMIT = 2**30  # bytes that every archive may decompress to


def _decompressed(packed: IO[bytes]) -> IO[bytes]:
    unpack = _decompressor(packed)
    assert unpack is not None
    # A bomb decompresses to a thousand times its size, text to less than ten times.
    most = _LEAST_LIMIT + 100 * os.fstat(packed.fileno()).st_size
    # To seek in a compressed stream would decompress it again for each member.
    spool = tempfile.TemporaryFile()  # noqa: SIM115 - closed with its _Spool
    try:
        with unpack(packed) as stream:
            while block := stream.read(2**20):
                _append(spool, block)
                if spool.tell() > most:
                    raise ValueError(f"it decompresses to more than {most:,} bytes")
    except BaseException:
        spool.close()
        raise
    return spool


def _append(spool: IO[bytes], block: bytes) -> None:
    try:
        spool.write(block)
        spool.flush()
    except OSError as error:
        reason = f"no room to decompress it in {tempfile.gettempdir()!r}: {error}"
        raise ImageError("read", reason) from error
