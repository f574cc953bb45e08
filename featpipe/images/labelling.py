"""Turn lists of labels and splits into class names, and train, val and test."""

from collections.abc import Iterable, Sequence
from typing import Any

from featpipe.images.folder_names import splits_of

__all__ = ["class_names_of", "splits_from"]


def class_names_of(labels: Iterable[Any]) -> list[str]:
    """Return labels as text; numbers get leading zeros, so that they sort as numbers.

    Examples
    --------
    >>> class_names_of([2, 10, -1]), class_names_of(["rose", None])
    (['02', '10', ''], ['rose', ''])
    """
    values = [label.item() if hasattr(label, "item") else label for label in labels]
    # As in torchvision, -1 means no label.
    if not all(isinstance(value, int) and value >= -1 for value in values):
        return ["" if v is None or v == -1 else str(v) for v in values]
    width = len(str(max(values, default=0)))
    return ["" if value < 0 else f"{value:0{width}d}" for value in values]


def splits_from(names: Sequence[str]) -> list[str]:
    """Return the split that each name means; raise if a name means none.

    Examples
    --------
    >>> splits_from(["Training", "dev", ""])
    ['train', 'val', '']
    """
    splits = splits_of(name for name in names if name) | {"": ""}
    for name in names:
        if name not in splits:
            raise ValueError(f"{name!r} is no split; give train, val, test or ''")
    return [splits[name] for name in names]
