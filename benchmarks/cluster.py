"""Compare extraction on a Dask cluster of loopback with that of one process.

A real scheduler and three workers, each a process::

    python benchmarks/cluster.py tinyimagenet.zip --limit 4000

Five runs are compared with that of one process: three workers; workers killed at random
and others added; the coordinator killed and started again; two processes of joblib's
loky; two shards, merged. Prints one line for each. Needs the extra ``dask``.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import featpipe
from featpipe import codes
from featpipe.extraction.parts import Parts
from featpipe.inference import Progress
from featpipe.parallel import Jobs

TESTS = Path(__file__).parents[1] / "tests"


def main() -> None:
    """Run all, and print what came out."""
    parser = argparse.ArgumentParser(description="Extraction on a cluster.")
    parser.add_argument("source")
    parser.add_argument("--limit", type=int, default=4000)
    parser.add_argument("--backbone", default="mini")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--until-killed", nargs=2, metavar=("FILE", "SCHEDULER"))
    options = parser.parse_args()
    if options.until_killed:
        _coordinate(options)
        return
    sys.path.append(str(TESTS))
    from clusters import Cluster, cluster

    def seconds(name: str, work: Callable[[], tuple[Path, str]]) -> None:
        start = time.perf_counter()
        path, result = work()
        took = time.perf_counter() - start
        print(f"{name}: {took:.1f} s, {digest(path)}; {result}", flush=True)

    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        seconds("one process", lambda: _run(options, folder / "one.h5"))
        seconds("two shards, merged", lambda: _shards(options, folder))
        seconds("loky, two", lambda: _run(options, folder / "loky.h5", jobs=2))
        (folder / "cluster").mkdir()
        with cluster(folder / "cluster", 3) as three:
            made: Cluster = three
            seconds("three workers", lambda: _workers(options, folder, made))
            seconds("killed and added", lambda: _killed(options, folder, made))
            seconds("coordinator killed", lambda: _again(options, folder, made))


def digest(path: Path) -> str:
    """Return the digest of the codes of a file, rows in order."""
    file = codes.verify(path)
    whole = hashlib.sha256()
    for spec in file.depths:
        whole.update(file.rows(spec, 0, len(file)).tobytes())
    return f"{len(file):,} rows {whole.hexdigest()[:16]}"


def _run(options: Any, path: Path, **more: Any) -> tuple[Path, str]:
    seen: list[Progress] = []
    tell = more.pop("progress", lambda progress: None)

    def progress(now: Progress) -> None:
        seen.append(now)
        tell(now)

    file = featpipe.extract(
        options.source,
        path,
        backbone=options.backbone,
        limit=options.limit,
        progress=progress,
        **more,
    )
    last = seen[-1]
    outcomes = [
        f"{last.computed:,} computed, {last.kept:,} kept, {last.failed:,} failed"
    ]
    return file.path, "; ".join([*outcomes, *last.messages])


def _shards(options: Any, folder: Path) -> tuple[Path, str]:
    for k in range(2):
        _run(options, folder / f"{k}.h5", shard=(k, 2))
    whole = codes.merge([folder / "0.h5", folder / "1.h5"], folder / "merged.h5")
    return whole.path, "2 files"


def _workers(options: Any, folder: Path, made: Any) -> tuple[Path, str]:
    """Have three workers compute, and count them in the parts."""
    names: set[str] = set()
    drop = Parts.drop

    def noting(parts: Parts) -> None:
        items = map(codes.read, parts.folder.glob("*.h5"))
        names.update(part.provenance["worker"] for part in items)
        drop(parts)

    # The parts go as soon as they are merged, and their names of workers with them.
    with patch.object(Parts, "drop", noting):
        path, result = _run(options, folder / "three.h5", jobs=_jobs(made.address, 3))
    return path, f"{result}; the parts name {len(names)} workers"


def _killed(options: Any, folder: Path, made: Any) -> tuple[Path, str]:
    """Kill workers at random moments; one comes for each, and one more."""
    draw = random.Random(options.seed)
    moments = sorted(draw.uniform(0.05, 0.8) * options.limit for _ in range(4))
    n_killed = len(moments)

    def kill(progress: Progress) -> None:
        if moments and progress.computed > moments[0]:
            moments.pop(0)
            made.kill_worker(draw.choice(list(made.workers)))
            made.add_worker()
            if not moments:
                made.add_worker()

    jobs = _jobs(made.address, 1)
    path, result = _run(options, folder / "killed.h5", jobs=jobs, progress=kill)
    return path, f"{n_killed} workers killed, {n_killed + 1} added; {result}"


def _again(options: Any, folder: Path, made: Any) -> tuple[Path, str]:
    """Kill the coordinator half way, and run the same again."""
    path = folder / "again.h5"
    same = ["--limit", str(options.limit), "--backbone", options.backbone]
    same += ["--until-killed", str(path), made.address]
    killed = subprocess.run(
        [sys.executable, __file__, options.source, *same], check=False
    )
    path, result = _run(options, path, jobs=_jobs(made.address, 1))
    return path, f"ended by signal {-killed.returncode}; then {result}"


def _coordinate(options: Any) -> None:
    path, scheduler = options.until_killed

    def die(progress: Progress) -> None:
        if progress.computed > options.limit / 2:
            os.kill(os.getpid(), signal.SIGKILL)

    _run(options, Path(path), jobs=_jobs(scheduler, 1), progress=die)


def _jobs(scheduler: str, n: int) -> Jobs:
    return Jobs(n, "dask", scheduler)


if __name__ == "__main__":
    main()
