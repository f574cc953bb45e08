"""One extraction from beginning to end.

`update_plan` decides by path, size and time which images are read again, `runner`
computes those whose content differs, and `codes` writes the file.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any

import numpy as np

from featpipe import codes
from featpipe.codes import Codes, FailureRecord, Row
from featpipe.extraction.contents import failure_error
from featpipe.extraction.cost import Cost, estimate
from featpipe.extraction.distributed import DistributedRunner
from featpipe.extraction.existing import read_existing, remedy, target_of
from featpipe.extraction.parts import Parts, RowIndex
from featpipe.extraction.plan import Plan, slice_size
from featpipe.extraction.runner import PlanRunner, Run, Runner
from featpipe.extraction.shards import require_same_shard, take_shard
from featpipe.extraction.tables import content_without_rows, gather_tables, same_tables
from featpipe.extraction.tasks import SliceTask
from featpipe.extraction.update_plan import (
    UpdatePlan,
    expected_digests,
    plan_update,
    require_same_image,
)
from featpipe.files import (
    Lock,
    require_distinct,
    write_bytes,
)
from featpipe.images import ImageSet
from featpipe.inference import (
    Machine,
    Network,
    Progress,
    Recipe,
    WorkerServer,
    worker_server,
)
from featpipe.parallel import Jobs

__all__ = ["Extraction"]


class Extraction:
    """An extraction of some images to one file.

    Parameters
    ----------
    recipe : Recipe
    image_set : ImageSet
    path : path
    machine : Machine, optional
    on_error, shard, progress
        As in `featpipe.extract`.
    jobs : Jobs, optional
        Processes that compute; default this one.

    Examples
    --------
    >>> from featpipe import images
    >>> from featpipe.extraction import Extraction
    >>> from featpipe.inference import Recipe
    >>> pictures = images.from_arrays(np.zeros((3, 8, 8, 3), np.uint8), ["a", "b", "b"])
    >>> codes = Extraction(Recipe("mini"), pictures, "three.h5").run()
    >>> codes.rows("penultimate", 0, 3).shape
    (3, 384)
    """

    def __init__(
        self,
        recipe: Recipe,
        image_set: ImageSet,
        path: str | os.PathLike[str],
        machine: Machine | None = None,
        *,
        on_error: str = "skip",
        shard: tuple[int, int] | None = None,
        jobs: Jobs | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        if on_error not in ("skip", "fail"):
            raise ValueError(f"on_error is {on_error!r}; use 'skip' or 'fail'")
        self._recipe = recipe
        self._path = target_of(path)
        # Not the target of a link: the message has to name the path that the user gave.
        require_distinct({"the codes file": path}, {"SOURCE": image_set.source})
        self._slice_size = slice_size(len(image_set))
        self._shard: tuple[int, int] | None = None
        self._shard_facts: dict[str, Any] | None = None
        self._images = image_set
        if shard is not None:
            self._images, facts = take_shard(image_set, shard, self._slice_size)
            self._shard, self._shard_facts = (facts["number"], facts["of"]), facts
        # One job on this machine is done by this process; starting another takes time.
        self._jobs = None if jobs is None or jobs.is_here else jobs
        self._key = ""
        self._network = Network(recipe, machine)
        # For plans only: its weights may be random, so it must not compute codes.
        self._sketch = Network(recipe, machine, download=False)
        self._on_error = on_error
        self._start_seconds = 0.0
        self._server: WorkerServer | None = None
        self._tell = progress or (lambda progress: None)
        self._progress = Progress(n_images=len(self._images) + len(image_set.failures))

    def plan_update(self, *, overwrite: bool = False) -> UpdatePlan:
        """Return the update; compute, download and write nothing.

        Returns
        -------
        UpdatePlan

        Raises
        ------
        CodesError
            If the file was made otherwise, or is damaged.
        """
        begin = time.perf_counter()
        update = self._plan_update(
            None if overwrite else read_existing(self._path), self._sketch
        )
        self._start_seconds = time.perf_counter() - begin
        return update

    def cost(self, update: UpdatePlan) -> Cost:
        """Estimate the cost of an update that `plan_update` has returned."""
        return estimate(
            self._images,
            update,
            self._sketch,
            self._slice_size,
            start_seconds=self._start_seconds,
        )

    def _plan_update(self, old: Codes | None, network: Network) -> UpdatePlan:
        if old is not None and self._shard is not None:
            require_same_shard(old, self._shard)
        update = plan_update(self._path, old, self._images, self._recipe, network)
        update.provenance.pop("shard", None)
        if self._shard_facts:
            update.provenance["shard"] = self._shard_facts
        return update

    def run(self, *, overwrite: bool = False, break_lock: bool = False) -> Codes:
        """Run the extraction; see `featpipe.extract`."""
        with ExitStack() as stack:
            lock = stack.enter_context(Lock(self._path, break_lock=break_lock))
            self._key = lock.key
            self._tell(self._progress)
            if overwrite:
                # Before the parts are dropped, which may be hours of work.
                codes.require_replaceable(self._path)
            parts = Parts(self._path)
            if overwrite:
                parts.drop()
            old = None if overwrite else read_existing(self._path)
            # With an existing file there may be nothing to compute, and no process is
            # started before that is known.
            if old is None and self._jobs is None:
                self._server = stack.enter_context(self._early_server())
            update = self._plan_update(old, self._network)
            for part in parts.existing.values():
                codes.require_same_fingerprint(
                    part.provenance, update.provenance, parts.folder
                )
            try:
                written = self._finish(old, update, parts)
            except BaseException:
                # Removes an empty folder only: the next run goes on from finished
                # parts.
                parts.tidy()
                raise
            parts.drop()
        self._tell(self._progress)
        return written

    def _early_server(self) -> AbstractContextManager[WorkerServer | None]:
        """Start worker processes now, while the network is loaded."""
        exact = self._recipe.decoding_at(self._recipe.precision).exact
        return worker_server(
            self._network.machine.n_workers, len(self._images), exact=exact
        )

    def _finish(self, old: Codes | None, update: UpdatePlan, parts: Parts) -> Codes:
        """Compute the missing codes and write the file, if anything has changed."""
        # They count as done, or the time left would never reach zero.
        failures = self._failures(update)
        self._progress.failed += len(failures)
        if self._on_error == "fail":
            for failure in sorted(failures):
                raise failure_error(failure)
        if old is not None and (len(update.todo) or update.added):
            with remedy(self._path):
                # Copying damaged rows under a new digest would hide the damage.
                old = codes.checked(old)
        # Not `if old`: a file without rows is a file.
        files = [*([] if old is None else [old]), *parts.existing.values()]
        extra = update.kept
        if not update.added:
            # Before the computation, so that the time left does not count them.
            self._progress.kept += len(extra)
        new = self._compute(update.todo, update.depths, update, files, parts)
        if update.added:
            before = np.array(sorted(update.kept), np.int64)
            extra = self._compute(before, update.added, update, files, parts, old)
        # An image that fails at one depth fails in the file.
        order = sorted({*new, *extra})
        if not order and self._shard is None:
            # The next run would take parts with failures only for computed.
            if not any(map(len, files)):
                parts.drop()
            raise self._no_codes(update)
        rows: dict[str, list[Row]] = {}
        for spec in update.depths:
            at = (extra if spec in update.added else update.kept) | new
            rows[spec] = [at[i] for i in order]
        tables = gather_tables(
            self._images,
            order,
            rows[update.depths[0]],
            files,
            failures=self._failures(update),
            provenance=update.provenance,
        )
        if old is not None and not update.added and same_tables(old.tables, tables):
            return old
        if order:
            with remedy(self._path):
                codes.assemble(self._path, files, rows, tables)
        else:
            # Without rows there is nothing to assemble, but `merge` needs the file of
            # every shard.
            depths = self._network.backbone(update.depths).depths
            write_bytes(self._path, content_without_rows(depths, tables))
        # Reading checks every byte on the disk before the caller drops the parts.
        return codes.read(self._path)

    def _compute(
        self,
        positions: np.ndarray,
        depths: Sequence[str],
        update: UpdatePlan,
        files: list[Codes],
        parts: Parts,
        base: Codes | None = None,
    ) -> dict[int, Row]:
        """Compute depths of images, into part files that are added to ``files``.

        With ``base``, the depths are added to rows of that file, whose images must not
        have changed.
        """
        if not len(positions):
            return {}
        plan = self._plan(positions, depths, update, parts)
        index = RowIndex(files)
        # Other files stay in the list, since the numbers of `Row` are positions in it,
        # but are not looked up.
        index.add(k for k, file in enumerate(files) if plan.can_use(file))
        runner = self._runner(plan, parts, index, update, base)
        rows: dict[int, Row] = {}
        # By path: positions change with the folder.
        position = {self._images.paths[i]: int(i) for i in positions}
        for part in runner.run():
            files.append(part)
            for row, path in enumerate(part.paths):
                rows[position[path]] = Row(len(files) - 1, row)
            for failure in part.tables.failures:
                update.failed[position[failure.path]] = failure
        return rows

    def _plan(
        self,
        positions: np.ndarray,
        depths: Sequence[str],
        update: UpdatePlan,
        parts: Parts,
    ) -> Plan:
        """Plan the work as the run did that left parts, if there are any."""
        network, dtype = self._network, update.provenance["dtype"]
        execution = parts.execution(
            depths, dtype, network.kind, network.machine.batch_size
        )
        # Another batch size or kernel than that of the parts would change the last
        # bits, and the file would depend on where the run was interrupted.
        if execution is None:
            execution = network.choose_execution(
                depths,
                update.provenance["precision"],
                update.fingerprint["preprocessing"]["crop"],
                n_images=len(positions),
                largest_batch=self._slice_size,
            )
        return Plan(
            self._images,
            positions,
            depths,
            update.fingerprint,
            dtype,
            self._slice_size,
            network.kind,
            execution,
        )

    def _runner(
        self,
        plan: Plan,
        parts: Parts,
        index: RowIndex,
        update: UpdatePlan,
        base: Codes | None,
    ) -> PlanRunner:
        """Return the runner of a plan: in this process, or in others."""
        run = Run(plan, parts, self._progress, self._tell, self._on_error)
        if self._jobs is not None:
            task = SliceTask(
                plan,
                self._recipe,
                self._network.machine,
                self._path,
                self._key,
                # Workers read these files whole, so only usable ones are sent.
                tuple(file.path for file in index.files if plan.can_use(file)),
            )
            expected = partial(expected_digests, base, update)
            return DistributedRunner(run, self._jobs, task, expected)
        return Runner(
            run,
            index=index,
            network=self._network,
            server=self._server,
            same_image=partial(require_same_image, base, update),
        )

    def _failures(self, update: UpdatePlan) -> list[FailureRecord]:
        """Return the failures of the scan and of images, those of the old file too."""
        scan = [FailureRecord(*failure) for failure in self._images.failures]
        return [*update.failed.values(), *scan]

    def _no_codes(self, update: UpdatePlan) -> ValueError:
        failures = self._failures(update)
        first = "" if not failures else "; the first, {}, failed at {}: {}"
        n, source = self._progress.n_images, self._images.source
        reason = first.format(*min(failures, default=())[:3])
        return ValueError(f"not one of {n} images in {source} gave a code{reason}")
