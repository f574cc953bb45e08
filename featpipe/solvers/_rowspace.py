"""More columns than rows: the same problem in the space the training rows span.

The minimum lies in the span of the training rows, so a turn into an orthonormal
basis of it loses nothing. The basis chosen is the one the Gram matrix is diagonal
in; held-out rows are turned alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from featpipe.solvers._table import Block, Design, Rows

__all__ = ["Turned", "turn"]

# Directions of smaller relative weight are rounding.
RANK = 1e-12


@dataclass(frozen=True, eq=False)
class Turned:
    """One split in the space of its training rows.

    Parameters
    ----------
    design : Design
        Of that split alone.
    spread : (rank,) float64 tensor
        Eigenvalues of its Gram matrix, which is diagonal.
    back : (width, rank) tensor
        Takes coefficients to the split's standardised codes.
    """

    design: Design
    spread: torch.Tensor
    back: torch.Tensor


def turn(design: Design, p: int) -> Turned:
    """Turn split ``p`` of a design."""
    table = design.table
    z = table.rows(0, table.n_rows).double()
    z = (z - design.centre[p]) * design.ratio[p]
    train = (design.weights[p] > 0).nonzero()[:, 0]
    root = design.weights[p, train].sqrt()
    kernel = z @ z[train].T
    values, vectors = torch.linalg.eigh(root[:, None] * kernel[train] * root)
    kept = values > RANK * values[-1].clamp_min(torch.finfo(torch.float64).tiny)
    values, vectors = values[kept], vectors[:, kept]
    turned = root[:, None] * vectors / values.sqrt()
    rows = Rows((table.n_rows, len(values)), table.device, table.order)
    inside = kernel @ turned
    rows.kept = inside.to(rows.dtype)
    one = slice(p, p + 1)
    alone = Design(
        table=rows,
        labels=design.labels,
        weights=design.weights[one],
        ratio=values.new_ones(1, len(values)),
        centre=values.new_zeros(1, len(values)),
        blocks=[Block(b.start, b.stop, (0,)) for b in design.blocks if p in b.splits],
        mass=design.mass[one],
        class_mass=design.class_mass[one],
    )
    return Turned(alone, values, z[train].T @ turned)
