"""Run tasks in several processes until each of them has a result."""

import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from featpipe.bounds import require_number

__all__ = ["BACKENDS", "Jobs", "Pool", "as_jobs", "threads_here", "worker_name"]

BACKENDS = ("loky", "dask")
# So often in a row workers may die without one task done; then it is the tasks.
_BARREN = 3

_Result = TypeVar("_Result")


def worker_name() -> str:
    """Return the name of this process among those of a cluster: host and number.

    Examples
    --------
    >>> worker_name().rpartition(":")[2] == str(os.getpid())
    True
    """
    return f"{socket.gethostname()}:{os.getpid()}"


def threads_here() -> int | None:
    """Return the threads of the Dask worker that this process is; None if it is none.

    Dask gives a worker as many tasks at once as it has threads.

    Examples
    --------
    >>> threads_here() is None
    True
    """
    # Not imported here: in a process that is no Dask worker it never was.
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        return int(distributed.get_worker().state.nthreads)
    except ValueError:
        return None


@dataclass(frozen=True)
class Jobs:
    """The number of processes that share the work, and their machines.

    Parameters
    ----------
    n : int, optional
        With ``"loky"`` that many processes of this machine; with ``"dask"`` that many
        workers are waited for, default 1, and all that come take part.
    backend : str
        ``"loky"``, processes of this machine, or ``"dask"``, those of a cluster.
    scheduler : str, optional
        Address of Dask's scheduler, as ``tcp://host:8786``, or the file that
        ``dask scheduler --scheduler-file`` wrote.
    seconds : float
        How long workers of a cluster are waited for.

    Raises
    ------
    ValueError
        If these do not go together.

    Examples
    --------
    >>> Jobs(4).backend
    'loky'
    >>> Jobs(1).is_here, Jobs(2).is_here
    (True, False)
    """

    n: int | None = None
    backend: str = "loky"
    scheduler: str | None = None
    seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ValueError(
                f"unknown backend {self.backend!r}; use {' or '.join(BACKENDS)}"
            )
        n = self.n
        if n is not None:
            n = require_number("jobs", n, 1, 1024)
            object.__setattr__(self, "n", n)
        require_number("seconds", self.seconds, 0, 1e9, whole=False)
        if self.backend == "dask" and not self.scheduler:
            raise ValueError(
                "backend 'dask' needs the address of a scheduler, as "
                "tcp://host:8786; `dask scheduler` starts one and prints it"
            )
        if self.backend != "dask" and self.scheduler:
            raise ValueError(
                f"a scheduler ({self.scheduler}) goes with the backend 'dask', not "
                f"with {self.backend!r}"
            )
        if self.backend == "loky" and n is None:
            raise ValueError("backend 'loky' needs the number of jobs; use 2 or more")

    @property
    def is_here(self) -> bool:
        """Whether all the work is left to the calling process."""
        return self.backend == "loky" and self.n == 1

    @contextmanager
    def open(self) -> Iterator["Pool"]:
        """Connect to the workers for as long as the block lasts.

        Yields
        ------
        Pool

        Raises
        ------
        ConnectionError
            If no scheduler answers, or no worker comes.
        RuntimeError
            If a worker has no featpipe, or another version.
        ModuleNotFoundError
            If Dask is needed and not installed.
        """
        if self.backend == "loky":
            assert self.n is not None
            n = self.n
            yield Pool(lambda: _loky(n), n)
            return
        from featpipe.parallel import cluster

        assert self.scheduler is not None
        with cluster.connected(self.scheduler, self.n or 1, self.seconds) as client:
            n_here = cluster.most_on_one_host(client)
            yield Pool(lambda: cluster.backend(client), n_here, cluster.deaths())


def as_jobs(jobs: Any) -> Jobs | None:
    """Return what opens processes as it is, and whatever else as a number of them.

    Examples
    --------
    >>> as_jobs(4).n
    4
    """
    return jobs if jobs is None or hasattr(jobs, "open") else Jobs(jobs)


class Pool:
    """Workers that do tasks.

    Parameters
    ----------
    backend : callable
        Returns arguments of `joblib.Parallel`; called once a round.
    n_here : int
        Workers that share one machine, at most.
    deaths : tuple of exception classes
        What comes where a worker has died.

    Examples
    --------
    >>> pool = Pool(lambda: {"n_jobs": 2, "backend": "threading"}, n_here=2)
    >>> sorted(pool.run(len, [b"a", b"bc"]))
    [1, 2]
    """

    def __init__(
        self,
        backend: Callable[[], dict[str, Any]],
        n_here: int,
        deaths: tuple[type[BaseException], ...] = (),
    ) -> None:
        self._backend = backend
        self.n_here = n_here
        self._deaths: tuple[type[BaseException], ...]
        # loky's sign of a dead worker, and Dask's of a task that was cancelled with it.
        self._deaths = (BrokenProcessPool, CancelledError, *deaths)

    def run(
        self, function: Callable[[bytes], _Result], tasks: Sequence[bytes]
    ) -> Iterator[_Result]:
        """Yield the result of every task, in the order in which they come.

        Parameters
        ----------
        function : callable
            Importable by its name; doing it twice must change nothing.
        tasks : sequence of bytes
            Bytes, which Dask sends with the task: larger things it lays down on one
            worker, and they are lost with it.

        Raises
        ------
        RuntimeError
            If workers die again and again.
        Exception
            What a task raises; what was not done then is given up.
        """
        # By number, so that a round after a death repeats only what has no result yet.
        pending = dict(enumerate(tasks))
        barren = 0
        while pending:
            before = len(pending)
            try:
                for number, result in self._round(function, pending):
                    # Dask may do a task twice, and tell of both.
                    if pending.pop(number, None) is not None:
                        yield result
            except self._deaths as error:
                # Progress resets the count: on a cluster workers come and go, and only
                # a task that kills every worker should end the run.
                barren = barren + 1 if len(pending) == before else 0
                if barren == _BARREN:
                    raise RuntimeError(
                        f"workers died {_BARREN} times and not one of {len(pending)} "
                        "tasks was done; look whether they have memory enough, and "
                        f"what they print ({type(error).__name__})"
                    ) from error

    def _round(
        self, function: Callable[[bytes], _Result], pending: dict[int, bytes]
    ) -> Iterator[tuple[int, _Result]]:
        import joblib

        # Everything is sent at once: workers that join later would find nothing.
        parallel = joblib.Parallel(
            **self._backend(),
            return_as="generator_unordered",
            pre_dispatch="all",
            batch_size=1,
        )
        todo = list(pending.items())
        yield from parallel(joblib.delayed(_numbered)(function, *task) for task in todo)


def _loky(n: int) -> dict[str, Any]:
    # One task too: the memory of networks goes with the process.
    return {"n_jobs": max(n, 2), "backend": "loky", "max_nbytes": None}


def _numbered(
    function: Callable[[bytes], _Result], number: int, task: bytes
) -> tuple[int, _Result]:
    return number, function(task)
