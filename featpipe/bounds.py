"""Check the numbers that a user gives: one function, and one sentence.

Every package may use it, and it uses none.
"""

from numbers import Integral, Real
from typing import Any

__all__ = ["LARGEST_SEED", "require_number", "require_seed"]

LARGEST_SEED = 2**32 - 1
"""numpy's, scikit-learn's and torch's generators all take it."""


def require_number(
    name: str,
    value: Any,
    low: float,
    high: float,
    *,
    whole: bool = True,
    above: bool = False,
    below: bool = False,
    instead: str = "",
) -> Any:
    """Return a number as Python's own, or raise unless it is between two bounds.

    Numbers of numpy, which a search over parameters hands over, go into no JSON.

    Parameters
    ----------
    name : str
        What the user calls it.
    value
        Whatever came; a bool or a text is no number.
    low, high : float
    whole : bool
        Whether only whole numbers will do.
    above, below : bool
        Whether it must be above ``low``, or below ``high``, and not equal.
    instead : str
        What else would do, as ``"or None"``.

    Returns
    -------
    int or float
        A float where not only whole numbers will do.

    Raises
    ------
    ValueError
        With the name, the value and the bounds.

    Examples
    --------
    >>> require_number("epochs", 10, 1, 100_000)
    10
    >>> require_number("epochs", 0.5, 1, 100_000)
    Traceback (most recent call last):
    ValueError: epochs=0.5 has to be a whole number from 1 to 100,000
    """
    kind = Integral if whole else Real
    # bool is a whole number to Python; `folds=True` is a slip.
    fits = isinstance(value, kind) and not isinstance(value, bool)
    # A nan is in no order, so that it never fits.
    if not (
        fits
        and (low < value if above else low <= value)
        and (value < high if below else value <= high)
    ):
        what = "a whole number" if whole else "a number"
        start, end = "above" if above else "from", "below" if below else "to"
        more = f" {instead}" * bool(instead)
        raise ValueError(
            f"{name}={value!r:.60} has to be {what} {start} {_text(low)} {end} "
            f"{_text(high)}{more}"
        )
    return int(value) if whole else float(value)


def require_seed(value: Any) -> int:
    """Return a seed as an int; raise unless it seeds every generator that is used."""
    return int(require_number("seed", value, 0, LARGEST_SEED))


def _text(bound: float) -> str:
    large = abs(bound) >= 1e10
    return f"{bound:g}" if large or bound != int(bound) else f"{int(bound):,}"
