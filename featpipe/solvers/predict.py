"""Classes of the held-out rows of every fold, for many C in one pass over the rows."""

from __future__ import annotations

import numpy as np
import torch

from featpipe.solvers.fold_codes import FoldCodes

__all__ = ["predict_held_out"]

# Scores that are held at once.
SCORES = 2**22


def predict_held_out(
    codes: FoldCodes, theta: torch.Tensor, held_out: list[np.ndarray]
) -> list[np.ndarray]:
    """Predict the held-out rows of every fold.

    Parameters
    ----------
    codes : FoldCodes
    theta : (n_folds, n_C, n_columns, rank + 1) float64
    held_out : list of (n_held_out,) int64
        Row numbers, one array a fold.

    Returns
    -------
    list of (n_C, n_held_out) arrays of class numbers
        In the order of ``held_out``. Classes without a training row are never told.
    """
    _, n_C, n_columns, _ = theta.shape
    dtype = codes.rows.dtype
    v = codes.to_rows(theta.flatten(1, 2), dtype).clone()
    if n_columns > 1:
        absent = codes.class_weight == 0
        v[..., -1] = v[..., -1].masked_fill(absent.repeat(1, n_C), -torch.inf)
    kind = np.min_scalar_type(codes.class_weight.shape[1])
    predicted = [np.zeros((n_C, len(rows)), kind) for rows in held_out]
    order = [np.argsort(rows, kind="stable") for rows in held_out]
    for start, stop in codes.blocks(max(1, n_C * n_columns)):
        z = codes.block(start, stop, dtype)
        # One product of all rows for all folds, instead of a copy of rows for each.
        whole = codes.scores(z, v) if codes.rows.streams else None
        for fold, rows in enumerate(held_out):
            ordered = rows[order[fold]]
            low, high = np.searchsorted(ordered, [start, stop])
            if low == high:
                continue
            chosen = torch.from_numpy(ordered[low:high] - start).to(z.device)
            if whole is None:
                f = codes.fold_scores(z, v, fold, chosen)
            else:
                f = whole[fold][:, chosen]
            f = f.view(n_C, n_columns, -1)
            # Columns last: torch looks for the largest across rows ten times slower.
            number = f[:, 0] > 0 if n_columns == 1 else f.mT.contiguous().argmax(2)
            predicted[fold][:, order[fold][low:high]] = number.cpu().numpy()
    return predicted
