"""Names of files and classes as text that a terminal may show."""

import re

__all__ = ["visible"]

# What ends a line, moves the cursor, changes colours, or turns the direction of
# writing.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    r"""Return a text on one line, control characters and odd bytes shown as escapes.

    Names of files and classes may hold an ESC, with which a terminal can be made to
    do almost anything, or a line break, behind which they could pose as a message.

    Examples
    --------
    >>> visible("a\x1b[31m.png")
    'a\\x1b[31m.png'
    """
    shown = _CONTROLS.sub(lambda found: repr(found[0])[1:-1], text)
    return shown.encode("utf-8", "backslashreplace").decode()
