"""One writer a file, and shards that several machines make."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from extracting import run

from featpipe import codes
from featpipe.codes import CodesError
from featpipe.extraction import LockedError, plan
from featpipe.files import Lock, lock

HOLDER = """
import sys
from pathlib import Path
from featpipe.files import Lock
with Lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Return another process that holds the lock of ``a.h5``."""
    command = [sys.executable, "-c", HOLDER, tmp_path / "a.h5"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.parametrize("hdf5_locks", ["TRUE", "FALSE"])
def test_a_second_writer_is_refused_at_once(
    photos, tmp_path, holder, monkeypatch, hdf5_locks
):
    # People switch HDF5's own locks off; ours does not depend on them.
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", hdf5_locks)
    start = time.perf_counter()
    with pytest.raises(
        LockedError, match=rf"a\.h5 is .*process {holder.pid} .*--break"
    ):
        run(photos, tmp_path / "a.h5")
    assert time.perf_counter() - start < 1
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "a.h5.lock"}
    # Another file in the same folder is none of its business.
    assert len(run(photos, tmp_path / "b.h5")[0]) == 6


def test_a_lock_of_a_dead_process_is_taken_over(photos, tmp_path, holder):
    holder.kill()
    holder.wait()
    assert (tmp_path / "a.h5.lock").exists()
    assert len(run(photos, tmp_path / "a.h5")[0]) == 6
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "a.h5"}


def test_a_lock_may_be_broken_and_its_holder_does_not_mind(photos, tmp_path, holder):
    assert len(run(photos, tmp_path / "a.h5", break_lock=True)[0]) == 6
    with Lock(tmp_path / "a.h5"):
        mine = (tmp_path / "a.h5.lock").read_text()
        holder.communicate()
        # Leaving, it leaves the lock that is not its own any more.
        assert (tmp_path / "a.h5.lock").read_text() == mine


def held_by(path: Path, **facts) -> Path:
    holder = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": "once",
    } | facts
    path.write_text(json.dumps(holder))
    return path


@pytest.mark.parametrize(
    "facts",
    [
        {"host": "elsewhere", "pid": 2**22 + 1},
        {"pid": "none"},
        {"pid": 10**30},
        {"started": lock._start_of(os.getpid())},
    ],
)
def test_a_lock_that_may_be_alive_is_respected(tmp_path, facts):
    path = held_by(tmp_path / "a.h5.lock", **facts)
    before = path.read_text()
    with (
        pytest.raises(LockedError, match=r"delete .*a\.h5\.lock"),
        Lock(tmp_path / "a.h5"),
    ):
        pass
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_that_got_the_number_of_a_dead_one_holds_nothing(tmp_path):
    held_by(tmp_path / "a.h5.lock", started="another boot 12345")
    with Lock(tmp_path / "a.h5"):
        assert json.loads((tmp_path / "a.h5.lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", "[]", "7", "\0\0"])
def test_a_lock_nobody_can_read_is_respected_until_broken(tmp_path, content):
    (tmp_path / "a.h5.lock").write_text(content)
    with (
        pytest.raises(LockedError, match=r"process \? on host"),
        Lock(tmp_path / "a.h5"),
    ):
        pass
    with Lock(tmp_path / "a.h5", break_lock=True):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_a_file_has_the_lock_of_the_file(photos, tmp_path, holder):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.h5"
    link.symlink_to(tmp_path / "a.h5")
    with pytest.raises(LockedError, match=rf"a\.h5 is .*process {holder.pid}"):
        run(photos, link)


def test_without_hard_links_the_lock_is_a_lock(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    with Lock(tmp_path / "a.h5"), pytest.raises(LockedError), Lock(tmp_path / "a.h5"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_name_as_long_as_may_be_is_locked(tmp_path):
    with Lock(tmp_path / ("x" * 250)), pytest.raises(LockedError):
        Lock(tmp_path / ("x" * 250)).__enter__()
    assert list(tmp_path.iterdir()) == []


MANY = """
import sys, time
from pathlib import Path
from featpipe.files import Lock, LockedError
path, until = Path(sys.argv[1]), time.time() + 0.6
taken = 0
while time.time() < until:
    try:
        with Lock(path):
            (path.parent / "inside").mkdir()
            taken += 1
            (path.parent / "inside").rmdir()
    except LockedError:
        pass
print(taken)
"""


def test_of_four_that_keep_asking_one_at_a_time_gets_it(tmp_path):
    # Two inside at once would fail at mkdir or rmdir.
    command = [sys.executable, "-c", MANY, tmp_path / "a.h5"]
    asking = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    lines = [process.communicate() for process in asking]
    assert [process.returncode for process in asking] == [0] * 4, lines
    assert sum(int(out) for out, _ in lines) > 10
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def slices_of_two(monkeypatch):
    monkeypatch.setattr(plan, "SLICE", 2)


def tables(result: codes.Codes) -> list:
    names = ("paths", "class_names", "failures", "notes", "depths", "images_root")
    arrays = ("labels", "splits", "groups", "sizes", "mtimes", "sha256")
    return [getattr(result, name) for name in names] + [
        getattr(result, name).tolist() for name in arrays
    ]


def test_shards_merged_are_the_whole_to_the_byte(photos, tmp_path, draw, slices_of_two):
    for k in range(6, 13):
        draw(photos / ("ant", "bee")[k % 2] / f"{k}.png", k)
    (photos / "ant" / "bad.png").write_text("no image")
    (photos / "ant" / "gone.png").symlink_to("nowhere")
    whole, _ = run(photos, tmp_path / "whole.h5")
    names, computed = [], 0
    for k in range(3):
        names.append(tmp_path / f"{k}.h5")
        _, progress = run(photos, names[-1], shard=(k, 3))
        computed += progress.computed
        # A shard resumes and updates as any other file.
        assert run(photos, names[-1], shard=(k, 3))[1].computed == 0
    assert computed == 13
    # In any order.
    merged = codes.merge(names[::-1], tmp_path / "merged.h5")
    assert tables(merged) == tables(whole)
    assert merged.provenance == whole.provenance
    for spec in whole.depths:
        X = merged.rows(spec, 0, 99)
        assert X.tobytes() == whole.rows(spec, 0, 99).tobytes()
    # The merged file goes on like one that was made whole.
    draw(photos / "ant" / "new.png", 100)
    assert run(photos, merged.path)[1].computed == 1
    with pytest.raises(
        CodesError, match="shard 1/3 is missing among 2 files; merge all"
    ):
        codes.merge([names[0], names[2]], tmp_path / "m.h5")
    with pytest.raises(CodesError, match=r"'.*' is both in .*0\.h5 and in .*0\.h5"):
        codes.merge([*names, names[0]], tmp_path / "m.h5")
    assert not (tmp_path / "m.h5").exists()


def test_a_shard_without_images_or_rows_is_a_file_that_merges(
    photos, tmp_path, slices_of_two
):
    (photos / "bee" / "3.png").write_text("no image")
    (photos / "bee" / "5.png").write_text("no image")
    (photos / "bee" / "1.png").rename(photos / "ant" / "3.png")
    depth = ["stem:avg", "body:map"]
    whole, _ = run(photos, tmp_path / "whole.h5", depth=depth)
    names = [tmp_path / f"{k}.h5" for k in range(5)]
    shards = [
        run(photos, name, depth=depth, shard=(k, 5))[0] for k, name in enumerate(names)
    ]
    assert [len(shard) for shard in shards] == [2, 2, 0, 0, 0]
    assert [len(shard.failures) for shard in shards] == [0, 0, 2, 0, 0]
    assert shards[4].shapes == {"stem:avg": (0, 4), "body:map": (0, 6, 4, 4)}
    assert run(photos, names[4], depth=depth, shard=(4, 5))[1].computed == 0
    merged = codes.merge(names, tmp_path / "merged.h5")
    assert tables(merged) == tables(whole)
    assert merged.rows("body", 0, 9).tobytes() == whole.rows("body", 0, 9).tobytes()


def test_shards_of_a_folder_that_has_changed_do_not_merge(
    photos, tmp_path, draw, slices_of_two
):
    # An image at the front moves all the others to other shards.
    run(photos, tmp_path / "0.h5", shard=(0, 2))
    draw(photos / "ant" / "!.png", 50)
    run(photos, tmp_path / "1.h5", shard=(1, 2))
    with pytest.raises(CodesError, match="no shards of the same images: extract every"):
        codes.merge([tmp_path / "0.h5", tmp_path / "1.h5"], tmp_path / "m.h5")
    run(photos, tmp_path / "0.h5", shard=(0, 2))
    merged = codes.merge([tmp_path / "0.h5", tmp_path / "1.h5"], tmp_path / "m.h5")
    assert len(merged) == 7


def test_a_shard_does_not_replace_another_or_the_whole(photos, tmp_path, slices_of_two):
    path = tmp_path / "a.h5"
    run(photos, path, shard=(0, 2))
    with pytest.raises(CodesError, match="holds shard 0/2, and now shard 1/2"):
        run(photos, path, shard=(1, 2))
    _, progress = run(photos, path)
    assert (progress.computed, progress.kept) == (2, 4)
    with pytest.raises(CodesError, match="holds all images, and now shard 1/2"):
        run(photos, path, shard=(1, 2))
    assert len(codes.read(path)) == 6


def made(path: Path, names: str, **changes) -> Path:
    codes.write(
        path,
        **{
            "codes": {"a": np.ones((len(names), 2), np.float32)},
            "labels": [0] * len(names),
            "class_names": ["x"],
            "paths": list(names),
            "images_root": "/photos",
            "provenance": {"backbone": "mini", "precision": "fp32"},
            **changes,
        },
    )
    return path


def test_merging_numbers_the_classes_anew(tmp_path):
    one = made(tmp_path / "1.h5", "ac", class_names=["bee", "wasp"], labels=[1, 0])
    two = made(tmp_path / "2.h5", "bd", class_names=["ant", "bee"], labels=[0, -1])
    merged = codes.merge([one, two], tmp_path / "m.h5")
    assert merged.paths == list("abcd")
    assert merged.class_names == ["ant", "bee", "wasp"]
    assert merged.labels.tolist() == [2, 0, 1, -1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"provenance": {"backbone": "mini", "precision": "bf16"}},
            "different precision, 'fp32' and 'bf16'",
        ),
        (
            {"provenance": {"backbone": "maxi", "precision": "fp32"}},
            "different backbone, 'mini' and 'maxi'",
        ),
        ({"codes": {"b": np.ones((2, 2), np.float32)}}, r"differ in depths: \['a'\]"),
        ({"images_root": "/other"}, "differ in images' root"),
        ({"codes": {"a": np.ones((2, 3), np.float32)}}, "another width at 'a'"),
        ({"paths": ["a", "z"]}, "'a' is both in"),
        (
            {"provenance": {"backbone": "mini", "precision": "fp32", "shard": 7}},
            "shard",
        ),
        (
            {
                "provenance": {
                    "backbone": "mini",
                    "precision": "fp32",
                    "shard": {"number": 0, "of": 10**12, "listing": ""},
                }
            },
            "is shard 0 of",
        ),
    ],
)
def test_files_that_do_not_belong_together_are_refused(tmp_path, changes, message):
    one, two = made(tmp_path / "1.h5", "ab"), made(tmp_path / "2.h5", "cd", **changes)
    with pytest.raises(CodesError, match=message):
        codes.merge([one, two], tmp_path / "m.h5")
    assert {path.name for path in tmp_path.iterdir()} == {"1.h5", "2.h5"}


def test_merging_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing to merge"):
        codes.merge([], tmp_path / "m.h5")
