"""Part files: when they end, what they keep of an interrupted run, and their order."""

from pathlib import Path

import numpy as np
import pytest
from extracting import run
from hypothesis import given
from hypothesis import strategies as st

from featpipe import codes, images
from featpipe.extraction import runner
from featpipe.extraction.parts import Parts
from featpipe.extraction.plan import Plan, Span, slice_size
from featpipe.inference.execution import Execution


def stopping_at(n_computed: int):
    def stop(progress):
        if progress.computed >= n_computed:
            raise KeyboardInterrupt

    return stop


def parts_of(path: Path) -> list[codes.Codes]:
    names = sorted(path.with_name(f"{path.name}.parts").glob("*.h5"))
    return [codes.read(name) for name in names]


@pytest.fixture
def forty(tmp_path, draw) -> Path:
    for k in range(40):
        draw(tmp_path / "p" / f"{k:02}.png", k)
    return tmp_path / "p"


def test_finished_batches_of_an_interrupted_slice_are_kept(forty, tmp_path):
    # Less than one slice of 128, which was lost whole.
    with pytest.raises(KeyboardInterrupt):
        run(forty, tmp_path / "a.h5", progress=stopping_at(21))
    (part,) = parts_of(tmp_path / "a.h5")
    assert (len(part), part.provenance["span"]) == (21, [0, 21])
    file, progress = run(forty, tmp_path / "a.h5")
    assert (progress.kept, progress.computed) == (21, 19)
    whole, _ = run(forty, tmp_path / "whole.h5")
    assert file.path.read_bytes() == whole.path.read_bytes()


def test_parts_that_were_dropped_are_not_listed_any_more(forty, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(forty, tmp_path / "a.h5", progress=stopping_at(1))
    parts = Parts(tmp_path / "a.h5")
    assert [len(part) for part in parts.existing.values()] == [3]
    parts.drop()
    assert parts.existing == {}
    assert not parts.folder.exists()


def test_a_run_that_stops_again_and_again_ends_in_the_same_bytes(forty, tmp_path):
    for n_computed in (1, 7, 3, 12, 1):
        with pytest.raises(KeyboardInterrupt):
            run(forty, tmp_path / "a.h5", progress=stopping_at(n_computed))
    parts = parts_of(tmp_path / "a.h5")
    assert [part.provenance["span"] for part in parts] == [
        [0, 3],
        [3, 12],
        [12, 15],
        [15, 27],
        [27, 30],
    ]
    file, progress = run(forty, tmp_path / "a.h5")
    assert (progress.kept, progress.computed) == (30, 10)
    whole, _ = run(forty, tmp_path / "whole.h5")
    assert file.path.read_bytes() == whole.path.read_bytes()


def test_a_gap_between_parts_is_filled(forty, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_BYTES", 1)  # every batch ends a part
    with pytest.raises(KeyboardInterrupt):
        run(forty, tmp_path / "a.h5", progress=stopping_at(21))
    names = sorted((tmp_path / "a.h5.parts").glob("*.h5"))
    assert len(names) == 7
    names[1].unlink()
    names[4].write_bytes(names[4].read_bytes()[:-1])
    file, progress = run(forty, tmp_path / "a.h5")
    assert (progress.kept, progress.computed) == (15, 25)
    whole, _ = run(forty, tmp_path / "whole.h5")
    assert file.path.read_bytes() == whole.path.read_bytes()


def test_a_part_ends_with_a_slice_after_its_time(forty, tmp_path, monkeypatch):
    spans = []
    save = runner.Parts.save

    def saved(self, plan, span, *rest):
        spans.append(tuple(span))
        return save(self, plan, span, *rest)

    monkeypatch.setattr(runner.Parts, "save", saved)
    monkeypatch.setattr("featpipe.extraction.plan.SLICE", 8)
    run(forty, tmp_path / "a.h5")
    assert spans == [(0, 40)]
    monkeypatch.setattr(runner, "_SECONDS", 0.0)
    run(forty, tmp_path / "b.h5")
    assert spans[1:] == [(k, k + 8) for k in range(0, 40, 8)]


def test_an_image_that_ends_a_run_is_tried_again(forty, tmp_path, monkeypatch):
    read = images.ImageSet.read

    def failing(self, i):
        # As on a disk that is gone for a while.
        if i == 25:
            raise images.ImageError("read", "no such device")
        return read(self, i)

    with monkeypatch.context() as patch:
        patch.setattr(images.ImageSet, "read", failing)
        for _ in range(2):
            with pytest.raises(ValueError, match=r"25\.png: read: no such device"):
                run(forty, tmp_path / "a.h5", on_error="fail")
    kept = sum(len(part) for part in parts_of(tmp_path / "a.h5"))
    assert kept == 24
    file, progress = run(forty, tmp_path / "a.h5", on_error="fail")
    assert (len(file), progress.kept) == (40, kept)


def plan_of(n: int, slice_: int, batch: int) -> Plan:
    pictures = images.from_arrays([np.zeros((2, 2), np.uint8)] * n)
    way = Execution(fused=False, batch_size=batch, n_lanes=1)
    return Plan(pictures, np.arange(n), ["x"], {}, "float32", slice_, "cpu", way)


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 25), st.data())
def test_gaps_and_spans_are_all_batches_once(n, slice_, batch, data):
    plan = plan_of(n, slice_, batch)
    batches = list(plan.batches())
    assert [i for b in batches for i in range(*b)] == list(range(n))
    for one in batches:
        assert one.stop - one.start <= batch
        assert one.start // slice_ == (one.stop - 1) // slice_
        assert plan.ends_slice(one) == (one.stop % slice_ == 0 or one.stop == n)
    done = sorted(data.draw(st.sets(st.sampled_from(batches))))
    left = [b for gap in plan.gaps(done) for b in plan.batches(gap)]
    assert sorted([*done, *left]) == batches


def test_slices_are_larger_where_images_are_many():
    assert slice_size(398) == slice_size(10_000) == 128
    assert slice_size(10_001) == slice_size(500_000) == 512
    assert slice_size(1_281_167) == 1536
    assert Span(0, 3).stop == 3
