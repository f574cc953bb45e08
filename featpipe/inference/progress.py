"""Record how far the work is, how fast it goes, and what limits its speed."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

__all__ = ["STAGES", "Progress"]

STAGES = ("read", "decode", "network", "write")


@dataclass
class Progress:
    """The progress of a run, and the seconds of its stages.

    Parameters
    ----------
    n_images : int
        Inputs of the source, failures of the scan included.
    computed : int
        Images that went through the network in this run.
    kept : int
        Rows taken from an earlier run.
    failed : int
        Inputs without a row.
    started : float
        Of `time.perf_counter`.
    begun : float, optional
        Likewise, when the first image is read: the time before it (scan, import of
        torch, network) does not predict how long the rest will take.
    seconds : dict
        ``read``, ``decode``, ``network``, ``write``, each summed over its threads.
    threads : dict
        How many threads each of them has.
    messages : list of str
        Messages for the user, such as that batches are halved.

    Examples
    --------
    >>> progress = Progress(n_images=10, computed=4, kept=3)
    >>> progress.done, progress.bottleneck
    (7, 'read')
    """

    n_images: int = 0
    computed: int = 0
    kept: int = 0
    failed: int = 0
    started: float = field(default_factory=time.perf_counter)
    begun: float | None = None
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(STAGES, 0.0)
    )
    threads: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 1))
    messages: list[str] = field(default_factory=list)
    _guard: Lock = field(default_factory=Lock, repr=False)

    @property
    def done(self) -> int:
        """Inputs that have a row or a failure so far."""
        return self.computed + self.kept + self.failed

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started

    @property
    def rate(self) -> float:
        """Images through the network per second, since the first was read."""
        since = self.started if self.begun is None else self.begun
        # Rows that were kept take no time, and would raise the rate.
        return self.computed / max(time.perf_counter() - since, 1e-9)

    @property
    def left(self) -> float | None:
        """Seconds that the rest will take at this rate; None before there is a rate.

        Rows that are kept take next to no time and do not count.
        """
        if not self.computed:
            return None
        return max(self.n_images - self.done, 0) / self.rate

    @property
    def bottleneck(self) -> str | None:
        """The stage whose threads are busy for the largest share of the time."""
        if not self.computed:
            return None
        # Divided by the threads: eight threads that decode take eight times the seconds
        # and need not be the bottleneck.
        return max(STAGES, key=lambda stage: self.seconds[stage] / self.threads[stage])

    def begin(self) -> None:
        """Start the clock: the first image is about to be read."""
        if self.begun is None:
            self.begun = time.perf_counter()

    def add_message(self, text: str) -> None:
        """Add to `messages`, once."""
        with self._guard:
            if text not in self.messages:
                self.messages.append(text)

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Add the time of a block to one of `seconds`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)

    def add(self, stage: str, seconds: float) -> None:
        """Add to one of `seconds`."""
        with self._guard:
            self.seconds[stage] += seconds
