"""A Dask cluster: is a scheduler there, are workers, and have they our version.

Dask's own client waits half a minute in silence where no scheduler answers, and joblib
waits for ever for a task that no worker can load. So the address is tried first, and
workers are asked for their versions before they are given anything.
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

__all__ = ["backend", "connected", "deaths", "most_on_one_host"]

_PATIENCE = 5.0  # seconds, for a scheduler to answer


@contextmanager
def connected(scheduler: str, n_workers: int, seconds: float) -> Iterator[Any]:
    """Connect to a cluster whose workers have this version of featpipe.

    Parameters
    ----------
    scheduler : str
        Address, or a scheduler file.
    n_workers : int
        How many are waited for.
    seconds : float
        How long.

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
    # What it prints of lost connections is in the errors raised here.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        # In a thread of its own, since a notebook has a loop running in this one.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, _shake_hands(address)).result()
        client = distributed.Client(
            # Not the default client: the user's program may have one of its own.
            address,
            timeout=_PATIENCE,
            set_as_default=False,
            name="featpipe",
        )
    except (OSError, ValueError, TimeoutError) as error:
        raise ConnectionError(
            f"what answers at {address} is no Dask scheduler of a version that fits "
            f"({_line(error)}); give the address that `dask scheduler` prints"
        ) from error
    with client:
        try:
            _wait_for_workers(client, address, n_workers, seconds)
            _require_versions(client)
            yield client
        except Exception as error:
            # Whatever the error was, a scheduler that is gone is its cause.
            if _no_answer(address) is not None:
                raise ConnectionError(
                    f"the scheduler at {address} has ended; start one again, and run "
                    "the same command: what is done is kept"
                ) from error
            raise


def most_on_one_host(client: Any) -> int:
    """Return how many workers share a machine, where they are most."""
    # Workers of one host divide its processors; the busiest host decides for all.
    hosts = Counter(urlsplit(worker).hostname for worker in client.ncores())
    return max(hosts.values(), default=1)


def backend(client: Any) -> dict[str, Any]:
    """Return the arguments of `joblib.Parallel` for a cluster."""
    from joblib._dask import DaskDistributedBackend

    class Backend(DaskDistributedBackend):
        """joblib's, mended in two places."""

        def effective_n_jobs(self, n_jobs: int) -> int:
            # With one thread joblib would do all the work itself.
            n_tasks: int = max(2, super().effective_n_jobs(n_jobs))
            return n_tasks

        def submit(self, func: Any, callback: Any = None) -> Future[Any]:
            # joblib waits for ever for what Dask could not run.
            future: Future[Any] = super().submit(func, callback)
            future.add_done_callback(lambda done: _tell(done, callback))
            return future

    return {"n_jobs": -1, "backend": Backend(client=client)}


def _tell(done: Future[Any], callback: Callable[[object], None]) -> None:
    error = done.exception()
    if error is not None:
        callback(error)


def deaths() -> tuple[type[BaseException], ...]:
    """Return what Dask raises where workers have died."""
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
    """Return an address; read from a scheduler file if it is one."""
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
            f"{path} is no scheduler file ({_line(error)}); give the one that "
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
    error = _no_answer(address)
    if error is not None:
        raise ConnectionError(
            f"no scheduler answers at {address} ({_line(error)}); start one with "
            "`dask scheduler` and give the address that it prints"
        )


async def _shake_hands(address: str) -> None:
    """Greet a scheduler as Dask does, which would wait for ever for an answer."""
    from distributed.comm.core import connect
    from distributed.security import Security

    arguments = Security().get_connection_args("client")
    greeting = connect(address, timeout=_PATIENCE, **arguments)
    comm = await asyncio.wait_for(greeting, _PATIENCE)
    await comm.close()


def _no_answer(address: str) -> OSError | None:
    """Return why nothing answers at an address; None if something does."""
    parts = urlsplit(address)
    try:
        where = str(parts.hostname), int(parts.port or 0)
        socket.create_connection(where, timeout=_PATIENCE).close()
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
            f"{seconds:g} seconds, and {n_workers} are waited for; start more with "
            f"`dask worker {address}`"
        ) from None


def _require_versions(client: Any) -> None:
    """Raise if a worker has no featpipe, or another version."""

    # A function inside a function: Dask sends its code, which workers without featpipe
    # can run too.
    def version_there() -> str | None:
        try:
            import featpipe
        except ImportError:
            return None
        return featpipe.__version__

    for worker, version in client.run(version_there, on_error="return").items():
        if version is None:
            raise RuntimeError(
                f"worker {worker} has no featpipe; install featpipe {__version__} in "
                "the environment that it runs in"
            )
        if version != __version__:
            raise RuntimeError(
                f"worker {worker} has featpipe {version}, and this is {__version__}; "
                "install the same version in both places"
            )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
