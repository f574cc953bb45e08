import hashlib
import io
import pickle
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featpipe.images import ImageError, decode, from_arrays, scan

RNG = np.random.default_rng(0)


def color(n: int = 4) -> np.ndarray:
    return RNG.integers(0, 256, (n, 5, 7, 3), dtype=np.uint8)


def pixels(images, i: int) -> np.ndarray:
    return np.asarray(decode(images.read(i)).image)


def test_arrays_come_back_pixel_by_pixel():
    arrays = color()
    images = from_arrays(arrays)
    assert images.paths == ["000000", "000001", "000002", "000003"]
    for i, array in enumerate(arrays):
        assert np.array_equal(pixels(images, i), array)
    assert images.labels.tolist() == [-1] * 4
    assert images.mtimes.tolist() == [0] * 4


def test_grey_and_alpha_and_pil_images_follow_the_rules_of_decoding():
    grey = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
    deep = np.full((5, 7), 0x7FFF, np.uint16)
    alpha = np.dstack([color(1)[0], np.zeros((5, 7), np.uint8)])
    turned = Image.fromarray(color(1)[0])
    turned.getexif()[0x0112] = 6
    items = [grey, grey[:, :, None], Image.fromarray(grey), alpha]
    images = from_arrays([*items, Image.fromarray(deep), turned])
    for i in range(3):
        assert np.array_equal(pixels(images, i), np.dstack([grey] * 3))
    assert (pixels(images, 3) == 255).all()
    assert (pixels(images, 4) == 0x7F).all()
    assert np.array_equal(pixels(images, 5), np.rot90(np.asarray(turned), -1))


def test_a_pil_image_of_a_broken_file_is_a_read_failure(tmp_path):
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)).save(
        tmp_path / "x.png"
    )
    content = (tmp_path / "x.png").read_bytes()
    with Image.open(io.BytesIO(content[:999])) as cut:
        images = from_arrays([cut])
        with pytest.raises(ImageError, match="truncated") as caught:
            images.read(0)
    assert caught.value.stage == "read"


def test_the_content_depends_on_the_pixels_alone():
    array = color(1)[0]
    strided = np.asfortranarray(array)
    backwards = array[::-1][::-1]
    images = from_arrays([array, strided, backwards, Image.fromarray(array)])
    assert len({hashlib.sha256(images.read(i)).digest() for i in range(4)}) == 1


def test_labels_splits_groups_and_paths_are_kept():
    images = from_arrays(
        color(),
        ["b", "a", None, ""],
        splits=["train", "Validation", "", "test"],
        groups=[1, 1, 2, 3],
        paths=["d", "c", "b", "a"],
    )
    assert images.paths == ["a", "b", "c", "d"]
    assert images.class_names == ["a", "b"]
    assert images.labels.tolist() == [-1, -1, 0, 1]
    assert images.splits == ["test", "", "val", "train"]
    assert images.groups == ["3", "2", "1", "1"]


def test_numbers_as_labels_keep_their_order():
    images = from_arrays(color(), np.array([10, 2, -1, 0]))
    assert images.class_names == ["00", "02", "10"]
    assert images.labels.tolist() == [2, 1, -1, 0]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (([],), "no image in 'arrays'"),
        ((color().astype(float),), r"image 0 is float64 of shape \(5, 7, 3\)"),
        (([np.zeros((2, 5, 7), np.uint8)],), r"shape \(2, 5, 7\); give uint8"),
        ((np.zeros((1, 0, 7), np.uint8),), "image 0 is uint8 of shape"),
        ((["cat.jpg"],), "image 0 is str; give uint8 arrays or PIL images"),
        ((color(), ["a"]), "1 labels for 4 images"),
    ],
)
def test_what_is_no_picture_is_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        from_arrays(*arguments)


def test_wrong_paths_and_splits_are_refused():
    with pytest.raises(ValueError, match="'x' comes twice"):
        from_arrays(color(), paths=["x", "y", "x", "z"])
    with pytest.raises(ValueError, match="'dve' is no split"):
        from_arrays(color(), splits=["dve"] * 4)


def test_fake_data_is_read_in_threads_and_processes():
    source = "torchvision:FakeData?size=30&image_size=3,8,9&num_classes=3"
    images = scan(source)
    assert (images.source, images.root) == (source, source)
    assert len(images) == 30
    assert images.class_names == ["0", "1", "2"]
    contents = [images.read(i) for i in range(30)]
    assert decode(contents[0]).image.size == (9, 8)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(images.read, range(30))) == contents
    assert pickle.loads(pickle.dumps(images)).read(7) == contents[7]
    assert scan(source, unlabelled=True).labels.tolist() == [-1] * 30


def mnist(root: Path, parts: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Write the files of MNIST, by its specification."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, (pictures, targets) in parts.items():
        head = struct.pack(">IIII", 0x803, *pictures.shape)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + pictures.tobytes())
        head = struct.pack(">II", 0x801, len(targets))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(head + targets.tobytes())


def test_a_dataset_with_train_and_test_gives_both_or_one(tmp_path):
    pictures = RNG.integers(0, 256, (5, 28, 28), dtype=np.uint8)
    targets = np.array([9, 0, 3, 3, 1], np.uint8)
    mnist(
        tmp_path,
        {"train": (pictures[:3], targets[:3]), "t10k": (pictures[3:], targets[3:])},
    )
    source = f"torchvision:MNIST?root={tmp_path}"
    images = scan(source)
    assert images.paths == ["test/0", "test/1", "train/0", "train/1", "train/2"]
    assert images.splits == ["test"] * 2 + ["train"] * 3
    assert [images.class_names[k] for k in images.labels] == [
        "3 - three",
        "1 - one",
        "9 - nine",
        "0 - zero",
        "3 - three",
    ]
    for i, k in enumerate([3, 4, 0, 1, 2]):
        assert np.array_equal(pixels(images, i), np.dstack([pictures[k]] * 3))
    assert scan(source + "&train=false").splits == ["test"] * 2


def test_cifar_is_read_from_its_batches(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    pictures = RNG.integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    meta = {"label_names": ["airplane", "truck", "bird"]}
    parts = {"one": slice(0, 4), "two": slice(4, 6)}
    for name, rows in parts.items():
        data, targets = pictures[rows].reshape(-1, 3072), [2, 0, 1, 0, 2, 0][rows]
        batch = {"data": data, "labels": targets}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "meta").write_bytes(pickle.dumps(meta))
    # Its own digests are those of the real files.
    monkeypatch.setattr(CIFAR10, "train_list", [["one", None]])
    monkeypatch.setattr(CIFAR10, "test_list", [["two", None]])
    names = {"filename": "meta", "key": "label_names", "md5": None}
    monkeypatch.setattr(CIFAR10, "meta", names)
    images = scan(f"torchvision:CIFAR10?root={tmp_path}")
    assert images.splits == ["test"] * 2 + ["train"] * 4
    assert images.class_names == ["airplane", "bird", "truck"]
    assert images.labels.tolist() == [1, 0, 1, 0, 2, 0]
    for i, k in enumerate([4, 5, 0, 1, 2, 3]):
        assert np.array_equal(pixels(images, i), pictures[k].transpose(1, 2, 0))


def test_the_files_of_a_dataset_of_files_are_read_themselves(tmp_path):
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        Image.fromarray(color(1)[0]).save(tmp_path / name / "1.png")
    images = scan(f"torchvision:ImageFolder?root={tmp_path}")
    assert images.class_names == ["cats", "dogs"]
    assert images.labels.tolist() == [0, 1]
    assert images.read(1) == (tmp_path / "dogs" / "1.png").read_bytes()


def test_of_named_splits_one_that_is_missing_is_a_failure(tmp_path):
    folder = tmp_path / "imagenette2" / "train"
    for name in ("n03888257", "n01440764"):
        (folder / name).mkdir(parents=True)
        Image.fromarray(color(1)[0]).save(folder / name / "1.jpeg")
    images = scan(f"torchvision:Imagenette?root={tmp_path}")
    assert images.paths == ["train/0", "train/1"]
    assert images.class_names == ["parachute, chute", "tench, Tinca tinca"]
    assert images.labels.tolist() == [1, 0]
    assert images.splits == ["train", "train"]
    assert [failure.path for failure in images.failures] == ["val"]
    with pytest.raises(FileNotFoundError, match="downloads nothing"):
        scan(f"torchvision:Imagenette?root={tmp_path}&split=val")


@pytest.mark.parametrize(
    ("source", "error", "match"),
    [
        (
            "torchvision:CIFAR1O",
            ValueError,
            "no dataset 'CIFAR1O'; did you mean CIFAR10",
        ),
        ("torchvision:wrap_dataset_for_transforms_v2", ValueError, "no dataset"),
        (
            "torchvision:FakeData?sise=3",
            ValueError,
            "takes no 'sise' here; choose from",
        ),
        ("torchvision:CIFAR10?root=/&download=true", ValueError, "takes no 'download'"),
        ("torchvision:FakeData?size=x", ValueError, "cannot be read"),
        ("torchvision:CIFAR10?root={}", FileNotFoundError, "downloads nothing"),
        ("torchvision:SVHN?root={}", FileNotFoundError, "downloads nothing"),
        ("torchvision:CIFAR10", ValueError, "needs root=FOLDER"),
    ],
)
def test_a_dataset_that_cannot_be_opened_is_said(tmp_path, source, error, match):
    with pytest.raises(error, match=match):
        scan(source.replace("{}", str(tmp_path)))
    assert list(tmp_path.iterdir()) == []
