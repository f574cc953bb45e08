"""Bases in which the Gram matrices of the folds are diagonal."""

from __future__ import annotations

import numpy as np
import torch

from featpipe.solvers.fold_codes import FoldCodes, RotatedCodes, SharedCodes
from featpipe.solvers.problem import Options, Problem, Split
from featpipe.solvers.sharing import digest_of, make_once
from featpipe.solvers.standardize import Moments, Rows, fold_moments, moments_of_sums
from featpipe.solvers.streaming import StreamedRows, fits

__all__ = ["fold_codes", "gram_matrices"]

# Directions of smaller relative eigenvalue are rounding.
RANK = 1e-12
# Shares of the memory for standardised rows, for a sample of rows that are streamed,
# for rotated copies, and for bases.
ROWS, SAMPLE, ROTATED, BASES = 0.6, 0.45, 0.4, 0.5
# Columns up to which every fold gets a basis of its own for the preconditioner: beyond,
# eigenvectors take longer than the steps that they save.
OWN_BASES = 256
# Rows a column that a basis for all folds is taken from, where rows are streamed.
BASIS_ROWS = 20
# Columns of a symmetric product that are computed at once, from the diagonal on.
HALVED = 128

# Of every fold: Σ w z zᵀ, (n_folds, width, width), and Σ w z, (n_folds, width).
Sums = tuple[torch.Tensor, torch.Tensor]


def fold_codes(
    problem: Problem, splits: list[Split], options: Options, device: torch.device
) -> FoldCodes:
    """Standardise the codes for every fold and rotate them into its eigenbasis.

    Parameters
    ----------
    problem : Problem
    splits : list of (train, held-out)
        Row numbers; the held-out rows are standardised alike.
    options : Options
    device : torch.device
    """
    arrays = [problem.labels, problem.weights, problem.row_weights]
    digest = digest_of(*arrays, *(np.asarray(train) for train, _ in splits))
    rotates = _rotates(problem, splits, options)
    # Only wide codes that are not rotated differ by loss.
    wide = problem.codes.shape[1] > OWN_BASES and not rotates
    wide = wide and problem.loss == "linear"
    settings = problem.standardize, problem.n_classes, options.n_bytes, str(device)
    return make_once(
        problem.codes,
        ("folds", digest, wide, settings),
        lambda: _fold_codes(problem, splits, options, device, rotates),
    )


def _fold_codes(
    problem: Problem,
    splits: list[Split],
    options: Options,
    device: torch.device,
    rotates: bool,
) -> FoldCodes:
    n_folds, (weights, row_weights) = len(splits), _weights(problem, splits, device)
    labels = torch.from_numpy(problem.labels).to(device)
    kept, kind = int(ROWS * options.n_bytes), Rows
    if not fits(problem.codes, kept):
        kept, kind = int(SAMPLE * options.n_bytes), StreamedRows
    key = digest_of(problem.row_weights), problem.standardize, kept, str(device)
    rows = make_once(problem.codes, ("rows", key), lambda: kind(problem, device, kept))
    most = BASES * options.n_bytes
    # Least squares needs each fold's own basis; for the others one is near enough.
    exact = problem.loss == "linear" or rows.width <= OWN_BASES
    exact = exact and 8 * (3 + 2 * n_folds) * rows.width**2 <= most
    common = not exact and 8 * 5 * rows.width**2 <= most
    sums = _sums(rows, weights) if exact and not rotates else None
    if sums is None or weights is not row_weights:
        moments = fold_moments(rows, row_weights, weights, problem.standardize)
    else:
        # Which hold all that a standardisation takes: a reading of the rows less.
        second, mass = sums[0].diagonal(dim1=1, dim2=2), weights.sum(1, keepdim=True)
        moments = moments_of_sums(rows, mass, sums[1], second, problem.standardize)
    class_weight = weights.new_zeros(n_folds, problem.n_classes)
    for start, stop in rows.blocks():
        own = torch.nn.functional.one_hot(labels[start:stop], problem.n_classes)
        class_weight += weights[:, start:stop] @ own.double()
    if rotates:
        return _rotated(rows, moments, labels, weights, class_weight)
    return _shared(rows, moments, labels, weights, class_weight, exact, common, sums)


def _weights(
    problem: Problem, splits: list[Split], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weights of each fold, of the loss and of the standardisation.

    Both are one tensor where they are the same, which saves memory and passes.
    """

    def of_folds(weight: np.ndarray) -> torch.Tensor:
        table = np.zeros((len(splits), len(weight)))
        for fold, (train, _) in enumerate(splits):
            table[fold, train] = weight[train]
        return torch.from_numpy(table).to(device)

    weights = of_folds(problem.weights)
    if np.array_equal(problem.weights, problem.row_weights):
        return weights, weights
    return weights, of_folds(problem.row_weights)


def _rotates(problem: Problem, splits: list[Split], options: Options) -> bool:
    """Return whether every fold gets a rotated copy of the rows, of fewer columns."""
    n_rows, width = problem.codes.shape
    numbers = len(splits) * n_rows * max(len(train) for train, _ in splits)
    fits = 12 * numbers + 8 * n_rows * width <= ROTATED * options.n_bytes
    return bool(fits and width > n_rows)


def _rotated(
    rows: Rows,
    moments: Moments,
    labels: torch.Tensor,
    weights: torch.Tensor,
    class_weight: torch.Tensor,
) -> RotatedCodes:
    z = rows.read(0, rows.n_rows, torch.float64)
    values, rotated, vectors = [], [], []
    for fold, weight in enumerate(weights):
        x = (z - moments.centre[fold]) * moments.ratio[fold]
        value, vector, turned = _eigenbasis(x, weight)
        values.append(value)
        vectors.append(vector)
        rotated.append(turned)
    rank = max(len(value) for value in values)
    table = z.new_zeros(len(values), rows.n_rows, rank + 1)
    table[..., -1] = 1
    eigenvalues = z.new_zeros(len(values), rank)
    for fold, value in enumerate(values):
        # Folds of lower rank are padded: their further coefficients stay zero.
        first = rank - len(value)
        table[fold, :, first:rank] = rotated[fold]
        eigenvalues[fold, first:] = value
        pad = z.new_zeros(len(vectors[fold]), first)
        vectors[fold] = torch.cat([pad, vectors[fold]], dim=1)
    norms = table[..., :-1].square().sum(2) * (weights > 0)
    return RotatedCodes(
        rows=rows,
        moments=moments,
        labels=labels,
        weights=weights,
        eigenvalues=eigenvalues,
        top=eigenvalues[:, -1],
        basis=None,
        is_exact=True,
        radius=norms.amax(1).sqrt(),
        class_weight=class_weight,
        rotated=table,
        vectors=vectors,
    )


def _eigenbasis(
    x: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return eigenvalues, what `RotatedCodes.vectors` holds, and rotated rows."""
    trains = weight > 0
    part, root = x[trains], weight[trains].sqrt()[:, None]
    value, vectors = torch.linalg.eigh(_square((root * part).T))
    kept = value > RANK * value[-1].clamp_min(torch.finfo(value.dtype).tiny)
    value, vectors = value[kept], vectors[:, kept]
    rotated = x.new_empty(len(x), len(value))
    # Training rows are known from their Gram matrix: only the others are multiplied.
    rotated[trains] = vectors * value.sqrt() / root
    vectors = root * vectors / value.sqrt()
    rotated[~trains] = x[~trains] @ part.T @ vectors
    return value, vectors, rotated


def _shared(
    rows: Rows,
    moments: Moments,
    labels: torch.Tensor,
    weights: torch.Tensor,
    class_weight: torch.Tensor,
    exact: bool,
    common: bool,
    sums: Sums | None,
) -> SharedCodes:
    radius = _radius(rows, moments, weights)
    mass, (n_folds, width) = weights.sum(1), moments.ratio.shape
    # No eigenvalue exceeds the trace.
    values, basis, top = mass[:, None].expand(n_folds, width), None, mass * radius**2
    if exact:
        values, basis = torch.linalg.eigh(gram_matrices(rows, moments, weights, sums))
        values = values.clamp_min(0)
        top = values[:, -1]
    elif common:
        every = weights.amax(0, keepdim=True)
        value, basis = make_once(
            rows.codes,
            ("basis", digest_of(every.cpu().numpy()), str(rows.device)),
            lambda: _common_basis(rows, moments, every),
        )
        values = (mass / every.sum())[:, None] * value
        if rows.kept is not None:
            # A fold's rows are some of all, about their own mean, in its own scales.
            top = torch.minimum(top, value[-1] * moments.ratio.square().amax(1))
    return SharedCodes(
        rows=rows,
        moments=moments,
        labels=labels,
        weights=weights,
        eigenvalues=values,
        top=top,
        basis=None if basis is None else _with_intercept(basis),
        is_exact=exact,
        radius=radius,
        class_weight=class_weight,
    )


def _with_intercept(basis: torch.Tensor) -> torch.Tensor:
    """Return a basis with one more direction, that of the intercept alone."""
    basis = torch.nn.functional.pad(basis, (0, 1, 0, 1))
    basis[..., -1, -1] = 1
    return basis


def _common_basis(
    rows: Rows, moments: Moments, every: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return eigenvalues and eigenvectors of the Gram matrix of all rows that serve.

    Of those that do not fit into the memory a sample will do.
    """
    middle, streams = moments.centre.mean(0, keepdim=True), rows.streams
    stride = rows.n_rows // (BASIS_ROWS * rows.width)
    if rows.kept is None and stride > 1:
        sample = rows.every(stride)
        if sample is not rows:
            rows, every = sample, stride * every[:, ::stride]
    # Streamed rows may have columns of any scale.
    ratio = moments.ratio.mean(0, keepdim=True)
    ratio = ratio if streams else torch.ones_like(middle)
    gram = gram_matrices(rows, Moments(ratio, middle), every)
    value, basis = torch.linalg.eigh(gram[0])
    return value.clamp_min(0), basis


def _radius(rows: Rows, moments: Moments, weights: torch.Tensor) -> torch.Tensor:
    """Return the largest norm of a training row of each fold, or a little more."""
    largest = weights.new_zeros(len(weights))
    used, square = (weights > 0).T, (moments.ratio**2).T.float()
    inner = (moments.centre * moments.ratio**2).T.float()
    constant = (moments.centre * moments.ratio).square().sum(1)
    for start, stop in rows.blocks():
        z = rows.read(start, stop, torch.float32)
        norms = ((z * z) @ square - 2 * (z @ inner)).double() + constant
        largest = torch.maximum(largest, (norms * used[start:stop]).amax(0))
    # Single precision, rounded up: the bound of the gap has to hold.
    return 1.001 * largest.clamp_min(0).sqrt()


def gram_matrices(
    rows: Rows, moments: Moments, weights: torch.Tensor, sums: Sums | None = None
) -> torch.Tensor:
    """Return each fold's Gram matrix, (n_folds, width, width) float64.

    ``sums`` are what `_sums` returned, if it was asked.
    """
    gram, first = _sums(rows, weights) if sums is None else sums
    centre, ratio = moments.centre, moments.ratio
    mass = weights.sum(1)[:, None]
    # In place, for these are the largest things in memory where rows are streamed.
    centred = torch.baddbmm(gram, first[:, :, None], centre[:, None], alpha=-1)
    centred.baddbmm_(centre[:, :, None], first[:, None], alpha=-1)
    centred.baddbmm_((mass * centre)[:, :, None], centre[:, None])
    return centred.mul_(ratio[:, :, None]).mul_(ratio[:, None])


def _sums(rows: Rows, weights: torch.Tensor) -> Sums:
    """Return Σ w z zᵀ and Σ w z of every fold.

    Rows that serve the same folds are summed once, and the sum is shared: all folds
    together cost one pass over the rows. The sums over all rows are left behind for a
    final fit on them.
    """
    every = weights.amax(0)
    key = "sums", digest_of(every.cpu().numpy()), str(rows.device)
    behind: list[Sums] = make_once(rows.codes, key, list)
    if len(weights) == 1 and behind:
        return behind[0]
    gram, first, total = _fold_sums(rows, weights)
    behind[:] = [total]
    return gram, first


def _fold_sums(
    rows: Rows, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, Sums]:
    """Return Σ w z zᵀ and Σ w z of every fold, and both of all rows that serve."""
    n_folds, width = len(weights), rows.width
    # The last is for all rows.
    gram = weights.new_zeros(n_folds + 1, width, width)
    first = weights.new_zeros(n_folds + 1, width)
    power = 2.0 ** torch.arange(n_folds, dtype=torch.float64, device=weights.device)
    for start, stop in rows.blocks():
        z = rows.read(start, stop, torch.float64)
        part = weights[:, start:stop]
        # A number for each set of folds that a row serves.
        code = power @ (part > 0).double()
        for number in code.unique():
            if not number:
                continue
            chosen = (code == number).nonzero()[:, 0]
            used = (part[:, chosen[0]] > 0).nonzero()[:, 0].tolist()
            root = part.amax(0)[chosen].sqrt()[:, None]
            rooted = z[chosen] * root
            # Each row is multiplied once and added to every fold that has it, instead
            # of once a fold.
            square, linear = _square(rooted), (rooted * root).sum(0)
            for fold in (*used, n_folds):
                gram[fold] += square
                first[fold] += linear
    # A copy, which does not keep the sums of the folds.
    return gram[:-1], first[:-1], (gram[-1:].clone(), first[-1:].clone())


def _square(z: torch.Tensor) -> torch.Tensor:
    """Return zᵀz, computing little over half of it."""
    width = z.shape[1]
    product = z.new_empty(width, width)
    for start in range(0, width, HALVED):
        stop = min(start + HALVED, width)
        torch.mm(z[:, start:stop].T, z[:, start:], out=product[start:stop, start:])
        product[stop:, start:stop] = product[start:stop, stop:].T
    return product
