import io
import os
import pickle
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featpipe.images import Failure, ImageError, reading, scan
from featpipe.images.folder_names import SPLITS
from featpipe.images.imageset import MAX_BYTES

SHARED = Path(__file__).parents[2] / "shared" / "data"


def make(root: Path, *paths: str) -> Path:
    """Write files whose content is their path."""
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.fsencode(path))
    return root


def labels(images) -> dict[str, tuple[str, str]]:
    """Path -> (split, class name)."""
    names = [*images.class_names, ""]
    return {
        path: (split, names[label])
        for path, split, label in zip(
            images.paths, images.splits, images.labels, strict=True
        )
    }


def test_first_level_is_the_class_and_deeper_levels_belong_to_it(tmp_path):
    make(tmp_path, "cats/1.jpg", "cats/more/even/2.jpg", "ants/x.png", "loose.jpg")
    images = scan(tmp_path)
    assert images.class_names == ["ants", "cats"]
    assert labels(images) == {
        "ants/x.png": ("", "ants"),
        "cats/1.jpg": ("", "cats"),
        "cats/more/even/2.jpg": ("", "cats"),
        "loose.jpg": ("", ""),
    }
    assert images.labels.dtype == np.int64
    assert images.labels.tolist() == [0, 1, 1, -1]


def test_columns_agree_with_the_file_system(tmp_path):
    make(tmp_path, "b/1", "a/22", "a/1")
    images = scan(tmp_path)
    assert images.root == str(tmp_path)
    assert images.paths == ["a/1", "a/22", "b/1"]
    stats = [(tmp_path / path).stat() for path in images.paths]
    assert images.sizes.tolist() == [status.st_size for status in stats]
    assert images.mtimes.tolist() == [status.st_mtime_ns for status in stats]
    assert [images.read(i) for i in range(3)] == [b"a/1", b"a/22", b"b/1"]


@pytest.mark.filterwarnings("ignore:.*folders taken for splits")
@pytest.mark.parametrize("name", [*SPLITS, "Train", "TEST"])
def test_every_name_of_a_split_means_its_split(tmp_path, name):
    make(tmp_path, f"{name}/cats/1.jpg", f"{name}/2.jpg")
    split = SPLITS[name.lower()]
    assert labels(scan(tmp_path)) == {
        f"{name}/cats/1.jpg": (split, "cats"),
        f"{name}/2.jpg": (split, ""),
    }


def test_other_folders_beside_train_are_refused_by_name(tmp_path):
    make(tmp_path, "train/cats/1.jpg", "val/cats/2.jpg", "vla/cats/3.jpg")
    with pytest.raises(ValueError, match=r"beside it 'vla', not the name of a split"):
        scan(tmp_path)
    assert len(scan(tmp_path, unlabelled=True)) == 3


def test_without_train_one_class_name_makes_all_folders_classes(tmp_path):
    make(tmp_path, "test/1.jpg", "validation/2.jpg", "cats/3.jpg")
    with pytest.warns(UserWarning, match=r"'test', 'validation' may be names of spl"):
        images = scan(tmp_path)
    assert images.class_names == ["cats", "test", "validation"]
    assert set(images.splits) == {""}


def test_unlabelled_ignores_what_folders_mean(tmp_path):
    make(tmp_path, "train/cats/1.jpg", "val/dogs/2.jpg")
    images = scan(tmp_path, unlabelled=True)
    assert images.class_names == []
    assert images.labels.tolist() == [-1, -1]
    assert images.splits == ["", ""]
    make(tmp_path, "val/cats/3.jpg")
    assert scan(scan(tmp_path), unlabelled=True).class_names == []


def test_hidden_names_are_counted_and_not_listed(tmp_path):
    make(tmp_path, "a/1.jpg", "a/._1.jpg", ".DS_Store", ".git/x/y", "a/.cache/z")
    images = scan(tmp_path)
    assert images.paths == ["a/1.jpg"]
    assert images.n_hidden == 4


def test_order_is_that_of_the_bytes(tmp_path):
    names = ["Z", "a", "a b", "a-b", "ä", "a.jpg", "ａ", "𝒶"]
    make(tmp_path, *names)
    assert scan(tmp_path).paths == sorted(names, key=os.fsencode)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(
        st.binary(min_size=1, max_size=255).filter(
            lambda name: not set(name) & {0, ord("/")} and not name.startswith(b".")
        ),
        min_size=1,
        max_size=5,
        unique=True,
    )
)
def test_any_bytes_in_a_name_come_through(tmp_path_factory, names):
    root = tmp_path_factory.mktemp("names")
    for name in names:
        Path(os.fsdecode(os.fsencode(root) + b"/" + name)).write_bytes(name)
    images = scan(root)
    assert [os.fsencode(path) for path in images.paths] == sorted(names)
    assert [images.read(i) for i in range(len(names))] == sorted(names)


def test_very_deep_paths_come_through(tmp_path):
    deep = "/".join(["d" * 200] * 15)
    images = scan(make(tmp_path, f"cats/{deep}/x.jpg"))
    assert images.paths == [f"cats/{deep}/x.jpg"]
    assert images.read(0)
    assert images.class_names == ["cats"]


def test_links_to_files_are_images_and_links_to_folders_are_followed(tmp_path):
    make(tmp_path, "elsewhere/1.jpg", "src/cats/2.jpg")
    (tmp_path / "src" / "cats" / "link.jpg").symlink_to("2.jpg")
    (tmp_path / "src" / "dogs").symlink_to(tmp_path / "elsewhere")
    images = scan(tmp_path / "src")
    assert images.paths == ["cats/2.jpg", "cats/link.jpg", "dogs/1.jpg"]
    assert images.class_names == ["cats", "dogs"]
    assert images.failures == []
    assert images.sizes[1] == images.sizes[0]


def test_loops_of_links_are_failures(tmp_path):
    make(tmp_path, "cats/1.jpg", "dogs/2.jpg")
    (tmp_path / "cats" / "up").symlink_to("..")
    (tmp_path / "cats" / "here").symlink_to(".")
    (tmp_path / "self").symlink_to("self")
    images = scan(tmp_path)
    assert images.paths == ["cats/1.jpg", "dogs/2.jpg"]
    loop = "loop: a link to a folder that it lies in"
    assert images.failures == [
        Failure("cats/here", "scan", loop),
        Failure("cats/up", "scan", loop),
        Failure("self", "scan", "loop of links"),
    ]


def test_folders_that_link_to_each_other_are_read_a_bounded_number_of_times(tmp_path):
    names = [f"d{k}" for k in range(9)]
    for name in names:
        make(tmp_path, f"{name}/x.jpg")
        for other in names:
            (tmp_path / name / f"to_{other}").symlink_to(f"../{other}")
    images = scan(tmp_path)  # without the bound: 9! paths
    assert len(images) <= 2 * len(names)
    assert {"d0/x.jpg", "d8/x.jpg"} <= set(images.paths)


def test_what_is_no_file_is_a_failure_and_never_opened(tmp_path):
    make(tmp_path, "cats/1.jpg")
    os.mkfifo(tmp_path / "cats" / "fifo.jpg")
    (tmp_path / "cats" / "gone.jpg").symlink_to("nothing")
    (tmp_path / "cats" / "null.jpg").symlink_to(os.devnull)
    with socket.socket(socket.AF_UNIX) as sock:
        # The path of a socket must be short.
        before = Path.cwd()
        os.chdir(tmp_path / "cats")
        sock.bind("sock.jpg")
        os.chdir(before)
    images = scan(tmp_path)
    assert images.paths == ["cats/1.jpg"]
    assert [(path, reason) for path, _, reason in images.failures] == [
        ("cats/fifo.jpg", "a FIFO (named pipe), not a file"),
        ("cats/gone.jpg", "link to nothing"),
        ("cats/null.jpg", "a device, not a file"),
        ("cats/sock.jpg", "a socket, not a file"),
    ]


def test_a_file_that_changes_after_the_scan_is_a_read_failure(tmp_path):
    images = scan(make(tmp_path, "1", "2", "3"))
    for path in images.paths:
        (tmp_path / path).unlink()
    os.mkfifo(tmp_path / "2")
    (tmp_path / "3").mkdir()
    reasons = ["no such file", "a FIFO", "Is a directory"]
    for i, reason in enumerate(reasons):
        with pytest.raises(ImageError, match=reason) as caught:
            images.read(i)
        assert caught.value.stage == "read"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_said(tmp_path):
    make(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "b").chmod(0)
    (tmp_path / "a" / "1.jpg").chmod(0)
    images = scan(tmp_path)
    assert images.failures == [Failure("b", "scan", "permission denied")]
    with pytest.raises(ImageError, match="permission denied"):
        images.read(0)
    (tmp_path / "b").chmod(0o700)


def test_a_huge_file_is_not_read(tmp_path):
    make(tmp_path, "video.mp4")
    os.truncate(tmp_path / "video.mp4", MAX_BYTES + 1)  # sparse, takes no room
    with pytest.raises(ImageError, match=r"1,073,741,825 bytes, more than"):
        scan(tmp_path).read(0)


class Growing(io.FileIO):
    """A file over a network: it gives a little at a time, and more than it said."""

    def read(self, size: int = -1) -> bytes:
        return super().read(min(size, 7))


def test_a_file_that_comes_in_pieces_is_read_to_its_end(tmp_path, monkeypatch):
    images = scan(make(tmp_path, "a/1"))
    content = bytes(range(256)) * 3
    (tmp_path / "a" / "1").write_bytes(content)
    assert images.read(0) == content
    monkeypatch.setattr(
        reading, "open", lambda path, *_, **__: Growing(path), raising=False
    )
    assert images.read(0) == content
    # One that says it is shorter than it turns out to be.
    monkeypatch.setattr(reading, "MAX_BYTES", 700)
    with (
        Growing(tmp_path / "a" / "1") as file,
        pytest.raises(ImageError, match="bytes, more than"),
    ):
        reading._to_the_end(file, b"")


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs Linux's /proc")
def test_a_file_that_says_it_is_empty_is_read_to_its_end():
    # Files there have no length before they are read.
    assert reading._read_file("/proc/version") == Path("/proc/version").read_bytes()


def test_threads_and_other_processes_can_read(tmp_path):
    images = scan(make(tmp_path, *(f"c{k % 3}/{k}" for k in range(200))))
    with ThreadPoolExecutor(8) as pool:
        contents = list(pool.map(images.read, range(200)))
    assert contents == [path.encode() for path in images.paths]
    assert pickle.loads(pickle.dumps(images)).read(7) == images.paths[7].encode()


def test_take_keeps_the_meaning_of_labels(tmp_path):
    images = scan(make(tmp_path, "a/1", "b/2", "c/3"))
    taken = images.take([2, 0])
    assert taken.paths == ["c/3", "a/1"]
    assert taken.labels.tolist() == [2, 0]
    assert taken.class_names == ["a", "b", "c"]
    assert taken.read(0) == b"c/3"
    assert len(images.take([])) == 0


def test_limit_takes_evenly_of_classes_and_splits_the_first_of_each(tmp_path):
    sizes = {"train/a": 9, "train/b": 3, "test/a": 2, "test/b": 5}
    make(tmp_path, *(f"{d}/{k}.jpg" for d, n in sizes.items() for k in range(n)))
    images = scan(tmp_path, limit=10)
    assert images.paths == [
        *(f"test/a/{k}.jpg" for k in range(2)),
        *(f"test/b/{k}.jpg" for k in range(2)),
        *(f"train/a/{k}.jpg" for k in range(3)),
        *(f"train/b/{k}.jpg" for k in range(3)),
    ]
    assert scan(scan(tmp_path), limit=10).paths == images.paths
    assert len(scan(tmp_path, limit=100)) == 19
    with pytest.raises(ValueError, match="limit=0"):
        scan(tmp_path, limit=0)


def test_what_is_no_source_is_said_in_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder or file: .*nowhere"):
        scan(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no image in"):
        scan(tmp_path)
    make(tmp_path, ".hidden")
    with pytest.raises(ValueError, match="only 1 hidden names"):
        scan(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match=r"first 'fifo' \(a FIFO"):
        scan(tmp_path)
    with pytest.raises(ValueError, match="is a FIFO"):
        scan(tmp_path / "fifo")
    with pytest.raises(ValueError, match="no table and no archive; give a folder"):
        scan(make(tmp_path, "photo.jpg") / "photo.jpg")
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04" + bytes(26) + b"x.npy")
    with pytest.raises(ValueError, match="is NumPy arrays, not images; give a folder"):
        scan(tmp_path / "x.npz")
    with pytest.raises(FileNotFoundError, match="downloads no images: fetch them"):
        scan("https://example.org/photos.zip")
    with pytest.raises(FileNotFoundError, match="only shells expand ~"):
        scan("~/nowhere")
    with pytest.raises(ValueError, match="is no path"):
        scan("a\0b")
    with pytest.raises(TypeError, match="is no source"):
        scan(os.fsencode(tmp_path))


def test_scanning_imports_neither_torch_nor_pillow(tmp_path):
    make(tmp_path, "a/1.jpg")
    program = (
        "import sys; from featpipe import images; images.scan(sys.argv[1]);"
        "sys.exit('torch' in sys.modules or 'PIL' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)


@pytest.mark.skipif(
    not SHARED.exists(), reason=f"{SHARED} is missing; see CONTRIBUTING.md"
)
def test_hymenoptera_is_listed_whole():
    images = scan(SHARED / "hymenoptera")
    assert len(images) == 398
    assert images.class_names == ["ants", "bees"]
    assert (images.failures, images.n_hidden) == ([], 0)
    for path, (split, label) in labels(images).items():
        assert path.startswith(f"{split}/{label}/")
