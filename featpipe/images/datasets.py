"""Images that are arrays in memory, and the datasets of torchvision.

Both give pictures, not files. `ImageSet.read` must give bytes whose digest is the same
wherever the picture is the same, so pictures become binary PPM or PGM: plain pixels
behind a short header, lossless, quick, and unlike PNG without a compressor that changes
from version to version. Never here: downloads.
"""

from __future__ import annotations

import difflib
import inspect
import io
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from featpipe.images.colour import to_rgb
from featpipe.images.folder import FileReader
from featpipe.images.imageset import Failure, ImageError, ImageSet, Row, build
from featpipe.images.naming import splits_of
from featpipe.images.orientation import upright

__all__ = ["class_names_of", "from_arrays", "scan_torchvision", "splits_from"]


def from_arrays(
    images: Sequence[Any] | np.ndarray,
    labels: Sequence[Any] | np.ndarray | None = None,
    *,
    splits: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    paths: Sequence[str] | None = None,
) -> ImageSet:
    """Make an `ImageSet` of pictures in memory.

    Parameters
    ----------
    images : sequence of arrays or PIL images
        uint8 (height, width), (height, width, 1), (height, width, 3) in the order RGB,
        or (height, width, 4) with alpha. An (n, height, width, channels) array will do.
        They are kept by reference. PIL images go through the rules of `DECODING`.
    labels : (n,), optional
        Class names or numbers. ``""``, None and -1 are unlabelled. Numbers get leading
        zeros where needed, so that the sorted class names keep their order.
    splits : (n,) of str, optional
        ``"train"``, ``"val"`` or ``"test"``, or another name of these.
    groups : (n,) of str, optional
        Images of one group are never on both sides of a split.
    paths : (n,) of str, optional
        Names, each once. By default ``"000000"``, ``"000001"``, and so on. The set is
        sorted by them.

    Raises
    ------
    ValueError
        If there is no image, lengths differ, an array has another shape or dtype, a
        path comes twice, or a split has an unknown name.

    Examples
    --------
    >>> from featpipe import images
    >>> pixels = np.zeros((12, 8, 8, 3), np.uint8)
    >>> pictures = images.from_arrays(pixels, labels=range(12), splits=["train"] * 12)
    >>> pictures.class_names[:3], pictures.sizes[0]
    (['00', '01', '02'], np.int64(192))
    """
    n = len(images)
    width = max(6, len(str(n - 1)))
    # Zeros in front, so that sorting by name keeps the order of the arrays.
    names = [f"{i:0{width}d}" for i in range(n)] if paths is None else list(paths)
    columns = {
        "labels": [""] * n if labels is None else class_names_of(labels),
        "splits": [""] * n if splits is None else splits_from(splits),
        "groups": [""] * n if groups is None else [str(group) for group in groups],
        "paths": names,
    }
    for column, values in columns.items():
        if len(values) != n:
            raise ValueError(f"{len(values)} {column} for {n} images; give one each")
    if len(set(names)) < n:
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"path {twice!r} comes twice in paths; give each image its own"
        )
    pictures = [_picture(image, i) for i, image in enumerate(images)]
    rows = [
        Row(name, label, split, group, size)
        for name, label, split, group, size in zip(
            names,
            columns["labels"],
            columns["splits"],
            columns["groups"],
            map(_n_bytes, pictures),
            strict=True,
        )
    ]
    reader = _ArrayReader(dict(zip(names, pictures, strict=True)))
    return build("arrays", "arrays:", rows, reader)


@dataclass(frozen=True)
class _ArrayReader:
    pictures: Mapping[str, Any]

    def read(self, path: str) -> bytes:
        try:
            return _encoded(self.pictures[path])
        except Exception as error:  # an opened file that Pillow loads only now
            raise ImageError("read", _line(error)) from error

    def only(self, paths: Iterable[str]) -> _ArrayReader:
        """Return a reader of these pictures alone."""
        return _ArrayReader({path: self.pictures[path] for path in paths})


def _picture(image: Any, i: int) -> Any:
    """Check an array, and leave a PIL image as it is until it is read."""
    if not isinstance(image, np.ndarray):
        if hasattr(image, "getexif"):
            return image
        raise ValueError(
            f"image {i} is {type(image).__name__}; give uint8 arrays or PIL images"
        )
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    shaped = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
    if image.dtype != np.uint8 or not shaped or 0 in image.shape:
        raise ValueError(
            f"image {i} is {image.dtype} of shape {image.shape}; give uint8 of shape "
            "(height, width), (height, width, 3) or (height, width, 4)"
        )
    return image


def _n_bytes(picture: Any) -> int:
    if isinstance(picture, np.ndarray):
        return picture.size
    n_values: int = picture.width * picture.height * len(picture.getbands())
    return n_values


def _encoded(picture: Any) -> bytes:
    """Return binary PGM (grey) or PPM (RGB) of a picture, TIFF of more than 8 bits."""
    if _is_deep(picture):
        return _encoded_deep(picture)
    if not isinstance(picture, np.ndarray) or picture.shape[2:] == (4,):
        picture = _flat(picture)
    height, width = picture.shape[:2]
    magic = b"P5" if picture.ndim == 2 else b"P6"
    content: bytes = magic + b"\n%d %d\n255\n" % (width, height) + picture.tobytes()
    return content


def _is_deep(picture: Any) -> bool:
    mode = getattr(picture, "mode", "")
    return mode in ("I;16", "I;16B", "I", "F") and "transparency" not in picture.info


def _encoded_deep(picture: Any) -> bytes:
    """Keep all bits: what becomes black and white is decided where it is decoded."""
    picture.load()
    picture = upright(picture, picture, [])
    if picture.mode in ("I", "F"):
        file = io.BytesIO()
        picture.save(file, "TIFF")
        return file.getvalue()
    # PGM holds 16 bits big-endian.
    header = b"P5\n%d %d\n65535\n" % picture.size
    return header + np.asarray(picture).astype(">u2").tobytes()


def _flat(picture: Any) -> np.ndarray:
    from PIL import Image

    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    picture.load()
    pixels = picture if picture.mode == "L" else to_rgb(picture, [])
    return np.asarray(upright(pixels, picture, []))


def class_names_of(labels: Iterable[Any]) -> list[str]:
    """Return labels as texts; numbers with leading zeros, so that their order stays.

    Examples
    --------
    >>> class_names_of([2, 10, -1]), class_names_of(["rose", None])
    (['02', '10', ''], ['rose', ''])
    """
    values = [label.item() if hasattr(label, "item") else label for label in labels]
    # -1 is torchvision's and our own sign for no label.
    if not all(isinstance(value, int) and value >= -1 for value in values):
        return ["" if v is None or v == -1 else str(v) for v in values]
    # Zeros in front: class 10 sorts behind class 9.
    width = len(str(max(values, default=0)))
    return ["" if value < 0 else f"{value:0{width}d}" for value in values]


def splits_from(names: Sequence[str]) -> list[str]:
    """Return the splits that names mean, or raise for a name that means none.

    Examples
    --------
    >>> splits_from(["Training", "dev", ""])
    ['train', 'val', '']
    """
    meant = splits_of(name for name in names if name) | {"": ""}
    for name in names:
        if name not in meant:
            raise ValueError(f"{name!r} is no split; give train, val, test or ''")
    return [meant[name] for name in names]


_DONE_BY_US = {"download", "transform", "target_transform", "transforms", "loader"}
_TYPICAL_SPLITS = ("train", "trainval", "val", "valid", "test")


def scan_torchvision(source: str, *, unlabelled: bool = False) -> ImageSet:
    """List a dataset of torchvision that lies in a local folder.

    Parameters
    ----------
    source : str
        ``torchvision:NAME?key=value&...``; NAME a class of `torchvision.datasets`, the
        keys its parameters, such as ``root``. Where the class has ``train`` or
        ``split`` and neither is given, all splits that are there are listed.
    unlabelled : bool
        Do not ask for labels, nor fail where there is no single one per image.

    Raises
    ------
    ValueError
        If the dataset or a parameter is unknown, or an image has no single class.
    FileNotFoundError
        If the dataset is not where ``root`` says.
    """
    name, _, query = source.removeprefix("torchvision:").partition("?")
    factory = _factory(name)
    given = {key: _value(key, text) for key, text in parse_qsl(query)}
    parts, failures = _parts(source, factory, given)
    rows: list[Row] = []
    reader = _DatasetReader(source, {})
    for part, (split, dataset) in parts.items():
        reader.datasets[part] = dataset
        labels = [""] * len(dataset) if unlabelled else _labels(source, dataset)
        width = len(str(len(dataset) - 1))
        rows += [
            Row(f"{part}/{i:0{width}d}" if part else f"{i:0{width}d}", label, split)
            for i, label in enumerate(labels)
        ]
    return build(source, source, rows, reader, failures=failures)


def _factory(name: str) -> Any:
    from torchvision import datasets

    if name in datasets.__all__ and inspect.isclass(getattr(datasets, name)):
        return getattr(datasets, name)
    near = difflib.get_close_matches(name, datasets.__all__, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f"torchvision has no dataset {name!r}{hint}")


def _value(key: str, text: str) -> Any:
    """Read a value as the bool, number or tuple of numbers that it looks like."""
    if key == "root":
        return text
    if text.casefold() in ("true", "false"):
        return text.casefold() == "true"
    for read in (int, float, lambda text: tuple(map(int, text.split(",")))):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def _parts(
    source: str, factory: Any, given: dict[str, Any]
) -> tuple[dict[str, tuple[str, Any]], list[Failure]]:
    """Open every split asked for: part of the path -> (split, dataset)."""
    parameters = inspect.signature(factory).parameters
    accepted = set(parameters) - _DONE_BY_US
    if unknown := sorted(set(given) - accepted):
        raise ValueError(
            f"{source!r}: {factory.__name__} takes no {', '.join(map(repr, unknown))} "
            f"here; choose from {', '.join(sorted(accepted))}"
        )
    root = parameters.get("root")
    if root is not None and root.default is root.empty and "root" not in given:
        raise ValueError(f"{source!r} needs root=FOLDER; say where the dataset is")
    parts: dict[str, tuple[str, Any]] = {}
    failures: list[Failure] = []
    for part, more in _choices(accepted, given):
        # It would hold the training images a second time.
        if part == "trainval" and "train" in parts:
            continue
        try:
            dataset = _open(factory, given | more)
        except (OSError, RuntimeError) as error:
            failures.append(Failure(part, "scan", _line(error)))
        except (ValueError, TypeError) as error:
            # A class refuses the names of splits that it does not have.
            if not more:
                raise ValueError(f"{source!r}: {_line(error)}") from error
        else:
            parts[part] = (_part_split(part), dataset)
    if not parts:
        reason = failures[0].reason if failures else "none of the usual splits is there"
        raise FileNotFoundError(
            f"{source!r} cannot be opened: {reason}; featpipe downloads nothing, give "
            "the folder that has it as root="
        )
    return parts, failures


def _choices(
    accepted: set[str], given: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    if "train" in accepted and "train" not in given:
        yield from (("train", {"train": True}), ("test", {"train": False}))
    elif "train" in given:
        yield "train" if given["train"] else "test", {}
    elif "split" in accepted and "split" not in given:
        yield from ((name, {"split": name}) for name in _TYPICAL_SPLITS)
    else:
        yield str(given.get("split", "")), {}


def _part_split(part: str) -> str:
    return splits_of([part]).get(part, "train" if part.startswith("train") else "")


def _open(factory: Any, options: dict[str, Any]) -> Any:
    if "download" in inspect.signature(factory).parameters:
        # Never the network: a source is what lies on the disk.
        options = options | {"download": False}
    return factory(**options)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _labels(source: str, dataset: Any) -> list[str]:
    """Return a class name for each image, without decoding where the class allows."""
    targets = None
    for name in ("targets", "labels", "_labels"):
        # Three spellings within torchvision. Asking the images instead would decode all
        # of them.
        found = getattr(dataset, name, None)
        if found is not None and len(found) == len(dataset):
            targets = [t.item() if hasattr(t, "item") else t for t in found]
            break
    if targets is None:
        try:
            targets = [dataset[i][1] for i in range(len(dataset))]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{source!r} cannot be read: {_line(error)}") from error
    targets = [t.item() if getattr(t, "ndim", None) == 0 else t for t in targets]
    if not all(isinstance(target, int) for target in targets):
        raise ValueError(
            f"{source!r} has no single class per image; list it as unlabelled"
        )
    names = getattr(dataset, "classes", None) or getattr(dataset, "categories", None)
    if isinstance(names, list) and len(names) > max(targets, default=-1):
        return ["" if t < 0 else _text(names[t]) for t in targets]
    return class_names_of(targets)


def _text(name: Any) -> str:
    # ImageNet's names are tuples of synonyms.
    return ", ".join(name) if isinstance(name, tuple) else str(name)


@dataclass
class _DatasetReader:
    source: str
    datasets: dict[str, Any]
    lock: Any = field(default_factory=threading.Lock, repr=False)

    def __getstate__(self) -> tuple[str, dict[str, Any]]:
        return self.source, self.datasets

    def __setstate__(self, state: tuple[str, dict[str, Any]]) -> None:
        self.source, self.datasets = state
        self.lock = threading.Lock()

    def read(self, path: str) -> bytes:
        part, _, number = path.rpartition("/")
        dataset, i = self.datasets[part], int(number)
        # Datasets that are folders of files: the file itself, as from a folder.
        if samples := getattr(dataset, "samples", None):
            return FileReader("").read(str(samples[i][0]))
        try:
            # Nobody promises that datasets are safe in threads, and FakeData is not.
            with self.lock:
                return _encoded(_picture(dataset[i][0], i))
        except Exception as error:
            raise ImageError("read", _line(error)) from error
