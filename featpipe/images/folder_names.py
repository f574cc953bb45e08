"""Read splits and classes from the names of folders.

This module uses names alone, never files.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence

from featpipe.images.imageset import ImageRow

__all__ = [
    *("SPLITS", "assign_labels_and_splits"),
    *("is_split", "quoted", "splits_of", "wrapping_folder"),
    "wrapping_folders",
]

SPLITS = {
    **dict.fromkeys(("train", "training", "trn", "trainval", "learn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("devel", "development", "tuning"), "val"),
    **dict.fromkeys(("test", "testing", "tests", "tst", "holdout", "heldout"), "test"),
    # val if there is another test split beside it; see `splits_of`.
    **dict.fromkeys(("eval", "evaluation"), "test"),
}
"""Words that name a split, and the split that each means."""

# Names so common that they are read as splits without a warning.
_PLAIN = {"train", "val", "valid", "validation", "test"}

# Words that do not change the split: training_set, TestData, val-images.
_FILLERS = {
    *("set", "sets", "data", "dataset", "split", "subset", "part", "partition"),
    *("image", "images", "img", "imgs", "photo", "photos", "picture", "pictures"),
    *("sample", "samples", "example", "examples", "file", "files", "folder", "dir"),
}
# Digits and underscores separate words, as in fold_1 and train2.
_LETTERS = re.compile(r"[^\W\d_]+")
_CAMEL_CASE = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^A-Z]+")


def is_split(name: str) -> bool:
    """Return whether a name alone means a split.

    Examples
    --------
    >>> is_split("Training_Set"), is_split("steam_train")
    (True, False)
    """
    split, rest = _parse(name)
    return bool(split) and not rest


def splits_of(names: Iterable[str]) -> dict[str, str]:
    """Return the split that each name means; names that mean none are left out.

    Capitals, numbers and words such as *set*, *data* and *images* do not matter. Words
    that all names have do not matter either, as in ``flowers_train`` and
    ``flowers_test``. ``eval`` is val beside a test split, and test otherwise.

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
    share_rest = all(split for split, _ in parsed.values()) and len(rests) == 1
    if not (share_rest and len(parsed) > 1):
        parsed = {name: pair for name, pair in parsed.items() if not pair[1]}
    splits = {name: split for name, (split, _) in parsed.items() if split}
    evals = [name for name in splits if "eval" in name.casefold()]
    if any(split == "test" for name, split in splits.items() if name not in evals):
        splits |= dict.fromkeys(evals, "val")
    return splits


def _parse(name: str) -> tuple[str, tuple[str, ...]]:
    """Return the split of a name's first word for one, and its other words."""
    split, rest = "", []
    text = unicodedata.normalize("NFKC", name)
    # One word in two parts: hold-out, held_out.
    for joined in (r"hold[\W_]?out", r"held[\W_]?out"):
        text = re.sub(joined, "holdout", text, flags=re.IGNORECASE)
    for word in _words(text):
        of_word = _split_word(word)
        if of_word and not split:
            split = of_word
        elif word not in _FILLERS and (not of_word or of_word != split):
            rest.append(word)
    return split, tuple(rest)


def _words(text: str) -> list[str]:
    """Return the words of a name in small letters; ``camelCase`` has two words."""
    words = []
    for run in _LETTERS.findall(text):
        # A known word stays whole, so that TRAINval is one word.
        is_known = bool(_split_word(run.casefold()))
        words += [run] if is_known else _CAMEL_CASE.findall(run)
    return [word.casefold() for word in words]


def _split_word(word: str) -> str:
    if word in SPLITS:
        return SPLITS[word]
    stems = (word.removesuffix(filler) for filler in _FILLERS if word.endswith(filler))
    return next((SPLITS[stem] for stem in stems if stem in SPLITS), "")


def assign_labels_and_splits(
    source: str, rows: Sequence[ImageRow], folders: Iterable[str]
) -> list[ImageRow]:
    """Return the rows with the labels and splits that their folders mean.

    If all folders of the first level have names of splits, they are splits, and the
    second level has the classes. Otherwise the first level has the classes. Deeper
    folders belong to the class; a file beside the class folders has no label.

    Parameters
    ----------
    source : str
        For messages.
    rows : sequence of ImageRow
    folders : iterable of str
        Names of all folders of the first level.

    Returns
    -------
    list of ImageRow

    Raises
    ------
    ValueError
        If there is a folder ``train``, and beside it one that is not a split.

    Warns
    -----
    UserWarning
        If names other than train, val and test are read as splits, or if names that
        look like splits are read as classes.
    """
    names = sorted(set(folders))
    splits = splits_of(names)
    others = [name for name in names if name not in splits]
    # A guess could train on the wrong images without notice.
    if others and "train" in splits.values():
        train = next(name for name, split in splits.items() if split == "train")
        raise ValueError(
            f"{source!r} has a folder {train!r} and beside it {quoted(others)}, not "
            "the name of a split; rename it to train, val or test, or move it away (or "
            f"list the images in a CSV with path,label,split if {train!r} is a class)"
        )
    used = {} if others else splits
    if used and not {name.casefold() for name in used} <= _PLAIN:
        meaning = ", ".join(f"{name!r} = {split}" for name, split in used.items())
        _warn(
            f"{source!r}: folders taken for splits: {meaning}; if they are classes, "
            "list the images in a CSV with path,label"
        )
    elif not used:
        _warn_of_lookalikes(source, rows, names, splits)
    return _assigned(rows, used)


def _warn_of_lookalikes(
    source: str,
    rows: Sequence[ImageRow],
    names: Sequence[str],
    splits: Mapping[str, str],
) -> None:
    """Warn if classes look like splits, or all hold folders of the same names."""
    of_words = {split for split, _ in map(_parse, names)}
    below: dict[str, set[str]] = {name: set() for name in names}
    for row in rows:
        parts = row.path.split("/", 2)
        if len(parts) > 2 and parts[0] in below:
            below[parts[0]].add(parts[1])
    # The same folders in every class are hardly subclasses.
    common = set.intersection(*below.values()) if len(below) > 1 else set()
    if splits or (len(of_words) > 1 and "" not in of_words):
        why = f"{quoted(sorted(splits) or names)} may be names of splits"
    elif len(common) > 1 and set(common) <= set(splits_of(common)):
        _warn(
            f"{source!r}: the folders {quoted(names)} were taken for classes; the "
            f"folders {quoted(sorted(common))} in each look like splits and were taken "
            "for none: put them around the classes (train/CLASS/…), or list the images "
            "in a CSV with path,label,split"
        )
        return
    elif len(common) > 1:
        why = f"all hold the same folders, {quoted(sorted(common))}"
    else:
        return
    _warn(
        f"{source!r}: the folders {quoted(names)} were taken for classes, but {why}; "
        "if they are splits, rename them to train, val and test, or list the images in "
        "a CSV with path,label,split"
    )


def _assigned(rows: Sequence[ImageRow], splits: Mapping[str, str]) -> list[ImageRow]:
    # Once per folder and without `_replace`, which is slow for a million files.
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
    # Only the first two levels have a meaning; a million paths are split here.
    parts = folder.split("/", 2)
    split = splits[parts.pop(0)] if splits and folder else ""
    return (parts[0] if parts else ""), split


def wrapping_folder(tops: Iterable[str], *, loose: bool) -> str:
    """Return the one folder that wraps all others, with its slash; "" if none does.

    A folder that has the name of a split does not count.

    Parameters
    ----------
    tops : iterable of str
        Names of the folders of the first level.
    loose : bool
        Whether there are files beside them.
    """
    names = set(tops)
    if len(names) != 1 or loose:
        return ""
    (top,) = names
    return "" if _parse(top)[0] else top + "/"


def wrapping_folders(folders: Collection[str], files: Collection[str]) -> str:
    """Return the folders that wrap all others, one in another; "" if none does.

    The innermost of them holds several folders or a split, since a single folder may be
    a class.

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
    candidate, wrapper = "", ""
    tops = _children(folders, candidate)
    while len(tops) == 1:
        loose = any("/" not in file[len(candidate) :] for file in files)
        candidate += (step := wrapping_folder(tops, loose=loose))
        if not step:
            break
        tops = _children(folders, candidate)
        if len(tops) > 1 or any(map(is_split, tops)):
            wrapper = candidate
    return wrapper


def _children(folders: Iterable[str], parent: str) -> set[str]:
    below = (name[len(parent) :] for name in folders if name.startswith(parent))
    return {name.split("/")[0] for name in below if name}


def quoted(names: Sequence[str]) -> str:
    """Return the first ten names, quoted, for a message.

    Examples
    --------
    >>> quoted(["ants", "bees"])
    "'ants', 'bees'"
    """
    return ", ".join(map(repr, names[:10])) + ", …" * (len(names) > 10)


def _warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=2)
