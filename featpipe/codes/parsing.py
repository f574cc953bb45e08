"""Parse the HDF5 part of a codes file into tables, as input from an attacker.

Refuses links, external and virtual storage, and declared sizes beyond the file: the
digest proves that a file is complete, not that its author is honest.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import h5py
import numpy as np

from featpipe.codes.block import CodesError
from featpipe.codes.layout import (
    SPLITS,
    VERSION,
    FailureRecord,
    Tables,
    decode,
    is_spec,
    unpack,
)

__all__ = ["header", "opened"]

_TEXTS = ("bytes", "offsets")
# Name, dtype, and the shape of one row.
_NUMBERS: dict[str, tuple[str, tuple[int, ...]]] = {
    "labels": ("i8", ()),
    "sizes": ("i8", ()),
    "mtimes": ("i8", ()),
    "sha256": ("u1", (32,)),
    "splits": ("i1", ()),
    "provenance": ("u1", ()),
    "images_root": ("u1", ()),
}
_TEXT_GROUPS = ("paths", "groups", "class_names")
_FAILURE_GROUPS = ("failures", "notes")
# The types of the fields of a provenance that featpipe reads; others may have any.
_PROVENANCE: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("backbone", "precision", "dtype", "device", "plan"), (str,)),
    **dict.fromkeys(("weights", "weights_sha256"), (str, type(None))),
    **dict.fromkeys(("preprocessing", "decoding", "versions", "request"), (dict,)),
    **dict.fromkeys(("depths", "asked"), (list,)),
    "shard": (dict, type(None)),
    "batch_size": (int,),
}
_PARTS_OF_PROVENANCE: dict[str, dict[str, tuple[type, ...]]] = {
    "decoding": {
        "mode": (str,),
        "value_range": (str, list),
        "max_pixels": (int, type(None)),
    },
    "shard": {"number": (int,), "of": (int,), "listing": (str,)},
    "preprocessing": {
        "resize": (int, type(None)),
        "crop": (int,),
        **dict.fromkeys(("mean", "std"), (list,)),
        **dict.fromkeys(("antialias", "hflip"), (bool,)),
        "interpolation": (str,),
    },
}
# The errors of h5py and numpy on malformed files. MemoryError is not among them, since
# declared sizes are checked first.
_PARSING_ERRORS = (
    OSError,
    RuntimeError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
)


def header(file: BinaryIO) -> tuple[dict[str, tuple[int, ...]], Tables]:
    """Read everything but the codes.

    Parameters
    ----------
    file : binary file
        A codes file whose digests hold.

    Returns
    -------
    shapes : dict of SPEC to shape
        In the order of extraction.
    tables : Tables

    Raises
    ------
    CodesError
        If the file holds something that a codes file never holds.
    """
    with opened(file) as h5:
        datasets, codes = _checked_datasets(h5, file.seek(0, os.SEEK_END))
        shapes = {name: dataset.shape for name, dataset in codes.items()}
        tables = _tables(datasets, shapes)
        order = tables.provenance.get("depths", [])
        if not isinstance(order, list):
            raise CodesError("has tables that do not fit together: depths is no list")
        order = [spec for spec in [*order, *shapes] if spec in shapes]
    return {spec: shapes[spec] for spec in order}, tables


@contextmanager
def opened(file: BinaryIO) -> Iterator[h5py.File]:
    """Open the HDF5 part; turn every error of libhdf5 into a `CodesError`."""
    try:
        with h5py.File(file, "r") as h5:
            yield h5
    except CodesError:
        raise
    except _PARSING_ERRORS as error:
        reason = " ".join(str(error).split())
        raise CodesError(f"cannot be read: {reason}") from error


def _checked_datasets(
    h5: h5py.File, size: int
) -> tuple[dict[str, h5py.Dataset], dict[str, h5py.Dataset]]:
    """Open all tables and all codes, each once; refuse whatever else the file holds."""
    version = _version(h5)
    if not 1 <= version <= VERSION:
        raise CodesError(
            f"has format version {version}; this featpipe reads up to {VERSION}: "
            "update featpipe"
        )
    groups: dict[str, Sequence[str]] = dict.fromkeys(_TEXT_GROUPS, _TEXTS)
    fields = ("path", "stage", "reason", "size", "mtime")
    groups |= dict.fromkeys(_FAILURE_GROUPS, fields)
    groups |= {f"{name}/{text}": _TEXTS for name in _FAILURE_GROUPS
               for text in fields[:3]}  # fmt: skip
    members = _members(h5, "", ["codes", *_NUMBERS, *_TEXT_GROUPS, *_FAILURE_GROUPS])
    for name, expected in groups.items():
        members |= _members(members[name], f"{name}/", expected)
    codes = _members(members.pop("codes"), "", None)
    tables = {k: v for k, v in members.items() if isinstance(v, h5py.Dataset)}
    declared = 0
    for dataset in tables.values():
        declared += _declared(dataset, set())
        if _layout(dataset) == h5py.h5d.CHUNKED:
            raise CodesError(f"holds {dataset.name} in chunks; codes alone are")
    for dataset in codes.values():
        declared += _declared(dataset, {h5py.h5z.FILTER_FLETCHER32})
        _refuse_odd_codes(dataset)
    # Many small chunks may overlap in the file.
    if declared > size:
        raise CodesError("declares more than it holds")
    return tables, codes


def _version(h5: h5py.File) -> int:
    """Return the format version; no attribute is read before its type is known.

    In a crafted file a string of variable length may point anywhere, and libhdf5 then
    crashes or never returns; so such a string is not read. The first block has already
    identified the file.
    """
    if not all(h5py.h5a.exists(h5.id, name) for name in (b"format", b"version")):
        raise CodesError("is not a featpipe codes file")
    name = h5py.h5a.open(h5.id, b"format")
    if not isinstance(name.get_type(), h5py.h5t.TypeStringID) or name.shape:
        raise CodesError("is not a featpipe codes file")
    version = h5py.h5a.open(h5.id, b"version")
    kind = version.get_type()
    scalar = version.get_space().get_simple_extent_type() == h5py.h5s.SCALAR
    number = isinstance(kind, h5py.h5t.TypeIntegerID) and kind.get_size() == 8
    if not number or not scalar:
        raise CodesError("has a format version that is no number")
    value = np.empty((), np.int64)
    version.read(value)
    return int(value)


def _members(
    group: Any, prefix: str, names: Sequence[str] | None
) -> dict[str, h5py.HLObject]:
    """Open the members of a group; refuse links, and other members than these.

    Without names, every member must be a dataset.
    """
    if not isinstance(group, h5py.Group):
        raise CodesError("is not laid out as a codes file: a group is missing")
    present = list(group)
    if names is not None and set(present) != set(names):
        odd = sorted(set(present) ^ set(names))[0]
        raise CodesError(f"is not laid out as a codes file: {group.name} and {odd!r}")
    for name in present:
        link = group.id.links.get_info(name.encode("utf-8", "surrogateescape"))
        if link.type != h5py.h5l.TYPE_HARD:
            raise CodesError(f"holds a link, {name!r}, where a codes file has none")
    members = {prefix + name: group[name] for name in present}
    if names is None and not all(
        isinstance(member, h5py.Dataset) for member in members.values()
    ):
        raise CodesError("is not laid out as a codes file: codes that are no array")
    return members


def _layout(dataset: h5py.Dataset) -> int:
    return int(dataset.id.get_create_plist().get_layout())


def _filters(dataset: h5py.Dataset) -> set[int]:
    settings = dataset.id.get_create_plist()
    return {settings.get_filter(k)[0] for k in range(settings.get_nfilters())}


def _declared(dataset: h5py.Dataset, filters: set[int]) -> int:
    """Return the bytes that a dataset declares; refuse odd types and storage."""
    settings = dataset.id.get_create_plist()
    if settings.get_external_count() or settings.get_layout() == h5py.h5d.VIRTUAL:
        raise CodesError(f"keeps {dataset.name} outside of itself")
    if _filters(dataset) - filters:
        raise CodesError(f"packs {dataset.name} with a filter no codes file uses")
    dtype = dataset.dtype
    if dtype.kind not in "iuf":
        raise CodesError(f"has a type in {dataset.name} no codes file uses")
    declared: int = math.prod(dataset.shape) * dtype.itemsize
    if dataset.id.get_storage_size() < declared:
        raise CodesError(f"declares more in {dataset.name} than it holds")
    return declared


def _refuse_odd_codes(dataset: h5py.Dataset) -> None:
    name = dataset.name.rpartition("/")[2]
    if not is_spec(name):
        raise CodesError(f"names a depth {name!r}, which none can be called")
    whole = dataset.chunks is None
    if len(dataset.shape) not in (2, 3, 4) or (whole and len(dataset)):
        raise CodesError("is not laid out as a codes file: codes that are no array")
    if dataset.dtype not in (np.float32, np.float16):
        raise CodesError(f"has codes of type {dataset.dtype}; they are float32 or 16")
    if whole:
        return
    # libhdf5 does not check that a chunk, its checksum off, is as long as declared.
    expected = math.prod(dataset.chunks) * dataset.dtype.itemsize
    expected += 4 * bool(_filters(dataset))
    chunks: list[Any] = []
    dataset.id.chunk_iter(chunks.append)
    if any(chunk.size != expected or chunk.filter_mask for chunk in chunks):
        raise CodesError(f"has chunks in {dataset.name} of another size than declared")


def _tables(
    datasets: Mapping[str, h5py.Dataset], shapes: Mapping[str, tuple[int, ...]]
) -> Tables:
    for name, (kind, row) in _NUMBERS.items():
        dataset = datasets.get(name)
        if dataset is None or dataset.dtype != np.dtype(kind):
            raise CodesError(f"has a type in {name!r} no codes file uses")
        if len(dataset.shape) != 1 + len(row) or dataset.shape[1:] != row:
            raise CodesError(f"has {name!r} in a shape no codes file uses")
    splits = datasets["splits"][:]
    if splits.min(initial=0) < 0 or splits.max(initial=0) >= len(SPLITS):
        raise CodesError("has invalid split values")
    try:
        provenance = json.loads(datasets["provenance"][:].tobytes())
        tables = Tables(
            paths=_texts(datasets, "paths"),
            labels=datasets["labels"][:],
            class_names=_texts(datasets, "class_names"),
            splits=[SPLITS[k] for k in splits.tolist()],
            groups=_texts(datasets, "groups"),
            images_root=decode(datasets["images_root"][:].tobytes()),
            sizes=datasets["sizes"][:],
            mtimes=datasets["mtimes"][:],
            sha256=datasets["sha256"][:],
            failures=_failures(datasets, "failures"),
            notes=_failures(datasets, "notes"),
            provenance=provenance,
        )
    except (ValueError, IndexError, RecursionError) as error:
        raise CodesError(f"has tables that do not fit together: {error}") from error
    labels = tables.labels
    if labels.min(initial=0) < -1 or labels.max(initial=-1) >= len(tables.class_names):
        raise CodesError("has tables that do not fit together: a label without a class")
    if not isinstance(provenance, dict):
        raise CodesError("has tables that do not fit together: provenance is no object")
    _require_types(provenance, _PROVENANCE, "provenance")
    for name, kinds in _PARTS_OF_PROVENANCE.items():
        _require_types(provenance.get(name) or {}, kinds, name)
    if {shape[0] for shape in shapes.values()} - {len(tables.paths)}:
        raise CodesError("has tables that do not fit together: codes and paths")
    return tables


def _require_types(
    record: dict[str, Any], kinds: dict[str, tuple[type, ...]], what: str
) -> None:
    """Refuse a field of another type than a codes file has; a missing one is none."""
    for name in record.keys() & kinds.keys():
        value = record[name]
        # Not isinstance: in Python a bool is an int.
        if type(value) not in kinds[name]:
            raise CodesError(
                f"has tables that do not fit together: {name} in its {what} is "
                f"{value!r:.60}"
            )
        if type(value) is list and {type(each) for each in value} - {str, int, float}:
            raise CodesError(
                f"has tables that do not fit together: {name} in its {what} is no "
                f"plain list: {value!r:.60}"
            )


def _texts(datasets: Mapping[str, h5py.Dataset], name: str) -> list[str]:
    content, offsets = datasets[f"{name}/bytes"][:], datasets[f"{name}/offsets"][:]
    if (content.dtype, offsets.dtype, content.ndim) != (np.uint8, np.int64, 1):
        raise CodesError(f"has a type in /{name} no codes file uses")
    ordered = len(offsets) and offsets[0] == 0 and (offsets[1:] >= offsets[:-1]).all()
    if not ordered or offsets[-1] != len(content):
        raise CodesError(f"has offsets in /{name} that point nowhere")
    return unpack(content, offsets)


def _failures(datasets: Mapping[str, h5py.Dataset], name: str) -> list[FailureRecord]:
    texts = (f"{name}/{part}" for part in ("path", "stage", "reason"))
    columns: list[list[Any]] = [_texts(datasets, text) for text in texts]
    columns += [datasets[f"{name}/{part}"][:].tolist() for part in ("size", "mtime")]
    return [FailureRecord(*row) for row in zip(*columns, strict=True)]
