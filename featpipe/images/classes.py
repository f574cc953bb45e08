"""Check that the labels of images make classes that can be learned and judged.

`naming` and `labelling` decide which labels the images have.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence

from featpipe.images.folder_names import quoted
from featpipe.images.imageset import ImageSet

__all__ = ["check_classes"]

# Texts that programs write for a missing value.
_MISSING = {"nan", "<na>", "n/a", "#n/a", "null"}
_SEPARATORS = re.compile(r"\s*[,;|]\s*")
# With fewer labels the checks of their form would often be wrong.
_ENOUGH = 10


def check_classes(images: ImageSet) -> None:
    """Raise or warn if classes cannot be told apart, learned or judged.

    Parameters
    ----------
    images : ImageSet

    Raises
    ------
    ValueError
        If ``train`` and a held-out split have no class in common.

    Warns
    -----
    UserWarning
        If class names differ only by capitals, blanks or Unicode form, or if labels
        look like missing values, measurements, several classes at once, or names of
        single images.

    Examples
    --------
    >>> from featpipe import images
    >>> check_classes(images.scan("flowers"))
    """
    for text in _odd_labels(images):
        warnings.warn(f"{images.source!r}: {text}", UserWarning, stacklevel=2)
    classes: dict[str, set[str]] = {}
    for label, split in zip(images.labels.tolist(), images.splits, strict=True):
        if label >= 0 and split:
            classes.setdefault(split, set()).add(images.class_names[label])
    for split in ("val", "test"):
        if "train" in classes and split in classes:
            if classes["train"] & classes[split]:
                continue
            raise ValueError(
                f"{images.source!r}: no class of train "
                f"({quoted(sorted(classes['train']))}) is in {split} "
                f"({quoted(sorted(classes[split]))}); give the class folders of all "
                "splits the same names"
            )


def _odd_labels(images: ImageSet) -> Iterator[str]:
    """Yield a sentence about each oddity of the labels, with what to do."""
    names = images.class_names
    yield from _similar_names(names)
    if missing := [name for name in names if name.casefold() in _MISSING]:
        yield (
            f"{quoted(missing)} is taken for a class; leave the label empty where "
            "there is none"
        )
    n_labelled = int((images.labels >= 0).sum())
    if n_labelled < _ENOUGH:
        return
    if fraction := _measurement(names):
        yield (
            f"labels such as {fraction!r} look like measurements; featpipe learns "
            "classes, and each number is one: cut them into a few ranges"
        )
    elif several := _combination(names):
        yield (
            f"labels such as {several!r} look like several classes of one image; each "
            "combination is taken for a class of its own"
        )
    elif len(names) > n_labelled / 2 and not _are_folders(images):
        yield (
            f"{len(names):,} classes for {n_labelled:,} labelled images, such as "
            f"{quoted(names[:3])}; is this the class of an image, or its name?"
        )


def _are_folders(images: ImageSet) -> bool:
    """Return whether the class names are folders, which are rarely mistakes."""
    pairs = zip(images.labels.tolist(), images.paths, strict=True)
    first = [(images.class_names[k], path) for k, path in pairs if k >= 0][:_ENOUGH]
    return all(name in path.split("/")[:-1] for name, path in first)


def _similar_names(names: Sequence[str]) -> Iterator[str]:
    groups: dict[str, list[str]] = {}
    for name in names:
        # "Café" has two Unicode forms that look the same; macOS and Linux differ.
        plain = unicodedata.normalize("NFKC", name).casefold()
        # Characters of layout, such as zero-width blanks, are invisible too.
        visible = "".join(c for c in plain if unicodedata.category(c) != "Cf")
        groups.setdefault(re.sub(r"[\s_-]+", "", visible), []).append(name)
    for similar in (names for names in groups.values() if len(names) > 1):
        composed = {unicodedata.normalize("NFC", name) for name in similar}
        composed = {"".join(c for c in n if c.isprintable()) for n in composed}
        # `ascii` where two of them would look the same in the message.
        hidden = len(composed) < len(similar)
        shown = ", ".join(map(ascii, similar)) if hidden else quoted(similar)
        yield (
            f"the classes {shown} differ only by capitals, blanks or Unicode form, and "
            "are kept apart; rename one if they are the same"
        )


def _measurement(names: Sequence[str]) -> str:
    """Return a number with a fraction, if all labels are numbers; else ""."""
    try:
        values = [float(name) for name in names]
    except ValueError:
        return ""
    fractions = (n for n, v in zip(names, values, strict=True) if not v.is_integer())
    return next(fractions, "") if len(names) > 2 else ""


def _combination(names: Sequence[str]) -> str:
    """Return a label that joins other labels, if most with a separator do; else ""."""
    parts = {name: set(_SEPARATORS.split(name)) for name in names}
    composed = [name for name, words in parts.items() if len(words) > 1]
    # Both words of "cat|dog" must be in other labels too, such as "cat".
    counts = Counter(word for words in parts.values() for word in words)
    mixed = [name for name in composed if all(counts[w] > 1 for w in parts[name])]
    return mixed[0] if 2 * len(mixed) > len(composed) else ""
