"""Connect to a Dask cluster, and check its workers before they get a task.

Dask's own client waits half a minute in silence where no scheduler answers, and joblib
waits for ever for a task that no worker can load. So this module first tries the
address, and compares the version of every worker with the one that runs here.
"""

import asyncio
import json
import logging
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from featpipe import __version__
from featpipe.errors import one_line

__all__ = ["backend", "connected", "death_errors", "most_on_one_host"]

_TIMEOUT = 5.0  # seconds, for a scheduler to answer


@contextmanager
def connected(scheduler: str, n_workers: int, seconds: float) -> Iterator[Any]:
    """Connect to a cluster whose workers have this version of featpipe.

    Parameters
    ----------
    scheduler : str
        Address, or a scheduler file.
    n_workers : int
        Number of workers to wait for.
    seconds : float
        Longest wait for them.

    Yields
    ------
    distributed.Client

    Raises
    ------
    ConnectionError
        If no scheduler answers there, or the workers do not come.
    RuntimeError
        If a worker has no featpipe, or another version.
    """
    distributed = _distributed()
    address = _address(scheduler)
    _require_answer(address)
    # The errors raised here tell all that it would print about lost connections.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        # In a thread of its own, since a notebook has a loop running in this one.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, _check_handshake(address)).result()
        client = distributed.Client(
            # Not the default client: the user's program may have one of its own.
            address,
            timeout=_TIMEOUT,
            set_as_default=False,
            name="featpipe",
        )
    except (OSError, ValueError, TimeoutError) as error:
        raise ConnectionError(
            f"{address} is not a Dask scheduler of a compatible version "
            f"({one_line(error)}); give the address that `dask scheduler` prints"
        ) from error
    with client:
        try:
            _wait_for_workers(client, address, n_workers, seconds)
            _require_versions(client)
            yield client
        except Exception as error:
            # A scheduler that has ended causes many kinds of errors.
            if _connection_error(address) is not None:
                raise ConnectionError(
                    f"the scheduler at {address} has ended; start one again, and run "
                    "the same command: what is done is kept"
                ) from error
            raise


def most_on_one_host(client: Any) -> int:
    """Return the largest number of workers that share a machine."""
    # Workers of one host divide its processors, and all get the same number of threads.
    hosts = Counter(urlsplit(worker).hostname for worker in client.ncores())
    return max(hosts.values(), default=1)


def backend(client: Any) -> dict[str, Any]:
    """Return the arguments of `joblib.Parallel` for a cluster."""
    from joblib._dask import DaskDistributedBackend

    class Backend(DaskDistributedBackend):
        """joblib's backend with two corrections."""

        def effective_n_jobs(self, n_jobs: int) -> int:
            # Below two, joblib runs all tasks in the calling process.
            n_tasks: int = max(2, super().effective_n_jobs(n_jobs))
            return n_tasks

        def submit(self, func: Any, callback: Any = None) -> Future[Any]:
            # joblib does not hear of a task that Dask could not run, and waits for it.
            future: Future[Any] = super().submit(func, callback)
            future.add_done_callback(lambda done: _report_error(done, callback))
            return future

    return {"n_jobs": -1, "backend": Backend(client=client)}


def _report_error(done: Future[Any], callback: Callable[[object], None]) -> None:
    error = done.exception()
    if error is not None:
        callback(error)


def death_errors() -> tuple[type[BaseException], ...]:
    """Return the exceptions that Dask raises when workers have died."""
    distributed = _distributed()
    return (distributed.scheduler.KilledWorker,)


def _distributed() -> Any:
    try:
        import distributed
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the backend 'dask' needs Dask; pip install 'featpipe[dask]'"
        ) from error
    return distributed


def _address(scheduler: str) -> str:
    """Return the address of a scheduler that is named by its address or its file."""
    path = Path(scheduler)
    if path.suffix == ".json" and not path.is_file():
        raise FileNotFoundError(
            f"no scheduler file {path}; give the one that `dask scheduler "
            "--scheduler-file` wrote, or an address, as tcp://host:8786"
        )
    if not path.is_file():
        # `urlsplit` below finds host and port only behind a scheme.
        return scheduler if "://" in scheduler else f"tcp://{scheduler}"
    try:
        return str(json.loads(path.read_bytes())["address"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} is no scheduler file ({one_line(error)}); give the one that "
            "`dask scheduler --scheduler-file` wrote, or an address"
        ) from error


def _require_answer(address: str) -> None:
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise ValueError(
            f"the scheduler's address is {address!r}; give it as tcp://host:8786"
        )
    error = _connection_error(address)
    if error is not None:
        raise ConnectionError(
            f"no scheduler answers at {address} ({one_line(error)}); start one with "
            "`dask scheduler` and give the address that it prints"
        )


async def _check_handshake(address: str) -> None:
    """Raise unless a scheduler completes Dask's handshake in time.

    Dask's client waits for ever for a program that accepts connections and is silent.
    """
    from distributed.comm.core import connect
    from distributed.security import Security

    arguments = Security().get_connection_args("client")
    connecting = connect(address, timeout=_TIMEOUT, **arguments)
    comm = await asyncio.wait_for(connecting, _TIMEOUT)
    await comm.close()


def _connection_error(address: str) -> OSError | None:
    """Return the error of connecting to an address; None if there is none."""
    parts = urlsplit(address)
    try:
        host_and_port = str(parts.hostname), int(parts.port or 0)
        socket.create_connection(host_and_port, timeout=_TIMEOUT).close()
    except OSError as error:
        return error
    return None


def _wait_for_workers(
    client: Any, address: str, n_workers: int, seconds: float
) -> None:
    try:
        client.wait_for_workers(n_workers, timeout=seconds)
    except TimeoutError:
        raise ConnectionError(
            f"the scheduler at {address} has {len(client.ncores())} workers after "
            f"{seconds:g} seconds, and {n_workers} are needed; start more with "
            f"`dask worker {address}`"
        ) from None


def _require_versions(client: Any) -> None:
    """Raise if a worker has no featpipe, or another version."""
    from distributed.comm.core import CommClosedError

    # Dask sends the code of an inner function, so that workers without featpipe can
    # run it too.
    def installed_version() -> str | None:
        try:
            import featpipe
        except ImportError:
            return None
        return featpipe.__version__

    for worker, version in client.run(installed_version, on_error="return").items():
        if isinstance(version, CommClosedError | ConnectionError | TimeoutError):
            continue  # it died since it was listed, and others do its work
        if isinstance(version, Exception):
            raise RuntimeError(
                f"worker {worker} cannot import featpipe ({one_line(version)}); run "
                "`featpipe --version` there"
            )
        if version is None:
            raise RuntimeError(
                f"worker {worker} has no featpipe; install featpipe {__version__} in "
                "the environment that it runs in"
            )
        if version != __version__:
            raise RuntimeError(
                f"worker {worker} has featpipe {version}, and this process has "
                f"{__version__}; install the same version in both places"
            )
