"""A real Dask scheduler and its workers, each a process of this machine."""

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGKILL
from typing import Any, NoReturn

__all__ = ["WITHOUT_FEATPIPE", "Cluster", "cluster"]

_SECONDS = 60.0
_SCHEDULER = "from distributed.cli.dask_scheduler import main; main()"
_WORKER = "{first}; from distributed.cli.dask_worker import main; main()"

WITHOUT_FEATPIPE = (
    "import sys; sys.modules.update({name: None for name in sys.modules "
    "if name.partition('.')[0] == 'featpipe'}, featpipe=None)"
)
"""A statement for a worker that cannot import featpipe."""


class _Interpreters:
    """Starts every process as an interpreter of its own."""

    def __init__(self) -> None:
        self._started: dict[int, subprocess.Popen] = {}

    def start(self, code: str, options: list[str], folder: Path) -> int:
        """Run code; return the pid."""
        with (folder / "log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", code, *options],
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        self._started[process.pid] = process
        return process.pid

    def end(self, pid: int) -> None:
        """End a process as a lost machine does: without a word."""
        self._started[pid].kill()
        self._started.pop(pid).wait()

    def close(self) -> None:
        """Do nothing: all have been ended."""


class _Forks:
    """A fork of this process that forks on request, with Dask and torch imported.

    Its forks do not import them anew, and no thread of a client is in them. Not for a
    process in which torch has computed with several threads.
    """

    def __init__(self) -> None:
        for name in ("cli.dask_scheduler", "cli.dask_worker"):
            importlib.import_module(f"distributed.{name}")
        importlib.import_module("featpipe.extraction.tasks")
        importlib.import_module("featpipe.backbones.loading")
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._requests)
            try:
                self._serve(requests, answers)
            finally:
                os._exit(0)
        os.close(requests)
        os.close(answers)

    def _serve(self, requests: int, answers: int) -> None:
        with open(requests) as lines:  # a descriptor
            for line in lines:
                request = json.loads(line)
                if "wait" in request:
                    os.waitpid(request["wait"], 0)
                    os.write(answers, b"0\n")
                    continue
                pid = os.fork()
                if pid == 0:
                    _run(**request)
                os.write(answers, f"{pid}\n".encode())

    def _ask(self, **request: Any) -> int:
        os.write(self._requests, json.dumps(request).encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            answer += os.read(self._answers, 99)
        return int(answer)

    def start(self, code: str, options: list[str], folder: Path) -> int:
        """Run code in a fork; return its pid."""
        return self._ask(code=code, options=options, folder=str(folder))

    def end(self, pid: int) -> None:
        """End a fork as a lost machine does: without a word."""
        with suppress(ProcessLookupError):
            os.kill(pid, SIGKILL)
        self._ask(wait=pid)

    def close(self) -> None:
        """End this fork, and wait for it."""
        os.close(self._requests)
        os.close(self._answers)
        os.waitpid(self._pid, 0)


def _run(code: str, options: list[str], folder: str) -> NoReturn:
    """Run code as `python -c` does, with its output in a file."""
    try:
        log = os.open(f"{folder}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for k, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(log, k)
            setattr(sys, name, os.fdopen(os.dup(log), "w", buffering=1))
        os.chdir(folder)
        sys.argv = ["-c", *options]
        exec(code, {"__name__": "__main__"})
    finally:
        os._exit(0)


class Cluster:
    """A scheduler, and workers that come and go as tests say.

    Parameters
    ----------
    folder : Path
        For the scheduler file and what the processes print; they run in it.
    in_forks : bool
        Fork this process, which takes a tenth of the time of new interpreters.
    """

    def __init__(self, folder: Path, *, in_forks: bool = False) -> None:
        self.folder = folder
        self.file = folder / "scheduler.json"
        self.workers: set[int] = set()
        self._starter = _Forks() if in_forks else _Interpreters()
        self._scheduler = self._start(
            _SCHEDULER, "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
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

    def _start(self, code: str, *options: object) -> int:
        return self._starter.start(code, [*map(str, options)], self.folder)

    def add_worker(self, first: str = "pass") -> int:
        """Start a worker that runs a statement before all else; return its pid."""
        pid = self._start(
            _WORKER.format(first=first), self.address, "--nthreads", 1,
            "--no-nanny", "--no-dashboard", "--host", "127.0.0.1",
        )  # fmt: skip
        self.workers.add(pid)
        return pid

    def kill_worker(self, pid: int) -> None:
        """End a worker as a lost machine does: without a word."""
        self.workers.remove(pid)
        self._starter.end(pid)

    def close(self) -> None:
        """End all processes."""
        for pid in list(self.workers):
            self.kill_worker(pid)
        self.end_scheduler()
        self._starter.close()

    def end_scheduler(self) -> None:
        """End the scheduler alone, without a word."""
        if self._scheduler:
            self._starter.end(self._scheduler)
        self._scheduler = 0


@contextmanager
def cluster(
    folder: Path, n_workers: int, *, in_forks: bool = False
) -> Iterator[Cluster]:
    """Start a scheduler and some workers for as long as the block lasts."""
    made = Cluster(folder, in_forks=in_forks)
    try:
        for _ in range(n_workers):
            made.add_worker()
        yield made
    finally:
        made.close()
