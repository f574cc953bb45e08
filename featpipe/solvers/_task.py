"""What is to be solved and with what means; knows nothing of how."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

__all__ = ["Options", "Path", "Solution", "Split", "Start", "Task"]

DEFAULT_MEMORY = 10**9
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

Split = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Task:
    """Codes, classes and weights: all that defines the objective but C.

    Parameters
    ----------
    codes : (n, width) float32 or float64, or a reader with shape, dtype and rows
    labels : (n,) int64
        Numbers of the classes, from 0.
    n_classes : int
    loss : {"linear", "svm", "logistic"}
    weights : (n,) float64
        Of each row in the loss: sample weight times class weight.
    row_weights : (n,) float64
        Of each row in the standard deviations: the sample weight.
    standardize : bool
    """

    codes: Any
    labels: np.ndarray
    n_classes: int
    loss: str
    weights: np.ndarray
    row_weights: np.ndarray
    standardize: bool = True

    @property
    def n_columns(self) -> int:
        """Columns of W: one for two classes, else one a class."""
        return 1 if self.n_classes == 2 else self.n_classes


@dataclass(frozen=True)
class Options:
    """How exactly, where, and within what memory.

    Parameters
    ----------
    tol : float
        Gap to the minimum that every problem is solved to, relative to the objective,
        or to what W gains over none if that is less (a thousandth at least).
    max_passes : int
        Passes over the codes one problem may take at one C.
    device : str
        "auto" or a torch device.
    memory : int, str or None
        Bytes beyond the codes, or like "8GB"; None is 1 GB.
    """

    tol: float = 1e-4
    max_passes: int = 1000
    device: str = "auto"
    memory: int | str | None = None

    @property
    def n_bytes(self) -> int:
        """The budget in bytes.

        Raises
        ------
        ValueError
            If ``memory`` is no size.
        """
        if self.memory is None:
            return DEFAULT_MEMORY
        found = re.fullmatch(r"([0-9.]+) *([KMGT]?)i?B?", str(self.memory).strip())
        if not found or float(found[1]) <= 0:
            raise ValueError(
                f"memory={self.memory!r} is no size; give bytes or a text like '8GB'"
            )
        return int(float(found[1]) * _UNITS[found[2]])

    @property
    def torch_device(self) -> torch.device:
        """The device meant."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)


class Start(NamedTuple):
    """Where a fit begins, on the scale of the codes as given.

    Parameters
    ----------
    coef : (n_columns, width)
    intercept : (n_columns,)
    """

    coef: np.ndarray
    intercept: np.ndarray


@dataclass(frozen=True, eq=False)
class Solution:
    """One fitted classifier on the scale of the codes as given.

    Parameters
    ----------
    coef : (n_columns, width) float64
    intercept : (n_columns,) float64
    gap : float
        Bound of the relative distance of the objective to its minimum.
    n_passes : int
    converged : bool
    """

    coef: np.ndarray
    intercept: np.ndarray
    gap: float
    n_passes: int
    converged: bool


@dataclass(frozen=True, eq=False)
class Path:
    """Out-of-fold predictions of every C, and how exact they are.

    Parameters
    ----------
    predicted : list of (n_C, n_held_out) int
        Class numbers, one array a split; of no meaning where ``evaluated`` is false.
    gaps : (n_splits, n_C) float64
        Bound of the relative gap, the largest of the classes; nan where skipped.
    n_passes : (n_splits, n_C) int64
        Passes the slowest class took.
    converged : bool
    evaluated : (n_C,) bool
        Which C were solved. Given a score, a large problem skips some, and any may end
        at a C that takes long where the score has clearly fallen.
    whole : list of Solution or None
        Of each C on all rows, where it comes at no cost.
    starts : dict of int to Start
        By the number of a C, where a fit on all rows may begin: the mean of what the
        splits found. Of many columns only, fewer being led to their C about as fast,
        and as many as a tenth of the memory holds.
    """

    predicted: list[np.ndarray]
    gaps: np.ndarray
    n_passes: np.ndarray
    converged: bool
    evaluated: np.ndarray
    whole: list[Solution] | None = None
    starts: dict[int, Start] = field(default_factory=dict)
