"""Sentences on rows and folds, for the notes."""

from __future__ import annotations

import numpy as np

from featpipe.protocol.parts import Part

__all__ = ["FEW", "count", "describe_few", "describe_selection"]

FEW = 200
"""Training images below which contenders are ranked by repeated folds."""


def count(rows: np.ndarray) -> str:
    """Return the number of rows as images, in words."""
    return f"{len(rows)} image" + "s" * (len(rows) != 1)


def describe_selection(part: Part) -> str:
    """Return in words how C is chosen among the rows of a part."""
    if not part.selection:
        return "they are too few for cross-validation"
    return f"C is chosen by {len(part.selection)}-fold cross-validation"


def describe_few(part: Part) -> list[str]:
    """Return what a reader of cross-validated scores of few images must know."""
    if len(part.selection) == 1:
        n_val = len(part.selection[0][1])
        return [
            f"fewer than {FEW} images of 'val' ({n_val}) choose C and the recommended "
            "row: a row close to it may be better"
        ] * (n_val < FEW)
    if len(part.train) >= FEW or not part.selection:
        return []
    return [
        f"fewer than {FEW} images to learn from: cv is the mean over repeated folds, "
        "it flatters all the same, and a row close to the recommended one may be better"
    ]
