"""Extractions that are killed at every step of their protocol, and then run again.

`test_extraction_resume.py` judges the experiments. One process for all of them: torch
is imported once, and each run is a fork that may die.
"""

import functools
import gc
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from extracting import OPTIONS, run
from trapping import apart

from featpipe import backbones, codes, extraction
from featpipe.extraction import plan, runner
from featpipe.extraction.parts import Parts
from featpipe.files import ReservedFile, lock
from featpipe.inference.engine import Engine

SLICE = 8


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def full_disk() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def at(owner: Any, name: str, k: int, act: Callable[[], None], when: str) -> None:
    """Do something before or after the k-th call of a function, from 1."""
    plain, count = getattr(owner, name), 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if when == "before" and count == k:
            act()
        value = plain(*args, **kwargs)
        if when == "after" and count == k:
            act()
        return value

    setattr(owner, name, wrapped)


# name: owner, function, which call, what happens, when. Five slices make five parts;
# the sixth rename is that of the codes file.
POINTS: dict[str, tuple[Any, str, int, Callable[[], None], str]] = {
    "with the lock just taken": (os, "link", 1, die, "after"),
    "before the network": (extraction.job.Network, "lanes", 1, die, "before"),
    "before part 1 is written": (os, "fsync", 1, die, "before"),
    "before part 1 is named": (Path, "replace", 1, die, "before"),
    "with part 1 just named": (Path, "replace", 1, die, "after"),
    "before part 3 is named": (Path, "replace", 3, die, "before"),
    "with part 3 just named": (Path, "replace", 3, die, "after"),
    "with part 5 just named": (Path, "replace", 5, die, "after"),
    "with space just reserved": (os, "posix_fallocate", 1, die, "after"),
    "in the first write of the file": (ReservedFile, "write", 1, die, "after"),
    "in the middle of the file": (ReservedFile, "write", 5, die, "before"),
    "before the file is sealed": (codes.block, "seal", 6, die, "before"),
    "before the file is named": (Path, "replace", 6, die, "before"),
    "with the file just named": (Path, "replace", 6, die, "after"),
    "before the parts go": (Parts, "drop", 1, die, "before"),
    "with one part gone": (os, "unlink", 3, die, "after"),
    "with the parts just gone": (Parts, "drop", 1, die, "after"),
    "before the lock is left": (lock.Lock, "__exit__", 1, die, "before"),
    "ctrl-c in slice 3": (Path, "replace", 3, interrupt, "before"),
    "ctrl-c while reading": (Engine, "run", 7, interrupt, "before"),
    "ctrl-c in the file": (ReservedFile, "write", 5, interrupt, "before"),
    "sigterm in slice 3": (Path, "replace", 3, terminate, "before"),
    "full disk at part 1": (Path, "open", 1, full_disk, "before"),
    "full disk at part 3": (Path, "replace", 2, full_disk, "after"),
    "full disk at the file": (Path, "replace", 5, full_disk, "after"),
}


def once(act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run in a fork; return its value or its error, and the signal that ended it."""
    result = apart(act)
    del result["seconds"]
    return {**result.pop("value", {}), **result}


def extract(photos: Path, path: Path, **changes: Any) -> dict[str, Any]:
    _, tally = run(photos, path, **changes)
    return {"computed": tally.computed, "kept": tally.kept, "failed": tally.failed}


def parts(path: Path) -> int:
    folder = path.with_name(f"{path.name}.parts")
    return len(list(folder.glob("[!.]*.h5"))) if folder.is_dir() else 0


def rows(path: Path) -> int:
    """Count the rows in parts."""
    folder = path.with_name(f"{path.name}.parts")
    names = folder.glob("[!.]*.h5") if folder.is_dir() else []
    return sum(len(codes.read(name)) for name in names)


def experiment(name: str, photos: Path, work: Path) -> dict[str, Any]:
    path = work / name.replace(" ", "-") / "codes.h5"
    path.parent.mkdir()

    def broken() -> dict[str, Any]:
        at(*POINTS[name])
        return extract(photos, path)

    first = once(broken)
    between = {
        "parts": parts(path),
        "rows": rows(path),
        "final": path.exists(),
        "left": sorted(result.name for result in path.parent.iterdir()),
    }
    again = once(lambda: extract(photos, path))
    return {"first": first, "between": between, "again": again}


def killed_at_random(photos: Path, path: Path, seconds: float) -> int:
    """Kill from outside, wherever it may be; give the number of parts it left."""
    child = os.fork()
    if child == 0:
        extract(photos, path)
        os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return parts(path)


def grown(photos: Path, work: Path) -> dict[str, Any]:
    """Kill after three parts, then add an image at the front."""
    path = work / "grown" / "codes.h5"
    path.parent.mkdir()

    def broken() -> dict[str, Any]:
        at(Path, "replace", 3, die, "after")
        return extract(photos, path)

    once(broken)
    other = work / "grown photos"
    shutil.copytree(photos, other)
    content = (photos / "ant" / "002.png").read_bytes()
    (other / "ant" / "!first.png").write_bytes(content + b"more")
    again = once(lambda: extract(other, path))
    once(lambda: extract(other, work / "grown" / "fresh.h5"))
    return {"again": again}


def deeper(photos: Path, work: Path) -> dict[str, Any]:
    """Kill in the middle of adding a depth."""
    path = work / "deeper" / "codes.h5"
    path.parent.mkdir()
    shutil.copy(work / "unbroken" / "codes.h5", path)

    def broken() -> dict[str, Any]:
        at(Path, "replace", 3, die, "after")
        return extract(photos, path, depth=["body:max"])

    once(broken)
    again = once(lambda: extract(photos, path, depth=["body:max"]))
    fresh = work / "deeper" / "fresh.h5"
    once(lambda: extract(photos, fresh, depth=[*OPTIONS["depth"], "body:max"]))
    return {"again": again}


def experiments(photos: Path, work: Path) -> dict[str, dict[str, Any]]:
    """Run all experiments. It changes featpipe for good: in a fork that ends soon."""
    torch.set_num_threads(1)
    plan.SLICE = SLICE
    runner._SECONDS = 0.0  # every slice ends a part
    # Whatever torch imports late is imported once, and so is the network loaded: not in
    # every fork, which changes neither.
    backbones.load = functools.cache(backbones.load)
    extract(photos, work / "warm.h5")
    gc.collect()
    gc.freeze()  # or every fork copies what the collector touches
    reference = work / "unbroken" / "codes.h5"
    reference.parent.mkdir()
    start = time.perf_counter()
    results = {"unbroken": once(lambda: extract(photos, reference))}
    took = time.perf_counter() - start
    for name in POINTS:
        results[name] = experiment(name, photos, work)
    path = work / "at random" / "codes.h5"
    path.parent.mkdir()
    lived = [killed_at_random(photos, path, took * k / 10) for k in range(1, 10)]
    again = once(lambda: extract(photos, path))
    results["at random"] = {"lived": lived, "again": again}
    results["grown"] = grown(photos, work)
    results["deeper"] = deeper(photos, work)
    return results
