"""Names that play tricks, in tables, archives, codes files and models.

Nothing is read that is no regular file, nothing waited for, nothing made or changed;
every name is a row or a failure, and none reaches a terminal raw.
"""

import csv
import io
import os
import socket
import stat
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path

import mutants
import numpy as np
import pytest
from typer.testing import CliRunner

from featpipe import codes, images
from featpipe.cli.app import app
from featpipe.images import ImageError
from featpipe.report.thumbnails import make_sheet

# Names that lead nowhere, everywhere, or to what is no file.
TRICKS = (
    "../none.png",
    "../../../../../../../../etc/passwd",
    "/etc/passwd",
    "//etc/passwd",
    "/proc/self/environ",
    "/proc/self/mem",
    "/dev/zero",
    "/dev/stdin",
    "/dev/fd/0",
    "a\0b.png",
    "ant\\..\\..\\x.png",
    "C:\\x.png",
    "\\\\host\\share\\x.png",
    "file:///etc/passwd",
    "http://localhost/x.png",
    "CON.png",
    "~/x.png",
    "$HOME/x.png",
    "%2e%2e/x.png",
    "a\x1b]0;title\x07\x1b[31m.png",
    "a\u202egnp.exe",
    "a\x7f\x9b31m.png",
    "x" * 300 + ".png",
    "y/" * 3000 + "x.png",
    "ant/./../ant/none.png",
    "fifo",
    "socket",
    "node",
    "folder",
    "out",
    "loop",
    ".",
)


@pytest.fixture
def place(tmp_path, draw):
    """Make a folder with two images, and with what is no image under harmless names."""
    for k, name in enumerate(("ant", "bee")):
        draw(tmp_path / name / "fine.png", k)
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(tmp_path / "socket"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "out").symlink_to("/etc")
    (tmp_path / "loop").symlink_to("loop")
    with suppress(PermissionError):  # if not root, another name that is not there
        os.mknod(tmp_path / "node", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    return tmp_path


def table(place: Path, names: tuple[str, ...]) -> Path:
    path = place / "table.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, quoting=csv.QUOTE_ALL)
        lines.writerow(["path", "label"])
        lines.writerows([name, f"class {k % 2}"] for k, name in enumerate(names))
    return path


@pytest.mark.parametrize("name", TRICKS)
def test_a_table_with_a_tricky_path_reads_no_more_than_files(name, place):
    image_set = images.scan(table(place, ("ant/fine.png", name, "bee/fine.png")))
    assert {"ant/fine.png", "bee/fine.png"} <= set(image_set.paths)
    assert len(image_set) + len(image_set.failures) == 3
    for k, listed in enumerate(image_set.paths):
        if listed in ("ant/fine.png", "bee/fine.png"):
            images.decode(image_set.read(k))
        else:
            with pytest.raises(ImageError, match=r"\w"):
                images.decode(image_set.read(k))
    for failure in image_set.failures:
        assert failure.path.replace("\\", "/") == name.replace("\\", "/")
        assert failure.reason


def test_the_codes_of_a_tricky_table_are_those_of_its_images(place):
    path = table(place, ("ant/fine.png", *TRICKS, "bee/fine.png"))
    before = sorted(place.iterdir())
    command = ["extract", path, "-o", place / "c.h5", "--backbone", "networks:tiny"]
    command += ["--weights", "none", "--input-size", "16", "--workers", "1"]
    done = CliRunner().invoke(app, list(map(str, command)))
    assert done.exit_code == 0, done.output
    for odd in "\x1b\x07\x7f\x9b\u202e":
        assert odd not in done.output
    file = codes.verify(place / "c.h5")
    assert file.paths == ["ant/fine.png", "bee/fine.png"]
    assert len(file.failures) == len(TRICKS)
    assert {stage for _, stage, _ in file.failures} <= {"scan", "read", "decode"}
    assert sorted(place.iterdir()) == sorted([*before, place / "c.h5"])


MEMBERS = [name for name in TRICKS if len(name) < 2**12 and name != "."]
MEMBERS += ["ant/\r\nfake.png", "a//b///c.png", "./a.png", "ant/" + "d" * 4000]


def zip_member(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    info = zipfile.ZipInfo("x")
    info.filename = name  # as it is: ZipInfo itself would mend some
    archive.writestr(info, content)


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_member_with_a_tricky_name_stays_in_its_archive(kind, name, place):
    fine = (place / "ant" / "fine.png").read_bytes()
    path = place / f"a.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for member in ("ant/fine.png", "bee/fine.png", name):
                zip_member(archive, member, fine)
    else:
        with tarfile.open(path, "w") as archive:
            for member in ("ant/fine.png", "bee/fine.png", name):
                entry = tarfile.TarInfo(member)
                entry.size = len(fine)
                archive.addfile(entry, io.BytesIO(fine))
    before = sorted(place.rglob("*"))
    image_set = images.scan(path)
    assert {"ant/fine.png", "bee/fine.png"} <= set(image_set.paths)
    assert all(image_set.read(k) == fine for k in range(len(image_set)))
    for listed in image_set.paths:
        assert ".." not in listed.split("/")
        assert not listed.startswith("/")
    assert (
        len(image_set)
        + len(image_set.failures)
        + image_set.n_hidden
        + image_set.n_set_aside
        == 3
    )
    assert sorted(place.rglob("*")) == before


LINKS = {
    "symlink": (tarfile.SYMTYPE, "/etc/passwd"),
    "symlink up": (tarfile.SYMTYPE, "../../etc/passwd"),
    "hard link": (tarfile.LNKTYPE, "/etc/passwd"),
    "hard link to a member": (tarfile.LNKTYPE, "ant/fine.png"),
    "character device": (tarfile.CHRTYPE, ""),
    "block device": (tarfile.BLKTYPE, ""),
    "fifo": (tarfile.FIFOTYPE, ""),
}


@pytest.mark.parametrize("what", LINKS)
def test_a_tar_member_that_is_no_file_is_a_failure(what, place):
    fine = (place / "ant" / "fine.png").read_bytes()
    with tarfile.open(place / "a.tar", "w") as archive:
        for member in ("ant/fine.png", "bee/fine.png", "ant/trick.png"):
            entry = tarfile.TarInfo(member)
            if "trick" in member:
                entry.type, entry.linkname = LINKS[what]
                archive.addfile(entry)
                continue
            entry.size = len(fine)
            archive.addfile(entry, io.BytesIO(fine))
    image_set = images.scan(place / "a.tar")
    assert image_set.paths == ["ant/fine.png", "bee/fine.png"]
    [failure] = image_set.failures
    assert failure.path == "ant/trick.png"
    assert "a link, device or sparse file" in failure.reason


def written(
    place: Path, names: list[str], root: str, label: str = "ant"
) -> codes.Codes:
    """Write a codes file in which somebody says what its images are called."""
    n = len(names)
    codes.write(
        place / "said.h5",
        codes={"penultimate": np.ones((n, 3), np.float32)},
        labels=[k % 2 for k in range(n)],
        class_names=[label, "bee"],
        paths=names,
        images_root=root,
    )
    return codes.verify(place / "said.h5")


@pytest.mark.parametrize("root", ["", "/", "/dev", "fifo", "loop", "a\0b", "x" * 5000])
def test_pictures_of_a_codes_file_come_from_regular_files_alone(root, place):
    names = [*TRICKS, "zero", "stdin", "passwd"]
    there = str(place / root) if root and not root.startswith("/") else root
    result = written(place, names, there or str(place))
    assert (
        result.paths == names
    )  # they come back unchanged, and mean nothing by themselves
    sheet = make_sheet(result, range(len(result)))
    assert sheet.place == {}
    assert set(sheet.missing) == set(range(len(result)))


def test_odd_names_in_a_codes_file_never_reach_a_terminal_raw(place):
    label = "ant\x1b]0;x\x07\x9b31m\u202e"
    written(place, ["a\x1b[31m.png", "b\x07.png"], "/root\x1b[2J", label)
    for command in ("inspect", "verify"):
        done = CliRunner().invoke(app, [command, str(place / "said.h5")])
        assert done.exit_code == 0, done.output
        for odd in "\x1b\x07\x9b\u202e":
            assert odd not in done.output


def test_a_file_is_known_for_an_image_by_how_it_begins(tmp_path):
    path = tmp_path / "x"
    for name, content in mutants.pictures():
        path.write_bytes(content)
        assert images.is_image_file(path), name
    texts = (b"path,label\n", b'{"seed": 3}', b"<!doctype html>", b"BM,label\nP1,a\n",
             b"P1\n", b"", mutants.CODES, mutants.MODEL)  # fmt: skip
    for content in texts:
        path.write_bytes(content)
        assert not images.is_image_file(path), content[:20]
    os.mkfifo(tmp_path / "fifo")
    for other in ("fifo", ".", "none", "a\0b"):
        assert not images.is_image_file(tmp_path / other)
