"""Labels and splits of images in lists, as class names and as our three splits."""

from collections.abc import Iterable, Sequence
from typing import Any

from featpipe.images.naming import splits_of

__all__ = ["class_names_of", "splits_from"]


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
