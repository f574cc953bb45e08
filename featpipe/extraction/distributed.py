"""Run a plan in several processes: each missing slice is a task.

This module is the coordinator, which sends the slices, checks the parts that workers
write, and merges them. It may be killed at any time: the next run uses the parts.
"""

import pickle
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from featpipe import codes
from featpipe.extraction.plan import Plan, Span
from featpipe.extraction.runner import Done, PlanRunner, Run
from featpipe.extraction.tasks import (
    PACKAGES,
    PATIENCE,
    PartRecord,
    SliceTask,
    TaskReport,
    compute,
)
from featpipe.inference import Recipe, package_versions
from featpipe.parallel import Jobs, Pool

__all__ = ["DistributedRunner"]


class DistributedRunner(PlanRunner):
    """Have workers compute the missing slices of a plan.

    Parameters
    ----------
    run : Run
    jobs : Jobs
        The worker processes.
    task : SliceTask
        The template of all tasks; its plan is the whole plan.
    expected : callable
        Returns the digests, (n, 32) uint8, that images at some positions must have;
        None if any will do.
    """

    def __init__(
        self,
        run: Run,
        jobs: Jobs,
        task: SliceTask,
        expected: Callable[[Sequence[int]], np.ndarray | None],
    ) -> None:
        super().__init__(run)
        self._jobs = jobs
        # Workers may have another current folder.
        self._common = replace(
            task,
            recipe=_without_choices(task.recipe, run.plan),
            path=task.path.absolute(),
            files=tuple(file.absolute() for file in task.files),
            on_error=run.on_error,
            versions=package_versions(*PACKAGES),
        )
        self._expected = expected

    def _compute(self, missing: Sequence[Span]) -> list[Done]:
        # Before any task is sent: a worker that is late must not make it again.
        self._parts.create_folder()
        slices = [piece for span in missing for piece in self._plan.slices(span)]
        # Workers choose threads or processes by the size of all tasks.
        n_images = sum(span.stop - span.start for span in missing)
        n_rows: Counter[str] = Counter()
        done: list[Done] = []
        self._progress.begin()
        with self._jobs.open() as pool:
            tasks = [self._task(piece, pool, n_images) for piece in slices]
            for report in pool.run(compute, tasks):
                done += [
                    self._received(record, report.worker) for record in report.parts
                ]
                self._add(report)
                n_rows[report.worker] += sum(part.n_rows for part in report.parts)
        shares = ", ".join(f"{name} {rows:,}" for name, rows in sorted(n_rows.items()))
        self._progress.add_message(f"rows of {len(n_rows)} workers: {shares}")
        return done

    def _task(self, span: Span, pool: Pool, n_images: int) -> bytes:
        task = replace(
            self._common,
            plan=self._plan.piece(span),
            expected=self._expected(self._plan.within(span)),
            n_here=pool.n_here,
            n_images=n_images,
        )
        return pickle.dumps(task)

    def _received(self, record: PartRecord, worker: str) -> Done:
        """Read a part that a worker has written, and check it against the report."""
        deadline = time.monotonic() + PATIENCE
        # Network file systems show new files late; after `PATIENCE` seconds the worker
        # has written to another folder.
        while (part := self._parts.fresh(record.path.name)) is None:
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"worker {worker} has written {record.path}, which is not to be "
                    "seen from here: its folder is not shared with this machine; put "
                    "the codes file into one that every machine has at the same place"
                )
            time.sleep(0.1)
        facts = codes.digest(part.path), len(part), len(part.tables.failures)
        # Report and file take different ways, and have to agree.
        if facts != record[1:]:
            raise RuntimeError(
                f"{part.path} is not what worker {worker} has written; put the codes "
                "file into a folder that only featpipe writes to, and run the same "
                "command again"
            )
        failure = self._unshared_failure(part)
        if failure is not None:
            raise RuntimeError(
                f"worker {worker} cannot read {failure.path} ({failure.reason}), and "
                f"this process can; share {self._plan.images.root} with every machine, "
                "at the same place, and run the same command again"
            )
        start, stop = part.provenance["span"]
        return Done(Span(start, stop), part)

    def _add(self, report: TaskReport) -> None:
        progress = self._progress
        progress.computed += report.computed
        progress.kept += report.kept
        progress.failed += report.failed
        for stage, seconds in report.seconds.items():
            progress.add(stage, seconds)
        progress.threads |= report.threads
        for message in report.messages:
            progress.add_message(message)
        self._tell(progress)


def _without_choices(recipe: Recipe, plan: Plan) -> Recipe:
    """Return a recipe that means the same on every machine of the cluster."""
    # Each machine would decide "auto" by its own hardware.
    recipe = recipe.resolve_auto(plan.fingerprint)
    if recipe.weights and Path(recipe.weights).is_file():
        recipe = replace(recipe, weights=str(Path(recipe.weights).absolute()))
    return recipe
