"""Merge codes files: the shards of one extraction, or files of several folders."""

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from featpipe.codes.access import Codes
from featpipe.codes.assembly import Row, assemble
from featpipe.codes.block import CodesError, require_replaceable
from featpipe.codes.fingerprint import first_difference
from featpipe.codes.layout import Tables, encode
from featpipe.codes.reading import read
from featpipe.files import require_distinct

__all__ = ["merge"]


def merge(
    paths: Sequence[str | os.PathLike[str]], path: str | os.PathLike[str]
) -> Codes:
    """Put codes files together into one, rows in the order of their paths.

    Parameters
    ----------
    paths : sequence of paths
        Files of the same fingerprint, depths, dtype and images' root; of shards, all.
    path : path
        The file to write; replaced if it exists.

    Returns
    -------
    Codes
        Of the merged file.

    Raises
    ------
    CodesError
        If a file is damaged, they do not belong together, an image is in two of them,
        or a shard is missing.

    Examples
    --------
    >>> import numpy as np
    >>> import featpipe
    >>> from featpipe import codes
    >>> for k, name in enumerate(["a.jpg", "b.jpg"]):
    ...     codes.write(
    ...         f"part{k}.h5",
    ...         codes={"fc": np.full((1, 4), k, np.float32)},
    ...         labels=[0],
    ...         class_names=["rose"],
    ...         paths=[name],
    ...     )
    >>> merged = featpipe.merge(["part1.h5", "part0.h5"], "whole.h5")
    >>> merged.paths, merged.arrays("fc")[0][:, 0].tolist()
    (['a.jpg', 'b.jpg'], [0.0, 1.0])
    """
    if not paths:
        raise ValueError("nothing to merge; give the codes files to put together")
    for name in paths:
        require_distinct({"the merged file": path}, {"an input": name})
    # Before any input is read: merging hours of shards must not fail at its last step.
    require_replaceable(Path(path))
    files = [read(name) for name in paths]
    for other in files[1:]:
        _require_compatible(files[0], other)
    _require_all_shards(files)
    # Each shard knows only the classes of its own images, so labels are numbered anew.
    names = sorted({name for file in files for name in file.class_names})
    order = sorted(
        (Row(k, i) for k, file in enumerate(files) for i in range(len(file))),
        # By bytes, as `scan` sorts: a merged file has the rows in the order of a single
        # extraction.
        key=lambda at: encode(files[at.file].paths[at.row]),
    )
    for one, two in pairwise(order):
        name = files[one.file].paths[one.row]
        if name == files[two.file].paths[two.row]:
            raise CodesError(
                f"{name!r} is both in {files[one.file].path} and in "
                f"{files[two.file].path}; leave one of the files out"
            )
    tables = _merged(files, order, names)
    assemble(Path(path), files, dict.fromkeys(files[0].depths, order), tables)
    return read(path)


class _Shard(NamedTuple):
    """The shard metadata of a file: which shard, of how many, of which images."""

    number: int
    of: int
    listing: str

    @classmethod
    def read(cls, path: Path, shard_facts: Any) -> "_Shard":
        try:
            shard = cls(
                int(shard_facts["number"]),
                int(shard_facts["of"]),
                str(shard_facts["listing"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CodesError(f"{path} has invalid shard metadata: {error}") from error
        # The number comes from a file: `range(of)` below must not take all memory.
        if not 0 <= shard.number < shard.of <= 2**20:
            raise CodesError(f"{path} is shard {shard.number} of {shard.of}")
        return shard


def _require_compatible(one: Codes, two: Codes) -> None:
    if difference := first_difference(one.provenance, two.provenance):
        where, a, b = difference
        raise CodesError(
            f"{one.path} and {two.path} were made with different {where}, {a!r} and "
            f"{b!r}; extract one of them again with the settings of the other"
        )
    for what, a, b in (
        ("depths", sorted(one.depths), sorted(two.depths)),
        ("images' root", one.images_root, two.images_root),
        ("dtype", one.provenance.get("dtype"), two.provenance.get("dtype")),
    ):
        if a != b:
            raise CodesError(
                f"{one.path} and {two.path} differ in {what}: {a!r} and {b!r}; "
                "extract them alike to merge them"
            )


def _require_all_shards(files: Sequence[Codes]) -> None:
    facts = {file.path: file.provenance.get("shard") for file in files}
    shards = {
        path: _Shard.read(path, shard_facts)
        for path, shard_facts in facts.items()
        if shard_facts
    }
    if not shards:
        return
    first, one = next(iter(shards.items()))
    for path, other in shards.items():
        if (other.of, other.listing) != (one.of, one.listing):
            raise CodesError(
                f"{first} and {path} are no shards of the same images: extract every "
                "shard again, of as many, now that the images stay as they are"
            )
    missing = sorted({*range(one.of)} - {shard.number for shard in shards.values()})
    if missing:
        raise CodesError(
            f"shard {missing[0]}/{one.of} is missing among {len(files)} files; merge "
            f"all {one.of} of one extraction at once"
        )


def _merged(files: Sequence[Codes], order: Sequence[Row], names: list[str]) -> Tables:
    number = {name: k for k, name in enumerate(names)}
    labels = [
        np.array([*(number[n] for n in file.class_names), -1], np.int64)[file.labels]
        for file in files
    ]
    first = np.cumsum([0, *map(len, files)])
    at = np.array([first[row.file] + row.row for row in order], np.int64)

    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(file.tables, name) for file in files])[at]

    def texts(name: str) -> list[str]:
        return [getattr(files[row.file].tables, name)[row.row] for row in order]

    provenance = {k: v for k, v in files[0].provenance.items() if k != "shard"}
    return Tables(
        paths=texts("paths"),
        labels=np.concatenate(labels)[at],
        class_names=names,
        splits=texts("splits"),
        groups=texts("groups"),
        images_root=files[0].images_root,
        sizes=column("sizes"),
        mtimes=column("mtimes"),
        sha256=column("sha256"),
        # All shards list the failures of the scan.
        failures=sorted({f for file in files for f in file.tables.failures}),
        notes=sorted({f for file in files for f in file.tables.notes}),
        provenance=provenance,
    )
