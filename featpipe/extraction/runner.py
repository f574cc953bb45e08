"""Run a plan: compute the missing batches into part files."""

import hashlib
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from featpipe.codes import Codes, FailureRecord, Row
from featpipe.extraction.contents import Contents, failure_error, failures_of
from featpipe.extraction.parts import Parts, RowIndex
from featpipe.extraction.plan import Plan, Span
from featpipe.images import ImageError
from featpipe.inference import (
    ComputedBatch,
    Decoding,
    Engine,
    Execution,
    LoadedImage,
    Network,
    Progress,
    WorkerServer,
)

__all__ = ["Done", "PlanRunner", "Run", "Runner"]

# A part ends with the first slice after so many seconds, or with the first batch after
# so many bytes: syncing one takes about as long as computing 128 images on a GPU.
_SECONDS, _BYTES = 2.0, 2**26


class Done(NamedTuple):
    """A part file of this plan, and the span that it holds."""

    span: Span
    part: Codes


@dataclass(frozen=True, eq=False)
class Run:
    """One run of a plan: its parts, and the reports of its progress.

    Parameters
    ----------
    plan : Plan
    parts : Parts
    progress : Progress
    tell : callable, optional
        Called with the progress after every batch.
    on_error : str
        ``"skip"`` records a failure and goes on, ``"fail"`` raises it.
    """

    plan: Plan
    parts: Parts
    progress: Progress
    tell: Callable[[Progress], None] = lambda progress: None
    on_error: str = "skip"


class PlanRunner(ABC):
    """Compute a plan into part files; subclasses decide in which processes.

    Parameters
    ----------
    run : Run
    """

    def __init__(self, run: Run) -> None:
        self._plan = run.plan
        self._parts = run.parts
        self._progress = run.progress
        self._tell = run.tell
        self._on_error = run.on_error

    def run(self) -> list[Codes]:
        """Compute the images that no part holds; return parts of the whole plan.

        Raises
        ------
        ValueError
            With ``on_error="fail"``, for the first image that fails; or if a code is
            too large for float16.
        OSError
            If a part cannot be written.
        """
        done = self._done()
        for _, part in done:
            self._progress.kept += len(part)
            self._count_failures(part.tables.failures)
        missing = self._plan.gaps([span for span, _ in done])
        if missing:
            done += self._compute(missing)
        return [part for _, part in sorted(done, key=lambda one: one.span)]

    @abstractmethod
    def _compute(self, missing: Sequence[Span]) -> list[Done]:
        """Compute some spans, and write what is finished also if something fails."""

    def _done(self) -> list[Done]:
        """Return the parts of this plan whose images have not changed."""
        done: list[Done] = []
        for span, part in self._parts.of(self._plan):
            # Two workers may have computed the same images; the first part is taken.
            apart = not done or done[-1].span.stop <= span.start
            if apart and self._is_current(span, part):
                done.append(Done(span, part))
        return done

    def _is_current(self, span: Span, part: Codes) -> bool:
        images, positions = self._plan.images, self._plan.within(span)
        if self._unshared_failure(part) is not None:
            return False
        # Size and time are in the plan's digest, so a part of this plan is of the same
        # files.
        if images.mtimes[positions].all():
            return True
        # Images without a time (arrays, data sets) are compared by content.
        rows = {path: row for row, path in enumerate(part.paths)}
        for i in positions:
            row = rows.get(images.paths[i])
            if row is None or part.sha256[row].tobytes() != self._content_digest(i):
                return False
        return True

    def _unshared_failure(self, part: Codes) -> FailureRecord | None:
        """Return a worker's failure to read an image that this process can read."""
        if "worker" not in part.provenance:
            return None
        # A folder may be missing on one machine; an image that fails to decode fails on
        # all.
        failures = {f.path: f for f in part.tables.failures if f.stage == "read"}
        if failures:
            for i in self._plan.within(self._plan.span):
                path = self._plan.images.paths[i]
                if path in failures and self._content_digest(i) is not None:
                    return failures[path]
        return None

    def _content_digest(self, i: int) -> bytes | None:
        try:
            return hashlib.sha256(self._plan.images.read(i)).digest()
        except ImageError:
            return None

    def _count_failures(self, failures: Sequence[FailureRecord]) -> None:
        self._progress.failed += len(failures)
        if failures and self._on_error == "fail":
            raise failure_error(failures[0])


class Runner(PlanRunner):
    """Compute the missing images of a plan in this process.

    Parameters
    ----------
    run : Run
    index : RowIndex
        Rows of older files and parts that the plan can use.
    network : Network
        Loaded only if some images are left.
    server : WorkerServer, optional
        A running server.
    execution : Execution, optional
        How the network runs; default that of the plan.
    same_image : callable
        Takes position and content digest of an image just read; raises `ImageError`
        if this plan may not use it.
    """

    def __init__(
        self,
        run: Run,
        *,
        index: RowIndex,
        network: Network,
        same_image: Callable[[int, bytes], None],
        server: WorkerServer | None = None,
        execution: Execution | None = None,
    ) -> None:
        super().__init__(run)
        self._index = index
        self._network = network
        self._server = server
        self._execution = execution or run.plan.execution
        self._same_image = same_image

    def _compute(self, missing: Sequence[Span]) -> list[Done]:
        """Compute some spans, and write what is finished also if something fails."""
        unchanged = self._unchanged(missing)
        # A generator, so that no list of a million images is built.
        to_read = (
            [i for i in self._plan.within(batch) if i not in unchanged]
            for span in missing
            for batch in self._plan.batches(span)
        )
        n_images = sum(span.stop - span.start for span in missing) - len(unchanged)
        computed = self._engine(n_images).batches(
            to_read, self._find, self._index.digests
        )
        # `computed` is closed first: finished batches are written while workers end.
        with _Writer(self._save) as writer, closing(computed):
            for span in missing:
                contents = Contents(self._plan, self._index, span.start)
                begun = time.monotonic()
                try:
                    for batch in self._plan.batches(span):
                        self._add(contents, batch, next(computed), unchanged)
                        if self._is_due(contents, batch, begun):
                            full = contents
                            # Replaced before the full one is written: an interruption
                            # between the two must not write the same batches twice.
                            contents = Contents(self._plan, self._index, batch.stop)
                            begun = time.monotonic()
                            writer.write(full)
                except BaseException:
                    # Finished batches are kept; of two errors the first is raised.
                    with suppress(OSError):
                        writer.write(contents)
                    raise
                writer.write(contents)
            done = writer.finish()
        self._tell(self._progress)
        return done

    def _engine(self, n_images: int) -> Engine:
        plan, network = self._plan, self._network
        precision = plan.fingerprint["precision"]
        return Engine(
            plan.images,
            plan.batch_size,
            # Called with the first image to compute: a run without one loads no
            # network.
            partial(network.lanes, plan.depths, precision, self._execution),
            decoding=Decoding.recorded(plan.fingerprint["decoding"]),
            hflip=network.recipe.hflip,
            workers=network.machine.n_workers,
            progress=self._progress,
            n_images=n_images,
            server=self._server,
        )

    def _is_due(self, contents: Contents, batch: Span, begun: float) -> bool:
        """Return whether a part ends with this batch."""
        if contents.n_bytes >= _BYTES:
            return True
        waited = time.monotonic() - begun >= _SECONDS
        # A run in several processes, which shares the work by slices, can then use the
        # part.
        return waited and self._plan.ends_slice(batch)

    def _unchanged(self, missing: Sequence[Span]) -> dict[int, Row]:
        """Return the existing rows of images with the same path, size and time."""
        rows = {}
        for span in missing:
            for i in self._plan.within(span):
                path = self._plan.images.paths[i]
                row = self._index.unchanged(path, self._plan.stamp(i))
                if row is not None:
                    rows[i] = row
        return rows

    def _find(self, i: int, sha256: bytes) -> Row | None:
        # First, so that a changed image is refused even where its content has a code.
        self._same_image(i, sha256)
        return self._index.same_content(sha256)

    def _add(
        self,
        contents: Contents,
        span: Span,
        batch: ComputedBatch,
        unchanged: dict[int, Row],
    ) -> None:
        """Add a computed batch, with the existing rows of its other images."""
        batch = batch.without_infinite()
        read = iter(batch.images)
        images = [
            LoadedImage(i, self._index.sha256(unchanged[i]), existing=unchanged[i])
            if i in unchanged
            else next(read)
            for i in self._plan.within(span)
        ]
        failures = failures_of(self._plan, images)
        # Before the batch is added, so that the next run tries an image again that ends
        # this run.
        self._count_failures(failures)
        contents.add(span, images, batch.codes if batch.fresh else {})
        kept = sum(image.existing is not None for image in images)
        self._progress.kept += kept
        self._progress.computed += len(images) - kept - len(failures)
        self._tell(self._progress)

    def _save(self, contents: Contents) -> Done:
        with self._progress.timing("write"):
            arrays, tables = contents.arrays(), contents.tables()
            part = self._parts.save(self._plan, contents.span, arrays, tables)
        return Done(contents.span, part)


class _Writer:
    """Write parts in a thread; a later call raises its errors."""

    def __init__(self, save: Callable[[Contents], Done]) -> None:
        self._save = save
        self._thread = ThreadPoolExecutor(1, "write")
        self._saving: deque[Future[Done]] = deque()
        self._done: list[Done] = []

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *exception: object) -> None:
        # Finished parts are written even after a failure.
        self._thread.shutdown()

    def write(self, contents: Contents) -> None:
        """Begin to write a part, unless it is empty; at most two may wait."""
        if contents.span.start < contents.span.stop:
            self._saving.append(self._thread.submit(self._save, contents))
        # Bounds the memory where the disk is slower than the network: each waiting part
        # holds all its codes.
        while len(self._saving) > 2:
            self._collect()

    def _collect(self) -> None:
        self._done.append(self._saving.popleft().result())

    def finish(self) -> list[Done]:
        """Wait for all parts, and return them."""
        while self._saving:
            self._collect()
        return self._done
