"""Code under our suffixes: pickles and their kin, given to everything that reads files.

Each sample would leave a mark if its code ran. None may; each reader ends in one error
that names the file, and imports nothing that a file asks for.
"""

import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import featpipe
from featpipe import backbones, images
from featpipe.images import ImageError
from featpipe.scores import read_json


class Evil:
    """Something whose pickle makes a folder when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def plain(evil: Evil) -> bytes:
    return pickle.dumps(evil, 2)


def in_text(evil: Evil) -> bytes:
    return pickle.dumps(evil, 0)


def latest(evil: Evil) -> bytes:
    return pickle.dumps({"state_dict": evil}, 5)


def of_torch(evil: Evil) -> bytes:
    file = io.BytesIO()
    torch.save({"state_dict": {"a": torch.zeros(2)}, "more": evil}, file)
    return file.getvalue()


def of_old_torch(evil: Evil) -> bytes:
    file = io.BytesIO()
    torch.save({"a": torch.zeros(2), "b": evil}, file,
               _use_new_zipfile_serialization=False)  # fmt: skip
    return file.getvalue()


def of_numpy(evil: Evil) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([evil], object), allow_pickle=True)
    return file.getvalue()


def of_npz(evil: Evil) -> bytes:
    file = io.BytesIO()
    np.savez(file, coef=np.array([evil], object))
    return file.getvalue()


def zipped(evil: Evil) -> bytes:
    """Lay it out as skops and torch do."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("schema.json", '{"__class__": "mkdir", "__module__": "os"}')
        archive.writestr("data.pkl", pickle.dumps(evil))
        archive.writestr("a/data.pkl", pickle.dumps(evil))
    return file.getvalue()


def behind_our_start(evil: Evil) -> bytes:
    """Put a pickle behind the first bytes of a codes file."""
    return b'featpipe-codes {"room": 512}\n' + pickle.dumps(evil)


def read_codes(path: Path) -> None:
    featpipe.read(path)


def read_model(path: Path) -> None:
    featpipe.load(path)


def read_weights(path: Path) -> None:
    backbones.load("mini", weights=str(path))


def read_scores(path: Path) -> None:
    read_json(path)


def read_archive(path: Path) -> None:
    image_set = images.scan(path)
    for k in range(len(image_set)):
        try:
            images.decode(image_set.read(k))
        except ImageError as error:
            raise ValueError(f"{path}: {image_set.paths[k]}: {error}") from None
    if not len(image_set):
        raise ValueError(f"{path}: no image in it")


def read_image(path: Path) -> None:
    try:
        images.decode(path.read_bytes())
    except ImageError as error:
        raise ValueError(f"{path}: {error}") from None


PAYLOADS = (plain, in_text, latest, of_torch, of_old_torch, of_numpy, of_npz, zipped,
            behind_our_start)  # fmt: skip
READERS: dict[str, Callable[[Path], None]] = {
    "codes.h5": read_codes,
    "kinds.model": read_model,
    "model.safetensors": read_model,
    "weights.pth": read_weights,
    "weights.safetensors": read_weights,
    "scores.json": read_scores,
    "images.zip": read_archive,
    "images.tar": read_archive,
    "table.csv": read_archive,
    "photo.jpg": read_image,
    "photo.tiff": read_image,
}


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("name", READERS)
def test_code_in_a_file_is_never_run(name, payload, tmp_path):
    mark, path = tmp_path / "it ran", tmp_path / name
    path.write_bytes(payload(Evil(mark)))
    with pytest.raises((ValueError, OSError)) as message:
        READERS[name](path)
    assert not mark.exists()
    assert name in str(message.value), "the file is not named"
    assert "\n" not in str(message.value)


def test_the_samples_do_run_where_they_are_trusted(tmp_path):
    mark = tmp_path / "it ran"
    pickle.loads(plain(Evil(mark)))
    assert mark.exists()


NAMES = (
    "../out.png",
    "a/../../out.png",
    "/etc/out.png",
    "//host/share/out.png",
    "C:\\out.png",
    "..\\out.png",
    "a/./../../out.png",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_member_with_a_tricky_name_is_no_image_from_elsewhere(
    kind, name, tmp_path, draw
):
    content = draw(tmp_path / "x.png", 0).read_bytes()
    inside = draw(tmp_path / "y.png", 1).read_bytes()
    path = tmp_path / f"a.{kind}"
    members = {"ant/fine.png": inside, "bee/fine.png": inside, name: content}
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for member, data in members.items():
                archive.writestr(member, data)
    else:
        with tarfile.open(path, "w") as archive:
            for member, data in members.items():
                entry = tarfile.TarInfo(member)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    before = sorted(tmp_path.rglob("*"))
    image_set = images.scan(path)
    assert "ant/fine.png" in image_set.paths
    for k, listed in enumerate(image_set.paths):
        assert not listed.startswith("/")
        assert ".." not in listed.replace("\\", "/").split("/")
        assert image_set.read(k) in (content, inside)
    assert len(image_set) + len(image_set.failures) + image_set.n_hidden == 3
    assert sorted(tmp_path.rglob("*")) == before, "something was unpacked"
