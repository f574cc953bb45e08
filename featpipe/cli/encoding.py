"""Output for every encoding: plain characters where the encoding lacks one.

A table must not be lost because a terminal of cp1252 or ASCII has no star.
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
    r"""Return plain characters for those that an encoding lacks: a codec error handler.

    What has no plain form, such as a letter of a class name or a byte of a file name
    that is no text, becomes its escape.

    Parameters
    ----------
    error : UnicodeEncodeError

    Returns
    -------
    (replacement, where to go on)

    Examples
    --------
    >>> codecs.register_error("plain", replace_characters)
    >>> "★ caf\u00e9 ≥ 1 \udcff".encode("ascii", "plain")
    b'* caf\\xe9 >= 1 \\udcff'
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    shown = (_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode()
             for c in lacking)  # fmt: skip
    return "".join(shown), error.end


def allow_any_encoding() -> None:
    """Let stdout and stderr replace what their encoding lacks, instead of failing."""
    # As an error handler, so that only what the encoding lacks is replaced.
    codecs.register_error(_NAME, replace_characters)
    for stream in (sys.stdout, sys.stderr):
        # None where there is no console; a stand-in of a notebook has no encoding.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_NAME)
