"""Read splits and classes from the names of folders.

Lives here: the spellings of splits, the labels and splits of rows. Never here: the file
system, nor looking into files.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence

from featpipe.images.imageset import ImageRow

__all__ = [
    *("SPLITS", "assign_labels_and_splits"),
    *("is_split", "listed", "splits_of", "wrapping_folder"),
    "wrapping_folders",
]

SPLITS = {
    **dict.fromkeys(("train", "training", "trn", "trainval", "learn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("devel", "development", "tuning"), "val"),
    **dict.fromkeys(("test", "testing", "tests", "tst", "holdout", "heldout"), "test"),
    # The test part of a collection, unless it has one of another name beside it: then
    # it is the validation part; see `splits_of`.
    **dict.fromkeys(("eval", "evaluation"), "test"),
}
"""Words that name a split, and the split that each means."""

# Taken for splits without telling the user, who most likely means them.
_PLAIN = {"train", "val", "valid", "validation", "test"}

# Words that say nothing of which split it is: training_set, TestData, val-images.
_FILLERS = {
    *("set", "sets", "data", "dataset", "split", "subset", "part", "partition"),
    *("image", "images", "img", "imgs", "photo", "photos", "picture", "pictures"),
    *("sample", "samples", "example", "examples", "file", "files", "folder", "dir"),
}
_LETTERS = re.compile(r"[^\W\d_]+")
_HUMPS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^A-Z]+")


def is_split(name: str) -> bool:
    """Return whether a name on its own means a split.

    Examples
    --------
    >>> is_split("Training_Set"), is_split("steam_train")
    (True, False)
    """
    split, rest = _parse(name)
    return bool(split) and not rest


def splits_of(names: Iterable[str]) -> dict[str, str]:
    """Return the split that each of some names means; without those that mean none.

    Capitals, numbers, and words such as *set*, *data*, *images* make no difference. Nor
    does a word that all names have: ``flowers_train`` beside ``flowers_test``.
    ``eval`` is val beside a test split, and else test.

    Parameters
    ----------
    names : iterable of str
        All names of one level of folders, or all values of one column.

    Returns
    -------
    dict of str to str
        ``"train"``, ``"val"`` or ``"test"``.

    Examples
    --------
    >>> splits_of(["TrainingSet", "test-images", "cats"])
    {'TrainingSet': 'train', 'test-images': 'test'}
    """
    parsed = {name: _parse(name) for name in dict.fromkeys(names)}
    rests = {rest for _, rest in parsed.values()}
    whole = all(split for split, _ in parsed.values()) and len(rests) == 1
    if not (whole and len(parsed) > 1):
        parsed = {name: pair for name, pair in parsed.items() if not pair[1]}
    splits = {name: split for name, (split, _) in parsed.items() if split}
    # "eval" is the test part of a collection, unless there is a test part beside it.
    late = [name for name in splits if "eval" in name.casefold()]
    if any(split == "test" for name, split in splits.items() if name not in late):
        splits |= dict.fromkeys(late, "val")
    return splits


def _parse(name: str) -> tuple[str, tuple[str, ...]]:
    """Return the split that a name has a word for, and its other words."""
    split, rest = "", []
    text = unicodedata.normalize("NFKC", name)
    # Two words in one: hold-out, held_out.
    for joined in (r"hold[\W_]?out", r"held[\W_]?out"):
        text = re.sub(joined, "holdout", text, flags=re.IGNORECASE)
    for word in _words(text):
        meant = _split_word(word)
        if meant and not split:
            split = meant
        elif word not in _FILLERS and (not meant or meant != split):
            rest.append(word)
    return split, tuple(rest)


def _words(text: str) -> list[str]:
    """Return the words of a name in small letters, ``camelCase`` taken apart."""
    words = []
    for run in _LETTERS.findall(text):
        # TestSet is taken apart at its humps, "testset" is not; a word that is known
        # stays whole.
        whole = bool(_split_word(run.casefold()))
        words += [run] if whole else _HUMPS.findall(run)
    return [word.casefold() for word in words]


def _split_word(word: str) -> str:
    if word in SPLITS:
        return SPLITS[word]
    stems = (word.removesuffix(filler) for filler in _FILLERS if word.endswith(filler))
    return next((SPLITS[stem] for stem in stems if stem in SPLITS), "")


def assign_labels_and_splits(
    source: str, rows: Sequence[ImageRow], folders: Iterable[str]
) -> list[ImageRow]:
    """Return the rows with the label and split that the folders of their paths mean.

    The first level is the class, deeper levels belong to it; or it is the split and
    the second level the class. It is the split if all folders have names of splits; a
    file beside the class folders is unlabelled.

    Parameters
    ----------
    source : str
        For messages.
    rows : sequence of ImageRow
    folders : iterable of str
        Names of all folders of the first level.

    Raises
    ------
    ValueError
        If there is ``train`` and beside it a folder that is no split.

    Warns
    -----
    UserWarning
        If names other than train, val and test were taken for splits, or if folders
        were taken for classes that look like splits.
    """
    names = sorted(set(folders))
    splits = splits_of(names)
    strange = [name for name in names if name not in splits]
    # Half of the folders are splits: guessing here would silently train on the wrong
    # images.
    if strange and "train" in splits.values():
        train = next(name for name, split in splits.items() if split == "train")
        raise ValueError(
            f"{source!r} has a folder {train!r} and beside it {listed(strange)}, not "
            "the name of a split; rename it to train, val or test, or move it away (or "
            f"list the images in a CSV with path,label,split if {train!r} is a class)"
        )
    taken = {} if strange else splits
    if taken and not {name.casefold() for name in taken} <= _PLAIN:
        meaning = ", ".join(f"{name!r} = {split}" for name, split in taken.items())
        _warn(
            f"{source!r}: folders taken for splits: {meaning}; if they are classes, "
            "list the images in a CSV with path,label"
        )
    elif not taken:
        _warn_of_lookalikes(source, rows, names, splits)
    return _assigned(rows, taken)


def _warn_of_lookalikes(
    source: str,
    rows: Sequence[ImageRow],
    names: Sequence[str],
    splits: Mapping[str, str],
) -> None:
    """Warn where classes look like splits, or hold the same folders below."""
    worded = {split for split, _ in map(_parse, names)}
    below: dict[str, set[str]] = {name: set() for name in names}
    for row in rows:
        parts = row.path.split("/", 2)
        if len(parts) > 2 and parts[0] in below:
            below[parts[0]].add(parts[1])
    common = set.intersection(*below.values()) if len(below) > 1 else set()
    if splits or (len(worded) > 1 and "" not in worded):
        why = f"{listed(sorted(splits) or names)} may be names of splits"
    elif len(common) > 1 and set(common) <= set(splits_of(common)):
        _warn(
            f"{source!r}: the folders {listed(names)} were taken for classes; the "
            f"folders {listed(sorted(common))} in each look like splits and were taken "
            "for none: put them around the classes (train/CLASS/…), or list the images "
            "in a CSV with path,label,split"
        )
        return
    elif len(common) > 1:
        why = f"all hold the same folders, {listed(sorted(common))}"
    else:
        return
    _warn(
        f"{source!r}: the folders {listed(names)} were taken for classes, but {why}; "
        "if they are splits, rename them to train, val and test, or list the images in "
        "a CSV with path,label,split"
    )


def _assigned(rows: Sequence[ImageRow], splits: Mapping[str, str]) -> list[ImageRow]:
    # Once a folder: there may be a million files, and `_replace` is slow.
    known: dict[str, tuple[str, str]] = {}
    assigned = []
    for row in rows:
        folder = row.path.rpartition("/")[0]
        if folder not in known:
            known[folder] = _label_and_split(folder, splits)
        label, split = known[folder]
        assigned.append(ImageRow(row.path, label, split, *row[3:]))
    return assigned


def _label_and_split(folder: str, splits: Mapping[str, str]) -> tuple[str, str]:
    parts = folder.split("/", 2)
    split = splits[parts.pop(0)] if splits and folder else ""
    return (parts[0] if parts else ""), split


def wrapping_folder(tops: Iterable[str], *, loose: bool) -> str:
    """Return the one folder around everything, with its slash, or nothing.

    A folder that has the name of a split is no wrapper.

    Parameters
    ----------
    tops : iterable of str
        Names of the first level.
    loose : bool
        Whether there are files beside the folders of the first level.
    """
    names = set(tops)
    if len(names) != 1 or loose:
        return ""
    (top,) = names
    return "" if _parse(top)[0] else top + "/"


def wrapping_folders(folders: Collection[str], files: Collection[str]) -> str:
    """Return the folders around everything, one in another, or nothing.

    The innermost holds several folders, or a split: one folder alone may be a class.

    Parameters
    ----------
    folders : collection of str
        Paths of all folders of the first few levels.
    files : collection of str
        Paths of all files.

    Examples
    --------
    >>> wrapping_folders(["a", "a/b", "a/b/ants", "a/b/bees"], ["a/b/ants/1.png"])
    'a/b/'
    """
    around, wrapper = "", ""
    tops = _children(folders, around)
    while len(tops) == 1:
        loose = any("/" not in file[len(around) :] for file in files)
        around += (step := wrapping_folder(tops, loose=loose))
        if not step:
            break
        tops = _children(folders, around)
        if len(tops) > 1 or any(map(is_split, tops)):
            wrapper = around
    return wrapper


def _children(folders: Iterable[str], parent: str) -> set[str]:
    below = (name[len(parent) :] for name in folders if name.startswith(parent))
    return {name.split("/")[0] for name in below if name}


def listed(names: Sequence[str]) -> str:
    """Return the first ten names, quoted, for a message.

    Examples
    --------
    >>> listed(["ants", "bees"])
    "'ants', 'bees'"
    """
    return ", ".join(map(repr, names[:10])) + ", …" * (len(names) > 10)


def _warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=2)
