"""Where and how a recipe runs: what changes its speed, and its numbers by rounding."""

import os
from dataclasses import dataclass

from featpipe.bounds import require_number

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
        If ``batch_size`` is no whole number from 1 to 65,536, or ``workers`` none
        from 1 to 1,024.

    Examples
    --------
    >>> Machine("cpu", workers=3).n_workers
    3
    """

    device: str = "auto"
    batch_size: int | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        for name, value, high in (
            # Bounds against slips of a digit; no device takes more.
            ("batch_size", self.batch_size, 65_536),
            ("workers", self.workers, 1024),
        ):
            if value is None:
                continue
            value = require_number(name, value, 1, high)
            object.__setattr__(self, name, value)

    @property
    def n_workers(self) -> int:
        """How many images are read and decoded at once."""
        return self.workers or os.cpu_count() or 1
