"""List the images of torchvision's datasets.

Their items are pictures, not files, and become bytes as in `arrays`. Nothing is
downloaded.
"""

from __future__ import annotations

import difflib
import inspect
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from featpipe.errors import one_line
from featpipe.images.arrays import check_picture, encode_picture
from featpipe.images.folder_names import splits_of
from featpipe.images.imageset import (
    Failure,
    ImageError,
    ImageRow,
    ImageSet,
    build_image_set,
)
from featpipe.images.labelling import class_names_of
from featpipe.images.reading import FileReader

__all__ = ["scan_torchvision"]

# Parameters of datasets that a source cannot set.
_FIXED = {"download", "transform", "target_transform", "transforms", "loader"}
_TYPICAL_SPLITS = ("train", "trainval", "val", "valid", "test")


def scan_torchvision(source: str, *, unlabelled: bool = False) -> ImageSet:
    """List a dataset of torchvision that lies in a local folder.

    Parameters
    ----------
    source : str
        ``torchvision:NAME?key=value&...``: NAME is a class of `torchvision.datasets`,
        the keys are its parameters, such as ``root``. If the class has a parameter
        ``train`` or ``split`` and it is not given, all splits on the disk are listed.
    unlabelled : bool
        Whether to read no labels; datasets without one label per image need it.

    Raises
    ------
    ValueError
        If the dataset or a parameter is unknown, or an image has no single class.
    FileNotFoundError
        If the dataset is not in ``root``.
    """
    name, _, query = source.removeprefix("torchvision:").partition("?")
    factory = _factory(name)
    options = {key: _value(key, text) for key, text in parse_qsl(query)}
    parts, failures = _parts(source, factory, options)
    rows: list[ImageRow] = []
    reader = _DatasetReader(source, {})
    for part, (split, dataset) in parts.items():
        reader.datasets[part] = dataset
        labels = [""] * len(dataset) if unlabelled else _labels(source, dataset)
        width = len(str(len(dataset) - 1))
        rows += [
            ImageRow(
                f"{part}/{i:0{width}d}" if part else f"{i:0{width}d}", label, split
            )
            for i, label in enumerate(labels)
        ]
    return build_image_set(source, source, rows, reader, failures=failures)


def _factory(name: str) -> Any:
    from torchvision import datasets

    if name in datasets.__all__ and inspect.isclass(getattr(datasets, name)):
        return getattr(datasets, name)
    near = difflib.get_close_matches(name, datasets.__all__, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f"torchvision has no dataset {name!r}{hint}")


def _value(key: str, text: str) -> Any:
    """Return the bool, number or tuple of numbers that a text stands for, or itself."""
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
    source: str, factory: Any, options: dict[str, Any]
) -> tuple[dict[str, tuple[str, Any]], list[Failure]]:
    """Return (split, dataset) for every split, by the first part of its paths."""
    parameters = inspect.signature(factory).parameters
    accepted = set(parameters) - _FIXED
    if unknown := sorted(set(options) - accepted):
        raise ValueError(
            f"{source!r}: {factory.__name__} takes no {', '.join(map(repr, unknown))} "
            f"here; choose from {', '.join(sorted(accepted))}"
        )
    root = parameters.get("root")
    if root is not None and root.default is root.empty and "root" not in options:
        raise ValueError(f"{source!r} needs root=FOLDER, the folder of the dataset")
    parts: dict[str, tuple[str, Any]] = {}
    failures: list[Failure] = []
    for part, choice in _choices(accepted, options):
        # trainval holds the images of train too.
        if part == "trainval" and "train" in parts:
            continue
        try:
            dataset = _open(factory, options | choice)
        except (OSError, RuntimeError) as error:
            failures.append(Failure(part, "scan", one_line(error)))
        except (ValueError, TypeError) as error:
            # A class refuses the name of a split that it does not have.
            if not choice:
                raise ValueError(f"{source!r}: {one_line(error)}") from error
        else:
            parts[part] = (_part_split(part), dataset)
    if not parts:
        reason = failures[0].reason if failures else "it has none of the usual splits"
        raise FileNotFoundError(
            f"{source!r} cannot be opened: {reason}; featpipe downloads nothing, give "
            "the folder that has it as root="
        )
    return parts, failures


def _choices(
    accepted: set[str], options: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    if "train" in accepted and "train" not in options:
        yield from (("train", {"train": True}), ("test", {"train": False}))
    elif "train" in options:
        yield "train" if options["train"] else "test", {}
    elif "split" in accepted and "split" not in options:
        yield from ((name, {"split": name}) for name in _TYPICAL_SPLITS)
    else:
        yield str(options.get("split", "")), {}


def _part_split(part: str) -> str:
    return splits_of([part]).get(part, "train" if part.startswith("train") else "")


def _open(factory: Any, options: dict[str, Any]) -> Any:
    if "download" in inspect.signature(factory).parameters:
        options = options | {"download": False}
    return factory(**options)


def _labels(source: str, dataset: Any) -> list[str]:
    """Return a class name for each image, if possible without decoding the images."""
    targets = None
    # torchvision's classes have three names for it.
    for name in ("targets", "labels", "_labels"):
        values = getattr(dataset, name, None)
        if values is not None and len(values) == len(dataset):
            targets = [t.item() if hasattr(t, "item") else t for t in values]
            break
    if targets is None:
        try:
            targets = [dataset[i][1] for i in range(len(dataset))]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{source!r} cannot be read: {one_line(error)}") from error
    targets = [t.item() if getattr(t, "ndim", None) == 0 else t for t in targets]
    if not all(isinstance(target, int) for target in targets):
        raise ValueError(
            f"{source!r} does not have one class per image; list it as unlabelled"
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
        # Datasets of files list them as samples; their bytes are read as from a folder.
        if samples := getattr(dataset, "samples", None):
            return FileReader("").read(str(samples[i][0]))
        try:
            # Some datasets, such as FakeData, are not safe in threads.
            with self.lock:
                return encode_picture(check_picture(dataset[i][0], i))
        except Exception as error:
            raise ImageError("read", one_line(error)) from error
