"""Shards: parts of the work with a file of their own, for independent machines.

`codes.merge` joins the shards.
"""

import hashlib
from operator import index
from typing import Any

import numpy as np

from featpipe.codes import Codes, CodesError
from featpipe.images import ImageSet

__all__ = ["require_same_shard", "take_shard"]


def take_shard(
    image_set: ImageSet, shard: tuple[int, int], slice_size: int
) -> tuple[ImageSet, dict[str, Any]]:
    """Return the images of a shard, and its metadata for the file.

    Parameters
    ----------
    image_set : ImageSet
        All images.
    shard : (i, n)
        Every slice k with k mod n = i.
    slice_size : int

    Raises
    ------
    ValueError
        If there is no such shard.
    """
    try:
        i, n = (index(number) for number in shard)
    except (TypeError, ValueError):
        i, n = 0, 0
    # More shards would nearly all be empty, as with the typing error 0/10000000.
    if not 0 <= i < n <= 100_000:
        text = "/".join(map(str, shard)) if isinstance(shard, tuple) else shard
        raise ValueError(
            f"shard is {text!r}; use i/n with n up to 100,000 and i from 0 to n - 1 "
            "(in Python a pair (i, n))"
        )
    # Shards of two different lists would miss images, or have them twice.
    paths = "\0".join(image_set.paths).encode("utf-8", "surrogateescape")
    listing = hashlib.sha256(paths).hexdigest()
    # Slices in turn and not adjacent blocks: a folder is sorted by class, and each
    # shard should have images of all classes.
    slices = np.arange(len(image_set)) // slice_size
    facts = {"number": i, "of": n, "listing": listing}
    return image_set.take(np.flatnonzero(slices % n == i)), facts


def require_same_shard(old: Codes, shard: tuple[int, int]) -> None:
    """Raise if a file holds another shard, or all images.

    Raises
    ------
    CodesError
    """
    facts = old.provenance.get("shard") or {}
    if (facts.get("number"), facts.get("of")) != shard:
        holds = f"shard {facts['number']}/{facts['of']}" if facts else "all images"
        raise CodesError(
            f"{old.path} holds {holds}, and now shard {shard[0]}/{shard[1]} is asked "
            "for; give every shard a file of its own"
        )
