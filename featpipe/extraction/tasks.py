"""A slice of a plan as a task for another process, perhaps on another machine.

The process keeps its network from one task to the next. It writes a part beside those
of the other processes and reports its name; it never changes a file of another process.
Doing a task twice changes nothing.
"""

import pickle
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from featpipe import codes
from featpipe.codes import Codes
from featpipe.extraction.parts import Parts, RowIndex
from featpipe.extraction.plan import Plan
from featpipe.extraction.runner import Run, Runner
from featpipe.extraction.update_plan import CHANGED
from featpipe.files import key_of
from featpipe.images import ImageError
from featpipe.inference import (
    Decoding,
    Execution,
    Machine,
    Network,
    Progress,
    Recipe,
    package_versions,
    worker_server,
)
from featpipe.parallel import threads_here, worker_name

__all__ = [
    "PACKAGES",
    "PartRecord",
    "SliceTask",
    "TaskReport",
    "compute",
]

# Packages whose versions may change the last bits of a code.
PACKAGES = ("featpipe", "torch", "torchvision", "pillow", "numpy")
# Network file systems show a new file to other machines after some seconds.
PATIENCE = 15.0


@dataclass(frozen=True, eq=False)
class SliceTask:
    """The message to a process that has to compute a slice.

    Parameters
    ----------
    plan : Plan
        A piece of the whole plan.
    recipe : Recipe
        Without any "auto".
    machine : Machine
    path : Path
        The codes file that will be made, absolute.
    key : str
        Of the lock that the coordinator holds.
    files : tuple of Path
        Older files and parts whose rows the plan can use.
    expected : (n, 32) uint8, optional
        Digests that the images must have.
    on_error : str
    n_here : int
        Largest number of workers that share a machine.
    n_images : int
        Number of images of all tasks together.
    versions : dict
        Versions of `PACKAGES` in the process that made the plan.
    """

    plan: Plan
    recipe: Recipe
    machine: Machine
    path: Path
    key: str
    files: tuple[Path, ...]
    expected: np.ndarray | None = None
    on_error: str = "skip"
    n_here: int = 1
    n_images: int = 0
    versions: dict[str, str | None] = field(default_factory=dict)


class PartRecord(NamedTuple):
    """A part that a worker has written."""

    path: Path
    digest: str
    n_rows: int
    n_failures: int


class TaskReport(NamedTuple):
    """The result of a task.

    Parameters
    ----------
    worker : str
        Host and number of the process.
    parts : list of PartRecord
        Parts that together hold the slice.
    computed, kept, failed : int
    seconds, threads, messages
        As in `Progress`.
    """

    worker: str
    parts: list[PartRecord]
    computed: int
    kept: int
    failed: int
    seconds: dict[str, float]
    threads: dict[str, int]
    messages: list[str]


def compute(task: bytes) -> TaskReport:
    """Do a pickled `SliceTask`, after those that this process has begun.

    Raises
    ------
    RuntimeError
        If this process has other versions, does not see the folder of the codes file,
        or its network is another one.
    Exception
        As `Runner.run`.
    """
    # A worker with several threads gets several tasks, but each task uses all threads.
    with _one_at_a_time:
        slice_task: SliceTask = pickle.loads(task)
        _require_same_versions(slice_task)
        _require_shared(slice_task)
        _use_threads()
        return _Worker.of(slice_task).compute(slice_task)


_one_at_a_time = threading.Lock()


class _Worker:
    """The network and index that a process keeps between tasks of one extraction."""

    _current: "_Worker | None" = None

    def __init__(self, task: SliceTask) -> None:
        self._request = _request(task)
        self._network = Network(task.recipe, _share(task))
        self._index = _index(task.files)
        self._stack = ExitStack()
        exact = Decoding.recorded(task.plan.fingerprint["decoding"]).exact
        n_workers = self._network.machine.n_workers
        self._server = self._stack.enter_context(
            worker_server(n_workers, task.n_images, exact=exact)
        )
        self._require_same_network(task)

    @classmethod
    def of(cls, task: SliceTask) -> "_Worker":
        """Return the worker of this process for a task."""
        current = cls._current
        if current is None or current._request != _request(task):
            # The memory of the device may not hold two networks at once.
            if current is not None:
                cls._current = None
                current._stack.close()
            cls._current = current = cls(task)
        return current

    def _require_same_network(self, task: SliceTask) -> None:
        fingerprint = task.plan.fingerprint
        backbone = self._network.backbone(task.plan.depths)
        # A weights file of one name may have another content on each machine.
        own = task.recipe.fingerprint(backbone, fingerprint["precision"])
        for name, value in fingerprint.items():
            if own.get(name) != value:
                raise RuntimeError(
                    f"worker {worker_name()} has another network: its {name} is "
                    f"{own.get(name)!r}, not {value!r}; give it the same weights and "
                    "packages"
                )

    def compute(self, task: SliceTask) -> TaskReport:
        """Compute the slice of a task, and report the parts that hold it."""
        plan, progress = task.plan, Progress()
        runner = Runner(
            Run(
                plan,
                # Only the coordinator removes parts, since it knows which are needed.
                Parts(task.path, worker_name()),
                progress,
                on_error=task.on_error,
            ),
            index=self._index,
            network=self._network,
            server=self._server,
            execution=self._execution(plan),
            same_image=partial(_require_same_image, task.expected),
        )
        parts = [_record(part) for part in runner.run()]
        return TaskReport(
            worker_name(),
            parts,
            progress.computed,
            progress.kept,
            progress.failed,
            progress.seconds,
            progress.threads,
            progress.messages,
        )

    def _execution(self, plan: Plan) -> Execution:
        """Return the plan's execution, with at most one lane for each thread here."""
        import torch

        if plan.device != "cpu":
            return plan.execution
        # The lanes were chosen on the coordinator, which may have more processors.
        n_lanes = min(plan.execution.n_lanes, torch.get_num_threads())
        return replace(plan.execution, n_lanes=n_lanes)


def _request(task: SliceTask) -> tuple[Any, ...]:
    """Return the fields of a task that a `_Worker` depends on."""
    return task.key, task.recipe, task.machine, list(task.plan.depths), task.files


def _use_threads() -> None:
    """Set torch's threads to those that a cluster's worker was started with."""
    n_threads = threads_here()
    if n_threads is not None:
        import torch

        # For this thread alone: tasks run in several threads.
        torch.set_num_threads(n_threads)


def _share(task: SliceTask) -> Machine:
    """Return this process's part of its machine."""
    return task.machine.share(task.plan.device, task.n_here, threads_here())


def _index(files: tuple[Path, ...]) -> RowIndex:
    index = RowIndex([codes.read(path) for path in files])
    index.add(range(len(files)))
    return index


def _require_same_image(expected: np.ndarray | None, i: int, sha256: bytes) -> None:
    """Raise if a depth would be added to a row whose image has changed."""
    if expected is not None and expected[i].tobytes() != sha256:
        raise ImageError("read", CHANGED)


def _record(part: Codes) -> PartRecord:
    n_failures = len(part.tables.failures)
    return PartRecord(part.path, codes.digest(part.path), len(part), n_failures)


def _require_same_versions(task: SliceTask) -> None:
    own = package_versions(*PACKAGES)
    for name, version in task.versions.items():
        if own.get(name) != version:
            raise RuntimeError(
                f"worker {worker_name()} has {name} {own.get(name)}, and the program "
                f"that it works for has {version}; install the same version in both "
                "places"
            )


def _require_shared(task: SliceTask) -> None:
    """Raise unless this process sees the lock of the coordinator."""
    deadline = time.monotonic() + PATIENCE
    # The lock file holds a random key of the extraction: reading it proves that the
    # folder is shared and that the coordinator still runs.
    while key_of(task.path) != task.key:
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"worker {worker_name()} does not see the lock of {task.path}: either "
                f"{task.path.parent} is not shared with its machine, or the program "
                "that sent the work has ended; put the codes file into a folder that "
                "every worker has at the same place"
            )
        time.sleep(0.1)
