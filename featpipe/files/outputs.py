"""Check the names of outputs: what they would replace, and what belongs to them."""

import errno
import os
import re
import stat
from collections.abc import Callable, Mapping
from itertools import combinations, product
from pathlib import Path

__all__ = [
    "belongs_to",
    "descriptor_of",
    "follow_links",
    "require_distinct",
    "require_own_name",
    "require_writable",
]

_MOST_LINKS = 40
# The first keeps a link at the end of a path, the second follows it.
_ABSOLUTE = (os.path.abspath, os.path.realpath)
_DESCRIPTOR = re.compile(r"/proc/(\d+)(?:/task/\d+)?/fd/(\d+)|/dev/fd/(\d+)")
# Ends of the names that `lock`, `extraction.parts`, `finetuning` and `transformer` give
# to files beside FILE.
_COMPANIONS = (".lock", ".parts", ".work", ".cache.lock", ".work.lock")
# `atomic.temporary_name` makes such names.
_DRAFT = re.compile(r"\..+\.[0-9a-f]{32}\.tmp", re.DOTALL)


def follow_links(path: str | os.PathLike[str]) -> Path:
    """Return the name at the end of a chain of links; a file need not exist there.

    The chain ends at an open descriptor, such as ``/proc/self/fd/1``.

    Raises
    ------
    OSError
        If the links lead in a circle.

    Examples
    --------
    >>> Path("target.h5").touch()
    >>> Path("link.h5").symlink_to("target.h5")
    >>> str(follow_links("link.h5"))
    'target.h5'
    """
    path = Path(path)
    for _ in range(_MOST_LINKS):
        # /dev/stdout is a link to an open descriptor, which may have no name.
        if not path.is_symlink() or descriptor_of(path) is not None:
            return path
        path = path.parent / path.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def descriptor_of(path: Path) -> int | None:
    """Return the number of the descriptor of this process at a path; None if none."""
    if not path.name.isdecimal():
        return None
    match = _DESCRIPTOR.fullmatch(str(path.parent.resolve() / path.name))
    # Descriptors of another process cannot be written to by number.
    if match is None or match[1] not in (None, str(os.getpid())):
        return None
    return int(match[2] or match[3])


def require_distinct(
    outputs: Mapping[str, str | os.PathLike[str] | None],
    inputs: Mapping[str, str | os.PathLike[str] | None],
) -> None:
    """Raise if an output is an input, or if two outputs are one file.

    Links are followed, and hard links compared. Two outputs may be the same device or
    FIFO.

    Parameters
    ----------
    outputs, inputs : mapping of str to path
        Each path by its option or parameter; None for one that was not given.

    Raises
    ------
    ValueError
        With both options and the path.

    Examples
    --------
    >>> from featpipe import files
    >>> files.require_distinct({"-o": "a.h5"}, {"SOURCE": "a.h5"})
    Traceback (most recent call last):
        ...
    ValueError: -o would replace SOURCE, a.h5; give -o another name
    """
    written = {name: Path(path) for name, path in outputs.items() if path is not None}
    read = {name: Path(path) for name, path in inputs.items() if path is not None}
    for (name, path), (other, source) in product(written.items(), read.items()):
        if _same_file(path, source):
            raise ValueError(
                f"{name} would replace {other}, {source}; give {name} another name"
            )
    for (other, first), (name, second) in combinations(written.items(), 2):
        if _same_file(first, second):
            raise ValueError(
                f"{name} and {other} are one file, {first}; give each its own"
            )


def _same_file(first: Path, second: Path) -> bool:
    try:
        a, b = first.stat(), second.stat()
    except OSError:
        # A file that does not exist can only have the same name.
        return os.path.realpath(first) == os.path.realpath(second)
    # Two outputs may both be /dev/null.
    regular = stat.S_ISREG(a.st_mode) or stat.S_ISDIR(a.st_mode)
    return regular and (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)


def belongs_to(*paths: str | os.PathLike[str] | None) -> Callable[[str], bool]:
    """Return a function that is True for outputs and the files beside them.

    Parameters
    ----------
    *paths : path
        The outputs; None for one that was not given.

    Returns
    -------
    callable
        Takes an absolute path; True for an output, its lock, its unfinished parts and
        its temporary files.

    Examples
    --------
    >>> belongs = belongs_to("out.h5")
    >>> belongs(os.path.abspath("out.h5.lock")), belongs(os.path.abspath("a.jpg"))
    (True, False)
    """
    outputs = [path for path in paths if path is not None]
    targets = {make(path) for path in outputs for make in _ABSOLUTE}
    own = {target + end for target in targets for end in ("", *_COMPANIONS)}
    folders = {os.path.realpath(Path(name).parent) for name in own}
    names = {Path(name).name for name in own}
    ends = tuple(names)

    def belongs(other: str) -> bool:
        # The cheapest test comes first, since every file of a source is tested, and
        # following links takes system calls.
        if not other.endswith(ends):
            return False
        folder, name = os.path.split(other)
        return name in names and os.path.realpath(folder) in folders

    return belongs


def require_own_name(path: str | os.PathLike[str]) -> None:
    """Raise if a name is one that featpipe itself gives to a file beside an output.

    featpipe would take an output of that name for the lock, the parts or the draft of
    another output, and remove it or wait for it.

    Raises
    ------
    ValueError
        With the path and the remedy.

    Examples
    --------
    >>> require_own_name("flowers.h5")
    >>> require_own_name("flowers.h5.lock")
    Traceback (most recent call last):
        ...
    ValueError: flowers.h5.lock: names in .lock are for ...; choose another name
    """
    path = Path(path)
    for name in (path.name, follow_links(path).name):
        end = next((end for end in _COMPANIONS if name.endswith(end)), None)
        if end is not None or _DRAFT.fullmatch(name):
            raise ValueError(
                f"{path}: names in {end or '.tmp'} are for what featpipe keeps beside "
                "a file that it writes; choose another name"
            )


def require_writable(path: Path) -> None:
    """Raise unless a file can be made or replaced at ``path``, before any slow work.

    Raises
    ------
    IsADirectoryError, FileNotFoundError, PermissionError
        With the path and the remedy.
    ValueError
        If the name is one that featpipe itself uses; see `require_own_name`.

    Examples
    --------
    >>> require_writable(Path("missing") / "codes.h5")
    Traceback (most recent call last):
        ...
    FileNotFoundError: no folder missing to write codes.h5 to; make it
    """
    require_own_name(path)
    path = follow_links(path)
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder; give the name of a file, which may be in it"
        )
    # A pipe or a device is not replaced, so its folder need not be writable.
    if path.exists() and not path.is_file():
        return
    folder = path.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder} to write {path.name} to; make it")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(
            f"the folder {folder} is not writable; choose another place for {path.name}"
        )
