import gzip
import io
import os
import pickle
import stat
import struct
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featpipe.images import Failure, ImageError, scan, tararchive
from featpipe.images.imageset import MAX_BYTES

SHARED = Path(__file__).parents[2] / "shared" / "data"
ENDINGS = [".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz"]
TREE = {
    "train/cats/1.jpg": b"one" * 1000,
    "train/dogs/2.jpg": os.urandom(3000),
    "val/cats/more/3.jpg": b"",
    "val/dogs/ü 4.jpg": b"four",
    "val/5.txt": b"5",
}


def pack(
    file: Path, tree: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED
) -> Path:
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w", method) as archive:
            for name, content in tree.items():
                archive.writestr(name, content)
    else:
        mode = "w:" + file.suffix[1:].replace("tar", "")
        with tarfile.open(file, mode) as archive:
            for name, content in tree.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return file


def contents(images) -> dict[str, bytes]:
    return {path: images.read(i) for i, path in enumerate(images.paths)}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("wrapper", ["", "photos/", "./", "./photos/"])
def test_an_archive_is_listed_like_its_folder(tmp_path, ending, wrapper):
    for name, content in TREE.items():
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / name).write_bytes(content)
    folder = scan(tmp_path / "src")
    tree = {wrapper + name: content for name, content in TREE.items()}
    images = scan(pack(tmp_path / f"t{ending}", tree))
    assert images.paths == folder.paths
    assert images.class_names == folder.class_names == ["cats", "dogs"]
    assert images.labels.tolist() == folder.labels.tolist()
    assert images.splits == folder.splits
    assert images.sizes.tolist() == folder.sizes.tolist()
    assert contents(images) == TREE == contents(folder)
    assert images.root == str(tmp_path / f"t{ending}")
    assert set(images.mtimes.tolist()) == {(tmp_path / f"t{ending}").stat().st_mtime_ns}


@pytest.mark.parametrize("ending", ENDINGS)
def test_threads_and_other_processes_can_read(tmp_path, ending):
    tree = {f"a/{k:03d}": os.urandom(k * 10) for k in range(200)}
    images = scan(pack(tmp_path / f"t{ending}", {"b/x": b"x", **tree}))
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(images.read, range(200)))
    assert read == list(tree.values())
    assert contents(pickle.loads(pickle.dumps(images))) == {"b/x": b"x", **tree}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2])
def test_other_compressions_of_zip_are_read(tmp_path, method):
    assert contents(scan(pack(tmp_path / "t.zip", TREE, method))) == TREE


def test_an_archive_is_known_by_its_content_too(tmp_path):
    for ending in ENDINGS:
        bare = tmp_path / "archive"
        pack(tmp_path / f"t{ending}", TREE).rename(bare)
        assert contents(scan(bare)) == TREE


def test_a_folder_with_the_name_of_a_split_is_no_wrapper(tmp_path):
    images = scan(pack(tmp_path / "t.zip", {"test/a/1": b"", "test/b/2": b""}))
    assert images.splits == ["test", "test"]
    assert images.class_names == ["a", "b"]


def test_unlabelled_and_contradicting_folders(tmp_path):
    file = pack(tmp_path / "t.zip", {"w/train/a/1": b"", "w/vla/b/2": b""})
    with pytest.raises(ValueError, match="'vla'"):
        scan(file)
    assert scan(file, unlabelled=True).paths == ["train/a/1", "vla/b/2"]


def test_hidden_members_and_the_notes_of_macs_are_counted(tmp_path):
    tree = {
        "w/a/1": b"",
        "w/a/.x": b"",
        "w/.git/y": b"",
        "w/.git/z": b"",
        "__MACOSX/w/a/._1": b"",
    }
    images = scan(pack(tmp_path / "t.zip", tree))
    assert images.paths == ["a/1"]
    assert (images.n_hidden, images.n_set_aside) == (2, 1)


def test_names_that_lead_out_of_the_archive_are_failures(tmp_path):
    unsafe = ["/etc/passwd", "../../x", "a/../../y", "C:\\z", "D:/z"]
    for ending in (".zip", ".tar"):
        images = scan(
            pack(tmp_path / f"t{ending}", dict.fromkeys([*unsafe, "a/1"], b""))
        )
        assert images.paths == ["1"]
        assert {failure.path for failure in images.failures} == set(unsafe)
        assert all("unsafe name" in failure.reason for failure in images.failures)


def test_zips_with_backslashes_are_understood(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        for name in ("a\\1.jpg", "b\\2.jpg"):
            member = zipfile.ZipInfo("x")
            member.filename, member.create_system = name, 0
            archive.writestr(member, name)
    images = scan(tmp_path / "t.zip")
    assert images.paths == ["a/1.jpg", "b/2.jpg"]
    assert images.read(1) == b"b\\2.jpg"


def test_backslashes_among_slashes_are_understood_where_they_lie_as_deep(tmp_path):
    names = ["six/a/1", "six\\a\\2", "six/b\\3", "six/b/o\\dd", "README"]
    for ending in (".zip", ".tar"):
        content = {name: name.encode() for name in names}
        images = scan(pack(tmp_path / f"t{ending}", content))
        assert images.paths == ["a/1", "a/2", "b/3", "b/o\\dd"]
        assert images.read(1) == b"six\\a\\2"


def test_links_devices_and_sparse_files_in_a_tar_are_failures(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("a/ok"))
        for kind in (
            tarfile.SYMTYPE,
            tarfile.LNKTYPE,
            tarfile.FIFOTYPE,
            tarfile.CHRTYPE,
        ):
            member = tarfile.TarInfo(f"a/{kind.decode()}")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    images = scan(tmp_path / "t.tar")
    assert images.paths == ["ok"]
    assert [failure.path for failure in images.failures] == ["1", "2", "3", "6"]
    assert {failure.reason for failure in images.failures} == {
        "a link, device or sparse file in an archive"
    }


def test_links_encrypted_and_huge_members_of_a_zip_are_failures(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        link = zipfile.ZipInfo("a/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("a/locked", b"secret")
        archive.writestr("a/bomb", b"0")
        archive.writestr("a/lzma", b"0" * 99, zipfile.ZIP_LZMA)
        archive.writestr("a/ok", b"ok")
        archive.getinfo("a/locked").flag_bits |= 1  # in the directory, written at last
        archive.getinfo("a/bomb").file_size = MAX_BYTES + 1
    images = scan(tmp_path / "t.zip")
    assert images.paths == ["ok"]
    assert images.failures == [
        Failure(
            "bomb",
            "scan",
            "1,073,741,825 bytes, more than the 1,073,741,824 that an"
            " image file may have",
        ),
        Failure("link", "scan", "a link or device in an archive"),
        Failure("locked", "scan", "encrypted"),
        Failure("lzma", "scan", "compressed by method 14; use deflate"),
    ]


def test_a_member_that_is_longer_than_it_says_is_cut_off_early(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1", bytes(50_000_000))
        archive.getinfo("a/1").file_size = 100
    with pytest.raises(ImageError, match="size or checksum is wrong") as caught:
        scan(tmp_path / "t.zip").read(0)
    assert caught.value.stage == "read"


def test_of_two_members_with_one_name_the_later_counts(tmp_path):
    for ending in (".zip", ".tar"):
        file = tmp_path / f"t{ending}"
        if ending == ".zip":
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("a/1", b"old")
                with pytest.warns(UserWarning, match="Duplicate name"):
                    archive.writestr("a/1", b"new")
        else:
            pack(file, {"a/1": b"old"})
            with tarfile.open(file, "a") as archive:
                member = tarfile.TarInfo("a/1")
                member.size = 3
                archive.addfile(member, io.BytesIO(b"new"))
        images = scan(file)
        assert contents(images) == {"1": b"new"}
        assert "same name" in images.failures[0].reason


def test_an_archive_that_changed_since_the_scan_is_not_misread(tmp_path):
    for ending in (".zip", ".tar"):
        file = pack(tmp_path / f"t{ending}", TREE)
        images = scan(file)
        pack(file, {**TREE, "train/cats/0.jpg": b"new"})
        with pytest.raises(ImageError, match="changed since it was listed"):
            images.read(0)
        file.unlink()
        with pytest.raises(ImageError, match="no such file"):
            images.read(0)


def test_any_bytes_in_the_names_of_a_tar_come_through(tmp_path):
    name = os.fsdecode(b"w/\xff\xfe new\nline " + b"x" * 200)
    images = scan(pack(tmp_path / "t.tar", {name: b"1", "v/x": b""}))
    assert name in images.paths
    assert contents(images)[name] == b"1"


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_archive_cut_short_is_refused(tmp_path, ending):
    tree = {f"a/{k}": os.urandom(2000) for k in range(20)}
    file = pack(tmp_path / f"t{ending}", tree)
    os.truncate(file, file.stat().st_size * 2 // 3)
    with pytest.raises(ValueError, match=r"is no whole|cannot be read"):
        scan(file)


def test_a_damaged_header_within_a_tar_is_not_taken_for_its_end(tmp_path):
    file = pack(tmp_path / "t.tar", {f"a/{k}": b"1" * 512 for k in range(9)})
    damaged = bytearray(file.read_bytes())
    damaged[4 * 1024 + 148] ^= 0x55  # the checksum of the fifth member
    file.write_bytes(damaged)
    with pytest.raises(ValueError, match="damaged after 4 members"):
        scan(file)


def test_a_tar_that_decompresses_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tararchive, "_LEAST_LIMIT", 2**20)
    file = tmp_path / "t.tar.gz"
    file.write_bytes(gzip.compress(b"x") + gzip.compress(bytes(2**25), 9))
    with pytest.raises(ValueError, match="decompresses to more than"):
        scan(file)


def test_no_room_for_decompressing_is_said(tmp_path, monkeypatch):
    def full() -> IO[bytes]:
        return Path("/dev/full").open("r+b")

    monkeypatch.setattr(tararchive.tempfile, "TemporaryFile", full)
    file = pack(tmp_path / "t.tar.gz", TREE)
    with pytest.raises(
        ValueError, match=r"no room to decompress it in .*No space left"
    ):
        scan(file)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
@pytest.mark.parametrize("ending", ENDINGS[:3])
def test_damage_gives_an_error_or_the_right_bytes(tmp_path, ending, data):
    tree = {f"w/{k % 2}/{k}": bytes([k]) * 300 for k in range(4)}
    whole = pack(tmp_path / f"whole{ending}", tree).read_bytes()
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(
            st.integers(1, 255)
        )
    file = tmp_path / f"damaged{ending}"
    file.write_bytes(damaged)
    try:
        images = scan(file)
    except ValueError:
        return
    for i in range(len(images)):
        try:
            content = images.read(i)
        except ImageError:
            continue
        if ending == ".zip":  # a plain tar has no checksum of what is in it
            assert content in tree.values()


def test_a_zip_whose_local_header_is_elsewhere_is_a_read_failure(tmp_path):
    file = pack(tmp_path / "t.zip", {"a/1": b"x", "b/2": b"y"})
    damaged = bytearray(file.read_bytes())
    entry = damaged.index(b"PK\x01\x02")
    struct.pack_into("<L", damaged, entry + 42, 7)
    file.write_bytes(damaged)
    with pytest.raises(ImageError, match="no member there"):
        scan(file).read(0)


@pytest.mark.skipif(
    not SHARED.exists(), reason=f"{SHARED} is missing; see CONTRIBUTING.md"
)
def test_tinyimagenet_is_listed_whole():
    images = scan(SHARED / "tinyimagenet.zip")
    assert len(images) == 64_000
    assert images.n_set_aside == 1  # classes.tsv, which is no image
    assert images.splits.count("train") == 60_000
    assert images.splits.count("val") == 4_000
    assert len(images.class_names) == 200
    assert [(images.labels == k).sum() for k in range(200)] == [320] * 200
    assert images.read(63_999)[:2] == b"\xff\xd8"
