"""From the HDF5 part of a codes file to tables, trusting nothing it says.

No links, no external or virtual storage, no size that is not there: the digest says
that a file is whole, not that its author is kind.
"""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import h5py
import numpy as np

from featpipe.codes.block import CodesError
from featpipe.codes.layout import SPLITS, VERSION, Failure, Tables, decode, unpack

__all__ = ["header", "opened"]

_TEXTS = ("bytes", "offsets")
_NUMBERS = {
    "labels": "i8",
    "sizes": "i8",
    "mtimes": "i8",
    "sha256": "u1",
    "splits": "i1",
    "provenance": "u1",
    "images_root": "u1",
}
_TEXT_GROUPS = ("paths", "groups", "class_names")
_FAILURE_GROUPS = ("failures", "notes")


def header(file: BinaryIO) -> tuple[dict[str, tuple[int, ...]], Tables]:
    """Read everything but the codes.

    Parameters
    ----------
    file : binary file
        A codes file whose digests hold.

    Returns
    -------
    shapes : dict of SPEC to shape
        In the order the depths were asked for.
    tables : Tables

    Raises
    ------
    CodesError
        If the file holds what a codes file never holds.
    """
    with opened(file) as h5:
        _refuse_oddities(h5)
        tables = _tables(h5)
        shapes = {name: dataset.shape for name, dataset in h5["codes"].items()}
    order = [s for s in tables.provenance.get("depths", []) if s in shapes]
    order += [s for s in shapes if s not in order]
    return {spec: shapes[spec] for spec in order}, tables


@contextmanager
def opened(file: BinaryIO) -> Iterator[h5py.File]:
    """Open the HDF5 part; whatever libhdf5 objects to is one error."""
    try:
        with h5py.File(file, "r") as h5:
            yield h5
    except CodesError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise CodesError(f"cannot be read: {reason}") from error


def _refuse_oddities(h5: h5py.File) -> None:
    """Refuse what a codes file never holds; the digest vouches for no author."""
    if h5.attrs.get("format") != "featpipe-codes":
        raise CodesError("is not a featpipe codes file")
    version = h5.attrs.get("version")
    if not isinstance(version, np.integer) or not 1 <= version <= VERSION:
        raise CodesError(
            f"has format version {version!r}; this featpipe reads up to {VERSION}: "
            "update featpipe"
        )
    groups: dict[str, Sequence[str] | None]
    groups = {"codes": None, **dict.fromkeys(_TEXT_GROUPS, _TEXTS)}
    fields = ("path", "stage", "reason", "size", "mtime")
    groups |= dict.fromkeys(_FAILURE_GROUPS, fields)
    _expect(h5, [*_NUMBERS, *groups])
    for name, members in groups.items():
        _expect(h5[name], members)
    for name in _FAILURE_GROUPS:
        for text in fields[:3]:
            _expect(h5[name][text], _TEXTS)
    for dataset in h5["codes"].values():
        _refuse_odd_codes(dataset)


def _expect(group: h5py.Group, names: Sequence[str] | None) -> None:
    """Refuse missing or unknown members, links, and storage outside the file."""
    if not isinstance(group, h5py.Group):
        raise CodesError("is not laid out as a codes file: a group is missing")
    if names is not None and set(group) != set(names):
        odd = sorted(set(group) ^ set(names))[0]
        raise CodesError(f"is not laid out as a codes file: {group.name} and {odd!r}")
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise CodesError(f"holds a link, {name!r}, where a codes file has none")
        member = group[name]
        if isinstance(member, h5py.Dataset):
            _refuse_odd_storage(member)


def _refuse_odd_storage(dataset: h5py.Dataset) -> None:
    if dataset.external or dataset.is_virtual:
        raise CodesError(f"keeps {dataset.name} outside of itself")
    if set(dataset._filters) - {"fletcher32"}:
        raise CodesError(f"packs {dataset.name} with a filter no codes file uses")
    if dataset.dtype.kind not in "iuf":
        raise CodesError(f"has a type in {dataset.name} no codes file uses")
    declared = math.prod(dataset.shape) * dataset.dtype.itemsize
    if dataset.id.get_storage_size() < declared:
        raise CodesError(f"declares more in {dataset.name} than it holds")


def _refuse_odd_codes(dataset: h5py.Dataset) -> None:
    if not isinstance(dataset, h5py.Dataset) or len(dataset.shape) not in (2, 3, 4):
        raise CodesError("is not laid out as a codes file: codes that are no array")
    if dataset.dtype not in (np.float32, np.float16):
        raise CodesError(f"has codes of type {dataset.dtype}; they are float32 or 16")


def _tables(h5: h5py.File) -> Tables:
    for name, kind in _NUMBERS.items():
        if h5[name].dtype != np.dtype(kind):
            raise CodesError(f"has a type in {name!r} no codes file uses")
    try:
        provenance = json.loads(h5["provenance"][:].tobytes())
        tables = Tables(
            paths=_texts(h5["paths"]),
            labels=h5["labels"][:],
            class_names=_texts(h5["class_names"]),
            splits=[SPLITS[k] for k in h5["splits"][:].tolist()],
            groups=_texts(h5["groups"]),
            images_root=decode(h5["images_root"][:].tobytes()),
            sizes=h5["sizes"][:],
            mtimes=h5["mtimes"][:],
            sha256=h5["sha256"][:],
            failures=_failures(h5["failures"]),
            notes=_failures(h5["notes"]),
            provenance=provenance,
        )
    except (ValueError, IndexError, RecursionError) as error:
        raise CodesError(f"has tables that do not fit together: {error}") from error
    lengths = {len(dataset) for dataset in h5["codes"].values()}
    beyond = tables.labels.max(initial=-1) >= len(tables.class_names)
    if not isinstance(provenance, dict) or lengths - {len(tables.paths)} or beyond:
        raise CodesError("has tables that do not fit together")
    return tables


def _texts(group: h5py.Group) -> list[str]:
    content, offsets = group["bytes"][:], group["offsets"][:]
    ordered = len(offsets) and offsets[0] == 0 and (np.diff(offsets) >= 0).all()
    if not ordered or offsets[-1] != len(content):
        raise CodesError(f"has offsets in {group.name} that point nowhere")
    return unpack(content, offsets)


def _failures(group: h5py.Group) -> list[Failure]:
    columns: list[list[Any]] = [_texts(group[n]) for n in ("path", "stage", "reason")]
    columns += [group[name][:].tolist() for name in ("size", "mtime")]
    return [Failure(*row) for row in zip(*columns, strict=True)]
