"""One extraction from beginning to end.

Calls the others in turn: `outlook` decides, `runner` computes, `codes`
writes.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from featpipe import codes
from featpipe.codes import Codes, CodesError, Failure, Row, Tables
from featpipe.extraction.cost import Cost, estimate
from featpipe.extraction.outlook import (
    Outlook,
    expected_digests,
    look,
    require_same_image,
)
from featpipe.extraction.parts import Parts, RowIndex
from featpipe.extraction.plan import Plan, slice_size
from featpipe.extraction.pooled import PooledRunner
from featpipe.extraction.runner import PlanRunner, Runner
from featpipe.extraction.shards import require_same_shard, take_shard
from featpipe.extraction.tasks import make_engine
from featpipe.files import (
    Lock,
    follow_links,
    is_stream,
    require_distinct,
    require_writable,
    write_bytes,
)
from featpipe.images import ImageSet
from featpipe.inference.loader import worker_server
from featpipe.inference.machine import Machine
from featpipe.inference.network import Network
from featpipe.inference.processes import WorkerServer
from featpipe.inference.progress import Progress
from featpipe.inference.recipe import Recipe
from featpipe.parallel import Jobs

__all__ = ["Job"]


class Job:
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
        Other processes that compute; default this one.
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
        self._path = _target(path)
        require_distinct({"the codes file": path}, {"SOURCE": image_set.source})
        self._slice_size = slice_size(len(image_set))
        self._shard: tuple[int, int] | None = None
        self._shard_facts: dict[str, Any] | None = None
        self._images = image_set
        if shard is not None:
            self._images, facts = take_shard(image_set, shard, self._slice_size)
            self._shard, self._shard_facts = (facts["number"], facts["of"]), facts
        self._jobs = None if jobs is None or jobs.is_here else jobs
        self._key = ""
        self._network = Network(recipe, machine)
        # Of plans: it must not be run, for its weights may be random.
        self._sketch = Network(recipe, machine, download=False)
        self._on_error = on_error
        self._start_seconds = 0.0
        self._server: WorkerServer | None = None
        self._tell = progress or (lambda progress: None)
        self._progress = Progress(n_images=len(self._images) + len(image_set.failures))

    def look(self, *, overwrite: bool = False) -> Outlook:
        """Tell what there is to do; compute, download and write nothing.

        Returns
        -------
        Outlook

        Raises
        ------
        CodesError
            If the file was made otherwise, or is damaged.
        """
        begin = time.perf_counter()
        outlook = self._look(None if overwrite else self._existing(), self._sketch)
        self._start_seconds = time.perf_counter() - begin
        return outlook

    def cost(self, outlook: Outlook) -> Cost:
        """Estimate what it takes to do what `look` has told."""
        return estimate(
            self._images,
            outlook,
            self._sketch,
            self._slice_size,
            start_seconds=self._start_seconds,
        )

    def _look(self, old: Codes | None, network: Network) -> Outlook:
        if old is not None and self._shard is not None:
            require_same_shard(old, self._shard)
        outlook = look(self._path, old, self._images, self._recipe, network)
        outlook.provenance.pop("shard", None)
        if self._shard_facts:
            outlook.provenance["shard"] = self._shard_facts
        return outlook

    def run(self, *, overwrite: bool = False, break_lock: bool = False) -> Codes:
        """Run the extraction; see `featpipe.extract`."""
        with ExitStack() as stack:
            lock = stack.enter_context(Lock(self._path, break_lock=break_lock))
            self._key = lock.key
            self._tell(self._progress)
            if overwrite:
                codes.require_replaceable(self._path)
            parts = Parts(self._path)
            if overwrite:
                parts.drop()
            old = None if overwrite else self._existing()
            if old is None and self._jobs is None:
                self._server = stack.enter_context(self._early_server())
            outlook = self._look(old, self._network)
            for part in parts.found.values():
                codes.require_same_fingerprint(
                    part.provenance, outlook.provenance, parts.folder
                )
            try:
                written = self._finish(old, outlook, parts)
            except BaseException:
                parts.tidy()
                raise
            parts.drop()
        self._tell(self._progress)
        return written

    def _early_server(self) -> AbstractContextManager[WorkerServer | None]:
        """Start worker processes now, so that they come while the network is loaded."""
        exact = self._recipe.decoding_at(self._recipe.precision).exact
        return worker_server(
            self._network.machine.n_workers, len(self._images), exact=exact
        )

    def _existing(self) -> Codes | None:
        if not self._path.exists():
            return None
        with self._remedy():
            # The codes themselves need not be read for a run that may have nothing to
            # do; they are checked before any of them is copied.
            return codes.read(self._path, check=False)

    @contextmanager
    def _remedy(self) -> Iterator[None]:
        """Raise or pass over an old file that is damaged or no codes file."""
        try:
            yield
        except CodesError as error:
            remedy = "choose another file"
            if codes.is_replaceable(self._path):
                remedy += ", or --overwrite to replace this one"
            raise CodesError(f"{error}; {remedy}") from None

    def _finish(self, old: Codes | None, outlook: Outlook, parts: Parts) -> Codes:
        """Compute what is missing and write the file, if anything has changed."""
        known = self._failures(outlook)
        self._progress.failed += len(known)
        if self._on_error == "fail":
            for failure in sorted(known):
                raise ValueError(_refusal(failure))
        if old is not None and (len(outlook.todo) or outlook.added):
            with self._remedy():
                old = codes.checked(old)
        # Not `if old`: a file without rows is a file.
        files = [*([] if old is None else [old]), *parts.found.values()]
        extra = outlook.kept
        if not outlook.added:
            # Before the work, so that the time left is that of the work.
            self._progress.kept += len(extra)
        new = self._compute(outlook.todo, outlook.depths, outlook, files, parts)
        if outlook.added:
            before = np.array(sorted(outlook.kept), np.int64)
            extra = self._compute(before, outlook.added, outlook, files, parts, old)
        # An image that fails at one depth fails in the file.
        order = sorted({*new, *extra})
        if not order and self._shard is None:
            if not any(map(len, files)):
                parts.drop()
            raise self._nothing(outlook)
        rows: dict[str, list[Row]] = {}
        for spec in outlook.depths:
            at = (extra if spec in outlook.added else outlook.kept) | new
            rows[spec] = [at[i] for i in order]
        tables = self._tables(order, rows[outlook.depths[0]], outlook, files)
        if old is not None and not outlook.added and _same(old.tables, tables):
            return old
        if order:
            with self._remedy():
                codes.assemble(self._path, files, rows, tables)
        else:
            write_bytes(self._path, self._empty(outlook, tables))
        return codes.read(self._path)

    def _empty(self, outlook: Outlook, tables: Tables) -> bytes:
        """Give the file of a shard that has no row; merging needs it none the less."""
        backbone = self._network.backbone(outlook.depths)
        arrays = {
            depth.spec: np.empty(
                (0, *depth.shape),
                np.float16 if depth.pool == "map" else tables.provenance["dtype"],
            )
            for depth in backbone.depths
        }
        return codes.content(arrays, tables)

    def _compute(
        self,
        positions: np.ndarray,
        depths: Sequence[str],
        outlook: Outlook,
        files: list[Codes],
        parts: Parts,
        base: Codes | None = None,
    ) -> dict[int, Row]:
        """Compute depths of images, into part files that are added to ``files``.

        With ``base``, the depths are added to rows of that file, whose images must be
        what they were.
        """
        if not len(positions):
            return {}
        plan = self._plan(positions, depths, outlook, parts)
        index = RowIndex(files)
        index.add(k for k, file in enumerate(files) if plan.can_use(file))
        runner = self._runner(plan, parts, index, outlook, base)
        found: dict[int, Row] = {}
        position = {self._images.paths[i]: int(i) for i in positions}
        for part in runner.run():
            files.append(part)
            for row, path in enumerate(part.paths):
                found[position[path]] = Row(len(files) - 1, row)
            for failure in part.tables.failures:
                outlook.failed[position[failure.path]] = failure
        return found

    def _plan(
        self,
        positions: np.ndarray,
        depths: Sequence[str],
        outlook: Outlook,
        parts: Parts,
    ) -> Plan:
        """Cut the work as the run did that left the parts, if there are any."""
        network, dtype = self._network, outlook.provenance["dtype"]
        execution = parts.execution(
            depths, dtype, network.kind, network.machine.batch_size
        )
        if execution is None:
            execution = network.choose_execution(
                depths,
                outlook.provenance["precision"],
                outlook.fingerprint["preprocessing"]["crop"],
                n_images=len(positions),
                largest_batch=self._slice_size,
            )
        return Plan(
            self._images,
            positions,
            depths,
            outlook.fingerprint,
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
        outlook: Outlook,
        base: Codes | None,
    ) -> PlanRunner:
        """Return who computes a plan: this process, or others."""
        how = plan, parts, self._progress, self._tell, self._on_error
        if self._jobs is not None:
            return PooledRunner(
                *how,
                jobs=self._jobs,
                recipe=self._recipe,
                machine=self._network.machine,
                path=self._path,
                key=self._key,
                files=[file for file in index.files if plan.can_use(file)],
                expected=partial(expected_digests, base, outlook),
            )
        return Runner(
            *how,
            index=index,
            make_engine=partial(
                make_engine,
                plan,
                self._network,
                self._recipe.hflip,
                self._progress,
                self._server,
            ),
            same_image=partial(require_same_image, base, outlook),
        )

    def _tables(
        self, order: list[int], where: list[Row], outlook: Outlook, files: list[Codes]
    ) -> Tables:
        source, at = self._images, np.array(order, np.int64)
        paths, known = [source.paths[i] for i in order], RowIndex(files)
        return Tables(
            paths=paths,
            labels=source.labels[at],
            class_names=source.class_names,
            splits=[source.splits[i] for i in order],
            groups=[source.groups[i] for i in order],
            images_root=source.root,
            sizes=source.sizes[at],
            mtimes=source.mtimes[at],
            sha256=np.frombuffer(
                b"".join(known.sha256(row) for row in where), np.uint8
            ).reshape(-1, 32),
            failures=sorted(self._failures(outlook)),
            notes=[
                Failure(path, "decode", text)
                for path, row in zip(paths, where, strict=True)
                for text in known.notes(row)
            ],
            provenance=outlook.provenance,
        )

    def _failures(self, outlook: Outlook) -> list[Failure]:
        """Return the failures of the scan and of images, those of the old file too."""
        scan = [Failure(*failure) for failure in self._images.failures]
        return [*outlook.failed.values(), *scan]

    def _nothing(self, outlook: Outlook) -> ValueError:
        known = self._failures(outlook)
        first = "" if not known else "; the first, {}, failed at {}: {}"
        return ValueError(
            f"not one of {self._progress.n_images} images in {self._images.source} "
            "gave a code" + first.format(*min(known, default=())[:3])
        )


def _refusal(failure: Failure) -> str:
    return (
        f"{failure.path}: {failure.stage}: {failure.reason}; mend or remove it, or "
        "leave out --on-error fail to go on without it"
    )


def _target(path: str | os.PathLike[str]) -> Path:
    """Follow a link, so that lock and parts are those of the file it leads to."""
    target = follow_links(path)
    require_writable(target)
    if is_stream(target):
        raise ValueError(
            f"{target} is not a file; codes are read back, so give -o the name of one"
        )
    return target


def _same(one: Tables, two: Tables) -> bool:
    """Compare all that a run without new depths may change."""
    arrays = ("labels", "sizes", "mtimes", "sha256")
    others = "paths class_names splits groups images_root failures notes provenance"
    return all(
        np.array_equal(getattr(one, name), getattr(two, name)) for name in arrays
    ) and all(getattr(one, name) == getattr(two, name) for name in others.split())
