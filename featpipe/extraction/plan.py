"""What is to be computed, cut into slices whose names say what they hold.

A slice is done once, whole, or not at all; batches never cross a slice and are formed
by position, so that the same plan gives the same bytes however often it was stopped.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from featpipe.codes import Codes
from featpipe.images import ImageSet

__all__ = ["SLICE", "Plan", "slice_size"]

SLICE = 128
_MANY_SLICES = 1000


def slice_size(n_images: int) -> int:
    """Give the positions of one slice: 128, or more where slices would be too many.

    Beyond 100,000 images a larger multiple of 128, so that a folder of parts never
    holds many more than a thousand files.
    """
    if n_images <= 100_000:
        return SLICE
    return -(-n_images // (_MANY_SLICES * SLICE)) * SLICE


@dataclass(frozen=True, eq=False)
class Plan:
    """Some images, the depths to compute, and how they are cut.

    Parameters
    ----------
    images : ImageSet
        All images of the file.
    positions : (n,) int64
        Which of them this plan computes, ascending.
    depths : sequence of str
        Canonical SPECs.
    fingerprint : dict
        What changes the numbers.
    dtype : str
    slice_size, batch_size : int
        The second divides the work of the first.
    """

    images: ImageSet
    positions: np.ndarray
    depths: Sequence[str]
    fingerprint: dict[str, Any]
    dtype: str
    slice_size: int
    batch_size: int

    @cached_property
    def digest(self) -> str:
        """Name this plan: equal digests compute equal bytes."""
        said: list[object] = [self.fingerprint, list(self.depths), self.dtype]
        said += [self.slice_size, self.batch_size]
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
        for i in self.positions:
            path = self.images.paths[i].encode("utf-8", "surrogateescape")
            digest.update(
                b"%d %d %d " % (len(path), self.stamp(i)[0], self.stamp(i)[1])
            )
            digest.update(path)
        return digest.hexdigest()

    def stamp(self, i: int) -> tuple[int, int]:
        """Give size and modification time of image ``i``."""
        return int(self.images.sizes[i]), int(self.images.mtimes[i])

    def can_use(self, file: Codes) -> bool:
        """Say whether rows of a file may stand for rows of this plan.

        Not those of its own parts: an unbroken run does not know them when it meets
        the same content again, and a resumed one must do as the unbroken.
        """
        said = file.provenance
        return (
            set(self.depths) <= set(file.depths)
            and said.get("dtype") == self.dtype
            and said.get("plan") != self.digest
        )

    @property
    def n_slices(self) -> int:
        """Number of slices."""
        return -(-len(self.positions) // self.slice_size)

    def slices(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the number and the positions of each slice."""
        for k in range(self.n_slices):
            yield k, self.positions[k * self.slice_size : (k + 1) * self.slice_size]
