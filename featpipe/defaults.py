"""Defaults that more than one package uses.

Every package may use it, and it uses none.
"""

import numpy as np

__all__ = ["C_GRID", "N_FOLDS"]

N_FOLDS = 5
"""Of cross-validation: usual, and each fold still trains on four fifths of the rows."""

C_GRID: tuple[float, ...] = tuple(np.logspace(-6, 5, 45).tolist())
"""Values of C that are compared: four in ten-fold, over all that has won anywhere."""
