"""Disks that cannot lock or reserve, processes of others, and JSON from anywhere."""

import errno
import io
import json
import os
import socket
from pathlib import Path

import h5py
import numpy as np
import pytest

from featpipe import files
from featpipe.files import Lock, LockedError, ReservedFile, atomic, lock


def reserved(
    path: Path, reserve: int = 100_000
) -> tuple[ReservedFile, io.BufferedRandom]:
    file = atomic.create(path)
    return ReservedFile(file, reserve), file


def test_what_libhdf5_writes_into_reserved_space_is_an_hdf5_file(tmp_path):
    numbers = np.arange(12.0).reshape(3, 4)
    kept, file = reserved(tmp_path / "a.h5")
    assert (tmp_path / "a.h5").stat().st_size == 100_000
    with file:
        with h5py.File(kept, "w") as h5:
            h5["numbers"] = numbers
        kept.finish()
    assert (tmp_path / "a.h5").stat().st_size < 100_000
    with h5py.File(tmp_path / "a.h5") as h5:
        assert (h5["numbers"][:] == numbers).all()


def test_a_reserved_file_reads_and_ends_where_it_was_written(tmp_path):
    kept, file = reserved(tmp_path / "a")
    with file:
        assert kept.readable()
        assert kept.write(b"abcdef") == 6
        assert kept.tell() == kept.seek(0, os.SEEK_END) == 6
        assert kept.seek(-4, os.SEEK_CUR) == 2
        into = bytearray(10)
        assert kept.readinto(into) == 4  # the 100,000 bytes behind are not there yet
        assert into[:4] == b"cdef"
        assert kept.readinto(into) == 0
        kept.seek(3)
        assert kept.truncate() == 3
        kept.flush()
        kept.finish()
    assert (tmp_path / "a").read_bytes() == b"abc"


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_a_disk_that_cannot_reserve_is_written_to_all_the_same(
    number, tmp_path, monkeypatch
):
    def refuse(*args: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    kept, file = reserved(tmp_path / "a")
    with file:
        kept.write(b"abc")
        kept.finish()
    assert (tmp_path / "a").read_bytes() == b"abc"


def test_a_full_disk_shows_when_space_is_reserved(tmp_path):
    with (
        atomic.create(tmp_path / "a") as file,
        pytest.raises(OSError, match=r".") as message,
    ):
        ReservedFile(file, 2**62)
    assert message.value.errno in (errno.EFBIG, errno.ENOSPC)


def test_an_error_is_kept_from_libhdf5_and_raised_in_the_end(tmp_path):
    kept, file = reserved(tmp_path / "a")
    kept.write(b"abc")
    file.close()
    # The counts go on: libhdf5 would end the process at an error.
    assert kept.write(b"def") == 3
    assert kept.readinto(bytearray(9)) == 0
    kept.flush()
    with pytest.raises(ValueError, match="closed file"):
        kept.finish()


def held(path: Path, **facts: object) -> Path:
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "key": "k", **facts}
    path.write_text(json.dumps(holder))
    return path


def refuse_locks(*args: object) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


@pytest.mark.parametrize("how", ["no flock on this disk", "a system without fcntl"])
def test_where_nothing_can_be_flocked_files_and_locks_still_work(
    how, tmp_path, monkeypatch
):
    if how == "a system without fcntl":
        monkeypatch.setattr(atomic, "fcntl", None)
        monkeypatch.setattr(lock, "fcntl", None)
    else:
        monkeypatch.setattr(atomic.fcntl, "flock", refuse_locks)
    left = tmp_path / f".a.{'0' * 32}.tmp"
    left.touch()
    files.write_bytes(tmp_path / "a", b"1")
    files.write_bytes(tmp_path / "a", b"22")
    with Lock(tmp_path / "a"), pytest.raises(LockedError), Lock(tmp_path / "a"):
        pass
    assert (tmp_path / "a").read_bytes() == b"22"
    # Nobody can tell whether it is still being written: it stays.
    assert {path.name for path in tmp_path.iterdir()} == {"a", left.name}


def test_a_process_of_another_user_is_alive(tmp_path, monkeypatch):
    def refuse(pid: int, number: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "kill", refuse)
    held(tmp_path / "a.lock", started=lock._start_of(os.getpid()))
    with pytest.raises(LockedError, match=f"process {os.getpid()} on host"):
        Lock(tmp_path / "a").__enter__()
    assert files.key_of(tmp_path / "a") == "k"
    held(tmp_path / "a.lock", key=7)
    assert files.key_of(tmp_path / "a") is None


def test_a_process_that_is_not_there_has_no_start():
    assert lock._start_of(2**22 + 1) is None
    assert lock._start_of(os.getpid()) == lock._start_of(os.getpid()) is not None


def test_a_lock_without_hard_links_that_cannot_be_written_is_not_left(
    tmp_path, monkeypatch
):
    plain = atomic.create

    class Full(io.BytesIO):
        def write(self, content: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def create(path: Path) -> object:
        if path.suffix == ".tmp":
            return plain(path)
        path.touch()
        return Full()

    def refuse(*args: object) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(lock, "create", create)
    with pytest.raises(OSError, match="No space left"):
        Lock(tmp_path / "a").__enter__()
    assert list(tmp_path.iterdir()) == []


def test_json_from_anywhere_is_read_or_refused_at_once(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"seed": 3}', encoding="utf-8")
    assert files.read_json(path) == {"seed": 3}
    for content, reason in (
        ("[" * 100_000, "nested too deep"),
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": -Infinity}', "-Infinity is not JSON"),
        ('{"a": 1e999}', "1e999 is not finite"),
        ('{"a": -18446744073709551616}', "more than 64 bits"),
        ("9" * 9999, "more than 64 bits"),
        ("", "Expecting value"),
        ("\udcff", "not text"),
    ):
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
        with pytest.raises(ValueError, match=reason):
            files.read_json(path)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    for name in ("fifo", "link", "."):
        with pytest.raises(ValueError, match="not a file"):
            files.read_json(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        files.read_json(tmp_path / "none")
