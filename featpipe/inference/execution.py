"""How a network runs: what changes its speed a lot, and its numbers by rounding.

What is fastest depends on the network and the processor, and cannot be known
beforehand: fused kernels double the speed of one processor and halve that of another.
So before a long run a few ways are tried, within about a second, and what won is
remembered for this network on this processor.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featpipe import files

__all__ = ["Execution", "Memory", "has_amx", "processor", "try_out"]

# A trial is for runs that take longer than the first, and begins no further way after
# the second.
_LONG_SECONDS, _TRIAL_SECONDS = 30.0, 1.0
# Less is noise: what is known to be safe stays.
_GAIN = 1.03


@dataclass(frozen=True)
class Execution:
    """How a network runs.

    Parameters
    ----------
    fused : bool
        Whether convolutions add and activate by themselves; see `backbones.fusing`.
    batch_size : int
        Images that go through the network together.
    n_lanes : int
        Batches that are computed side by side, on each device.

    Raises
    ------
    ValueError
        If a number is below 1, or anything has another type.

    Examples
    --------
    >>> way = Execution(fused=True, batch_size=4, n_lanes=2)
    >>> Execution.from_dict(way.as_dict()) == way, Execution.from_dict({"lanes": 2})
    (True, None)
    """

    fused: bool
    batch_size: int
    n_lanes: int

    def __post_init__(self) -> None:
        numbers = (self.batch_size, self.n_lanes)
        # The record may come from a file that anyone has edited; a bool is an int to
        # isinstance.
        if type(self.fused) is not bool or any(type(x) is not int for x in numbers):
            raise ValueError(f"{self} has a value of another type")
        if min(numbers) < 1:
            raise ValueError(f"{self} has a number below 1")

    def as_dict(self) -> dict[str, Any]:
        """Return it as a JSON-able dict; :meth:`from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Any) -> Execution | None:
        """Return what a record from anywhere says; None if it says nothing usable."""
        with suppress(ValueError, TypeError):
            return cls(**record)
        return None


def try_out(
    safe: Execution,
    others: Callable[[Execution], Iterator[Execution]],
    seconds_of: Callable[[Execution], float],
    n_images: int,
) -> tuple[Execution, bool]:
    """Return the fastest of some ways to run, as far as a second of trying tells.

    Parameters
    ----------
    safe : Execution
        What to use if nothing is clearly faster.
    others : callable
        Takes the best so far; yields what to try next. Asked again after each winner.
    seconds_of : callable
        Runs one way on real shapes, and returns the seconds an image takes; infinity
        where it cannot run.
    n_images : int
        Images of the run.

    Returns
    -------
    best : Execution
    tried : bool
        Whether others were tried; False where the run is too short for that.
    """
    begin = time.perf_counter()
    best, least = safe, seconds_of(safe)
    # A trial of a second would not pay for itself.
    if n_images * least < _LONG_SECONDS:
        return safe, False
    seen = {safe}
    while time.perf_counter() - begin < _TRIAL_SECONDS:
        following = next((way for way in others(best) if way not in seen), None)
        if following is None:
            break
        seen.add(following)
        seconds = seconds_of(following)
        # Both are measured again: a difference that holds only once was another
        # program's load.
        if seconds * _GAIN < least:
            # Once more, in case something else kept the processor busy then.
            least = min(least, seconds_of(best))
        if seconds * _GAIN < least:
            best, least = following, seconds
    return best, True


class Memory:
    """What was found fastest before, in the user's cache folder.

    One small JSON file each network, depths, precision, processor and version of torch.
    A file that is damaged, or cannot be written, is as good as none.

    Parameters
    ----------
    facts : dict
        What the choice depends on, JSON-able.
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        text = json.dumps(facts, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        self._facts = facts
        # By digest, so that any change of machine, versions or network is another file
        # and none is ever out of date.
        self._path = _cache_folder() / "execution" / f"{digest[:32]}.json"

    def recall(self) -> Execution | None:
        """Return what was remembered, if anything was."""
        # What was remembered is a convenience: a damaged file is the same as none.
        with suppress(OSError, ValueError, KeyError, TypeError):
            record = files.read_json(self._path)
            return Execution.from_dict(record["execution"])
        return None

    def remember(self, execution: Execution) -> None:
        """Keep a choice for later runs."""
        record = {"execution": execution.as_dict(), "facts": self._facts}
        # A home that cannot be written to is no reason to stop.
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            files.write_text(self._path, json.dumps(record, indent=1))


def _cache_folder() -> Path:
    """Return where programs keep what they can do without; as torch has it."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "featpipe"


def processor() -> str:
    """Return the name of the processor, and what oneDNN may use of it."""
    name = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2] for line in lines if "model name" in line)
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "")
    return f"{name.strip()} {limit}".strip()


def has_amx() -> bool:
    """Return whether the processor has AMX for bf16, and oneDNN may use it."""
    import torch

    # A torch that has no such function counts as no.
    able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    allowed = limit in ("", "ALL", "DEFAULT") or "AMX" in limit
    return bool(able.get("amx_bf16")) and allowed
