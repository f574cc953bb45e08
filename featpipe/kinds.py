"""Describe a file that was given where another kind is needed.

For messages alone: what a file is taken for is decided where it is read.
"""

import re

__all__ = ["CODES", "HEAD", "MODEL", "describe_kind"]

HEAD = 4096
"""How many bytes of a file are enough to tell."""

CODES, MODEL = "a codes file of `featpipe extract`", "a model of `featpipe fit`"
_KINDS = (
    (rb"featpipe-codes ", CODES),
    # safetensors: a length, then JSON whose keys come in any order.
    (rb'.{7}\0\{"__metadata__":.*(featpipe-model|\\"class_names)', MODEL),
    (rb'.{7}\0\{"', "a safetensors file"),
    (rb'\s*\{\s*"featpipe":', "a scores file of featpipe"),
    (rb"\x93NUMPY|PK\x03\x04.{26}[^/]*\.npy", "NumPy arrays"),
    (rb"PK\x03\x04.{26}[^/]*/data\.pkl", "a file of torch.save"),
    (rb"\x80[\x02-\x05]", "a pickle"),
    (rb"\x89HDF\r\n", "an HDF5 file of another program"),
    (rb"\xff\xd8\xff|\x89PNG\r\n|GIF8|RIFF....WEBP", "an image"),
    (rb"PK\x03\x04", "a zip archive"),
)


def describe_kind(head: bytes) -> str:
    r"""Return what a file is, by its first bytes.

    Parameters
    ----------
    head : bytes
        The first `HEAD` bytes, or all there are.

    Returns
    -------
    str
        With its article; empty where it is none of the known kinds.

    Examples
    --------
    >>> describe_kind(b"featpipe-codes 1\n{"), describe_kind(b"notes")
    ('a codes file of `featpipe extract`', '')
    """
    head = head[:HEAD]
    matching = (kind for pattern, kind in _KINDS if re.match(pattern, head, re.DOTALL))
    return next(matching, "")
