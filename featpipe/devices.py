"""Check the name of a device that a user gives.

Every package may use it, and it uses none.
"""

__all__ = ["require_device"]

_KINDS = ("cpu", "cuda", "mps")


def require_device(name: str) -> None:
    """Raise unless torch can compute on a device of this machine.

    Parameters
    ----------
    name : str
        Such as ``cpu``, ``cuda`` or ``cuda:1``; "auto" is not a device.

    Raises
    ------
    ValueError
        With the devices that can be used.

    Examples
    --------
    >>> require_device("cpu")
    >>> require_device("gpu")
    Traceback (most recent call last):
        ...
    ValueError: device 'gpu' cannot be used: it is no device of torch; give auto or cpu
    """
    import torch

    try:
        # Only a value that comes back shows that a device works; "meta" holds none.
        torch.zeros(1, device=name).item()
    # torch raises one class or another by the kind of device.
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        is_kind = str(name).partition(":")[0] in _KINDS
        reason = "torch finds none here" if is_kind else "it is no device of torch"
        raise ValueError(
            f"device {name!r} cannot be used: {reason}; give {_usable()}"
        ) from error


def _usable() -> str:
    import torch

    names = ["auto", "cpu", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        names.append("mps")
    return f"{', '.join(names[:-1])} or {names[-1]}"
