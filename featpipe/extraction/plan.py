"""What is to be computed, cut into batches that are the same however often it stops.

Batches are formed by position, so that the same plan gives the same bytes, broken or
not. A part file holds neighbouring batches, whichever were finished, and is named by
the plan and by where they begin and end.
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
    """Return the positions of one slice, which batches never cross.

    Shards are made of slices, and parts end with them. 128 positions; beyond 10,000
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
    """Neighbouring images of a plan: from ``start`` to before ``stop``."""

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
        Which of them this plan computes, ascending.
    depths : sequence of str
        Canonical SPECs.
    fingerprint : dict
        What changes the numbers.
    dtype : str
    slice_size : int
    device : str
        Its kind: ``cpu``, ``cuda`` or ``mps``.
    execution : Execution
        How the network runs there. Both change the numbers by rounding.
    first : int
        Where the plan begins, if it is a piece of a larger one; see `piece`.
    digest : str
        Name of this plan: equal digests compute equal bytes. That of the larger one,
        for a piece; left out otherwise.
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
            # The dataclass is frozen; a piece of a plan is given the digest of the
            # whole.
            object.__setattr__(self, "digest", self._own_digest())

    @property
    def span(self) -> Span:
        """All that the plan computes."""
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
        """Return a plan of a span alone, which computes the same bytes of it.

        It holds nothing of other images, so that it may travel to another process.
        """
        images = self.images.detached(self.within(span))
        return replace(
            self, images=images, positions=np.arange(len(images)), first=span.start
        )

    def _own_digest(self) -> str:
        facts: list[object] = [self.fingerprint, list(self.depths), self.dtype]
        # Device and execution move the last bits of a code. They are no part of the
        # fingerprint, but parts computed otherwise must not be mixed under one name.
        facts += [self.slice_size, self.device, self.execution.as_dict()]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for i in self.positions:
            # File names may hold any bytes.
            path = self.images.paths[i].encode("utf-8", "surrogateescape")
            digest.update(
                # The length comes first, so that no name can be mistaken for the end of
                # one and the start of the next.
                b"%d %d %d " % (len(path), self.stamp(i)[0], self.stamp(i)[1])
            )
            digest.update(path)
        return digest.hexdigest()

    def stamp(self, i: int) -> tuple[int, int]:
        """Return size and modification time of image ``i``."""
        return int(self.images.sizes[i]), int(self.images.mtimes[i])

    def can_use(self, file: Codes) -> bool:
        """Return whether rows of a file may be used as rows of this plan.

        Not those of its own parts: an unbroken run does not know them when it meets
        the same content again, and a resumed one must do as the unbroken.
        """
        provenance = file.provenance
        return (
            set(self.depths) <= set(file.depths)
            and provenance.get("dtype") == self.dtype
            # Parts of this very plan are taken whole by the runner; looked up row by
            # row they would be copied into new parts.
            and provenance.get("plan") != self.digest
        )

    def batches(self, within: Span | None = None) -> Iterator[Span]:
        """Yield the batches; or those of a span that begins and ends with batches."""
        start, end = within or self.span
        while start < end:
            # From the position in the whole plan and not from `start`: an interrupted
            # run then cuts the same batches as an unbroken one.
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
        """Return what some spans, ascending and apart, leave out.

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
