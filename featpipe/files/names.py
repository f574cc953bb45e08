"""Names of files and classes as text that a terminal may show."""

import re

__all__ = ["visible"]

# What moves the cursor, changes colours, or turns the direction of writing.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def visible(text: str, *, lines: bool = False) -> str:
    r"""Return a text whose control characters and odd bytes are shown as escapes.

    Names of files and classes may hold an ESC, with which a terminal can be made to
    do almost anything.

    ``lines`` keeps line breaks: a message has several lines, a name has not.

    Examples
    --------
    >>> visible("a\x1b[31m.png")
    'a\\x1b[31m.png'
    """
    parts = text.split("\n") if lines else [text]
    shown = "\n".join(
        _CONTROLS.sub(lambda found: repr(found[0])[1:-1], part) for part in parts
    )
    return shown.encode("utf-8", "backslashreplace").decode()
