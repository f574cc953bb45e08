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
# Rounds in a row in which workers may die before any task is done: after that the tasks
# are to blame, not the machines.
_MOST_LOST_ROUNDS = 3

_Result = TypeVar("_Result")


def worker_name() -> str:
    """Return the name of this process in a cluster: its host and process number.

    Examples
    --------
    >>> worker_name().rpartition(":")[2] == str(os.getpid())
    True
    """
    return f"{socket.gethostname()}:{os.getpid()}"


def threads_here() -> int | None:
    """Return the number of threads of this Dask worker; None in any other process.

    Dask gives a worker as many tasks at once as it has threads.

    Examples
    --------
    >>> threads_here() is None
    True
    """
    # Looked up, not imported: only a Dask worker needs it, and has imported it.
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        return int(distributed.get_worker().state.nthreads)
    except ValueError:
        return None


@dataclass(frozen=True)
class Jobs:
    """The number of processes that share the work, and the machines they run on.

    Parameters
    ----------
    n : int, optional
        With ``"loky"`` the number of processes on this machine. With ``"dask"`` the
        number of workers to wait for, default 1; workers that join later work too.
    backend : str
        ``"loky"`` for processes of this machine, ``"dask"`` for those of a cluster.
    scheduler : str, optional
        Address of Dask's scheduler, as ``tcp://host:8786``, or the file that
        ``dask scheduler --scheduler-file`` wrote.
    seconds : float
        Longest wait for the workers of a cluster.

    Raises
    ------
    ValueError
        If the options contradict one another, or a number is out of its range.

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
        """Whether the calling process does all the work."""
        return self.backend == "loky" and self.n == 1

    @contextmanager
    def open(self) -> Iterator["Pool"]:
        """Connect to the workers until the block ends.

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
            errors = cluster.death_errors()
            yield Pool(lambda: cluster.backend(client), n_here, errors)


def as_jobs(jobs: Any) -> Jobs | None:
    """Return `Jobs` and None unchanged, and a number of processes as `Jobs`.

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
        Largest number of workers that share a machine.
    death_errors : tuple of exception classes
        Exceptions that mean that a worker has died, beside those of loky.

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
        death_errors: tuple[type[BaseException], ...] = (),
    ) -> None:
        self._backend = backend
        self.n_here = n_here
        self._death_errors: tuple[type[BaseException], ...]
        # loky raises the first where a worker died; Dask cancels its tasks.
        self._death_errors = (BrokenProcessPool, CancelledError, *death_errors)

    def run(
        self, function: Callable[[bytes], _Result], tasks: Sequence[bytes]
    ) -> Iterator[_Result]:
        """Yield the result of every task, in the order in which they end.

        Parameters
        ----------
        function : callable
            Importable by its name; a second run of a task must change nothing.
        tasks : sequence of bytes
            Small: Dask stores large arguments on one worker, and they are lost with it.

        Raises
        ------
        RuntimeError
            If workers die again and again.
        Exception
            The error of the first task that fails; the tasks still to do are dropped.
        """
        # By number, so that a round after a death repeats only tasks without a result.
        pending = dict(enumerate(tasks))
        n_lost_rounds = 0
        while pending:
            before = len(pending)
            try:
                for number, result in self._round(function, pending):
                    # Dask may run a task twice and return both results.
                    if pending.pop(number, None) is not None:
                        yield result
            except self._death_errors as error:
                # A round with a result resets the count: workers of a cluster join and
                # leave, and only a task that kills every worker should end the run.
                n_lost_rounds = n_lost_rounds + 1 if len(pending) == before else 0
                if n_lost_rounds == _MOST_LOST_ROUNDS:
                    raise RuntimeError(
                        f"workers died {n_lost_rounds} times and not one of "
                        f"{len(pending)} tasks was done; check that they have enough "
                        f"memory, and what they print ({type(error).__name__})"
                    ) from error

    def _round(
        self, function: Callable[[bytes], _Result], pending: dict[int, bytes]
    ) -> Iterator[tuple[int, _Result]]:
        import joblib

        # All tasks are sent at once, so that workers that join later get some too.
        parallel = joblib.Parallel(
            **self._backend(),
            return_as="generator_unordered",
            pre_dispatch="all",
            batch_size=1,
        )
        calls = [joblib.delayed(_numbered)(function, *task) for task in pending.items()]
        yield from parallel(calls)


def _loky(n: int) -> dict[str, Any]:
    # Two even for one task: with one, joblib would run it in this process, which would
    # keep the memory of the network.
    return {"n_jobs": max(n, 2), "backend": "loky", "max_nbytes": None}


def _numbered(
    function: Callable[[bytes], _Result], number: int, task: bytes
) -> tuple[int, _Result]:
    return number, function(task)
