"""`compare` shared among threads or processes: the same record as from one alone."""

import json
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import featpipe
from featpipe import codes
from featpipe.comparison import contest, tasks
from featpipe.parallel import Jobs

N = 240


def write(path: Path, seed: int = 0) -> Path:
    draw = np.random.default_rng(seed)
    y = np.arange(N) % 3
    codes.write(
        path,
        codes={
            name: (draw.normal(size=(N, width)) + y[:, None]).astype(np.float32)
            for name, width in (("stage1", 12), ("stage2", 8))
        },
        labels=y,
        class_names=["ant", "bee", "fly"],
        paths=[f"{k:03}.png" for k in range(N)],
        splits=np.where(np.arange(N) % 4, "train", "test"),
    )
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("jobs") / "a.h5")


def record(file: Path, path: Path, **more: object) -> dict:
    """Return the record of a comparison without its seconds."""
    items = ("svm", "knn", "logistic", "ensemble")
    comparison = featpipe.compare(file, classifiers=items, Cs=[1e-3, 1e-2], **more)
    comparison.write_json(path)
    document = json.loads(path.read_text())
    for score in document["scores"]:
        del score["fit_seconds"], score["predict_seconds"]
    return document


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_two_threads_write_the_record_of_one(file, tmp_path, two_threads, monkeypatch):
    outcomes = []
    side_by_side = record(
        file, tmp_path / "b.json", progress=lambda *message: outcomes.append(message)
    )
    assert torch.get_num_threads() == 2
    done = [number for number, _, _ in outcomes]
    assert (done[0], sorted(done), outcomes[-1]) == (0, done, (8, 8, "done"))
    monkeypatch.setattr(tasks, "SMALL", 0)
    assert record(file, tmp_path / "a.json") == side_by_side


def test_threads_leave_the_filters_of_warnings_alone(file, two_threads):
    before = list(warnings.filters)
    featpipe.compare(file, Cs=[1e-3, 1e-2])
    assert list(warnings.filters) == before


def test_a_fit_that_fails_in_a_thread_is_the_users_error(
    file, two_threads, monkeypatch
):
    def fail(name: str, *rest: object) -> None:
        raise ValueError(f"no {name} today")

    monkeypatch.setattr(contest, "fit_and_predict", fail)
    with pytest.raises(ValueError, match=r"no (linear|svm|logistic) today"):
        featpipe.compare(file)


def test_an_interrupted_comparison_leaves_no_fit_behind(file, two_threads):
    def interrupt(done: int, total: int, what: str) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        featpipe.compare(file, progress=interrupt)
    names = {thread.name for thread in threading.enumerate()}
    assert not {name for name in names if name.startswith("fit")}


class Forks:
    """Two processes that need not import anything, being forks of this one."""

    is_here = False

    @contextmanager
    def open(self) -> Iterator[Any]:
        with ProcessPoolExecutor(2, get_context("fork")) as pool:

            def run(function: Callable, todo: list[bytes]) -> Iterator[Any]:
                for done in as_completed(
                    [pool.submit(function, each) for each in todo]
                ):
                    yield done.result()

            yield SimpleNamespace(n_here=2, run=run)


@pytest.fixture(params=["forks", pytest.param("loky", marks=pytest.mark.slow)])
def two(request) -> Forks | int:
    return Forks() if request.param == "forks" else 2


def test_two_processes_write_the_record_of_one(file, tmp_path, two):
    outcomes = []
    alone = record(file, tmp_path / "a.json")
    shared = record(
        file,
        tmp_path / "b.json",
        jobs=two,
        progress=lambda *message: outcomes.append(message),
    )
    assert shared == alone
    assert len(alone["scores"]) == 7
    # Three classifiers and what the ensemble takes, on each of two depths.
    assert outcomes[0][:2] == (0, 8)
    assert outcomes[-1] == (8, 8, "done")


def test_an_ensemble_alone_is_the_same_too(file, two):
    options = {"classifiers": ["ensemble"], "Cs": [1e-3, 1e-2]}
    alone, shared = (
        featpipe.compare(file, jobs=jobs, **options) for jobs in (None, two)
    )
    assert [s.classifier for s in shared.scores] == ["ensemble"]
    assert shared.scores[0].test_predicted == alone.scores[0].test_predicted
    assert shared.scores[0].accuracy == alone.scores[0].accuracy


def test_little_memory_gives_the_same_scores(file, tmp_path):
    options = {"classifiers": ["logistic", "linear"], "Cs": [1e-3, 1e-2]}
    whole = featpipe.compare(file, **options)
    short = featpipe.compare(file, memory="10KB", **options)
    assert [s.accuracy for s in short.scores] == [s.accuracy for s in whole.scores]
    assert [s.C for s in short.scores] == [s.C for s in whole.scores]
    assert any("equal files alone" in note for note in short.notes)


def test_what_cannot_read_in_blocks_is_refused_where_memory_is_short(file):
    with pytest.raises(ValueError, match="knn, lda need the codes of 'stage1' in mem"):
        featpipe.compare(file, classifiers=["knn", "svm", "lda"], memory="10KB")


@pytest.mark.parametrize("fault", ["gone", "another"])
def test_a_worker_that_sees_no_such_file_says_so(two, tmp_path, fault, monkeypatch):
    path = write(tmp_path / "a.h5")
    plain = tasks.split_task

    def split(task):
        # What a machine without the folder, or with a stale copy, comes upon.
        path.unlink() if fault == "gone" else write(path, seed=1)
        return plain(task)

    monkeypatch.setattr(tasks, "split_task", split)
    problem = "does not see" if fault == "gone" else "sees another file as"
    with pytest.raises(RuntimeError, match=f"worker .* {problem} .*a.h5; put the"):
        featpipe.compare(path, classifiers=["linear"], depth="stage1", jobs=two)


def test_no_scheduler_is_said_at_once(file):
    jobs = Jobs(1, "dask", "tcp://127.0.0.1:9")
    with pytest.raises(ConnectionError, match=r"no scheduler answers at tcp://127\.0"):
        featpipe.compare(file, jobs=jobs)


@pytest.mark.slow
def test_workers_of_dask_write_the_record_of_one_process(file, tmp_path):
    pytest.importorskip("distributed", reason="Dask is not installed: featpipe[dask]")
    from clusters import cluster

    alone = record(file, tmp_path / "a.json")
    with cluster(tmp_path, 2) as made:
        jobs = Jobs(2, "dask", made.address)
        assert record(file, tmp_path / "b.json", jobs=jobs) == alone
