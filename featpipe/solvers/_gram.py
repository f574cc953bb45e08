"""Gram matrices of the codes, and the basis they are diagonal in."""

from __future__ import annotations

import torch

from featpipe.solvers._table import Design

__all__ = ["covariance", "pattern_grams", "principal", "top_eigenvalues"]

# Rows of a symmetric product that are computed at once, from the diagonal on.
HALVED = 128


def covariance(design: Design, dtype: torch.dtype) -> torch.Tensor:
    """Give the mean square of the table's rows over all splits' weights, float64.

    Every training row of any split counts by its largest weight, about the common
    centre: an upper bound of each split's own, up to its mass.
    """
    table, weights = design.table, design.weights.amax(0)
    gram = torch.zeros(table.width, table.width, dtype=torch.float64)
    gram = gram.to(table.device)
    first = gram.new_zeros(table.width)
    for block in design.pieces(table.step):
        z = table.rows(block.start, block.stop, dtype)
        w = weights[block.start : block.stop].to(dtype)
        gram += symmetric(z.T * w, z)
        first += w @ z
    mass = weights.sum()
    return (gram - torch.outer(first, first) / mass) / mass


def principal(gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give eigenvalues (not negative) and eigenvectors of a Gram matrix."""
    values, vectors = torch.linalg.eigh(gram)
    return values.clamp_min(0), vectors


def pattern_grams(
    design: Design, columns: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Give what least squares needs of every split, reading the codes once.

    Rows that serve the same splits are summed once, and the sum is shared.

    Parameters
    ----------
    design : Design
    columns : (n, n_columns) float64
        What is to be fitted.

    Returns
    -------
    gram : (n_splits, width, width) float64
    cross : (n_splits, width, n_columns) float64
    first : (n_splits, width) float64
    """
    table, n_splits = design.table, len(design.mass)
    new = design.mass.new_zeros
    gram = new(n_splits, table.width, table.width)
    cross = new(n_splits, table.width, columns.shape[1])
    first = new(n_splits, table.width)
    for block in design.pieces(table.step):
        z = table.rows(block.start, block.stop, torch.float64)
        weights = design.weights[:, block.start : block.stop]
        patterns, which = torch.unique(weights > 0, dim=1, return_inverse=True)
        for i, used in enumerate(patterns.T):
            rows = (which == i).nonzero()[:, 0]
            if not used.any():
                continue
            part = z if len(rows) == len(z) else z[rows]
            w = weights.amax(0)[rows]
            heavy = part.T if bool((w == 1).all()) else part.T * w
            gram[used] += symmetric(heavy, part)
            cross[used] += heavy @ columns[block.start : block.stop][rows]
            first[used] += heavy.sum(1)
    return gram, cross, first


def symmetric(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Multiply where the product is known to be symmetric: little over half of it."""
    width = len(left)
    product = left.new_empty(width, width)
    for start in range(0, width, HALVED):
        stop = min(start + HALVED, width)
        torch.mm(left[start:stop], right[:, start:], out=product[start:stop, start:])
        product[stop:, start:stop] = product[start:stop, stop:].T
    return product


def top_eigenvalues(
    gram: torch.Tensor, largest: torch.Tensor, ratio: torch.Tensor
) -> torch.Tensor:
    """Bound the largest eigenvalue of ``ratio gram ratio`` for each row of ratio.

    The least of three upper bounds: the largest absolute row sum, the trace, and the
    largest eigenvalue of ``gram`` times the largest ratio squared.
    """
    bounds = []
    for scale in ratio:
        rows = (scale[:, None] * gram.abs() * scale).sum(1).amax()
        trace = (gram.diagonal() * scale**2).sum()
        bounds.append(torch.stack([rows, trace, largest * scale.amax() ** 2]).amin())
    return torch.stack(bounds)
