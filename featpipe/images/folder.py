"""Folders of images: what is in them, and what their names mean.

Lives here: the walk over a folder, the meaning of folder names (shared with archives),
reading a file. Never here: looking into files.

Paths are text here and not `pathlib.Path`, which takes several times as long over tens
of thousands of files, and forgets a leading ``./`` and a trailing slash.
"""
# ruff: noqa: PTH100, PTH116, PTH118

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from featpipe.images.imageset import (
    MAX_BYTES,
    Failure,
    ImageError,
    ImageSet,
    Row,
    build,
    too_large,
)

__all__ = [
    "SPLITS",
    "FileReader",
    "problem",
    "scan_folder",
    "stat_file",
    "with_meaning",
]

# Bytes at a time, of a file that is longer than it says.
_PIECE = 1 << 20

SPLITS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""Names of splits, capitals or not, and the split that each means."""


def with_meaning(source: str, rows: Iterable[Row], folders: Iterable[str]) -> list[Row]:
    """Give each row the label and split that the folders of its path say.

    The first level is the class, deeper levels belong to it; or it is the split and
    the second level the class. It is the split if there is a folder ``train``, or if
    all folders have names of splits. A file beside the class folders is unlabelled.

    Raises
    ------
    ValueError
        If there are other folders beside ``train``; the sentence shows the names.
    """
    names = sorted(set(folders))
    strange = [name for name in names if name.casefold() not in SPLITS]
    has_train = any(name.casefold() == "train" for name in names)
    if has_train and strange:
        shown = ", ".join(map(repr, strange[:10])) + (", ..." * (len(strange) > 10))
        raise ValueError(
            f"{source!r} has a folder 'train' and beside it {shown}, not the name of a "
            f"split; rename it to one of {', '.join(SPLITS)}, or move it away"
        )
    split_level = bool(names) and not strange
    return [_meaning(row, split_level) for row in rows]


def _meaning(row: Row, split_level: bool) -> Row:
    parts = row.path.split("/", 2)
    split = ""
    if split_level and len(parts) > 1:
        split = SPLITS[parts.pop(0).casefold()]
    label = parts[0] if len(parts) > 1 else ""
    return Row(row.path, label, split, row.group, row.size, row.mtime)


@dataclass(frozen=True)
class FileReader:
    """Reads files below a folder, or anywhere if their path is absolute."""

    root: str

    def read(self, path: str) -> bytes:
        """Return the content of a regular file."""
        try:
            return _read_file(os.path.join(self.root, path))
        except ImageError:
            raise
        except (OSError, ValueError) as error:
            raise ImageError("read", problem(error)) from error


def _without_waiting(path: str, flags: int) -> int:
    # Opening a FIFO waits for its writer, for ever if there is none; so does not this.
    # It changes nothing for regular files, and Windows has neither flag nor FIFOs.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _read_file(path: str) -> bytes:
    with open(path, "rb", buffering=0, opener=_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("read", kind(status.st_mode))
        if status.st_size > MAX_BYTES:
            raise ImageError("read", too_large(status.st_size))
        # Not up to what is allowed: Python takes the memory for what is asked.
        content = file.read(status.st_size + 1)
        if len(content) != status.st_size:
            content = _to_the_end(file, content)
        return content


def _to_the_end(file: io.FileIO, begin: bytes) -> bytes:
    """Read on in a file that grows, or that comes in pieces, as over a network."""
    pieces, length = [begin], len(begin)
    while length <= MAX_BYTES and (piece := file.read(_PIECE)):
        pieces.append(piece)
        length += len(piece)
    if length > MAX_BYTES:
        raise ImageError("read", too_large(length))
    return b"".join(pieces)


def scan_folder(source: str, unlabelled: bool = False) -> ImageSet:
    """List every regular file below a folder.

    Links to files are files. A link to a folder is followed once: not where it leads
    back to a folder that it lies in, and not where another link led before. What is
    hidden is counted, and everything else that is no file becomes a `Failure`.

    Raises
    ------
    ValueError
        If there is no file, or folder names contradict each other.
    OSError
        If the folder itself cannot be listed.
    """
    root = os.path.abspath(source)
    walk = _Walk(root)
    rows = list(walk.files())
    if not unlabelled:
        rows = with_meaning(source, rows, walk.top_folders)
    return build(
        source,
        root,
        rows,
        FileReader(root),
        failures=walk.failures,
        n_hidden=walk.n_hidden,
    )


@dataclass
class _Folder:
    """A folder to be listed, and the identities of those that it lies in."""

    prefix: str
    ancestors: frozenset[tuple[int, int]]


@dataclass
class _Walk:
    """One walk over a tree; a stack and no recursion, since trees may be deep."""

    root: str
    top_folders: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    n_hidden: int = 0
    linked: dict[tuple[int, int], str] = field(default_factory=dict)

    def files(self) -> Iterator[Row]:
        status = os.stat(self.root)
        stack = [_Folder("", frozenset([(status.st_dev, status.st_ino)]))]
        while stack:
            folder = stack.pop()
            try:
                with os.scandir(os.path.join(self.root, folder.prefix)) as entries:
                    for entry in entries:
                        yield from self._entry(entry, folder, stack)
            except OSError as error:
                if not folder.prefix:
                    raise
                self._fail(folder.prefix.rstrip("/"), problem(error))

    def _entry(
        self, entry: os.DirEntry[str], folder: _Folder, stack: list[_Folder]
    ) -> Iterator[Row]:
        if entry.name.startswith("."):
            self.n_hidden += 1
            return
        path = folder.prefix + entry.name
        try:
            status = entry.stat()
        except OSError as error:
            dangling = entry.is_symlink() and error.errno == errno.ENOENT
            self._fail(path, "link to nothing" if dangling else problem(error))
            return
        if stat.S_ISREG(status.st_mode):
            yield Row(path, size=status.st_size, mtime=status.st_mtime_ns)
        elif stat.S_ISDIR(status.st_mode):
            self._enter(entry, path, status, folder, stack)
        else:
            self._fail(path, kind(status.st_mode))

    def _enter(
        self,
        entry: os.DirEntry[str],
        path: str,
        status: os.stat_result,
        folder: _Folder,
        stack: list[_Folder],
    ) -> None:
        identity = (status.st_dev, status.st_ino)
        if identity in folder.ancestors:
            self._fail(path, "loop: a link to a folder that it lies in")
            return
        if entry.is_symlink():
            # Without this, folders that link to each other are read n! times.
            before = self.linked.setdefault(identity, path)
            if before != path:
                self._fail(path, f"link to a folder already read as {before!r}")
                return
        if not folder.prefix:
            self.top_folders.append(entry.name)
        stack.append(_Folder(path + "/", folder.ancestors | {identity}))

    def _fail(self, path: str, reason: str) -> None:
        self.failures.append(Failure(path, "scan", reason))


def stat_file(path: str) -> os.stat_result:
    """Return the status of a regular file, links followed.

    Raises
    ------
    OSError
        If there is none, or it is something else: see `problem`.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, kind(status.st_mode))
    return status


def kind(mode: int) -> str:
    """Name what is not a regular file."""
    names = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a FIFO (named pipe)",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return names.get(stat.S_IFMT(mode), "something unknown") + ", not a file"


def problem(error: Exception) -> str:
    """Say in a few words why a path cannot be read."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "permission denied"
    if isinstance(error, OSError):
        if error.errno == errno.ELOOP:
            return "loop of links"
        return error.strerror or str(error) or type(error).__name__
    return str(error)
