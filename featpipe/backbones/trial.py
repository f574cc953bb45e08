"""Try whether the codes of a network depend on the image alone.

The trial runs when a network is loaded that is not known to be deterministic. If a
network is random, or the images of a batch change each other's codes, a file would be
filled with noise unnoticed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["dependence"]

# Other batch sizes change codes by about 1e-6 through rounding; real faults are large.
_TOLERANCE = 1e-3
# Repeated, since other threads, such as those of a Dask worker, may draw random numbers
# during a run. A random network draws in every run.
_TRIES = 5


def dependence(
    network: nn.Module, run: Callable[[Tensor], Sequence[Tensor]], side: int
) -> str:
    """Return why codes depend on more than the image; "" if they do not.

    One image runs through the network twice alone, and once with two others. Random
    numbers that the network draws count too, even if codes do not differ, as with
    stochastic depth.

    Parameters
    ----------
    network : nn.Module
        The whole network, which is searched for the cause.
    run : callable
        Takes normalised images (n, 3, side, side); returns a tensor of codes for each
        depth.
    side : int
        Side of the images in pixels.

    Returns
    -------
    str
        The end of a sentence, such as ``it draws random numbers in its forward``.
    """
    image, *others = _noise(side)
    with _same_generators(), torch.inference_mode():
        try:
            for _ in range(_TRIES):
                before = _states()
                # Clones, since a network may write into its input.
                first, again = run(image.clone()), run(image.clone())
                # In the recorded network, a number that was drawn is a constant.
                network(image.clone())
                drawn = _states() != before
                if not drawn:
                    break
            batch = run(torch.cat([*others, image]))
        except (RuntimeError, ValueError):
            # Batch norm without statistics refuses a single vector.
            if layer := _without_statistics(network):
                return f"its batch norm {layer!r} has no running statistics"
            raise
    if not drawn and not _alike(first, again):
        return "its codes of one image differ from run to run"
    if drawn:
        training = [name for name, m in network.named_modules() if m.training]
        where = f" (its {training[-1]!r} is in training mode)" if training else ""
        return f"it draws random numbers in its forward{where}"
    if not _alike(first, [codes[-1:] for codes in batch]):
        if layer := _without_statistics(network):
            return f"its batch norm {layer!r} has no running statistics"
        return "the code of an image depends on the other images of its batch"
    return ""


def _noise(side: int) -> list[Tensor]:
    """Draw three different images: noise, weak noise around grey, strong noise."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 1, 3, side, side, generator=generator)
    return [images[0], images[1] * 0.1 + 1.5, images[2] * 3 - 1]


def _alike(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    for codes, others in zip(first, second, strict=True):
        a, b = codes.double(), others.double()
        # An overflow in both counts as equal.
        if torch.equal(a.isfinite(), b.isfinite()):
            a, b = a.nan_to_num(0, 0, 0), b.nan_to_num(0, 0, 0)
            if float((a - b).norm()) <= _TOLERANCE * float(a.norm()) + 1e-6:
                continue
        return False
    return True


def _without_statistics(network: nn.Module) -> str:
    """Return the name of the first batch norm without statistics; "" if none."""
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (
            module.running_mean is None or module.training
        ):
            return str(name)  # torch has no type for it
    return ""


def _states() -> tuple[object, ...]:
    """Return the states of the generators that a forward may draw from."""
    # NPY002: a user's network may draw from numpy's global generator.
    numpy = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    of_numpy = numpy["key"].tobytes(), numpy["pos"]
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), of_numpy


@contextmanager
def _same_generators() -> Iterator[None]:
    """Restore the generators of torch, numpy and Python after the block."""
    # NPY002: a user's network may draw from numpy's global generator.
    numpy, python = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        np.random.set_state(numpy)  # noqa: NPY002
        random.setstate(python)
