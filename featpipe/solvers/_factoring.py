"""Newton directions of single columns by Cholesky, in float64.

A squared hinge bends only at the rows inside its margin, and a factorisation costs no
more than they are many: late on the path, where conjugate gradients take long, these
are few.
"""

from __future__ import annotations

import torch

from featpipe.solvers._evaluation import Objective
from featpipe.solvers._frame import scores
from featpipe.solvers._gram import symmetric
from featpipe.solvers._threads import side_by_side

__all__ = ["SETTLING", "factored", "operations", "settled"]

# Factorisations that may settle which rows are active, and operations they may take.
EXCHANGES = 200
SETTLING = 8e10


def operations(n_rows: torch.Tensor, width: int) -> torch.Tensor:
    """Estimate what a factorisation costs where so many rows bend.

    In operations of single precision, two of which one of double precision takes.

    Parameters
    ----------
    n_rows : (n_units,) float64
    """
    return 4 * n_rows.clamp_max(width) * n_rows * width


def factored(
    objective: Objective,
    theta: torch.Tensor,
    units: torch.Tensor,
    C: torch.Tensor,
    gradient: torch.Tensor,
    n_workers: int,
) -> torch.Tensor:
    """Solve Hessian x = -gradient of single columns.

    Parameters are those of `_newton.Point`, and how many columns are worked on side by
    side; the rows of the table must be kept.

    Returns
    -------
    (n_units, 1, width + 1) float64
    """
    slope = objective.unturned(gradient)[:, 0]
    found = torch.zeros_like(slope)
    bends, split = _bends(objective, theta, units), objective.split[units].tolist()

    def factor(i: int) -> None:
        rows = bends[i].nonzero()[:, 0]
        x = objective.standardised(rows, split[i])
        found[i] = _exact(x, C[i] * bends[i, rows], slope[i])

    side_by_side(factor, len(units), n_workers)
    return objective.turned(found.unsqueeze(1))


def settled(
    objective: Objective,
    theta: torch.Tensor,
    units: torch.Tensor,
    C: torch.Tensor,
    n_workers: int,
) -> tuple[torch.Tensor, int]:
    """Give the steps to the minima of squared hinges themselves.

    Parameters and the first of what is returned are as for `factored`; the second is
    how many factorisations that took.
    """
    design, start = objective.design, objective.unturned(theta)[:, 0]
    found, counts = torch.zeros_like(start), [0] * len(units)
    split = objective.split[units].tolist()

    def settle(i: int) -> None:
        used = (design.weights[split[i]] > 0).nonzero()[:, 0]
        x = objective.standardised(used, split[i])
        cost = float(operations(x.new_tensor(len(x)), x.shape[1]))
        n_exchanges = int(min(EXCHANGES, max(5, SETTLING / cost)))
        sign = 2.0 * (design.labels[used] == objective.own[units[i]]) - 1.0
        weight = C[i] * design.weights[split[i], used]
        found[i], counts[i] = _exchange(x, sign, weight, start[i], n_exchanges)

    side_by_side(settle, len(units), n_workers)
    return objective.turned(found.unsqueeze(1)), sum(counts)


def _bends(
    objective: Objective, theta: torch.Tensor, units: torch.Tensor
) -> torch.Tensor:
    """Give the second derivative of the loss at every row, (n_units, n) float64."""
    table = objective.design.table
    v, shift = (part.to(table.dtype) for part in objective.to_table(theta, units))
    bends = []
    for start in range(0, table.n_rows, table.step):
        rows = slice(start, min(start + table.step, table.n_rows))
        f = scores(v, shift, table.rows(rows.start, rows.stop))
        bends.append(objective.bend(f, units, rows)[:, 0].double())
    return torch.cat(bends, dim=1)


def _exchange(
    x: torch.Tensor,
    sign: torch.Tensor,
    weight: torch.Tensor,
    theta: torch.Tensor,
    n_exchanges: int,
) -> tuple[torch.Tensor, int]:
    """Give the step from ``theta`` to the minimum of a squared hinge.

    If the exchanges do not come to an end, a plain Newton step. Also gives how many
    exchanges there were.

    This is block principal pivoting: given the active rows the minimum is a linear
    system. All rows on the wrong side of the margin change sides at once; if that does
    not make them fewer three times, the last of them alone does, which cannot cycle
    (Júdice and Pires 1994).
    """
    start, newton = theta, theta
    slack = 1 - sign * (x @ theta[:-1] + theta[-1])
    active = slack > 0
    fewest, patience = len(x) + 1, 3
    for n in range(1, n_exchanges + 1):
        rows = active.nonzero()[:, 0]
        pull = -2 * weight[rows] * sign[rows] * slack[rows]
        gradient = torch.cat([theta[:-1] + pull @ x[rows], pull.sum()[None]])
        theta = theta + _exact(x[rows], 2 * weight[rows], gradient)
        newton = theta if newton is start else newton
        slack = 1 - sign * (x @ theta[:-1] + theta[-1])
        wrong = (active != (slack > 0)).nonzero()[:, 0]
        if not len(wrong):
            return theta - start, n
        if len(wrong) < fewest:
            fewest, patience = len(wrong), 3
        elif patience:
            patience -= 1
        else:
            wrong = wrong[-1:]
        active[wrong] = ~active[wrong]
    return newton - start, n_exchanges


def _exact(x: torch.Tensor, bend: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Solve one Newton system: penalised columns of x, and a free intercept."""
    root = x * bend.sqrt()[:, None]
    tall = len(root) >= root.shape[1]
    across = root.T if tall else root
    gram = symmetric(across, across.T)
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
