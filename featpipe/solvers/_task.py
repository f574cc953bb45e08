"""What is to be solved and with what means; knows nothing of how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Options", "Task"]


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


@dataclass(frozen=True)
class Options:
    """How exactly, where, and within what memory; see the classifiers."""

    tol: float = 1e-4
    max_passes: int = 1000
    device: str = "auto"
    memory: int | str | None = None
