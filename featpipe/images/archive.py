"""The common part of zip and tar archives of images, which are read in place.

This module sorts members, refuses unsafe names, and reads a slice of an archive. It
never extracts files, so that no name can do harm; `ziparchive` and `tararchive` know
the formats.

A read opens the archive, copies one slice of it and closes it again. So threads share
nothing, need no lock, and a set can be sent to other processes.
"""

# Paths are text as in `folder`.
# ruff: noqa: PTH100, PTH123

from __future__ import annotations

import ntpath
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, NamedTuple

from featpipe.errors import one_line
from featpipe.images.folder_names import (
    assign_labels_and_splits,
    wrapping_folder,
    wrapping_folders,
)
from featpipe.images.imageset import (
    Failure,
    ImageError,
    ImageReader,
    ImageRow,
    ImageSet,
    build_image_set,
)
from featpipe.images.reading import problem
from featpipe.images.set_aside import is_set_aside

__all__ = [
    "ArchiveMember",
    "archive_errors",
    "identity_of",
    "image_set_of_members",
    "reopened",
    "slice_of",
]


class ArchiveMember(NamedTuple):
    """One entry of an archive; ``reason`` tells why it cannot be read, if it cannot."""

    name: str
    size: int
    place: tuple[int, ...]
    reason: str = ""
    is_folder: bool = False


def image_set_of_members(
    source: str,
    identity: tuple[int, int],
    members: Iterable[ArchiveMember],
    reader: Callable[[dict[str, tuple[int, ...]]], ImageReader],
    unlabelled: bool,
) -> ImageSet:
    """Return the members of any archive as an `ImageSet`."""
    # Names are cleaned first, since all that follows needs plain relative paths.
    kept, aside, failures = _sort_members(_with_slashes(list(members)))
    hidden = {name for name in aside if name.split("/")[-1].startswith(".")}
    wrapper = wrapping_folder(
        (member.name.split("/")[0] for member in kept),
        # A folder that has files beside it is a class, not a wrapper.
        loose=any("/" not in m.name and not m.is_folder for m in kept),
    )
    inside = [m.name.removeprefix(wrapper) + "/" * m.is_folder for m in kept]
    wrapper += wrapping_folders(
        {name.rpartition("/")[0] for name in inside},
        [name for name in inside if not name.endswith("/")],
    )
    failures = [
        f if f.reason == _UNSAFE else f._replace(path=f.path.removeprefix(wrapper))
        for f in failures
    ]
    rows: dict[str, ImageRow] = {}
    places: dict[str, tuple[int, ...]] = {}
    folders = set()
    for member in kept:
        slash = "/" * member.is_folder
        path = (member.name + slash).removeprefix(wrapper)
        if "/" in path:
            folders.add(path.split("/")[0])
        if member.is_folder:
            continue
        if path in rows:
            reason = "a later member of the archive has the same name"
            failures.append(Failure(path, "scan", reason))
        # The time of the archive, since a member may have any time, in any time zone.
        rows[path] = ImageRow(path, size=member.size, mtime=identity[1])
        places[path] = member.place
    labelled = list(rows.values())
    if not unlabelled:
        labelled = assign_labels_and_splits(source, labelled, folders)
    return build_image_set(
        source,
        os.path.abspath(source),
        labelled,
        reader(places),
        failures=failures,
        n_hidden=len(hidden),
        n_set_aside=len(aside - hidden),
    )


def _with_slashes(members: list[ArchiveMember]) -> list[ArchiveMember]:
    """Return the members with slashes for the backslashes that some programs write.

    A backslash may also be part of a file's name. So if other members have slashes, a
    name is changed only if it then has as many slashes as one of them.
    """
    depths = {
        m.name.count("/") for m in members if "/" in m.name and "\\" not in m.name
    }

    def with_slashes(member: ArchiveMember) -> ArchiveMember:
        name = member.name.replace("\\", "/")
        fits = not depths or name.count("/") in depths
        # A name with a drive is unsafe, and its failure shows it as it is written.
        drive = ntpath.splitdrive(member.name)[0]
        return member._replace(name=name) if fits and not drive else member

    return [with_slashes(member) for member in members]


def _sort_members(
    members: Iterable[ArchiveMember],
) -> tuple[list[ArchiveMember], set[str], list[Failure]]:
    """Return the images and folders, the names set aside, and the failures."""
    kept: list[ArchiveMember] = []
    aside: set[str] = set()
    failures: list[Failure] = []
    for member in members:
        name = member.name
        if _ODD.search(name):
            parts = [part for part in name.split("/") if part not in ("", ".")]
            # Refused, so that no path in a codes file leads out of its source.
            if name.startswith("/") or ".." in parts or _DRIVE.match(name):
                failures.append(Failure(name, "scan", _UNSAFE))
                continue
            if name.endswith("/"):
                member = member._replace(is_folder=True)
            name = "/".join(parts)
        if top := _set_aside(name, member.is_folder):
            aside.add(top)
        elif member.reason:
            failures.append(Failure(name, "scan", member.reason))
        elif name:
            kept.append(member if name == member.name else member._replace(name=name))
    return kept, aside, failures


_UNSAFE = "unsafe name: it leads out of the archive"
_DRIVE = re.compile("[A-Za-z]:")
# Only names that match are taken apart, which takes long for tens of thousands.
_ODD = re.compile(r"^[A-Za-z]:|^/|//|/$|(^|/)\.")


def _set_aside(name: str, is_folder: bool) -> str:
    """Return the file or folder set aside that a name is or lies in; "" if none."""
    parts = name.split("/")
    last = len(parts) - 1
    for k, part in enumerate(parts):
        if is_set_aside(part, is_folder=is_folder or k < last):
            return "/".join(parts[: k + 1])
    return ""


@contextmanager
def archive_errors(source: str, kind: str) -> Iterator[None]:
    """Turn any error of reading an archive into a ValueError that names it."""
    try:
        yield
    except ImageError as error:  # not a sign of damage
        raise ValueError(f"{source!r} cannot be read: {error}") from error
    except Exception as error:
        raise ValueError(
            f"{source!r} is no whole {kind} archive: {one_line(error)}; make or copy "
            "it again"
        ) from error


def identity_of(file: IO[bytes]) -> tuple[int, int]:
    """Return size and time of an open archive, which show whether it has changed."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


@contextmanager
def reopened(archive: str, identity: tuple[int, int]) -> Iterator[IO[bytes]]:
    """Open an archive again; raise if it has changed since it was listed."""
    try:
        with open(archive, "rb") as file:
            if identity_of(file) != identity:
                raise ImageError("read", "the archive has changed since it was listed")
            yield file
    except OSError as error:
        raise ImageError("read", f"the archive: {problem(error)}") from error


def slice_of(file: IO[bytes], offset: int, size: int) -> bytes:
    """Return ``size`` bytes of an archive; raise if there are fewer."""
    file.seek(offset)
    content = file.read(size)
    # Else decoding would report a damaged image.
    if len(content) != size:
        raise ImageError("read", "the archive ends before the member does")
    return content
