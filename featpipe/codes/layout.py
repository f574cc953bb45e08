"""The layout of the HDF5 part of a codes file, and how it is written.

Has the names and dtypes of ``docs/reference/format.md``. `parsing` checks files from
elsewhere, and `assembly` writes files to the disk.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import RawIOBase
from itertools import pairwise
from typing import Any, BinaryIO, NamedTuple

import h5py
import numpy as np

from featpipe.codes import block

__all__ = [
    "SPLITS",
    "FailureRecord",
    "Store",
    "Tables",
    "build",
    "decode",
    "encode",
    "extents",
    "is_spec",
    "pack",
    "size_bound",
    "unpack",
]

SPLITS = ("", "train", "val", "test")
VERSION = 1
# Large enough to be read fast, small enough that a few rows do not read many others.
_CHUNK_BYTES = 2**20

RowReader = Callable[[int, int], np.ndarray]


class FailureRecord(NamedTuple):
    """An input that gave no row.

    Attributes
    ----------
    path : str
        Relative to the images' root.
    stage : str
        ``scan``, ``read``, ``decode`` or ``network``.
    reason : str
        One line for a person.
    size, mtime : int
        Bytes, and nanoseconds since 1970, when it failed; 0 where unknown.

    Examples
    --------
    >>> FailureRecord("train/rose/07.jpg", "decode", "truncated file").stage
    'decode'
    """

    path: str
    stage: str
    reason: str
    size: int = 0
    mtime: int = 0


@dataclass(frozen=True, eq=False)
class Tables:
    """The contents of a codes file beside the codes.

    Parameters
    ----------
    paths : list of str
        Relative to ``images_root``, in the order of the rows; bytes that are not UTF-8
        become surrogates.
    labels : (n,) int64
        Positions in ``class_names``; −1 is unlabelled.
    class_names : list of str
    splits : list of str
        ``""``, ``"train"``, ``"val"`` or ``"test"`` per row.
    groups : list of str
        ``""`` where a row belongs to none.
    images_root : str
    sizes, mtimes : (n,) int64
        Bytes and nanoseconds; 0 where the source has none.
    sha256 : (n, 32) uint8
        Of the image's content.
    failures, notes : list of FailureRecord
        Inputs without a row; remarks on images that have one.
    provenance : dict
        How the codes were made; JSON.

    Examples
    --------
    >>> from featpipe import codes
    >>> tables = codes.read("flowers.h5").tables
    >>> tables.labels.shape, tables.sha256.shape, tables.splits[0]
    ((42,), (42, 32), 'train')
    """

    paths: list[str]
    labels: np.ndarray
    class_names: list[str]
    splits: list[str]
    groups: list[str]
    images_root: str
    sizes: np.ndarray
    mtimes: np.ndarray
    sha256: np.ndarray
    failures: list[FailureRecord]
    provenance: dict[str, Any]
    notes: list[FailureRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        n = len(self.paths)
        lengths = [len(self.labels), len(self.splits), len(self.groups)]
        lengths += [len(self.sizes), len(self.mtimes), len(self.sha256)]
        # Rows of different length would shift labels against codes without any error.
        if lengths != [n] * 6:
            raise ValueError(
                f"{n} paths came with labels, splits, groups, sizes, mtimes and "
                f"sha256 of {lengths} rows; give one of each per image"
            )
        unknown = set(self.splits) - set(SPLITS)
        if unknown:
            raise ValueError(
                f"unknown split {sorted(unknown)[0]!r}; use 'train', 'val', 'test' "
                "or ''"
            )


class Store(NamedTuple):
    """The codes of one depth to be written: shape, dtype, and a reader of rows."""

    shape: tuple[int, ...]
    dtype: np.dtype
    rows: RowReader

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    @property
    def chunk_rows(self) -> int:
        """Rows of one chunk: about a megabyte."""
        # A chunk larger than the data would be padded with zeros on the disk.
        return max(1, min(self.shape[0], _CHUNK_BYTES // max(1, self.row_bytes)))

    @property
    def n_chunks(self) -> int:
        """Number of chunks."""
        return -(-self.shape[0] // self.chunk_rows)


def size_bound(stores: Mapping[str, Store], tables: Tables) -> int:
    """Return an upper bound of the bytes of the built file."""
    texts = [*tables.paths, *tables.class_names, *tables.groups]
    texts += [part for row in tables.failures + tables.notes for part in row[:3]]
    text_bytes = sum(len(encode(text)) + 8 for text in texts)
    text_bytes += len(json.dumps(tables.provenance)) + 80 * len(tables.paths)
    chunks = sum(
        s.n_chunks * (s.chunk_rows * s.row_bytes + 600) for s in stores.values()
    )
    room = block.room_for(sum(s.n_chunks for s in stores.values()))
    # HDF5's own trees and headers: a few kilobytes a dataset, doubled to be safe.
    return room + chunks + 2 * text_bytes + 2**17 + 2**14 * len(stores)


def build(
    file: BinaryIO | RawIOBase, stores: Mapping[str, Store], tables: Tables
) -> None:
    """Write a whole codes file, all but its sealed block.

    Parameters
    ----------
    file : binary file
        Empty; anything h5py takes as a file object.
    stores : mapping of SPEC to Store
        Rows are read in order, a chunk at a time.
    tables : Tables

    Returns
    -------
    None
        Seal the file with `extents` and `block.seal` afterwards.
    """
    room = block.room_for(sum(store.n_chunks for store in stores.values()))
    # Fixed bounds of the format: files stay readable by HDF5 1.8, and do not change
    # with the installed version.
    with h5py.File(file, "w", userblock_size=room, libver=("earliest", "v108")) as h5:
        h5.attrs["format"] = "featpipe-codes"
        h5.attrs["version"] = VERSION
        group = h5.create_group("codes")
        for spec, store in stores.items():
            _write_codes(group, spec, store)
        _write_tables(h5, tables)


def extents(h5: h5py.File, file: BinaryIO) -> list[tuple[int, int]]:
    """Return the raw chunks of the codes in the file, as (offset, length)."""
    spans = []
    for dataset in h5["codes"].values():
        if not len(dataset):
            continue
        infos: list[Any] = []
        dataset.id.chunk_iter(infos.append)
        shift = _shift(dataset, infos[0], file, h5.userblock_size)
        spans += [(info.byte_offset + shift, info.size) for info in infos]
    return spans


def _shift(dataset: h5py.Dataset, first: Any, file: BinaryIO, room: int) -> int:
    """Return the shift of chunk offsets: HDF5 versions differ on the user block."""
    # By comparison with the bytes in the file: the version does not tell about patched
    # builds.
    raw = dataset.id.read_direct_chunk(first.chunk_offset)[1]
    for shift in (0, room):
        file.seek(first.byte_offset + shift)
        if file.read(first.size) == raw:
            return shift
    raise AssertionError("the first chunk is not where HDF5 says it is")


def is_spec(name: str) -> bool:
    """Return whether a depth may have this name.

    It is the name of an HDF5 link, is printed as it is, and ``+`` joins several.
    """
    odd = {"/", "+", " "} & set(name)
    return bool(name) and name.isprintable() and not odd and name not in (".", "..")


def _write_codes(group: h5py.Group, spec: str, store: Store) -> None:
    if not is_spec(spec):
        raise ValueError(f"a depth cannot be named {spec!r} in a codes file")
    if not store.shape[0]:
        # HDF5 takes no empty chunks.
        group.create_dataset(spec, shape=store.shape, dtype=store.dtype)
        return
    dataset = group.create_dataset(
        spec,
        shape=store.shape,
        dtype=store.dtype,
        chunks=(store.chunk_rows, *store.shape[1:]),
        # HDF5's own checksum, for people who read the file with plain h5py.
        fletcher32=True,
    )
    for start in range(0, store.shape[0], store.chunk_rows):
        stop = min(start + store.chunk_rows, store.shape[0])
        dataset[start:stop] = store.rows(start, stop)


def _write_tables(h5: h5py.File, tables: Tables) -> None:
    numbers = {
        "labels": np.asarray(tables.labels, np.int64),
        "sizes": np.asarray(tables.sizes, np.int64),
        "mtimes": np.asarray(tables.mtimes, np.int64),
        "sha256": np.asarray(tables.sha256, np.uint8).reshape(-1, 32),
        "provenance": _bytes(json.dumps(tables.provenance, sort_keys=True)),
        "images_root": _bytes(tables.images_root),
    }
    for name, values in numbers.items():
        h5.create_dataset(name, data=values)
    # One byte a row, which shows as names in h5dump and HDFView.
    kinds = h5py.enum_dtype({name or "none": k for k, name in enumerate(SPLITS)}, "i1")
    splits = np.array([SPLITS.index(split) for split in tables.splits], np.int8)
    h5.create_dataset("splits", data=splits, dtype=kinds)
    for name, texts in {
        "paths": tables.paths,
        "groups": tables.groups,
        "class_names": tables.class_names,
    }.items():
        _write_texts(h5.create_group(name), texts)
    for name, rows in {"failures": tables.failures, "notes": tables.notes}.items():
        _write_failures(h5.create_group(name), rows)


def _write_failures(group: h5py.Group, rows: Sequence[FailureRecord]) -> None:
    for k, name in enumerate(("path", "stage", "reason")):
        _write_texts(group.create_group(name), [str(row[k]) for row in rows])
    for k, name in enumerate(("size", "mtime"), start=3):
        group.create_dataset(name, data=np.array([row[k] for row in rows], np.int64))


def _write_texts(group: h5py.Group, texts: Sequence[str]) -> None:
    # Not as strings of HDF5: paths may hold bytes that are not UTF-8, and millions of
    # variable-length strings are slow.
    content, offsets = pack(texts)
    group.create_dataset("bytes", data=content)
    group.create_dataset("offsets", data=offsets)


def pack(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate texts.

    Strings of HDF5 refuse a NUL and bytes that are not UTF-8; file names may hold both.

    Returns
    -------
    content : (n_bytes,) uint8
    offsets : (n_texts + 1,) int64
        Text ``i`` is ``content[offsets[i]:offsets[i + 1]]``.
    """
    parts = [encode(text) for text in texts]
    offsets = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    return np.frombuffer(b"".join(parts), np.uint8), offsets


def unpack(content: np.ndarray, offsets: np.ndarray) -> list[str]:
    """Undo `pack`."""
    whole, ends = content.tobytes(), offsets.tolist()
    return [decode(whole[start:stop]) for start, stop in pairwise(ends)]


def encode(text: str) -> bytes:
    """Return the bytes of a path or name as the file system has them."""
    return text.encode("utf-8", "surrogateescape")


def decode(content: bytes) -> str:
    """Undo `encode`."""
    return content.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(encode(text), np.uint8)
