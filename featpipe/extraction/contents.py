"""The contents of a part file: adjacent batches, new and existing rows in order."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from featpipe.codes import FailureRecord, Row, Tables
from featpipe.extraction.parts import RowIndex
from featpipe.extraction.plan import Plan, Span
from featpipe.inference import CodesByDepth, LoadedImage

__all__ = ["Contents", "failure_error", "failures_of"]

_FLOAT16_MAX = float(np.finfo(np.float16).max)


def failures_of(plan: Plan, images: Iterable[LoadedImage]) -> list[FailureRecord]:
    """Return the failures among images, with path, size and time."""
    return [
        FailureRecord(
            plan.images.paths[image.position],
            image.failure.stage,
            image.failure.reason,
            *plan.stamp(image.position),
        )
        for image in images
        if image.failure is not None
    ]


def failure_error(failure: FailureRecord) -> ValueError:
    """Return the error of a run that a single failure ends."""
    return ValueError(
        f"{failure.path}: {failure.stage}: {failure.reason}; remove or mend the image, "
        "or leave out --on-error fail to go on without it"
    )


class Contents:
    """Adjacent batches of a plan that are finished and not yet written.

    Parameters
    ----------
    plan : Plan
    index : RowIndex
        Rows of older files and parts.
    start : int
        Position at which the first batch begins.
    """

    def __init__(self, plan: Plan, index: RowIndex, start: int) -> None:
        self._plan, self._index, self._start = plan, index, start
        self._batches: list[tuple[Span, Sequence[LoadedImage], CodesByDepth]] = []
        self.n_bytes = 0

    @property
    def span(self) -> Span:
        """The span that the batches cover."""
        # Before the first batch it is empty, and begins where the first must begin.
        stop = self._batches[-1][0].stop if self._batches else self._start
        return Span(self._start, stop)

    def add(
        self, span: Span, images: Sequence[LoadedImage], codes: CodesByDepth
    ) -> None:
        """Add the next batch.

        Parameters
        ----------
        span : Span
            Begins where the last batch ended.
        images : sequence of LoadedImage
            All images of the batch.
        codes : dict of SPEC to array
            Codes of the images that were computed, in order; empty if none was.

        Raises
        ------
        ValueError
            If a code is too large for the dtype of the plan.
        """
        assert span.start == self.span.stop
        # Rounded here and not at the end, so that `n_bytes` counts the bytes to write,
        # and a value that does not fit stops the run before anything is saved.
        stored = {spec: self._stored(spec, code) for spec, code in codes.items()}
        self.n_bytes += sum(code.nbytes for code in stored.values())
        self.n_bytes += sum(self._n_bytes(image.existing) for image in images)
        # In one statement: an interruption may write the batches at any moment.
        self._batches.append((span, images, stored))

    def _n_bytes(self, row: Row | None) -> int:
        """Return an upper bound of the bytes of a row that will be copied."""
        if row is None:
            return 0
        shapes = self._index.files[row.file].shapes
        # Four bytes a number also for float16: `n_bytes` only decides when a part is
        # full, and an estimate below could let one outgrow the memory.
        return sum(4 * math.prod(shapes[spec][1:]) for spec in self._plan.depths)

    def _stored(self, spec: str, code: np.ndarray) -> np.ndarray:
        """Round codes to the dtype of the file; raise if a value does not fit."""
        # Maps are float16 whatever the dtype of the file is.
        if code.dtype == np.float16 or self._plan.dtype == "float32":
            return code
        largest = float(np.abs(code).max(initial=0))
        if largest > _FLOAT16_MAX:
            raise ValueError(
                f"codes at {spec!r} reach {largest:,.0f}, beyond float16's "
                f"{_FLOAT16_MAX:,.0f}; extract with --dtype float32"
            )
        return code.astype(np.float16)

    def arrays(self) -> CodesByDepth:
        """Return the codes of all rows, new and existing."""
        rows = self._rows()
        # Codes of batches are without the existing rows; this mask restores the order
        # of the images.
        fresh = np.array([image.existing is None for image in rows], bool)
        return {spec: self._array(spec, rows, fresh) for spec in self._plan.depths}

    def _rows(self) -> list[LoadedImage]:
        return [image for image in self._images() if image.failure is None]

    def _images(self) -> list[LoadedImage]:
        return [image for _, images, _ in self._batches for image in images]

    def _array(
        self, spec: str, rows: list[LoadedImage], fresh: np.ndarray
    ) -> np.ndarray:
        existing = [image.existing for image in rows]
        pieces = []
        computed = [codes[spec] for _, _, codes in self._batches if codes]
        if computed:
            pieces.append((fresh, np.concatenate(computed)))
        # One `take` a file, which reads adjacent rows together.
        for number in sorted({row.file for row in existing if row is not None}):
            here = np.array([r is not None and r.file == number for r in existing])
            chosen = [r.row for r in existing if r is not None and r.file == number]
            pieces.append((here, self._index.files[number].take(spec, chosen)))
        if not pieces:
            # Every image has failed: the width is unknown, and no row will
            # ever be taken from here.
            return np.empty((0, 1), np.float32)
        whole = np.empty((len(rows), *pieces[0][1].shape[1:]), pieces[0][1].dtype)
        for where, values in pieces:
            whole[where] = values
        return whole

    def tables(self) -> Tables:
        """Return all that a codes file holds beside the codes."""
        plan, rows = self._plan, self._rows()
        source, at = plan.images, [image.position for image in rows]
        provenance: dict[str, Any] = {
            **plan.fingerprint,
            "dtype": plan.dtype,
            "depths": list(plan.depths),
            "plan": plan.digest,
            "span": list(self.span),
            "execution": plan.execution.as_dict(),
            "device": plan.device,
        }
        return Tables(
            paths=[source.paths[i] for i in at],
            # A part knows nothing of labels, splits and groups: they may change between
            # two runs, while the codes of the part stay valid.
            labels=np.full(len(at), -1, np.int64),
            class_names=[],
            splits=[""] * len(at),
            groups=[""] * len(at),
            images_root=source.root,
            sizes=source.sizes[at],
            mtimes=source.mtimes[at],
            sha256=np.frombuffer(b"".join(r.sha256 for r in rows), np.uint8).reshape(
                -1, 32
            ),
            failures=failures_of(plan, self._images()),
            notes=[
                FailureRecord(source.paths[image.position], "decode", note)
                for image in rows
                for note in self._notes(image)
            ],
            provenance=provenance,
        )

    def _notes(self, image: LoadedImage) -> Iterable[str]:
        return (
            image.notes if image.existing is None else self._index.notes(image.existing)
        )
