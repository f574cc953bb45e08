"""Cut the images to compute into batches that are the same however often a run stops.

Batches are formed by position, so that the same plan gives the same bytes, interrupted
or not. A part file holds adjacent finished batches, and is named by the plan and by
their span.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from featpipe.codes import Codes
from featpipe.images import ImageSet
from featpipe.inference import Execution

__all__ = ["SLICE", "Plan", "Span", "slice_size"]

SLICE = 128
_MANY_IMAGES, _LARGE_SLICES, _MANY_SLICES = 10_000, 4, 1000


def slice_size(n_images: int) -> int:
    """Return the number of positions of one slice; batches never cross slices.

    Shards consist of slices, and parts end with them. The size is 128; beyond 10,000
    images 512, so that a GPU may have larger batches; beyond 500,000 a larger multiple
    of 512, so that there are about a thousand slices.

    Examples
    --------
    >>> slice_size(398), slice_size(60_000), slice_size(1_300_000)
    (128, 512, 1536)
    """
    if n_images <= _MANY_IMAGES:
        return SLICE
    # Multiples of 128, so that every slice but the last is a whole number of batches of
    # any power of two.
    large = _LARGE_SLICES * SLICE
    return max(1, -(-n_images // (_MANY_SLICES * large))) * large


class Span(NamedTuple):
    """Adjacent images of a plan: from ``start`` to before ``stop``."""

    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Plan:
    """Some images, the depths to compute, and how they are cut.

    Parameters
    ----------
    images : ImageSet
        All images of the file.
    positions : (n,) int64
        Positions of the images that this plan computes, ascending.
    depths : sequence of str
        Canonical SPECs.
    fingerprint : dict
        What changes the numbers.
    dtype : str
    slice_size : int
    device : str
        Its kind: ``cpu``, ``cuda`` or ``mps``.
    execution : Execution
        How the network runs. Device and execution change codes by rounding.
    first : int
        Position at which the plan begins, if it is a piece of a larger one; see
        `piece`.
    digest : str
        Name of this plan: equal digests compute equal bytes. A piece has the digest of
        the larger plan; left out otherwise.
    """

    images: ImageSet
    positions: np.ndarray
    depths: Sequence[str]
    fingerprint: dict[str, Any]
    dtype: str
    slice_size: int
    device: str
    execution: Execution
    first: int = 0
    digest: str = ""

    def __post_init__(self) -> None:
        if not self.digest:
            # The dataclass is frozen.
            object.__setattr__(self, "digest", self._own_digest())

    @property
    def span(self) -> Span:
        """The span of all images that the plan computes."""
        return Span(self.first, self.first + len(self.positions))

    @property
    def batch_size(self) -> int:
        """Images of a batch, at most."""
        return min(self.execution.batch_size, self.slice_size)

    def within(self, span: Span) -> list[int]:
        """Return the positions, in `images`, of a span of the plan."""
        start, stop = (edge - self.first for edge in span)
        positions: list[int] = self.positions[start:stop].tolist()
        return positions

    def piece(self, span: Span) -> Plan:
        """Return a plan of a span alone, which computes the same bytes.

        It holds no other images, so that little is sent to another process.
        """
        images = self.images.detached(self.within(span))
        return replace(
            self, images=images, positions=np.arange(len(images)), first=span.start
        )

    def _own_digest(self) -> str:
        facts: list[object] = [self.fingerprint, list(self.depths), self.dtype]
        # Device and execution change the last bits of a code. They are not in the
        # fingerprint, but parts that differ in them must have different names.
        facts += [self.slice_size, self.device, self.execution.as_dict()]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for i in self.positions:
            # File names may hold any bytes.
            path = self.images.paths[i].encode("utf-8", "surrogateescape")
            digest.update(
                # The length first, so that different lists of names give different
                # bytes.
                b"%d %d %d " % (len(path), self.stamp(i)[0], self.stamp(i)[1])
            )
            digest.update(path)
        return digest.hexdigest()

    def stamp(self, i: int) -> tuple[int, int]:
        """Return size and modification time of image ``i``."""
        return int(self.images.sizes[i]), int(self.images.mtimes[i])

    def can_use(self, file: Codes) -> bool:
        """Return whether rows of a file may be used as rows of this plan.

        Rows of its own parts may not: an uninterrupted run computes a content that
        comes again anew, and a resumed run must do the same.
        """
        provenance = file.provenance
        return (
            set(self.depths) <= set(file.depths)
            and provenance.get("dtype") == self.dtype
            # The runner takes parts of this plan whole.
            and provenance.get("plan") != self.digest
        )

    def batches(self, within: Span | None = None) -> Iterator[Span]:
        """Yield the batches; or those of a span that begins and ends with batches."""
        start, end = within or self.span
        while start < end:
            # By the position in the whole plan, so that a resumed run cuts the same
            # batches.
            slice_end = (start // self.slice_size + 1) * self.slice_size
            stop = min(start + self.batch_size, slice_end, end)
            yield Span(start, stop)
            start = stop

    def ends_slice(self, batch: Span) -> bool:
        """Return whether a batch is the last one of its slice."""
        return batch.stop % self.slice_size == 0 or batch.stop == self.span.stop

    def slices(self, within: Span) -> Iterator[Span]:
        """Yield the slices of a span; the first and the last may be incomplete."""
        start, end = within
        while start < end:
            stop = min((start // self.slice_size + 1) * self.slice_size, end)
            yield Span(start, stop)
            start = stop

    def gaps(self, spans: Sequence[Span]) -> list[Span]:
        """Return the spans that some ascending, disjoint spans leave out.

        Examples
        --------
        >>> from featpipe import images
        >>> pictures = images.from_arrays([np.zeros((2, 2), np.uint8)] * 9)
        >>> way = Execution(fused=False, batch_size=2, n_lanes=1)
        >>> plan = Plan(pictures, np.arange(9), [], {}, "float32", 4, "cpu", way)
        >>> plan.gaps([Span(2, 4), Span(4, 6)])
        [Span(start=0, stop=2), Span(start=6, stop=9)]
        """
        start, stop = self.span
        edges = [start, *(edge for span in spans for edge in span), stop]
        pairs = zip(edges[::2], edges[1::2], strict=True)
        return [Span(*pair) for pair in pairs if pair[0] < pair[1]]
