"""List the files of a folder.

`naming` reads labels and splits from names, and `reading` reads files.

Paths are text: `pathlib.Path` takes several times as long for tens of thousands of
files, and drops a leading ``./`` and a trailing slash.
"""
# ruff: noqa: PTH100, PTH116, PTH118

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from featpipe.images.folder_names import (
    assign_labels_and_splits,
    wrapping_folders,
)
from featpipe.images.imageset import (
    Failure,
    ImageRow,
    ImageSet,
    build_image_set,
)
from featpipe.images.reading import FileReader, kind, problem
from featpipe.images.set_aside import is_set_aside

__all__ = ["scan_folder"]

_LEVELS = 6  # of folders that are compared: wrapping folders, splits and classes


def scan_folder(
    source: str,
    unlabelled: bool = False,
    ignore: Callable[[str], bool] | None = None,
) -> ImageSet:
    """List every regular file below a folder.

    Links to files are files. A link to a folder is followed, unless it leads to a
    folder that it lies in, or that another link led to before. Hidden names, names of
    systems and known non-images are counted; all else that is not a file is a
    `Failure`. Folders that wrap all others are left out of the paths.

    Parameters
    ----------
    source : str
    unlabelled : bool
        Whether to read no labels and splits from folder names.
    ignore : callable, optional
        Takes the absolute path of an entry; true leaves it out.

    Returns
    -------
    ImageSet

    Raises
    ------
    ValueError
        If there is no file, or folder names contradict each other.
    OSError
        If the folder itself cannot be listed.
    """
    # Unlike `realpath`, this keeps the user's links in the paths that are shown.
    root = os.path.abspath(source)
    walk = _Walk(root, ignore)
    rows = list(walk.files())
    failures = walk.failures
    # Archives are often unpacked into a folder of their name, which is not a class.
    wrapper = wrapping_folders(walk.folders, [row.path for row in rows])
    if wrapper:
        root = os.path.join(root, wrapper.rstrip("/"))
        rows = [row._replace(path=row.path.removeprefix(wrapper)) for row in rows]
        failures = [f._replace(path=f.path.removeprefix(wrapper)) for f in failures]
    if not unlabelled:
        inside = [n for n in walk.folders if n.startswith(wrapper)]
        tops = [name.removeprefix(wrapper).split("/")[0] for name in inside]
        rows = assign_labels_and_splits(source, rows, tops)
    return build_image_set(
        source,
        root,
        rows,
        FileReader(root),
        failures=failures,
        n_hidden=walk.n_hidden,
        n_set_aside=walk.n_set_aside,
    )


@dataclass
class _Folder:
    """A folder to list, and the identities of the folders that it lies in."""

    prefix: str
    ancestors: frozenset[tuple[int, int]]


@dataclass
class _Walk:
    """A walk over a folder, with a stack, since a deep tree would break a recursion."""

    root: str
    ignore: Callable[[str], bool] | None = None
    folders: list[str] = field(default_factory=list)  # of the first levels
    failures: list[Failure] = field(default_factory=list)
    n_hidden: int = 0
    n_set_aside: int = 0
    linked: dict[tuple[int, int], str] = field(default_factory=dict)

    def files(self) -> Iterator[ImageRow]:
        status = os.stat(self.root)
        # Device and inode identify a folder under any name.
        stack = [_Folder("", frozenset([(status.st_dev, status.st_ino)]))]
        while stack:
            folder = stack.pop()
            try:
                with os.scandir(os.path.join(self.root, folder.prefix)) as entries:
                    for entry in entries:
                        row = self._entry(entry, folder, stack)
                        if row is not None:
                            yield row
            except OSError as error:
                if not folder.prefix:
                    raise
                self._fail(folder.prefix.rstrip("/"), problem(error))

    def _entry(
        self, entry: os.DirEntry[str], folder: _Folder, stack: list[_Folder]
    ) -> ImageRow | None:
        if entry.name.startswith("."):
            self.n_hidden += 1
            return None
        if self.ignore is not None and self.ignore(entry.path):
            return None
        path = folder.prefix + entry.name
        try:
            status = entry.stat()
        except OSError as error:
            # "No such file" would be misleading for a link that `ls` shows.
            dangling = entry.is_symlink() and error.errno == errno.ENOENT
            self._fail(path, "link to nothing" if dangling else problem(error))
            return None
        if is_set_aside(entry.name, is_folder=stat.S_ISDIR(status.st_mode)):
            self.n_set_aside += 1
        elif stat.S_ISREG(status.st_mode):
            return ImageRow(path, size=status.st_size, mtime=status.st_mtime_ns)
        elif stat.S_ISDIR(status.st_mode):
            self._enter(entry, path, status, folder, stack)
        else:
            self._fail(path, kind(status.st_mode))
        return None

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
            # n folders that link to each other would else be read n! times.
            before = self.linked.setdefault(identity, path)
            if before != path:
                self._fail(path, f"link to a folder already read as {before!r}")
                return
        if path.count("/") < _LEVELS:
            self.folders.append(path)
        stack.append(_Folder(path + "/", folder.ancestors | {identity}))

    def _fail(self, path: str, reason: str) -> None:
        self.failures.append(Failure(path, "scan", reason))
