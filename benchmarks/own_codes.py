"""What the checks of networks against their own libraries share.

Never run by itself: `check_timm.py` and `check_torchvision.py` do.
"""

import multiprocessing
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from featpipe import backbones

__all__ = ["check", "picture", "relative_distance", "write_weights"]

_TOLERANCE = 1e-4


def picture() -> Image.Image:
    """Return one image of noise, 420 x 301 pixels, always the same."""
    pixels = np.random.default_rng(0).integers(0, 256, (301, 420, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_weights(network: nn.Module, folder: Path) -> Path:
    """Write the state dict of a network to a file, and return its path."""
    path = folder / "weights.pt"
    torch.save(network.state_dict(), path)
    return path


def relative_distance(name: str, weights: Path, expected: Tensor) -> float:
    """Return how far featpipe's code of the picture is from the library's own.

    Parameters
    ----------
    name : str
        Of the backbone.
    weights : Path
    expected : (1, width) or (1, width, H, W) float32
        A map is averaged over its places.

    Returns
    -------
    float
        Norm of the difference by the norm of ``expected``; infinite where the widths
        differ.
    """
    if expected.ndim == 4:
        expected = expected.mean((2, 3))
    backbone = backbones.load(name, weights=weights)
    square = torch.from_numpy(backbone.preprocessing.apply(picture()))[None]
    result = backbone(square)["penultimate"]
    if result.shape != expected.shape:
        return float("inf")
    return float((result - expected).norm() / expected.norm())


def check(names: Sequence[str], distance: Callable[[str, Path], float]) -> bool:
    """Print the distance of each network; return whether one is too far.

    Each network runs in a process of its own, so that its memory is free before the
    next. A network that featpipe refuses is printed with the reason and is not too far,
    nor is one whose process is killed for its memory.
    """
    far = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder, _one_process() as process:
            try:
                relative = process.submit(distance, name, Path(folder)).result()
            except ValueError as error:
                print(f"{name}: refused: {error}", flush=True)
                continue
            except BrokenProcessPool:
                print(f"{name}: not measured: its process was killed", flush=True)
                continue
        print(f"{name}: {relative:.1e}", flush=True)
        if not relative <= _TOLERANCE:
            far.append(name)
    print(f"{len(far)} networks farther than {_TOLERANCE:g}: {', '.join(far) or '-'}")
    return bool(far)


def _one_process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
