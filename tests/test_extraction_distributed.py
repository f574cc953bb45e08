"""Slices as tasks of several processes: rows neither lost nor doubled, same bytes.

Most of it in this process, task by task; two processes of this machine at the end. A
real cluster is in `test_extraction_dask.py`.
"""

import os
import pickle
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from extracting import run

from featpipe import codes, images
from featpipe.extraction import distributed, plan, tasks
from featpipe.extraction.parts import Parts
from featpipe.extraction.plan import Plan, Span
from featpipe.extraction.tasks import SliceTask, TaskReport
from featpipe.files import Lock, LockedError
from featpipe.inference import claims
from featpipe.inference.execution import Execution
from featpipe.parallel import Jobs

Do = Callable[[bytes], Iterator[TaskReport]]


class Here:
    """Jobs that are done in this process, as a test says."""

    is_here = False

    def __init__(self, do: Do | None = None) -> None:
        self.do = do or (lambda task: iter([tasks.compute(task)]))
        self.n_tasks = 0

    @contextmanager
    def open(self) -> Iterator[Any]:
        def results(function: object, todo: list[bytes]) -> Iterator[TaskReport]:
            for task in todo:
                self.n_tasks += 1
                yield from self.do(task)

        yield SimpleNamespace(n_here=1, run=results)


@pytest.fixture
def many(tmp_path, draw, monkeypatch) -> Path:
    """Return 21 images and a broken one: six slices of four positions, one of two."""
    monkeypatch.setattr(plan, "SLICE", 4)
    for k in range(21):
        draw(tmp_path / "many" / ("ant", "bee")[k % 2] / f"{k:02}.png", k)
    (tmp_path / "many" / "ant" / "bad.png").write_text("no image")
    return tmp_path / "many"


@pytest.fixture
def alone(many, tmp_path) -> bytes:
    """Return the bytes of the file that one process makes."""
    return run(many, tmp_path / "alone.h5")[0].path.read_bytes()


def as_worker(monkeypatch, name: str, task: bytes) -> TaskReport:
    monkeypatch.setattr(tasks, "worker_name", lambda: name)
    return tasks.compute(task)


def test_slices_as_tasks_make_the_same_file_as_one_process(many, alone, tmp_path):
    here = Here()
    file, progress = run(many, tmp_path / "a.h5", jobs=here)
    assert file.path.read_bytes() == alone
    assert here.n_tasks == 6
    assert (progress.computed, progress.kept, progress.failed) == (21, 0, 1)
    assert not (tmp_path / "a.h5.parts").exists()


def test_a_task_done_by_two_workers_gives_no_row_twice(
    many, alone, tmp_path, monkeypatch
):
    def twice(task: bytes) -> Iterator[TaskReport]:
        # The second was taken for dead, and has gone on; only one is heard.
        as_worker(monkeypatch, "lost:1", task)
        yield as_worker(monkeypatch, "heard:2", task)

    file, _ = run(many, tmp_path / "a.h5", jobs=Here(twice))
    assert file.path.read_bytes() == alone


def test_parts_tell_which_worker_wrote_them_and_the_file_does_not(
    many, tmp_path, monkeypatch
):
    names = iter(["one:1", "two:2", "three:3"] * 2)
    written: list[str] = []
    drop = Parts.drop

    def noting(parts: Parts) -> None:
        result = map(codes.read, sorted(parts.folder.glob("*.h5")))
        written.extend(part.provenance["worker"] for part in result)
        drop(parts)

    monkeypatch.setattr(Parts, "drop", noting)

    def do(task: bytes) -> Iterator[TaskReport]:
        yield as_worker(monkeypatch, next(names), task)

    result, progress = run(many, tmp_path / "a.h5", jobs=Here(do))
    assert Counter(written) == {"one:1": 2, "two:2": 2, "three:3": 2}
    assert progress.messages == ["rows of 3 workers: one:1 8, three:3 5, two:2 8"]
    assert "worker" not in result.provenance


def test_a_coordinator_that_dies_leaves_parts_that_the_next_takes(
    many, alone, tmp_path
):
    done = []

    def some(task: bytes) -> Iterator[TaskReport]:
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(tasks.compute(task))
        # It has died before it heard of the last.
        yield from done[-1:] if len(done) < 4 else ()

    with pytest.raises(KeyboardInterrupt):
        run(many, tmp_path / "a.h5", jobs=Here(some))
    here = Here()
    file, progress = run(many, tmp_path / "a.h5", jobs=here)
    assert here.n_tasks == 2
    assert progress.kept + progress.computed == 21
    assert file.path.read_bytes() == alone


def test_one_process_goes_on_where_several_were_stopped_and_the_other_way(
    many, alone, tmp_path
):
    def one(task: bytes) -> Iterator[TaskReport]:
        yield tasks.compute(task)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(many, tmp_path / "a.h5", jobs=Here(one))
    file, progress = run(many, tmp_path / "a.h5")
    assert progress.kept == 4
    assert file.path.read_bytes() == alone

    def stop(progress):
        if progress.computed >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(many, tmp_path / "b.h5", progress=stop)
    file, progress = run(many, tmp_path / "b.h5", jobs=Here())
    assert progress.kept >= 3
    assert file.path.read_bytes() == alone


def test_several_processes_update_a_file_and_add_depths_to_it(many, tmp_path, draw):
    def both(**changes: Any) -> None:
        run(many, tmp_path / "one.h5", **changes)
        run(many, tmp_path / "several.h5", **changes, jobs=Here())

    both(depth="stem:avg")
    draw(many / "ant" / "new.png", 100)
    (many / "bee" / "03.png").rename(many / "ant" / "moved.png")
    both(depth="stem:avg")
    both()
    one, several = (codes.read(tmp_path / f"{n}.h5") for n in ("one", "several"))
    assert one.depths == several.depths == ["stem:avg", "penultimate"]
    assert one.path.read_bytes() == several.path.read_bytes()


def test_rows_of_an_older_list_are_taken_by_workers_too(many, tmp_path, draw):
    def stop(progress):
        if progress.computed >= 14:
            raise KeyboardInterrupt

    for name in ("one", "several"):
        with pytest.raises(KeyboardInterrupt):
            run(many, tmp_path / f"{name}.h5", progress=stop)
    draw(many / "ant" / "00a.png", 100)
    _, alone = run(many, tmp_path / "one.h5")
    file, progress = run(many, tmp_path / "several.h5", jobs=Here())
    assert progress.kept == alone.kept > 0
    assert file.path.read_bytes() == (tmp_path / "one.h5").read_bytes()


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar"])
def test_members_of_an_archive_travel_alone(many, tmp_path, kind):
    import shutil

    archive = shutil.make_archive(str(tmp_path / "a"), kind, many)
    image_set = images.scan(archive)
    piece = image_set.detached([3, 5])
    assert len(pickle.dumps(piece)) < len(pickle.dumps(image_set))
    travelled = pickle.loads(pickle.dumps(piece))
    assert [travelled.read(i) for i in (0, 1)] == [image_set.read(i) for i in (3, 5)]


def test_arrays_are_tasks_too(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "SLICE", 4)
    draw = np.random.default_rng(0)
    arrays = [draw.integers(0, 256, (9, 8, 3), dtype=np.uint8) for _ in range(10)]
    image_set = images.from_arrays(arrays)
    one, _ = run(image_set, tmp_path / "one.h5")
    several, _ = run(image_set, tmp_path / "several.h5", jobs=Here())
    assert one.path.read_bytes() == several.path.read_bytes()


def test_the_first_failure_of_any_worker_ends_the_run_if_asked(many, tmp_path):
    with pytest.raises(ValueError, match=r"ant/bad.png: decode: .*; remove or mend"):
        run(many, tmp_path / "a.h5", jobs=Here(), on_error="fail")


def changed(**changes: Any) -> Do:
    def do(task: bytes) -> Iterator[TaskReport]:
        wanted = replace(pickle.loads(task), **changes)
        yield tasks.compute(pickle.dumps(wanted))

    return do


def test_a_worker_with_another_version_is_refused(many, tmp_path):
    here = Here(changed(versions={"featpipe": "0.0.1"}))
    with pytest.raises(RuntimeError, match=r"has featpipe .* works for has 0\.0\.1; "):
        run(many, tmp_path / "a.h5", jobs=here)


def test_a_worker_that_does_not_see_the_folder_is_refused(many, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "PATIENCE", 0.2)
    elsewhere = tmp_path / "mnt" / "a.h5"
    with pytest.raises(RuntimeError, match=r"mnt is not shared with its machine"):
        run(many, tmp_path / "a.h5", jobs=Here(changed(path=elsewhere)))
    # Nor is a folder of the same name on another machine the same folder.
    elsewhere.parent.mkdir()
    with (
        Lock(elsewhere),
        pytest.raises(RuntimeError, match="does not see the lock"),
    ):
        run(many, tmp_path / "a.h5", jobs=Here(changed(path=elsewhere)))


def test_a_part_that_does_not_arrive_is_said_to_be_not_shared(
    many, tmp_path, monkeypatch
):
    monkeypatch.setattr(distributed, "PATIENCE", 0.2)

    def lost(task: bytes) -> Iterator[TaskReport]:
        report = tasks.compute(task)
        report.parts[0].path.unlink()
        yield report

    with pytest.raises(RuntimeError, match="not to be seen from here: its folder is"):
        run(many, tmp_path / "a.h5", jobs=Here(lost))


def test_a_part_that_is_another_than_reported_is_refused(many, tmp_path):
    def other(task: bytes) -> Iterator[TaskReport]:
        report = tasks.compute(task)
        yield report._replace(
            parts=[part._replace(digest="0" * 64) for part in report.parts]
        )

    with pytest.raises(RuntimeError, match=r"is not what worker .* has written"):
        run(many, tmp_path / "a.h5", jobs=Here(other))


def test_images_that_one_worker_does_not_see_are_no_failures(many, alone, tmp_path):
    def blind(task: bytes) -> Iterator[TaskReport]:
        wanted: SliceTask = pickle.loads(task)
        source = replace(wanted.plan.images, reader=images.FileReader("/no"))
        wanted = replace(wanted, plan=replace(wanted.plan, images=source))
        yield tasks.compute(pickle.dumps(wanted))

    with pytest.raises(RuntimeError, match=r"cannot read .*, and this process can; sh"):
        run(many, tmp_path / "a.h5", jobs=Here(blind))
    # Nor does the next run believe what that worker has left.
    file, _ = run(many, tmp_path / "a.h5")
    assert file.path.read_bytes() == alone


def test_a_worker_with_other_weights_is_refused(many, tmp_path):
    def other(task: bytes) -> Iterator[TaskReport]:
        wanted: SliceTask = pickle.loads(task)
        recipe = replace(wanted.recipe, seed=5)
        yield tasks.compute(pickle.dumps(replace(wanted, recipe=recipe)))

    with pytest.raises(RuntimeError, match="has another network: its weights_sha256"):
        run(many, tmp_path / "a.h5", jobs=Here(other))


def test_a_worker_that_comes_too_late_writes_nothing(many, tmp_path):
    late: list[bytes] = []

    def noting(task: bytes) -> Iterator[TaskReport]:
        late.append(task)
        yield tasks.compute(task)

    run(many, tmp_path / "a.h5", jobs=Here(noting))
    before = sorted(tmp_path.iterdir())
    wanted: SliceTask = pickle.loads(late[0])
    with Lock(wanted.path) as lock, pytest.raises(FileNotFoundError):
        tasks.compute(pickle.dumps(replace(wanted, key=lock.key)))
    assert sorted(tmp_path.iterdir()) == before


def test_a_piece_of_a_plan_has_its_batches_and_its_name():
    pictures = images.from_arrays([np.zeros((2, 2), np.uint8)] * 23)
    way = Execution(fused=False, batch_size=3, n_lanes=1)
    whole = Plan(pictures, np.arange(2, 23), ["x"], {}, "float32", 8, "cpu", way)
    assert list(whole.slices(Span(6, 21))) == [Span(6, 8), Span(8, 16), Span(16, 21)]
    for span in whole.slices(whole.span):
        piece = whole.piece(span)
        assert (piece.digest, piece.span) == (whole.digest, span)
        assert list(piece.batches()) == list(whole.batches(span))
        names = [whole.images.paths[i] for i in whole.within(span)]
        assert [piece.images.paths[i] for i in piece.within(span)] == names


def test_every_process_takes_a_gpu_of_its_own_while_there_are_some(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(claims.tempfile, "tempdir", None)
    claim = claims.claim_gpu.__wrapped__
    assert [claim(3) for _ in range(5)] == [0, 1, 2, 0, 1]
    assert claim(1) == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"backend": "threads"}, "unknown backend 'threads'; use loky or dask"),
        ({"n": 0}, "jobs=0 has to be a whole number from 1"),
        ({"n": True}, "jobs=True has to be"),
        ({}, "needs the number of jobs"),
        ({"backend": "dask"}, "needs the address of a scheduler"),
        ({"n": 2, "scheduler": "tcp://a:1"}, "goes with the backend 'dask', not"),
    ],
)
def test_jobs_that_do_not_go_together_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        Jobs(**options)


def test_two_processes_of_this_machine_and_one_that_dies(many, alone, tmp_path):
    killed = []

    def kill(progress):
        if progress.computed and not killed:
            part = next((tmp_path / "a.h5.parts").glob("*.h5"))
            pid = int(codes.read(part).provenance["worker"].rpartition(":")[2])
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    file, progress = run(many, tmp_path / "a.h5", jobs=2, progress=kill)
    assert killed
    assert file.path.read_bytes() == alone
    assert progress.computed + progress.kept == 21


def test_while_several_make_a_file_no_other_run_may(many, tmp_path):
    def other(task: bytes) -> Iterator[TaskReport]:
        with pytest.raises(LockedError, match="is being written by process"):
            run(many, tmp_path / "a.h5")
        yield tasks.compute(task)

    run(many, tmp_path / "a.h5", jobs=Here(other))
