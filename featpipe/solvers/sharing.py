"""Codes standardised and rotated once for all the classifiers that learn from them.

Inside ``with share_codes():`` two fits of the same array, splits and weights read,
standardise and rotate it once. Outside, nothing is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import torch

from featpipe.solvers.fold_codes import FoldCodes
from featpipe.solvers.problem import Options, Problem, Split

__all__ = ["share_codes", "shared"]

Make = Callable[[Problem, list[Split], Options, torch.device], FoldCodes]

# The array stands beside what was made of it, so that its address is not used again.
_made: ContextVar[dict[Hashable, tuple[np.ndarray, FoldCodes]] | None] = ContextVar(
    "made", default=None
)


@contextmanager
def share_codes() -> Iterator[None]:
    """Share standardised and rotated codes among the fits inside the block."""
    token = _made.set({})
    try:
        yield
    finally:
        _made.reset(token)


def shared(
    problem: Problem,
    splits: list[Split],
    options: Options,
    device: torch.device,
    make: Make,
) -> FoldCodes:
    """Return the codes of the folds: those made before, or new ones of ``make``."""
    made = _made.get()
    if made is None or not isinstance(problem.codes, np.ndarray):
        return make(problem, splits, options, device)
    key = _key(problem, splits, options, device)
    if key not in made:
        made[key] = problem.codes, make(problem, splits, options, device)
    return made[key][1]


def _key(
    problem: Problem, splits: list[Split], options: Options, device: torch.device
) -> Hashable:
    digest = hashlib.sha256()
    parts = [problem.labels, problem.weights, problem.row_weights]
    for part in parts + [np.asarray(train) for train, _ in splits]:
        digest.update(np.ascontiguousarray(part).tobytes() + b"|")
    codes = problem.codes
    where = codes.__array_interface__["data"][0], codes.shape, codes.strides
    settings = problem.standardize, problem.n_classes, options.n_bytes, str(device)
    return where, codes.dtype.str, settings, digest.hexdigest()
