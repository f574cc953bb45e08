"""Outputs: whole or not at all, links followed, devices and FIFOs written to."""

import errno
import os
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from featpipe import files
from featpipe.files import Lock, LockedError, atomic


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_is_replaced_and_keeps_its_permissions(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    path.chmod(0o600)
    files.write_text(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(tmp_path) == {"a.json"}


@pytest.mark.parametrize("there", [True, False])
def test_a_chain_of_links_stays_and_its_end_is_written(tmp_path, there):
    (tmp_path / "far").mkdir()
    target = tmp_path / "far" / "a.json"
    if there:
        target.write_text("old")
    (tmp_path / "one").symlink_to("far/two")
    (tmp_path / "far" / "two").symlink_to("a.json")
    files.write_bytes(tmp_path / "one", b"new")
    assert (tmp_path / "one").is_symlink()
    assert (tmp_path / "far" / "two").is_symlink()
    assert target.read_text() == "new"
    assert names(tmp_path / "far") == {"two", "a.json"}


def test_links_in_a_circle_are_an_error_with_the_path(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="links") as caught:
        files.write_bytes(tmp_path / "a", b"x")
    assert str(tmp_path / "a") in str(caught.value)
    assert names(tmp_path) == {"a", "b"}


def test_a_fifo_is_written_to_and_stays(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    got = []
    reader = threading.Thread(
        target=lambda: got.append((tmp_path / "fifo").read_bytes())
    )
    reader.start()
    files.write_bytes(tmp_path / "link", b"x" * 300_000)
    reader.join()
    assert got == [b"x" * 300_000]
    assert (tmp_path / "fifo").is_fifo()
    assert names(tmp_path) == {"fifo", "link"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device nodes")
def test_a_device_is_written_to_and_stays(tmp_path):
    node = tmp_path / "null"
    try:
        os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("device nodes cannot be made here")
    (tmp_path / "link").symlink_to("null")
    for path in (node, tmp_path / "link"):
        # A folder may be mounted without devices; the node is there none the less.
        with suppress(PermissionError):
            files.write_bytes(path, b"x")
        assert node.is_char_device()
        assert (tmp_path / "link").is_symlink()


WRITES_TO_STDOUT = """
import sys
from featpipe import files
print("before", flush=False)
files.write_bytes(sys.argv[1], b"written\\n")
print("after")
"""


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_standard_output_is_written_to_in_turn(tmp_path, name, kind):
    link = tmp_path / "link"
    link.symlink_to(name)
    command = [sys.executable, "-c", WRITES_TO_STDOUT, link]
    if kind == "pipe":
        text = subprocess.run(command, capture_output=True, check=True).stdout
    else:
        with (tmp_path / "out").open("wb") as out:
            subprocess.run(command, stdout=out, check=True)
        text = (tmp_path / "out").read_bytes()
    assert text == b"before\nwritten\nafter\n"
    assert link.is_symlink()


def test_a_reader_that_leaves_is_an_error_and_no_silent_end(tmp_path):
    os.mkfifo(tmp_path / "fifo")

    def leave():
        (tmp_path / "fifo").open("rb").close()

    reader = threading.Thread(target=leave)
    reader.start()
    with pytest.raises(OSError, match=r"cannot write .*fifo") as caught:
        files.write_bytes(tmp_path / "fifo", b"x" * 10_000_000)
    reader.join()
    assert not isinstance(caught.value, BrokenPipeError)


KILLED = """
import os, signal, sys
from pathlib import Path
from featpipe import files
with files.replacing(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    if sys.argv[2] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    print("open", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_writer_left_goes_and_what_a_live_one_writes_stays(tmp_path):
    path, other = tmp_path / "a.json", tmp_path / ".a.json.notes.tmp"
    other.write_text("of somebody else")
    command = [sys.executable, "-c", KILLED, path]
    assert subprocess.run([*command, "die"], check=False).returncode == -9
    assert len(names(tmp_path)) == 2
    live = subprocess.Popen(
        [*command, "live"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with live:
        assert live.stdout.readline() == "open\n"
        files.write_text(path, "mine")
        assert path.read_text() == "mine"
        assert len(names(tmp_path)) == 3
        live.communicate("")
    assert live.returncode == 0
    assert path.read_text() == "half"
    assert names(tmp_path) == {"a.json", other.name}


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), files.replacing(path) as file:
        file.write(b"x" * (1 // 0))
    assert path.read_text() == "old"
    assert names(tmp_path) == {"a.json"}


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EACCES]
)
def test_the_sentence_has_path_bytes_needed_and_free(tmp_path, monkeypatch, number):
    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=r"a\.json: .*; it needs 1,234 bytes and .* free"):
        files.write_bytes(tmp_path / "a.json", b"x" * 1234)
    assert names(tmp_path) == set()


def test_names_as_long_as_may_be_are_written(tmp_path):
    for name in ("x" * 255, "ü" * 127):
        files.write_bytes(tmp_path / name, b"x")
    assert len(names(tmp_path)) == 2


def test_outputs_that_are_inputs_or_one_another_are_refused(tmp_path):
    a, b, link, hard = (tmp_path / name for name in ("a", "b", "link", "hard"))
    a.write_text("x")
    link.symlink_to("a")
    os.link(a, hard)
    for output in (a, link, hard, tmp_path / "." / "a", tmp_path / "x" / ".." / "a"):
        with pytest.raises(ValueError, match=r"--json would replace FILE\.h5, .*a;"):
            files.require_distinct({"--json": output}, {"FILE.h5": a})
    (tmp_path / "to b").symlink_to("b")
    with pytest.raises(ValueError, match="--csv and --json are one file"):
        files.require_distinct({"--json": b, "--csv": tmp_path / "to b"}, {})
    files.require_distinct({"--json": b, "--csv": None}, {"FILE.h5": a})
    os.mkfifo(tmp_path / "fifo")
    fifo = tmp_path / "fifo"
    files.require_distinct({"--json": fifo, "--csv": fifo}, {})


def test_what_belongs_to_an_output_is_known_by_name_and_folder(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "link").symlink_to("src")
    belongs = files.belongs_to(tmp_path / "link" / "c.h5")
    for folder in ("src", "link"):
        for name in ("c.h5", "c.h5.lock", "c.h5.parts"):
            assert belongs(str(tmp_path / folder / name))
    assert not belongs(str(tmp_path / "src" / "d.h5"))
    assert not belongs(str(tmp_path / "src" / "a" / "c.h5"))


@pytest.mark.parametrize("kind", ["fifo", "socket", "folder", "link to a fifo", "huge"])
def test_a_lock_that_is_no_lock_is_respected_at_once(tmp_path, kind):
    path = tmp_path / "a.h5.lock"
    if kind == "folder":
        path.mkdir()
    elif kind == "huge":
        path.write_bytes(b"[" * 10_000_000)
    elif kind == "socket":
        import socket

        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    else:
        os.mkfifo(tmp_path / "fifo" if "link" in kind else path)
        if "link" in kind:
            path.symlink_to("fifo")
    start = time.perf_counter()
    with (
        pytest.raises(LockedError, match=r"delete .*a\.h5\.lock"),
        Lock(tmp_path / "a.h5"),
    ):
        pass
    assert time.perf_counter() - start < 1
    if kind == "folder":
        with pytest.raises(OSError, match="in the way of a lock; remove it"):
            Lock(tmp_path / "a.h5", break_lock=True).__enter__()
    else:
        with Lock(tmp_path / "a.h5", break_lock=True):
            pass
        assert not path.exists()


def test_a_folder_that_others_keep_locked_is_not_waited_for_for_ever(
    tmp_path, monkeypatch
):
    import fcntl

    monkeypatch.setattr("featpipe.files.lock._TIMEOUT", 0.1)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(LockedError, match=r"locked \(flock\)"):
        Lock(tmp_path / "a.h5").__enter__()
    os.close(descriptor)


def test_a_lock_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

    def create(path):
        path.touch()
        return Full()

    monkeypatch.setattr("featpipe.files.lock.create", create)
    with pytest.raises(OSError, match=r"no file can be made in .*No space"):
        Lock(tmp_path / "a.h5").__enter__()
    assert names(tmp_path) == set()


def test_a_temporary_file_removed_before_it_was_locked_is_made_again(
    tmp_path, monkeypatch
):
    plain, made = atomic.create, []

    def create(path):
        file = plain(path)
        made.append(path)
        if len(made) == 1:
            path.unlink()  # another writer, that swept between creation and lock
        return file

    monkeypatch.setattr(atomic, "create", create)
    files.write_bytes(tmp_path / "a", b"x")
    assert len(made) == 2
    assert (tmp_path / "a").read_bytes() == b"x"
