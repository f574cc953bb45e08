"""What zip and tar archives of images have in common. Members are read in place.

Lives here: sorting members out, refusing the unsafe, and reading a slice of an archive.
Never here: the formats themselves, nor extracting, so that no name can do harm.

A read opens the archive, copies one slice of it and closes it again: no lock, nothing
shared between threads, nothing left open, and a set that can go to other processes.
"""

# Paths are text as in `folder`.
# ruff: noqa: PTH100, PTH123

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, NamedTuple

from featpipe.images.folder import SPLITS, problem, with_meaning
from featpipe.images.imageset import Failure, ImageError, ImageSet, Reader, Row, build

__all__ = ["Member", "identity_of", "listed", "opened", "slice_of", "whole"]


class Member(NamedTuple):
    """One entry of an archive; ``reason`` says why it is no image, if it is none."""

    name: str
    size: int
    place: tuple[int, ...]
    reason: str = ""
    is_folder: bool = False


def listed(
    source: str,
    identity: tuple[int, int],
    members: Iterable[Member],
    reader: Callable[[dict[str, tuple[int, ...]]], Reader],
    unlabelled: bool,
) -> ImageSet:
    """Make an `ImageSet` of the members of any archive."""
    kept, hidden, failures = _sorted_out(members)
    wrapper = _wrapper(kept)
    failures = [
        f if f.reason == _UNSAFE else f._replace(path=f.path.removeprefix(wrapper))
        for f in failures
    ]
    rows: dict[str, Row] = {}
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
        rows[path] = Row(path, size=member.size, mtime=identity[1])
        places[path] = member.place
    labelled = list(rows.values())
    if not unlabelled:
        labelled = with_meaning(source, labelled, folders)
    return build(
        source,
        os.path.abspath(source),
        labelled,
        reader(places),
        failures=failures,
        n_hidden=len(hidden),
    )


def _sorted_out(
    members: Iterable[Member],
) -> tuple[list[Member], set[str], list[Failure]]:
    """Tell visible members, hidden names and failures apart."""
    kept: list[Member] = []
    hidden: set[str] = set()
    failures: list[Failure] = []
    for member in members:
        name, hides = member.name, ""
        if _ODD.search(name):
            parts = [part for part in name.split("/") if part not in ("", ".")]
            if name.startswith("/") or ".." in parts or _DRIVE.match(name):
                failures.append(Failure(name, "scan", _UNSAFE))
                continue
            name, hides = "/".join(parts), _hidden(parts)
        if hides:
            hidden.add(hides)
        elif member.reason:
            failures.append(Failure(name, "scan", member.reason))
        elif name:
            kept.append(member if name == member.name else member._replace(name=name))
    return kept, hidden, failures


# Most names have nothing of this, and tens of thousands of them take a while.
_UNSAFE = "unsafe name: it leads out of the archive"
_DRIVE = re.compile("[A-Za-z]:")
_ODD = re.compile(r"^[A-Za-z]:|^/|//|/$|(^|/)(\.|__MACOSX/)")


def _hidden(parts: list[str]) -> str:
    """Return the hidden file or folder that a path leads into, or nothing."""
    for k, part in enumerate(parts):
        # macOS puts its notes about files beside them, into __MACOSX.
        if part.startswith(".") or part == "__MACOSX":
            return "/".join(parts[: k + 1])
    return ""


def _wrapper(members: list[Member]) -> str:
    """Return the one folder around everything, with its slash, or nothing.

    A folder that has the name of a split is no wrapper.
    """
    tops = {member.name.split("/")[0] for member in members}
    loose = any("/" not in m.name and not m.is_folder for m in members)
    if len(tops) != 1 or loose:
        return ""
    top = tops.pop()
    return "" if top.casefold() in SPLITS else top + "/"


@contextmanager
def whole(source: str, kind: str) -> Iterator[None]:
    """Turn whatever a damaged archive makes the standard library raise into one."""
    try:
        yield
    except ImageError as error:  # it cannot be read, whether or not it is whole
        raise ValueError(f"{source!r} cannot be read: {error}") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(
            f"{source!r} is no whole {kind} archive: {reason}; make or copy it again"
        ) from error


def identity_of(file: IO[bytes]) -> tuple[int, int]:
    """Return size and time of an open archive, by which a change is noticed."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


@contextmanager
def opened(archive: str, identity: tuple[int, int]) -> Iterator[IO[bytes]]:
    """Open an archive again, if it is still the one that was listed."""
    try:
        with open(archive, "rb") as file:
            if identity_of(file) != identity:
                raise ImageError("read", "the archive has changed since it was listed")
            yield file
    except OSError as error:
        raise ImageError("read", f"the archive: {problem(error)}") from error


def slice_of(file: IO[bytes], offset: int, size: int) -> bytes:
    """Return exactly these bytes of an archive."""
    file.seek(offset)
    content = file.read(size)
    if len(content) != size:
        raise ImageError("read", "the archive ends before the member does")
    return content
