"""Extraction on a real Dask cluster: a scheduler and three workers on loopback."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from extracting import run

from featpipe import __version__, codes
from featpipe.extraction import plan
from featpipe.extraction.parts import Parts
from featpipe.parallel import Jobs, cluster

pytest.importorskip("distributed", reason="Dask is not installed: featpipe[dask]")

from clusters import WITHOUT_FEATPIPE, Cluster
from clusters import cluster as started
from distributed.comm.core import CommClosedError

N_IMAGES = 160


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> Iterator[Cluster]:
    with started(tmp_path_factory.mktemp("cluster"), 3, in_forks=True) as made:
        yield made


@pytest.fixture(scope="module")
def many(tmp_path_factory, draw) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for k in range(N_IMAGES):
        draw(folder / ("ant", "bee")[k % 2] / f"{k:03}.png", k)
    (folder / "ant" / "bad.png").write_text("no image")
    return folder


@pytest.fixture(autouse=True)
def slices_of_eight(monkeypatch):
    monkeypatch.setattr(plan, "SLICE", 8)


@pytest.fixture
def alone(many, tmp_path) -> bytes:
    return run(many, tmp_path / "alone.h5")[0].path.read_bytes()


def jobs(three: Cluster, n: int = 3) -> Jobs:
    return Jobs(n, "dask", three.address)


def test_three_workers_make_the_file_of_one_process(
    three, many, alone, tmp_path, monkeypatch
):
    written: set[str] = set()
    drop = Parts.drop

    def noting(parts: Parts) -> None:
        result = map(codes.read, parts.folder.glob("*.h5"))
        written.update(part.provenance["worker"] for part in result)
        drop(parts)

    monkeypatch.setattr(Parts, "drop", noting)
    result, progress = run(many, tmp_path / "a.h5", jobs=jobs(three))
    assert result.path.read_bytes() == alone
    assert {int(name.rpartition(":")[2]) for name in written} == {*three.workers}
    assert (progress.computed, progress.failed) == (N_IMAGES, 1)


def test_workers_that_die_and_come_change_nothing(three, many, alone, tmp_path):
    killed = []

    def kill(progress):
        if progress.computed > 20 * (len(killed) + 1) and len(killed) < 2:
            killed.append(next(iter(three.workers)))
            three.kill_worker(killed[-1])
            three.add_worker()

    file, progress = run(many, tmp_path / "a.h5", jobs=jobs(three, 1), progress=kill)
    assert len(killed) == 2
    assert file.path.read_bytes() == alone
    assert progress.computed + progress.kept == N_IMAGES


COORDINATOR = """
import os, signal, sys
from pathlib import Path
from extracting import run
from featpipe.extraction import plan
from featpipe.parallel import Jobs

def die(progress):
    if progress.computed > 50:
        os.kill(os.getpid(), signal.SIGKILL)

plan.SLICE = 8
source, path, scheduler = sys.argv[1:]
run(Path(source), Path(path), jobs=Jobs(1, "dask", scheduler), progress=die)
"""


@pytest.mark.slow
def test_a_coordinator_killed_and_started_again_ends_in_the_same_bytes(
    three, many, alone, tmp_path
):
    done = subprocess.run(
        [sys.executable, "-c", COORDINATOR, many, tmp_path / "a.h5", three.address],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
        timeout=100,
    )
    assert done.returncode == -signal.SIGKILL
    file, progress = run(many, tmp_path / "a.h5", jobs=jobs(three, 1))
    assert progress.kept > 50
    assert file.path.read_bytes() == alone


def test_a_worker_without_featpipe_or_with_another_version_is_named(
    three, many, tmp_path
):
    for first, reason in (
        (WITHOUT_FEATPIPE, "has no featpipe; install"),
        (
            "import featpipe; featpipe.__version__ = '0.0.1'",
            r"has featpipe 0\.0\.1, and this process has",
        ),
    ):
        pid = three.add_worker(first)
        try:
            with pytest.raises(RuntimeError, match=f"worker tcp://.* {reason}"):
                run(many, tmp_path / "a.h5", jobs=jobs(three, len(three.workers)))
        finally:
            three.kill_worker(pid)
    assert not (tmp_path / "a.h5.lock").exists()


def test_a_worker_that_dies_while_it_is_asked_for_its_version_is_passed_over():
    answers = {"gone": CommClosedError("Stream is closed"), "here": __version__}
    client = SimpleNamespace(run=lambda act, on_error: answers)
    cluster._require_versions(client)
    answers["broken"] = SyntaxError("a file was cut off")
    with pytest.raises(RuntimeError, match="worker broken cannot import featpipe"):
        cluster._require_versions(client)


def test_a_worker_without_featpipe_that_joins_later_is_one_that_dies(
    three, many, alone, tmp_path
):
    joined = []

    def join(progress):
        if progress.computed and not joined:
            joined.append(three.add_worker(WITHOUT_FEATPIPE))

    file, _ = run(many, tmp_path / "a.h5", jobs=jobs(three, 1), progress=join)
    assert file.path.read_bytes() == alone
    three.kill_worker(joined[0])


def test_no_scheduler_is_one_sentence_at_once(many, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(
        ConnectionError, match=f"no scheduler answers at {address} .*refused.*; start"
    ):
        run(many, tmp_path / "a.h5", jobs=Jobs(1, "dask", address))
    with pytest.raises(ValueError, match=r"address is 'tcp://nowhere'; give it as"):
        run(many, tmp_path / "a.h5", jobs=Jobs(1, "dask", "nowhere"))


def test_what_is_no_scheduler_is_one_sentence(many, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_TIMEOUT", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"tcp://127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=f"{address} is not a Dask scheduler"):
            run(many, tmp_path / "a.h5", jobs=Jobs(1, "dask", address))


def test_workers_that_do_not_come_are_one_sentence(three, many, tmp_path):
    few = Jobs(9, "dask", three.address, seconds=0.2)
    with pytest.raises(ConnectionError, match=r"after 0\.2 seconds, and 9 are needed"):
        run(many, tmp_path / "a.h5", jobs=few)


def test_a_scheduler_file_is_as_good_as_an_address(three, many, tmp_path):
    file, _ = run(
        many, tmp_path / "a.h5", jobs=Jobs(1, "dask", str(three.file)), limit=8
    )
    assert len(file) == 8
    (tmp_path / "no.json").write_text("{}")
    gone = Jobs(1, "dask", str(tmp_path / "gone.json"))
    with pytest.raises(FileNotFoundError, match=r"no scheduler file .*gone\.json"):
        run(many, tmp_path / "b.h5", jobs=gone)
    with pytest.raises(ValueError, match="is no scheduler file"):
        run(many, tmp_path / "b.h5", jobs=Jobs(1, "dask", str(tmp_path / "no.json")))


@pytest.mark.slow
def test_a_scheduler_that_ends_is_one_sentence_and_no_work_is_lost(
    many, alone, tmp_path, monkeypatch
):
    monkeypatch.setattr(cluster, "_TIMEOUT", 1.0)
    with started(tmp_path, 1) as one:

        def end(progress):
            if progress.computed:
                one.end_scheduler()

        with pytest.raises(ConnectionError, match="has ended; start one again, and ru"):
            run(many, tmp_path / "a.h5", jobs=jobs(one, 1), progress=end)
    file, progress = run(many, tmp_path / "a.h5")
    assert progress.kept > 0
    assert file.path.read_bytes() == alone
