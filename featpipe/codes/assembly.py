"""Write codes files: from arrays, or from the rows of other codes files."""

import io
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO, NamedTuple

import h5py
import numpy as np

from featpipe import files as fs
from featpipe.codes import block, layout
from featpipe.codes.access import Codes
from featpipe.codes.block import CodesError
from featpipe.codes.layout import FailureRecord, Store, Tables
from featpipe.codes.opening import stamp_of
from featpipe.codes.reading import checked

__all__ = ["Row", "assemble", "content", "save", "write"]


class Row(NamedTuple):
    """The place of a row: a file (by position in a list) and the row in it.

    Examples
    --------
    >>> from featpipe import codes
    >>> file = codes.read("flowers.h5")
    >>> row = Row(file=0, row=3)
    >>> [file][row.file].paths[row.row]
    'train/daisy/03.png'
    """

    file: int
    row: int


def write(
    path: str | os.PathLike[str],
    *,
    codes: Mapping[str, np.ndarray],
    labels: Sequence[int] | np.ndarray,
    class_names: Sequence[str],
    paths: Sequence[str],
    splits: Sequence[str] | np.ndarray | None = None,
    groups: Sequence[str] | np.ndarray | None = None,
    images_root: str = "",
    sizes: np.ndarray | None = None,
    mtimes: np.ndarray | None = None,
    sha256: np.ndarray | None = None,
    failures: Sequence[tuple[Any, ...]] = (),
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write codes that are in memory to a codes file, atomically.

    Parameters
    ----------
    path : path
        Replaced if it exists.
    codes : mapping of SPEC to (n, width) float32 or float16
        Maps: (n, C, H, W).
    labels : (n,) int64
        Positions in ``class_names``; −1 for unlabelled.
    class_names : sequence of str
    paths : sequence of n str
        Relative to ``images_root``.
    splits, groups : sequence of n str, optional
        Default: no split, no group.
    images_root : str
    sizes, mtimes : (n,) int64, optional
        Bytes and nanoseconds; default 0, unknown.
    sha256 : (n, 32) uint8, optional
        Content digests; default 0, unknown.
    failures : sequence of (path, stage, reason)
    provenance : mapping, optional
        JSON; default empty.

    Raises
    ------
    ValueError
        If the lengths differ, a split is unknown, or codes are not floating point.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import numpy as np
    >>> from featpipe import codes
    >>> codes.write(
    ...     "six.h5",
    ...     codes={"fc": np.zeros((6, 8), np.float32)},
    ...     labels=[0, 0, 0, 1, 1, -1],
    ...     class_names=["rose", "tulip"],
    ...     paths=[f"{k}.jpg" for k in range(6)],
    ... )
    >>> X, y = codes.read("six.h5").arrays("fc")
    >>> X.shape, y.tolist()
    ((6, 8), [0, 0, 0, 1, 1, -1])
    """
    n = len(paths)
    tables = Tables(
        paths=list(paths),
        labels=np.asarray(labels, np.int64),
        class_names=list(class_names),
        splits=[""] * n if splits is None else [str(s) for s in splits],
        groups=[""] * n if groups is None else [str(g) for g in groups],
        images_root=images_root,
        sizes=np.zeros(n, np.int64) if sizes is None else sizes,
        mtimes=np.zeros(n, np.int64) if mtimes is None else mtimes,
        sha256=np.zeros((n, 32), np.uint8) if sha256 is None else sha256,
        failures=[FailureRecord(*failure) for failure in failures],
        provenance={"depths": list(codes), **(provenance or {})},
    )
    fs.write_bytes(path, content(codes, tables))


def content(codes: Mapping[str, np.ndarray], tables: Tables) -> bytes:
    """Return the bytes of a codes file built in memory.

    Parameters
    ----------
    codes : mapping of SPEC to (n, width) array
    tables : Tables

    Returns
    -------
    bytes

    Examples
    --------
    >>> from featpipe import codes
    >>> tables = codes.read("flowers.h5").tables
    >>> whole = codes.content({"fc": np.zeros((42, 8), np.float32)}, tables)
    >>> whole[:16]
    b'featpipe-codes 1'
    """
    stores = {spec: _store(spec, array, tables) for spec, array in codes.items()}
    file = io.BytesIO()
    layout.build(file, stores, tables)
    _seal(file)
    return file.getvalue()


def save(path: Path, codes: Mapping[str, np.ndarray], tables: Tables) -> Codes:
    """Write a codes file from memory, and check that the disk gives it back.

    Its digests are checked as by `read`. What its header says is known and not parsed
    again, which takes twice as long as building a small file.

    Parameters
    ----------
    path : Path
        Replaced if it exists.
    codes : mapping of SPEC to (n, width) array
    tables : Tables

    Returns
    -------
    Codes

    Raises
    ------
    OSError
        If it cannot be written.
    CodesError
        If the disk does not give back what was written.

    Examples
    --------
    >>> from pathlib import Path
    >>> from featpipe import codes
    >>> tables = codes.read("flowers.h5").tables
    >>> ones = np.ones((42, 8), np.float16)
    >>> saved = codes.save(Path("ones.h5"), {"fc": ones}, tables)
    >>> saved.shapes, saved.is_checked
    ({'fc': (42, 8)}, True)
    """
    # Parts are written by many processes into one folder: sweeping leftovers there each
    # time would list thousands of names.
    fs.write_bytes(path, content(codes, tables), sweep=False)
    with path.open("rb") as file:
        try:
            block.check(file, payload=True)
        except CodesError as error:
            raise CodesError(f"{path} {error}") from None
        shapes = {spec: array.shape for spec, array in codes.items()}
        return Codes(path, shapes, tables, stamp_of(file), is_checked=True)


def assemble(
    path: Path,
    files: Sequence[Codes],
    rows: Mapping[str, Sequence[Row]],
    tables: Tables,
) -> None:
    """Write a codes file whose rows lie in other codes files.

    Parameters
    ----------
    path : Path
        Replaced when all is well; may be one of ``files``.
    files : sequence of Codes
    rows : mapping of SPEC to sequence of n Row
        For each depth, where the rows come from, in their final order.
    tables : Tables
        Of the new file.

    Raises
    ------
    OSError
        If the disk has no space; the message has the bytes needed.
    CodesError
        If a source has changed or is damaged.

    Examples
    --------
    >>> from pathlib import Path
    >>> from featpipe import codes
    >>> file = codes.read("flowers.h5", check=False)
    >>> rows = dict.fromkeys(file.depths, [codes.Row(0, k) for k in range(len(file))])
    >>> codes.assemble(Path("copy.h5"), [file], rows, file.tables)
    >>> len(codes.read("copy.h5"))
    42
    """
    # A new digest over damaged codes would hide the damage.
    files = [checked(file) for file in files]
    stop = Event()
    stores = {spec: _gathering(spec, files, at, stop) for spec, at in rows.items()}
    # Space for an upper bound is reserved first, so that a full disk is noticed before
    # the work.
    needed = layout.size_bound(stores, tables)
    with fs.explained(path, needed), fs.replacing(path) as file:
        reserved = fs.ReservedFile(file, needed)
        _uninterrupted(lambda: layout.build(reserved, stores, tables), stop)
        reserved.finish()
        _seal(file)


def _uninterrupted(act: Callable[[], None], stop: Event) -> None:
    """Run in a thread, which Ctrl-C does not interrupt.

    Python raises KeyboardInterrupt in the main thread, between any two instructions;
    in the middle of libhdf5's calls to `ReservedFile` it would end the process by a
    signal.
    """
    with ThreadPoolExecutor(1) as pool:
        try:
            pool.submit(act).result()
        finally:
            stop.set()


def _store(spec: str, array: np.ndarray, tables: Tables) -> Store:
    array = np.asarray(array)
    if array.dtype not in (np.float32, np.float16):
        raise ValueError(
            f"codes at {spec!r} are {array.dtype}; give them as float32 or float16"
        )
    if len(array) != len(tables.paths):
        raise ValueError(
            f"{len(array)} codes at {spec!r} came with {len(tables.paths)} paths"
        )
    return Store(array.shape, array.dtype, lambda start, stop: array[start:stop])


def _gathering(
    spec: str, files: Sequence[Codes], chosen: Sequence[Row], stop: Event
) -> Store:
    """Return the function that reads the chosen rows, a chunk at a time."""
    first = files[chosen[0].file] if chosen else files[0]
    shape, dtype = first.shapes[spec][1:], first.rows(spec, 0, 0).dtype
    where = np.array(chosen, np.int64).reshape(-1, 2)

    def rows(start: int, end: int) -> np.ndarray:
        if stop.is_set():
            raise InterruptedError(f"{spec!r} is not needed any more")
        chunk = np.empty((end - start, *shape), dtype)
        for file in np.unique(where[start:end, 0]):
            source, here = files[file], where[start:end, 0] == file
            # Checked for each chunk: only files from which rows are taken matter.
            if source.shapes[spec][1:] != shape:
                raise CodesError(
                    f"{source.path} has codes of another width at {spec!r} than "
                    f"{first.path}"
                )
            chunk[here] = source.take(spec, where[start:end, 1][here])
        return chunk

    return Store((len(chosen), *shape), dtype, rows)


def _seal(file: BinaryIO) -> None:
    # Opened again: the offsets of the chunks are known only once the file is closed.
    with h5py.File(file, "r") as h5:
        room, extents = h5.userblock_size, layout.extents(h5, file)
    block.seal(file, room, extents)
