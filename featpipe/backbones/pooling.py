"""Pool maps and tokens of a network into codes.

A new pool is a name in `_POOLS_BY_KIND` and a case in `pool`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    *("POOLS", "Layout", "Shape"),
    *("default_pool", "pool", "pools_of", "stored_shape"),
]

Shape = tuple[int, ...]

_POOLS_BY_KIND = {
    "vector": (),
    "map": ("avg", "max", "gem", "flatten", "map", "map32"),
    "tokens": ("cls", "mean", "flatten", "map", "map32"),
}
POOLS = tuple(dict.fromkeys(how for pools in _POOLS_BY_KIND.values() for how in pools))
# `map` has half precision, since maps are up to a thousand times larger than codes.
_WHOLE = {"map": torch.float16, "map32": torch.float32}
_GEM_POWER = 3.0


@dataclass(frozen=True)
class Layout:
    """The layout of the output of a node.

    Parameters
    ----------
    kind : str
        ``vector`` (n, width), ``map`` (n, C, H, W) or ``tokens`` (n, tokens, width).
    channels_last : bool
        Whether a map is (n, H, W, C).
    n_prefix : int
        Number of tokens before those of the patches, such as a class token.
    """

    kind: str
    channels_last: bool = False
    n_prefix: int = 0


def pools_of(layout: Layout) -> tuple[str, ...]:
    """Return the pools that an output takes."""
    return _POOLS_BY_KIND[layout.kind]


def default_pool(layout: Layout) -> str | None:
    """Return the pool that is taken if none is named; None for a vector."""
    if layout.kind == "tokens":
        # Networks without a class token (swin, some ViTs) average the patches.
        return "cls" if layout.n_prefix else "mean"
    return "avg" if layout.kind == "map" else None


def stored_shape(how: str | None, shape: Shape, layout: Layout) -> Shape:
    """Return the shape of the code of one image."""
    if layout.channels_last:
        # Codes are always channels first.
        shape = (shape[2], shape[0], shape[1])
    if how in _WHOLE:
        return shape
    if how in (None, "flatten"):
        return (math.prod(shape),)
    return (shape[-1],) if layout.kind == "tokens" else (shape[0],)


def pool(
    x: Tensor, how: str | None = None, *, channels_last: bool = False, n_prefix: int = 0
) -> Tensor:
    """Turn the output of a node into codes.

    The result never shares memory with ``x``, since the next layer may write into
    ``x``, as ``ReLU(inplace=True)`` does.

    Parameters
    ----------
    x : (n, width), (n, C, H, W), (n, H, W, C) or (n, tokens, width)
        Of any floating type; computed in float32.
    how : str or None
        For maps ``avg``, ``max``, ``flatten`` or ``gem``, the generalised mean with
        p = 3 [1]_; for tokens ``cls`` (the first token), ``mean`` (of the patches) or
        ``flatten``; ``map`` and ``map32`` keep all numbers. None for a vector.
    channels_last : bool
        Whether a map is (n, H, W, C).
    n_prefix : int
        Number of tokens before those of the patches.

    Returns
    -------
    (n, width) float32, or for ``map`` (n, C, H, W) or (n, tokens, width) float16, for
        ``map32`` the same in float32.
        ``flatten`` is channel-major, whatever the order in ``x``.

    References
    ----------
    .. [1] F. Radenović, G. Tolias and O. Chum, "Fine-tuning CNN Image Retrieval
       with No Human Annotation", TPAMI 2018. arXiv:1711.02512.

    Examples
    --------
    >>> maps = torch.arange(8.0).reshape(1, 2, 2, 2)
    >>> pool(maps, "avg").tolist()
    [[1.5, 5.5]]
    """
    if channels_last:
        # A view, which every pool below copies.
        x = x.permute(0, 3, 1, 2)
    if how in _WHOLE:
        order = torch.contiguous_format
        return x.to(_WHOLE[how], copy=True, memory_format=order)
    if how == "cls":
        return x[:, 0].to(torch.float32, copy=True)
    if how == "mean":
        return x[:, n_prefix:].float().mean(1)
    if how == "avg":
        # In float32, since sums of thousands of numbers lose digits in half precision.
        return x.float().mean((2, 3))
    if how == "max":
        return x.float().amax((2, 3))
    if how == "gem":
        # Clamped as in the paper, since roots need positive numbers.
        cubes = x.float().clamp(min=1e-6).pow(_GEM_POWER)
        return cubes.mean((2, 3)).pow(1 / _GEM_POWER)
    return x.to(torch.float32, copy=True).flatten(1)
