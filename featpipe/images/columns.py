"""The columns of a table of images, in a file or a pandas frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from featpipe.images.folder_names import quoted

__all__ = ["COLUMNS", "describe_unread"]

COLUMNS = ("path", "label", "split", "group")
"""The columns that are read, in small letters."""


def describe_unread(header: Sequence[str], splits: Sequence[str]) -> Iterator[str]:
    """Yield warnings about columns that were not read but may hold labels or splits.

    A column of splits under another name is not read, so that the scores would follow
    another protocol.

    Parameters
    ----------
    header : sequence of str
        The names of all columns, in small letters.
    splits : sequence of str
        Columns outside `COLUMNS` that hold only names of splits.

    Yields
    ------
    str
        The end of a sentence that begins with the name of the table.

    Examples
    --------
    >>> list(describe_unread(["path", "label", "width"], []))
    []
    >>> list(describe_unread(["path", "label", "part"], ["part"]))
    ["has no column 'split', and 'part', which holds splits, was not read; rename it"]
    """
    others = [name for name in header if name not in COLUMNS]
    if others and "label" not in header:
        yield (
            f"has no column 'label', so its images are unlabelled; not read: "
            f"{quoted(others)}; rename the one that has the classes"
        )
    if splits and "split" not in header:
        yield (
            f"has no column 'split', and {quoted(splits)}, which holds splits, was not "
            "read; rename it"
        )
