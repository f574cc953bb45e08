"""Print to any encoding: plain characters replace those that it lacks.

So a table is not lost because the encoding of a terminal, such as ASCII, has no star.
"""

import codecs
import sys

__all__ = ["allow_any_encoding", "replace_characters"]

_NAME = "featpipe.plain"
_PLAIN = {
    "★": "*",
    "…": "...",
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{MINUS SIGN}": "-",
    "\N{MULTIPLICATION SIGN}": "x",
    "·": "-",
    "•": "-",
    "½": "1/2",
    "‖": "|",
    "²": "^2",
    "Σ": "sum",
    "±": "+-",
    "≤": "<=",
    "≥": ">=",
    "→": "->",
    "←": "<-",
    "✓": "ok",
    "\N{LEFT SINGLE QUOTATION MARK}": "'",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{LEFT DOUBLE QUOTATION MARK}": '"',
    "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
    "\N{NO-BREAK SPACE}": " ",
}


def replace_characters(error: UnicodeError) -> tuple[str, int]:
    r"""Return plain characters for those that an encoding lacks, as an error handler.

    A character without a plain form, such as a letter of a class name, becomes its
    escape, and so does a byte of a file name that is not text.

    Parameters
    ----------
    error : UnicodeEncodeError

    Returns
    -------
    replacement : str
    position : int
        Where encoding goes on.

    Examples
    --------
    >>> codecs.register_error("plain", replace_characters)
    >>> "★ caf\u00e9 ≥ 1 \udcff".encode("ascii", "plain")
    b'* caf\\xe9 >= 1 \\udcff'
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    plain = (
        _PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode()
        for c in error.object[error.start : error.end]
    )
    return "".join(plain), error.end


def allow_any_encoding() -> None:
    """Let stdout and stderr replace characters that their encoding lacks."""
    codecs.register_error(_NAME, replace_characters)
    for stream in (sys.stdout, sys.stderr):
        # It may be None without a console, or an object of a notebook.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_NAME)
