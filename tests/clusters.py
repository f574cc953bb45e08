"""A real Dask scheduler and its workers, each a process of this machine."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Cluster", "cluster"]

_SECONDS = 60.0
# Before Dask is imported, so that a worker of our own making can lack things.
_WORKER = "{first}; import sys; from distributed.cli.dask_worker import main; main()"


class Cluster:
    """A scheduler, and workers that come and go as tests say.

    Parameters
    ----------
    folder : Path
        For the scheduler file and what the processes print.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "scheduler.json"
        self.workers: dict[int, subprocess.Popen] = {}
        module = "from distributed.cli.dask_scheduler import main; main()"
        self._scheduler = self._start(
            module, "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
            "--scheduler-file", self.file,
        )  # fmt: skip
        self.address = self._address()

    def _address(self) -> str:
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            if self.file.exists() and (text := self.file.read_text()):
                return json.loads(text)["address"]
            time.sleep(0.05)
        raise TimeoutError((self.folder / "log").read_text())

    def _start(self, code: str, *options: object) -> subprocess.Popen:
        with (self.folder / "log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-c", code, *map(str, options)],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )

    def add_worker(self, first: str = "pass") -> int:
        """Start a worker that runs a statement before all else; return its pid."""
        worker = self._start(
            _WORKER.format(first=first), self.address, "--nthreads", 1,
            "--no-nanny", "--no-dashboard", "--host", "127.0.0.1",
        )  # fmt: skip
        self.workers[worker.pid] = worker
        return worker.pid

    def kill_worker(self, pid: int) -> None:
        """End a worker as a lost machine does: without a word."""
        worker = self.workers.pop(pid)
        worker.kill()
        worker.wait()

    def close(self) -> None:
        """End all processes."""
        for pid in list(self.workers):
            self.kill_worker(pid)
        self.end_scheduler()

    def end_scheduler(self) -> None:
        """End the scheduler alone, without a word."""
        self._scheduler.kill()
        self._scheduler.wait()


@contextmanager
def cluster(folder: Path, n_workers: int) -> Iterator[Cluster]:
    """Start a scheduler and some workers for as long as the block lasts."""
    made = Cluster(folder)
    try:
        for _ in range(n_workers):
            made.add_worker()
        yield made
    finally:
        made.close()
