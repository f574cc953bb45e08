"""Where and how a recipe runs: what changes its speed, and its numbers by rounding."""

import os
from dataclasses import dataclass
from numbers import Integral

__all__ = ["Machine"]


@dataclass(frozen=True)
class Machine:
    """A device, and how much of it is used at once.

    Parameters
    ----------
    device : str
        ``"auto"`` (CUDA where there is one, then MPS, then the CPU), ``"cpu"``,
        ``"cuda"`` (every GPU that is visible), ``"cuda:1"``, ``"mps"``.
    batch_size : int, optional
        Images that go through the network together; default as the device likes it.
    workers : int, optional
        How many images are read and decoded at once; default one a processor.

    Raises
    ------
    ValueError
        If ``batch_size`` or ``workers`` is below 1.

    Examples
    --------
    >>> Machine("cpu", workers=3).n_workers
    3
    """

    device: str = "auto"
    batch_size: int | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        for name, value in (
            ("batch size", self.batch_size),
            ("workers", self.workers),
        ):
            if value is None:
                continue
            number = isinstance(value, Integral) and not isinstance(value, bool)
            if not number or value < 1:
                raise ValueError(f"{name} is {value!r}; use >= 1, a whole number")

    @property
    def n_workers(self) -> int:
        """How many images are read and decoded at once."""
        return self.workers or os.cpu_count() or 1
