"""The columns of a table of images, in a file or a pandas frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from featpipe.images.naming import listed

__all__ = ["COLUMNS", "describe_unread"]

COLUMNS = ("path", "label", "split", "group")
"""Those that are read, in small letters."""


def describe_unread(header: Sequence[str], splits: Sequence[str]) -> Iterator[str]:
    """Yield what columns of other names may have been meant to say.

    A split under another name would be passed over, and the scores would be of another
    protocol.

    Parameters
    ----------
    header : sequence of str
        All names, in small letters.
    splits : sequence of str
        Those outside `COLUMNS` whose every value names a split.

    Yields
    ------
    str
        The end of a sentence about the table.

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
            f"{listed(others)}; rename the one that has the classes"
        )
    if splits and "split" not in header:
        yield (
            f"has no column 'split', and {listed(splits)}, which holds splits, was not "
            "read; rename it"
        )
