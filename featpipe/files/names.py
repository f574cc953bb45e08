"""Names of files and classes as text that is safe on a terminal."""

import re

__all__ = ["visible"]

# Characters that end a line, move the cursor, change colours or the writing direction.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    r"""Return a text on one line, control characters and odd bytes shown as escapes.

    An ESC in a name can make a terminal do almost anything, and text after a line break
    in a name could pass for a message of this program.

    Examples
    --------
    >>> visible("a\x1b[31m.png")
    'a\\x1b[31m.png'
    """
    shown = _CONTROLS.sub(lambda match: repr(match[0])[1:-1], text)
    return shown.encode("utf-8", "backslashreplace").decode()
