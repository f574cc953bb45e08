"""A small trial of a network: whether codes are a function of the image alone.

Run when a network that is not known to be one is loaded. Networks that are random, or
let images of a batch change each other's codes, would fill a file with noise silently.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["dependence"]

# Sums of other batch sizes round otherwise, by 1e-6 or so; what is looked for is large.
_TOLERANCE = 1e-3
# A network that draws does it every time. Other threads of the program share the
# generators, and draw now and then: those of a cluster's worker do.
_TRIES = 5


def dependence(
    network: nn.Module, run: Callable[[Tensor], Sequence[Tensor]], side: int
) -> str:
    """Return why codes depend on more than their image, or nothing.

    One image goes through the network twice alone, and once in the company of two
    others. Drawing random numbers counts as well, whether or not it shows in so few
    runs (stochastic depth seldom does).

    Parameters
    ----------
    network : nn.Module
        The whole network, to name the layer that is to blame.
    run : callable
        From normalised images (n, 3, side, side) to one tensor of codes a depth.
    side : int
        Pixels.

    Returns
    -------
    str
        The end of a sentence, such as ``it draws random numbers``; empty if nothing
        was noticed.
    """
    image, *others = _noise(side)
    with _same_generators(), torch.inference_mode():
        try:
            for _ in range(_TRIES):
                before = _states()
                # Clones: a network may write into its input.
                first, again = run(image.clone()), run(image.clone())
                # Recorded, a number that was drawn once is a constant.
                network(image.clone())
                drawn = _states() != before
                if not drawn:
                    break
            company = run(torch.cat([*others, image]))
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
    if not _alike(first, [codes[-1:] for codes in company]):
        if layer := _without_statistics(network):
            return f"its batch norm {layer!r} has no running statistics"
        return "the code of an image depends on the other images of its batch"
    return ""


def _noise(side: int) -> list[Tensor]:
    """Draw three unlike images: noise, weak noise around a grey, strong noise."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 1, 3, side, side, generator=generator)
    return [images[0], images[1] * 0.1 + 1.5, images[2] * 3 - 1]


def _alike(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    for one, other in zip(some, others, strict=True):
        a, b = one.double(), other.double()
        # Overflow in both is the same answer.
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
    numpy = np.random.get_state(legacy=False)["state"]  # noqa: NPY002 - others draw from it
    drawn = numpy["key"].tobytes(), numpy["pos"]
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), drawn


@contextmanager
def _same_generators() -> Iterator[None]:
    """Leave torch's, numpy's and Python's generators as they were."""
    # NPY002: a user's network may draw from numpy's global generator.
    numpy, python = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        np.random.set_state(numpy)  # noqa: NPY002
        random.setstate(python)
