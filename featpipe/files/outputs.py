"""Compare the names of outputs: the same file, and files beside an output."""

import errno
import os
import re
import stat
from collections.abc import Callable, Mapping
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
# With the last link kept, and with it followed.
_ABSOLUTE = (os.path.abspath, os.path.realpath)
_DESCRIPTOR = re.compile(r"/proc/(\d+)(?:/task/\d+)?/fd/(\d+)|/dev/fd/(\d+)")
# The files beside FILE while it is being written: `lock`, `extraction.parts`,
# `finetuning` and `transformer`.
_COMPANIONS = (".lock", ".parts", ".work", ".cache.lock", ".work.lock")
# The names of `atomic` for a file that is being written.
_DRAFT = re.compile(r"\..+\.[0-9a-f]{32}\.tmp", re.DOTALL)


def follow_links(path: str | os.PathLike[str]) -> Path:
    """Return the name at the end of a chain of links, whether it is there or not.

    The name of an open descriptor, as in ``/proc/self/fd/1``, ends the chain.

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
        # /dev/stdout is a link too, but to an open descriptor, which has no name to
        # follow.
        if not path.is_symlink() or descriptor_of(path) is not None:
            return path
        path = path.parent / path.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def descriptor_of(path: Path) -> int | None:
    """Return the number of the open descriptor of this process that a path names."""
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

    Links and hard links are seen through. Two outputs may be one device or FIFO.

    Parameters
    ----------
    outputs, inputs : mapping of str to path
        What each file is called on the command line or in the signature; None for
        what was not given.

    Raises
    ------
    ValueError
        Naming both, and the path.

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
    seen: list[tuple[str, Path]] = []
    for name, path in written.items():
        for other, there in read.items():
            if _same_file(path, there):
                raise ValueError(
                    f"{name} would replace {other}, {there}; give {name} another name"
                )
        for other, there in seen:
            if _same_file(path, there):
                raise ValueError(
                    f"{name} and {other} are one file, {there}; give each its own"
                )
        seen.append((name, path))


def _same_file(one: Path, two: Path) -> bool:
    try:
        a, b = one.stat(), two.stat()
    except OSError:
        # One of them is not there: they can only be the same name.
        return os.path.realpath(one) == os.path.realpath(two)
    # Two outputs may both be /dev/null.
    regular = stat.S_ISREG(a.st_mode) or stat.S_ISDIR(a.st_mode)
    return regular and (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)


def belongs_to(*paths: str | os.PathLike[str] | None) -> Callable[[str], bool]:
    """Return a function that is True for outputs and the files beside them.

    Parameters
    ----------
    *paths : path
        The outputs; None for what was not given.

    Returns
    -------
    callable
        Takes an absolute path; true for the output itself, its lock, its unfinished
        parts and its temporary files.

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
        # Asked of every file of a source, so the cheapest first: following links costs
        # system calls.
        if not other.endswith(ends):
            return False
        folder, name = os.path.split(other)
        return name in names and os.path.realpath(folder) in folders

    return belongs


def require_own_name(path: str | os.PathLike[str]) -> None:
    """Raise if a name is one that featpipe itself gives to a file beside an output.

    An output of that name would be taken for the lock, the parts or the draft of
    another, and be swept away or wait for ever.

    Raises
    ------
    ValueError
        Naming the path and what would do.

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
        Naming the path and what would do.
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
    # A pipe or a device is written to as it is; its folder need not be writable.
    if path.exists() and not path.is_file():
        return
    folder = path.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder} to write {path.name} to; make it")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(
            f"the folder {folder} is not writable; choose another place for {path.name}"
        )
