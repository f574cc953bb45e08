"""Running a plan: its slices one after another, each into a part file."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np

from featpipe.codes import Codes, Failure, Row, Tables
from featpipe.extraction.parts import Parts, RowIndex
from featpipe.extraction.plan import Plan
from featpipe.images import ImageError
from featpipe.inference.engine import Batch, Engine, LoadedImage
from featpipe.inference.progress import Progress

__all__ = ["Runner"]

_FLOAT16_MAX = float(np.finfo(np.float16).max)


class Runner:
    """Computes what a plan lacks and leaves every slice in a part file.

    Parameters
    ----------
    plan : Plan
    parts : Parts
    known : RowIndex
        Rows of older files and parts that the plan can use.
    make_engine : callable
        Told how many images are left; returns the `Engine`. Called only if a slice is
        missing.
    same_image : callable
        Told position and content digest of an image just read; raises `ImageError`
        if this plan may not use it.
    progress : Progress
    tell : callable
        Called with the progress after every batch.
    on_error : str
        ``"skip"`` records a failure and goes on, ``"fail"`` raises it.
    """

    def __init__(
        self,
        plan: Plan,
        parts: Parts,
        known: RowIndex,
        make_engine: Callable[[int], Engine],
        same_image: Callable[[int, bytes], None],
        progress: Progress,
        tell: Callable[[Progress], None],
        on_error: str,
    ) -> None:
        self._plan = plan
        self._parts = parts
        self._known = known
        self._make_engine = make_engine
        self._same_image = same_image
        self._progress = progress
        self._tell = tell
        self._on_error = on_error

    def run(self) -> list[Codes]:
        """Do the slices that are not done; give the parts of all of them.

        Raises
        ------
        ValueError
            With ``on_error="fail"``, for the first image that fails; or if a code is
            too large for float16.
        OSError
            If a part cannot be written.
        """
        found = {k: self._done(k, at) for k, at in self._plan.slices()}
        missing = [(k, at) for k, at in self._plan.slices() if found[k] is None]
        for part in found.values():
            if part is not None:
                self._progress.kept += len(part)
                self._count_failures(part.tables.failures)
        if missing:
            found |= self._compute(missing)
        return [part for part in found.values() if part is not None]

    def _done(self, k: int, positions: np.ndarray) -> Codes | None:
        """Find the part of a slice, if the images are still those it was made of."""
        part = self._parts.found.get(self._parts.path(self._plan, k))
        if part is None or self._plan.images.mtimes[positions].all():
            return part
        # Images without a time (arrays, data sets): only their content can tell.
        rows = {path: row for row, path in enumerate(part.paths)}
        for i in positions.tolist():
            row = rows.get(self._plan.images.paths[i])
            if row is None or part.sha256[row].tobytes() != self._content_digest(i):
                return None
        return part

    def _content_digest(self, i: int) -> bytes | None:
        try:
            return hashlib.sha256(self._plan.images.read(i)).digest()
        except ImageError:
            return None

    def _compute(self, missing: list[tuple[int, np.ndarray]]) -> dict[int, Codes]:
        unchanged = self._unchanged(missing)
        to_read = (
            [i for i in batch if i not in unchanged]
            for _, positions in missing
            for batch in self._batches(positions)
        )
        n_images = sum(len(positions) for _, positions in missing)
        computed = self._make_engine(n_images).batches(
            to_read, self._find, self._known.digests
        )
        done: dict[int, Codes] = {}
        saving: deque[tuple[int, Future[Codes]]] = deque()
        # What was computed is still written if something fails after it.
        with ThreadPoolExecutor(1, "write") as writer, closing(computed):
            for k, positions in missing:
                images, arrays = self._slice(positions, unchanged, computed)
                saving.append((k, writer.submit(self._save, k, images, arrays)))
                if len(saving) > 1:
                    _collect(saving, done)
            while saving:
                _collect(saving, done)
        self._tell(self._progress)
        return done

    def _batches(self, positions: np.ndarray) -> Iterator[list[int]]:
        size = self._plan.batch_size
        for start in range(0, len(positions), size):
            yield positions[start : start + size].tolist()

    def _save(
        self, k: int, images: list[LoadedImage], arrays: dict[str, np.ndarray]
    ) -> Codes:
        with self._progress.timing("write"):
            rows, tables = self._part(k, images, arrays)
            return self._parts.save(self._plan, k, rows, tables)

    def _unchanged(self, missing: list[tuple[int, np.ndarray]]) -> dict[int, Row]:
        """Find the images whose rows are known by path, size and time."""
        found = {}
        for _, positions in missing:
            for i in positions.tolist():
                path = self._plan.images.paths[i]
                row = self._known.unchanged(path, self._plan.stamp(i))
                if row is not None:
                    found[i] = row
        return found

    def _find(self, i: int, sha256: bytes) -> Row | None:
        self._same_image(i, sha256)
        return self._known.same_content(sha256)

    def _slice(
        self,
        positions: np.ndarray,
        unchanged: dict[int, Row],
        computed: Iterator[Batch],
    ) -> tuple[list[LoadedImage], dict[str, np.ndarray]]:
        """Give the images of a slice, and the codes of those that went through."""
        images: list[LoadedImage] = []
        found: list[dict[str, np.ndarray]] = []
        for at in self._batches(positions):
            batch = next(computed)
            read = iter(self._without_infinite(batch))
            if batch.codes:
                found.append(batch.codes)
            group = [
                LoadedImage(i, self._known.sha256(unchanged[i]), known=unchanged[i])
                if i in unchanged
                else next(read)
                for i in at
            ]
            images += group
            self._count(group)
        return images, {
            spec: np.concatenate([part[spec] for part in found])
            for spec in (found[0] if found else ())
        }

    def _without_infinite(self, batch: Batch) -> list[LoadedImage]:
        """Turn images with a code that is not finite into failures.

        Their codes are taken out of the batch, and the others rounded as stored.
        """
        sound = np.ones(len(batch.fresh), bool)
        reasons: dict[int, str] = {}
        for spec, code in batch.codes.items():
            finite = np.isfinite(code.reshape(len(code), -1)).all(axis=1)
            for k in np.flatnonzero(~finite & sound):
                reasons[batch.fresh[k]] = f"the code at {spec} is not finite"
            sound &= finite
        for spec, code in batch.codes.items():
            batch.codes[spec] = self._stored(spec, code[sound])
        return [
            image._replace(failure=ImageError("network", reasons[image.position]))
            if image.position in reasons
            else image
            for image in batch.images
        ]

    def _failures(self, batch: Iterable[LoadedImage]) -> list[Failure]:
        plan = self._plan
        return [
            Failure(
                plan.images.paths[image.position],
                image.failure.stage,
                image.failure.reason,
                *plan.stamp(image.position),
            )
            for image in batch
            if image.failure is not None
        ]

    def _stored(self, spec: str, code: np.ndarray) -> np.ndarray:
        """Round to the dtype of the file, refusing what does not fit."""
        if code.dtype == np.float16 or self._plan.dtype == "float32":
            return code
        largest = float(np.abs(code).max(initial=0))
        if largest > _FLOAT16_MAX:
            raise ValueError(
                f"codes at {spec!r} reach {largest:,.0f}, beyond float16's "
                f"{_FLOAT16_MAX:,.0f}; extract with --dtype float32"
            )
        return code.astype(np.float16)

    def _count(self, batch: list[LoadedImage]) -> None:
        failures = self._failures(batch)
        self._count_failures(failures)
        kept = sum(image.known is not None for image in batch)
        self._progress.kept += kept
        self._progress.computed += len(batch) - kept - len(failures)
        self._tell(self._progress)

    def _count_failures(self, failures: list[Failure]) -> None:
        self._progress.failed += len(failures)
        if failures and self._on_error == "fail":
            path, stage, reason = failures[0][:3]
            raise ValueError(
                f"{path}: {stage}: {reason}; remove or mend the image, or leave out "
                "--on-error fail to go on without it"
            )

    def _part(
        self, k: int, images: list[LoadedImage], arrays: dict[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], Tables]:
        """Give what the part file holds: rows computed and rows known, in order."""
        rows = [image for image in images if image.failure is None]
        fresh = np.array([image.known is None for image in rows], bool)
        found = {
            spec: self._rows(spec, rows, fresh, arrays.get(spec))
            for spec in self._plan.depths
        }
        return found, self._tables(k, images, rows)

    def _rows(
        self,
        spec: str,
        rows: list[LoadedImage],
        fresh: np.ndarray,
        computed: np.ndarray | None,
    ) -> np.ndarray:
        known = [image.known for image in rows if image.known is not None]
        pieces = [(fresh, computed)] if computed is not None else []
        for number in sorted({row.file for row in known}):
            here = np.array(
                [r.known is not None and r.known.file == number for r in rows]
            )
            wanted = np.array([row.row for row in known if row.file == number])
            pieces.append((here, self._known.files[number].take(spec, wanted)))
        if not pieces:
            # Every image of the slice failed: the width is anybody's guess, and no
            # row will ever be taken from here.
            return np.empty((0, 1), np.float32)
        whole = np.empty((len(rows), *pieces[0][1].shape[1:]), pieces[0][1].dtype)
        for where, values in pieces:
            whole[where] = values
        return whole

    def _notes(self, image: LoadedImage) -> Iterable[str]:
        return image.notes if image.known is None else self._known.notes(image.known)

    def _tables(
        self, k: int, images: list[LoadedImage], rows: list[LoadedImage]
    ) -> Tables:
        source, at = self._plan.images, [image.position for image in rows]
        paths = [source.paths[i] for i in at]
        provenance: dict[str, Any] = {
            **self._plan.fingerprint,
            "dtype": self._plan.dtype,
            "depths": list(self._plan.depths),
            "plan": self._plan.digest,
            "slice": k,
        }
        return Tables(
            paths=paths,
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
            failures=self._failures(images),
            notes=[
                Failure(source.paths[image.position], "decode", note)
                for image in rows
                for note in self._notes(image)
            ],
            provenance=provenance,
        )


def _collect(saving: deque[tuple[int, Future[Codes]]], done: dict[int, Codes]) -> None:
    """Wait for the oldest part that is being written."""
    k, part = saving.popleft()
    done[k] = part.result()
