"""Choose how a network runs: options that change its speed, and its codes by rounding.

Which way is fastest depends on the network and the processor and cannot be predicted:
fused kernels double the speed of one processor and halve that of another. So a few ways
are tried before a long run, within about a second, and the fastest is remembered for
this network on this processor.
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

__all__ = ["Execution", "Memory", "multiplies_bf16", "processor", "try_out"]

# Runs that take longer than the first get a trial; after the second no further way is
# begun.
_LONG_SECONDS, _TRIAL_SECONDS = 30.0, 1.0
# A smaller gain is noise, and the safe way is kept.
_GAIN = 1.03

# Limits to oneDNN's instructions that leave no product in bf16.
_WITHOUT_BF16 = {
    *("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2"),
    *("AVX512_CORE", "AVX512_CORE_VNNI"),
}


@dataclass(frozen=True)
class Execution:
    """The way in which a network runs.

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
        # Not isinstance, to which a bool is an int: the record may come from a file
        # that anyone has edited.
        if type(self.fused) is not bool or any(type(x) is not int for x in numbers):
            raise ValueError(f"{self} has a value of another type")
        if min(numbers) < 1:
            raise ValueError(f"{self} has a number below 1")

    def as_dict(self) -> dict[str, Any]:
        """Return it as a dict for JSON, which `from_dict` reads."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Any) -> Execution | None:
        """Return the execution of a record; None if the record is invalid."""
        with suppress(ValueError, TypeError):
            return cls(**record)
        return None


def try_out(
    safe: Execution,
    others: Callable[[Execution], Iterator[Execution]],
    seconds_of: Callable[[Execution], float],
    n_images: int,
) -> tuple[Execution, bool]:
    """Return the fastest of some ways to run, measured for about a second.

    Parameters
    ----------
    safe : Execution
        Returned if none is clearly faster.
    others : callable
        Takes the best so far; yields ways to try next. Called again after each gain.
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
    # A trial of a second would cost more than it gains.
    if n_images * least < _LONG_SECONDS:
        return safe, False
    tried = {safe}
    while time.perf_counter() - begin < _TRIAL_SECONDS:
        following = next((way for way in others(best) if way not in tried), None)
        if following is None:
            break
        tried.add(following)
        seconds = seconds_of(following)
        # The best is measured again, in case another program kept the processor busy.
        if seconds * _GAIN < least:
            least = min(least, seconds_of(best))
        if seconds * _GAIN < least:
            best, least = following, seconds
    return best, True


class Memory:
    """The fastest ways of earlier runs, in the user's cache folder.

    One small JSON file for each network, depths, precision, processor and version of
    torch. A file that is damaged or cannot be written is ignored.

    Parameters
    ----------
    facts : dict
        What the choice depends on, JSON-able.
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        text = json.dumps(facts, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        self._facts = facts
        # Another machine, version or network has another digest, and so another file.
        self._path = _cache_folder() / "execution" / f"{digest[:32]}.json"

    def recall(self) -> Execution | None:
        """Return the remembered way, or None."""
        # A damaged file costs a new trial only.
        with suppress(OSError, ValueError, KeyError, TypeError):
            record = files.read_json(self._path)
            return Execution.from_dict(record["execution"])
        return None

    def remember(self, execution: Execution) -> None:
        """Keep a choice for later runs."""
        record = {"execution": execution.as_dict(), "facts": self._facts}
        # The run goes on if the home folder cannot be written to.
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            files.write_text(self._path, json.dumps(record, indent=1))


def _cache_folder() -> Path:
    """Return the cache folder of featpipe, below the same folder as torch's."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "featpipe"


def processor() -> str:
    """Return the name of the processor, and the limit set to oneDNN's instructions."""
    name = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2] for line in lines if "model name" in line)
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "")
    return f"{name.strip()} {limit}".strip()


def multiplies_bf16() -> bool:
    """Return whether the processor multiplies bf16 itself, and oneDNN may let it."""
    import torch

    # Without this function of torch (2.11 and before) no is the safe answer.
    able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    native = able.get("avx512_bf16") or able.get("amx_bf16")
    return bool(native) and limit not in _WITHOUT_BF16
