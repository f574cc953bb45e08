"""Small things that the tests of several packages share."""

import functools
import gc
import hashlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before torch is loaded: tests run side by side, a process a core, and many fork, which
# threads of OpenMP do not survive.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import typer.main
import typer.testing
from PIL import Image

from featpipe import backbones

Draw = Callable[..., Path]

# A shell's background jobs ignore Ctrl-C, and so would the processes that tests stop.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Files whose tests take long by themselves or wait for other programs: first, so that
# no process ends with one of them while the others have nothing left.
FIRST = (
    "test_report_browser.py",
    "test_survival.py",
    "test_finetuning_resume.py",
    "test_extraction_resume.py",
    "test_extraction_dask.py",
    "test_extraction_distributed.py",
    "test_cli_encoding.py",
    "test_docs.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort by file: the long ones first, the others as they are."""
    items.sort(
        key=lambda item: (
            FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST)
        )
    )


# Not while modules are imported: what they make stays, and looking at it all again
# and again takes a tenth of the imports.
gc.disable()


def pytest_collection_finish() -> None:
    """Leave what is imported out of each later collection, and of copies in forks."""
    gc.enable()
    gc.collect()
    gc.freeze()
    # Seldom, for the tests keep little.
    gc.set_threshold(20_000, 50, 100)


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what is remembered between runs away from the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def commands_made_once() -> Iterator[None]:
    """Keep typer's runner from making all commands anew for each of 1,000 calls."""
    with pytest.MonkeyPatch.context() as patch:
        make = functools.cache(typer.main.get_command)
        patch.setattr(typer.testing, "_get_command", make, raising=False)
        yield


_loaded: dict[object, Any] = {}


@pytest.fixture(scope="module", autouse=True)
def networks_loaded_once(request: pytest.FixtureRequest) -> Iterator[None]:
    """Load a network once for all tests but those of loading: it takes 0.1 seconds.

    Nothing changes a network that was loaded; each module's end checks that.
    """
    if request.module.__name__.startswith(("test_backbones", "test_mini")):
        yield
        return
    used: dict[object, str] = {}

    def load(name: str, **named: Any) -> Any:
        from featpipe.backbones.loading import load

        weights = named.get("weights")
        # What lies in a file or in a module of one's own may be another thing by now.
        if ":" in name or not (weights == "none" or (name, weights) == ("mini", None)):
            return load(name, **named)
        key = name, repr(sorted(named.items()))
        if key not in _loaded:
            _loaded[key] = load(name, **named)
        if key not in used:
            used[key] = _digest(_loaded[key])
        return _loaded[key]

    with pytest.MonkeyPatch.context() as patch:
        # Not `setattr`: to keep what it replaces, it would import torch.
        patch.setitem(backbones.__dict__, "load", load)
        yield
    for key, digest in used.items():
        assert _digest(_loaded[key]) == digest, f"{key} has changed"


def _digest(backbone: Any) -> str:
    """Return a digest of the weights of a network, whole and cut."""
    digest = hashlib.sha256()
    for network in (backbone.network, backbone.cut):
        for name, tensor in network.state_dict().items():
            digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def own_server() -> Iterator[Any]:
    """Return a server of loading processes, which can import `ending`."""
    # Here, so that tests without one do not wait for the import.
    from featpipe.inference.processes import WorkerServer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(Path(__file__).parent), *sys.path])
        made = WorkerServer(with_torch=False)
    yield made
    made.close()


@pytest.fixture(scope="session")
def draw() -> Draw:
    """Return a function that draws one small noisy image by a seed."""

    def draw(path: Path, seed: int, size: tuple[int, int] = (20, 16)) -> Path:
        rng = np.random.default_rng(seed)
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        return path

    return draw


@pytest.fixture
def photos(tmp_path: Path, draw: Draw) -> Path:
    """Return a folder of 6 images in 2 classes."""
    for k in range(6):
        draw(tmp_path / "photos" / ("ant", "bee")[k % 2] / f"{k}.png", k)
    return tmp_path / "photos"
