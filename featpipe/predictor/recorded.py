"""Read the C that a comparison has chosen from its score document."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from featpipe.defaults import C_GRID
from featpipe.scores import Score, read_document

__all__ = ["check_rows", "find_record"]


def find_record(
    path: str | os.PathLike[str],
    row: tuple[str, str],
    seed: int,
    options: dict[str, Any],
    Cs: np.ndarray | None,
) -> Score:
    """Return the score of one classifier on one depth from a score document.

    Parameters
    ----------
    path : path
        Written by ``compare --json``.
    row : (classifier, depth)
    seed, options, Cs
        Options of the search for C, which have to be those of the comparison. ``Cs`` is
        the grid, ascending; None for the default one.

    Returns
    -------
    Score
        With a chosen C.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, row or C, or it was chosen with other options.
    """
    document = read_document(path)
    classifier, depth = row
    requested = {"seed": seed, **options}
    recorded = {"seed": document.seed, **document.options}
    for name, value in requested.items():
        # A search with another seed or number of folds may choose another C.
        if name not in recorded or recorded[name] != value:
            had = repr(recorded[name]) if name in recorded else "an unknown value"
            raise ValueError(
                f"{os.fspath(path)!r} was made with {name}={had}, not {value!r}; give "
                "the same options, or leave the record out"
            )
    scores = [s for s in document.scores if (s.classifier, s.depth) == row]
    if len(scores) != 1 or scores[0].C is None:
        rows = sorted({f"{s.classifier} on {s.depth}" for s in document.scores})
        raise ValueError(
            f"{os.fspath(path)!r} has {len(scores)} rows of {classifier} on {depth} "
            f"with a C, one is needed; it has {', '.join(rows)}"
        )
    grid = np.array(C_GRID) if Cs is None else Cs
    curve = np.array([C for C, _ in scores[0].C_curve], float)
    # Equal to rounding, since the document has decimal text.
    if len(curve) != len(grid) or not np.allclose(curve, grid, rtol=1e-9):
        raise ValueError(
            f"{os.fspath(path)!r} chose C from {len(curve)} values from "
            f"{curve.min(initial=np.inf):.3g}, not from the {len(grid)} asked for; "
            "give the same --C-grid, or leave the record out"
        )
    return scores[0]


def check_rows(
    record: Score,
    n_train: int,
    held: Sequence[str],
    path: str | os.PathLike[str],
) -> None:
    """Raise ValueError if a record is of other images than those of a fit.

    Parameters
    ----------
    record : Score
    n_train : int
        Images that the fit learns from.
    held : sequence of str
        Paths of the held-out images; empty where there is no split.
    path : path
        The record's file.
    """
    if record.n_train != n_train or (held and set(record.test_paths) != set(held)):
        raise ValueError(
            f"{os.fspath(path)!r} is of {record.n_train} training and "
            f"{record.n_test} judged images, the codes of {n_train} and "
            f"{len(held)}, or of others; compare this file again, or leave the "
            "record out"
        )
