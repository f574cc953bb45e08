"""Least squares: every C in closed form in the eigenbasis of a fold.

With Gram matrix diag(λ) and codes times targets g, setting the gradient of
½‖w‖² + C Σ (y - f)² to zero gives w = g / (λ + 1/2C) (Hoerl and Kennard 1970).
"""

from __future__ import annotations

import torch

from featpipe.solvers.fold_codes import FoldCodes

__all__ = ["Products", "products", "ridge", "targets"]

# Codes times targets of each fold in its eigenbasis, and mean targets: all that least
# squares takes of the rows, whatever C.
Products = tuple[torch.Tensor, torch.Tensor]


def ridge(
    codes: FoldCodes, n_classes: int, Cs: torch.Tensor, known: Products | None = None
) -> torch.Tensor:
    """Return the minimum for every fold and C.

    Parameters
    ----------
    codes : FoldCodes
        Whose eigenbases are exact.
    n_classes : int
    Cs : (n_C,) float64
    known : Products or None
        What `products` returned, if it was asked.

    Returns
    -------
    (n_folds, n_C, n_columns, rank + 1) float64
    """
    cross, mean = known or products(codes, n_classes)
    w = cross[:, None] / (codes.eigenvalues[:, None] + 0.5 / Cs[:, None])[:, :, None]
    if codes.basis is not None:
        w = (w.flatten(1, 2) @ codes.basis[:, :-1, :-1].mT).view_as(w)
    return torch.cat([w, mean[:, None, :, None].expand(*w.shape[:3], 1)], dim=3)


def products(codes: FoldCodes, n_classes: int) -> Products:
    """Return codes times targets, and mean targets, from one pass over the rows.

    These are (n_folds, n_columns, rank) and (n_folds, n_columns) float64.
    """
    y = targets(codes.labels, n_classes)
    mean = codes.weights @ y.T / codes.mass[:, None]
    sums = torch.zeros(
        codes.n_folds, len(y), codes.summed_width, dtype=y.dtype, device=y.device
    )
    for start, stop in codes.blocks(codes.n_folds * len(y)):
        z = codes.block(start, stop, torch.float64)
        error = y[:, start:stop] - mean[:, :, None]
        sums += codes.adjoint(z, codes.weights[:, None, start:stop] * error)
    cross = codes.from_rows(sums)[..., :-1]
    return cross if codes.basis is None else cross @ codes.basis[:, :-1, :-1], mean


def targets(labels: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Return +1 and -1 for every column, (n_columns, n) float64."""
    own = torch.arange(n_classes, device=labels.device)
    own = own[1:] if n_classes == 2 else own
    return 2.0 * (labels == own[:, None]).double() - 1.0
