"""Gather the tables of the final file: all of it but the codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from featpipe import codes
from featpipe.codes import Codes, FailureRecord, Row, Tables
from featpipe.extraction.parts import RowIndex
from featpipe.images import ImageSet

if TYPE_CHECKING:
    from featpipe.backbones import Depth

__all__ = ["content_without_rows", "gather_tables", "same_tables"]


def gather_tables(
    images: ImageSet,
    order: Sequence[int],
    rows: Sequence[Row],
    files: list[Codes],
    *,
    failures: Sequence[FailureRecord],
    provenance: dict[str, Any],
) -> Tables:
    """Return the tables of a file.

    Parameters
    ----------
    images : ImageSet
        Labels, splits, groups and paths are refreshed from it.
    order : sequence of n int
        Position of each row's image.
    rows : sequence of n Row
        Source of the code, digest and notes of each row.
    files : list of Codes
        The files that ``rows`` refers to.
    failures : sequence of FailureRecord
    provenance : dict
    """
    at, index = np.array(order, np.int64), RowIndex(files)
    paths = [images.paths[i] for i in order]
    digests = b"".join(index.sha256(row) for row in rows)
    return Tables(
        paths=paths,
        labels=images.labels[at],
        class_names=images.class_names,
        splits=[images.splits[i] for i in order],
        groups=[images.groups[i] for i in order],
        images_root=images.root,
        sizes=images.sizes[at],
        mtimes=images.mtimes[at],
        sha256=np.frombuffer(digests, np.uint8).reshape(-1, 32),
        failures=sorted(failures),
        notes=[
            FailureRecord(path, "decode", text)
            for path, row in zip(paths, rows, strict=True)
            for text in index.notes(row)
        ],
        # Of the run that writes the file, since parts lack the request.
        provenance=provenance,
    )


def same_tables(one: Tables, two: Tables) -> bool:
    """Compare all tables that a run without new depths may change."""
    arrays = ("labels", "sizes", "mtimes", "sha256")
    others = "paths class_names splits groups images_root failures notes provenance"
    return all(
        np.array_equal(getattr(one, name), getattr(two, name)) for name in arrays
    ) and all(getattr(one, name) == getattr(two, name) for name in others.split())


def content_without_rows(depths: Sequence[Depth], tables: Tables) -> bytes:
    """Return the bytes of the file of a shard without rows, which merging needs."""
    arrays = {
        depth.spec: np.empty(
            (0, *depth.shape),
            np.float16 if depth.pool == "map" else tables.provenance["dtype"],
        )
        for depth in depths
    }
    return codes.content(arrays, tables)
