"""Where and how a recipe runs: options that change its speed, and codes by rounding."""

import os
from dataclasses import dataclass, replace

from featpipe.bounds import require_number
from featpipe.inference.claims import claim_gpu

__all__ = ["Machine"]


@dataclass(frozen=True)
class Machine:
    """A device, its batch size and the number of workers.

    Parameters
    ----------
    device : str
        ``"auto"`` (CUDA where there is one, then MPS, then the CPU), ``"cpu"``,
        ``"cuda"`` (every GPU that is visible), ``"cuda:1"``, ``"mps"``.
    batch_size : int, optional
        Images that go through the network together; default by device and image size.
    workers : int, optional
        Number of images that are read and decoded at once; default one a processor.

    Raises
    ------
    ValueError
        If ``batch_size`` is not a whole number from 1 to 65,536, or ``workers`` not one
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
        # A torch.device has a name as well.
        object.__setattr__(self, "device", str(self.device))
        for name, value, high in (
            # Bounds against mistyped digits; no device takes more.
            ("batch_size", self.batch_size, 65_536),
            ("workers", self.workers, 1024),
        ):
            if value is None:
                continue
            value = require_number(name, value, 1, high)
            object.__setattr__(self, name, value)

    @property
    def n_workers(self) -> int:
        """Number of images that are read and decoded at once."""
        return self.workers or os.cpu_count() or 1

    def share(self, kind: str, n_here: int, n_threads: int | None = None) -> "Machine":
        """Return the part of a machine that one of several worker processes uses.

        Parameters
        ----------
        kind : str
            Kind of the devices that compute: ``cpu``, ``cuda`` or ``mps``.
        n_here : int
            Largest number of workers that share the machine.
        n_threads : int, optional
            Threads that a cluster has given to this worker.

        Examples
        --------
        >>> Machine(workers=6).share("cpu", n_here=2)
        Machine(device='cpu', batch_size=None, workers=6)
        """
        device = kind
        if self.device.startswith(f"{kind}:"):
            device = self.device
        elif kind == "cuda":
            import torch

            n_devices = torch.cuda.device_count()
            device = f"cuda:{claim_gpu(n_devices)}" if n_devices > 1 else "cuda"
        # Workers of one machine divide its processors among themselves.
        processors = (os.cpu_count() or 1) // n_here
        workers = self.workers or max(processors, n_threads or 1)
        return replace(self, device=device, workers=workers)
