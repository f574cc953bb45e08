"""Put the message of an error of another library on one line.

Every package may use it, and it uses none.
"""

import re

__all__ = ["first_line", "named_line", "one_line"]

_LENGTH = 200
# As in `<PIL.Image.Image object at 0x7f30>`: it is another one in every run.
_ADDRESS = re.compile(r"<[^<>]* at 0x[0-9a-f]+>")
# As urllib wraps the error of a connection, and Python numbers one of the system.
_WRAPPED = re.compile(r"<urlopen error (.*)>", re.DOTALL)
_NUMBER = re.compile(r"\[Errno -?\d+\] ")


def one_line(error: BaseException) -> str:
    r"""Return the message of an error on one short line, the same in every run.

    Examples
    --------
    >>> one_line(ValueError("a file\n  was cut short"))
    'a file was cut short'
    >>> one_line(EOFError())
    'EOFError'
    """
    return " ".join(_message(error).split())[:_LENGTH]


def first_line(error: BaseException) -> str:
    r"""Return the first line of a message; those of torch go on with a trace.

    Examples
    --------
    >>> first_line(RuntimeError("shapes differ\nException raised from check"))
    'shapes differ'
    """
    return _message(error).splitlines()[0][:_LENGTH]


def named_line(error: BaseException) -> str:
    r"""Return the name of an error and the first line of its message.

    Examples
    --------
    >>> named_line(TypeError("no such argument")), named_line(KeyError("size"))
    ('TypeError: no such argument', "KeyError: 'size'")
    """
    line, name = first_line(error), type(error).__name__
    return line if line.startswith(name) else f"{name}: {line}"


def _message(error: BaseException) -> str:
    """Return the text of an error; with its name where the text alone says nothing."""
    text, name = _ADDRESS.sub("it", str(error)).strip(), type(error).__name__
    text = _NUMBER.sub("", _WRAPPED.sub(r"\1", text))
    if isinstance(error, KeyError):
        return f"{name}: {text}"
    return text or name
