"""Newton directions by conjugate gradients, for units that steps alone do not solve.

Where classes can be separated, curvature sits on a few rows that change along the
path, and a remembered metric is always late. The true Hessian is not.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from featpipe.solvers._evaluation import Curved, Objective, scores

__all__ = ["exact_directions", "newton_directions", "residual_norm"]

LARGEST_ROUND = 100
# Beyond, conjugate gradients are cheaper than a factorisation.
LARGEST_SIDE = 4096
LARGEST_COST = 2e9
EXCHANGES = 200


def newton_directions(
    objective: Objective,
    theta: torch.Tensor,
    units: torch.Tensor,
    C: torch.Tensor,
    gradient: torch.Tensor,
    target: torch.Tensor,
    precondition: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    *,
    radius: torch.Tensor,
    dtype: torch.dtype,
    memory: int,
) -> tuple[torch.Tensor, int]:
    """Solve Hessian x = -gradient for each unit, until its residual meets its target.

    Parameters
    ----------
    theta, gradient : (n_units, n_columns, width + 1) float64
    units : (n_units,) int64
    C, target : (n_units,) float64
        The target is for `residual_norm`.
    precondition : callable
        Applies an inverse metric to residuals of some of these units, given by number.
    memory : int
        Bytes that the rows' curvature may take; it is worked out anew otherwise.

    Returns
    -------
    tuple of (n_units, n_columns, width + 1) float64 and int
        The directions, and the number of passes over the codes.
    """
    curved = Curved(objective, theta, units, dtype, memory)
    x, residual = torch.zeros_like(theta), -gradient
    p, product = torch.zeros_like(theta), C * 0
    going = torch.arange(len(units), device=theta.device)
    for n_passes in range(LARGEST_ROUND):
        left = residual_norm(residual[going], radius[going])
        going = going[left > target[going]]
        if not len(going):
            return x, n_passes
        z = precondition(residual[going], going)
        product_new = (residual[going] * z).sum((1, 2))
        beta = torch.where(product[going] > 0, product_new / product[going], 0.0)
        p[going] = z + beta[:, None, None] * p[going]
        product[going] = product_new
        bent = C[going, None, None] * curved.apply(p[going], going)
        bent[..., :-1] += p[going, :, :-1]
        step = (product_new / (p[going] * bent).sum((1, 2)))[:, None, None]
        x[going] += step * p[going]
        residual[going] -= step * bent
    return x, LARGEST_ROUND


def residual_norm(v: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """Give the norm of each gradient, intercepts counting as they do in the bounds."""
    inner, last = (v[..., :-1] ** 2).sum((1, 2)), (v[..., -1] ** 2).sum(1)
    return (inner + radius**2 * last).sqrt()


def exact_directions(
    objective: Objective,
    theta: torch.Tensor,
    units: torch.Tensor,
    C: torch.Tensor,
    gradient: torch.Tensor,
    *,
    thorough: bool,
) -> torch.Tensor | None:
    """Solve Hessian x = -gradient of single columns by Cholesky, in float64.

    Parameters are as for `newton_directions`; None where it would cost more than
    conjugate gradients. With ``thorough``, the direction of an svm leads to the minimum
    itself: rows are exchanged between inside and outside of the margin until all are
    where they belong.
    """
    table = objective.design.table
    if objective.n_columns > 1 or table.kept is None or table.width > LARGEST_SIDE:
        return None
    v, shift = objective.to_table(theta, units)
    z = table.rows(0, table.n_rows, torch.float64)
    rows = slice(0, table.n_rows)
    f = scores(v, shift, z)
    bend = objective.bend(f, units, rows)[:, 0]
    side = min(int((bend > 0).sum(1).max()), table.width)
    cost = max(1, side**2 * table.n_rows)
    if cost > LARGEST_COST:
        return None
    n_exchanges = int(min(EXCHANGES, max(5, 10 * LARGEST_COST // cost)))
    found = torch.zeros_like(theta)
    for i, split in enumerate(objective.split[units].tolist()):
        used = (objective.design.weights[split] > 0).nonzero()[:, 0]
        x = (z[used] - objective.design.centre[split]) * objective.design.ratio[split]
        if thorough and objective.loss == "svm":
            sign = (
                2.0 * (objective.design.labels[used] == objective.own[units[i]]) - 1.0
            )
            weight = C[i] * objective.design.weights[split, used]
            found[i, 0] = _exchange(x, sign, weight, theta[i, 0], n_exchanges)
        else:
            found[i, 0] = _exact(x, C[i] * bend[i, used], gradient[i, 0])
    return found


def _exchange(
    x: torch.Tensor,
    sign: torch.Tensor,
    weight: torch.Tensor,
    theta: torch.Tensor,
    n_exchanges: int,
) -> torch.Tensor:
    """Give the step from ``theta`` to the minimum of a squared hinge.

    If the exchanges do not come to an end, a plain Newton step.

    This is block principal pivoting: given the active rows the minimum is a linear
    system. All rows on the wrong side of the margin change sides at once; if that does
    not make them fewer three times, the last of them alone does, which cannot cycle
    (Júdice and Pires 1994).
    """
    start, newton = theta, theta
    slack = 1 - sign * (x @ theta[:-1] + theta[-1])
    active = slack > 0
    fewest, patience = len(x) + 1, 3
    for _ in range(n_exchanges):
        rows = active.nonzero()[:, 0]
        pull = -2 * weight[rows] * sign[rows] * slack[rows]
        gradient = torch.cat([theta[:-1] + pull @ x[rows], pull.sum()[None]])
        theta = theta + _exact(x[rows], 2 * weight[rows], gradient)
        newton = theta if newton is start else newton
        slack = 1 - sign * (x @ theta[:-1] + theta[-1])
        wrong = (active != (slack > 0)).nonzero()[:, 0]
        if not len(wrong):
            return theta - start
        if len(wrong) < fewest:
            fewest, patience = len(wrong), 3
        elif patience:
            patience -= 1
        else:
            wrong = wrong[-1:]
        active[wrong] = ~active[wrong]
    return newton - start


def _exact(x: torch.Tensor, bend: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Solve one Newton system: penalised columns of x, and a free intercept."""
    root = x * bend.sqrt()[:, None]
    tall = len(root) >= root.shape[1]
    gram = root.T @ root if tall else root @ root.T
    # Gram + 1 is what primal (columns) and dual (rows, by Woodbury) both factor.
    gram.diagonal().add_(1.0)
    factor = torch.linalg.cholesky(gram)
    tilt = bend @ x
    both = torch.stack([gradient[:-1], tilt], dim=1)
    if tall:
        solved = torch.cholesky_solve(both, factor)
    else:
        solved = both - root.T @ torch.cholesky_solve(root @ both, factor)
    w, t = solved.T
    bent = bend.sum() - tilt @ t
    free = bent > 1e-12 * bend.sum()
    shift = torch.where(free, (tilt @ w - gradient[-1]) / bent, 0.0)
    return torch.cat([-w - t * shift, shift[None]])
