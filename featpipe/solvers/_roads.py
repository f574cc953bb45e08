"""Which road a design is solved by: closed form, descent, or the space of its rows."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

import numpy as np
import torch

from featpipe.solvers import _gram, _plan
from featpipe.solvers._descent import Descent
from featpipe.solvers._evaluation import Objective
from featpipe.solvers._judge import Judge
from featpipe.solvers._ridge import ridge, ridge_turned
from featpipe.solvers._rowspace import Turned, turn
from featpipe.solvers._sample import Sample
from featpipe.solvers._table import Design
from featpipe.solvers._task import Options, Task
from featpipe.solvers._threads import SMALL, side_by_side, threads_for
from featpipe.solvers._walkers import Arrival, Grid, Walkers

__all__ = ["KEPT", "Arrive", "solve_all"]

# Share of the memory that kept scores may take.
KEPT = 0.25
# Columns beyond which turning into the row space cannot be afforded.
TURN_ROWS = 12000

Arrive = Callable[[int, int, torch.Tensor, float, int], None]


def solve_all(
    task: Task,
    design: Design,
    grid: Grid,
    options: Options,
    arrive: Arrive,
    judge: Judge | None = None,
) -> np.ndarray:
    """Solve all splits of a design, in the space of their rows where it is smaller.

    Gives which C of the grid were solved: all, unless there is a judge.
    """
    table, n_columns = design.table, len(design.mass) * task.n_columns
    fits = table.n_rows * table.width * 16 <= 2 * options.n_bytes
    if table.width > table.n_rows and table.n_rows <= TURN_ROWS and fits:
        _solve_turned(task, design, grid, options, arrive)
        return np.ones(len(grid.Cs), bool)
    with threads_for(table.n_rows * table.width * n_columns):
        return _solve_here(task, design, grid, options, arrive, judge)


def _solve_here(
    task: Task,
    design: Design,
    grid: Grid,
    options: Options,
    arrive: Arrive,
    judge: Judge | None,
) -> np.ndarray:
    table, n_rows = design.table, design.table.n_rows
    every = np.ones(len(grid.Cs), bool)
    if task.loss == "linear":
        Cs = torch.from_numpy(grid.Cs).to(table.device)
        for p, thetas in enumerate(ridge(design, task.n_classes, Cs)):
            for position, theta in enumerate(thetas):
                arrive(p, position, theta, 0.0, 1)
        return every
    geometry = _geometry(design, options)
    descent = _set_out(task, design, grid, options, geometry)
    solved = np.zeros((len(design.mass), len(grid.Cs)), bool)

    def given(at: Arrival) -> torch.Tensor:
        return descent.objective.unturned(at.theta).flatten(0, 1)

    def arrived(at: Arrival) -> None:
        solved[at.walker, at.position] = True
        arrive(at.walker, at.position, given(at), at.gap, at.n_passes)

    if judge is None:
        descent.run(arrived)
        return every
    n_columns = len(design.mass) * task.n_columns
    if _plan.is_large(n_rows, table.width, n_columns, len(every)):
        walk = _Walk(descent, arrived)
        return _plan.coarse_to_fine(walk, len(every), judge, judge.n_held_out)

    def worth(here: list[Arrival]) -> bool:
        return judge.has_hope([(a.walker, a.position, given(a)) for a in here], solved)

    descent.run(arrived, worth)
    return np.asarray(solved.all(axis=0))


class _Walk:
    """A descent that is sent to one C after another."""

    def __init__(self, descent: Descent, arrived: Callable[[Arrival], None]) -> None:
        self.descent, self.arrived, self.theta = descent, arrived, descent.theta
        self.return_to = descent.return_to

    def visit(self, position: int, *, rough: bool = False) -> None:
        self.descent.stand(position, rough=rough)
        self.descent.run(self.arrived)


def _solve_turned(
    task: Task,
    design: Design,
    grid: Grid,
    options: Options,
    arrive: Arrive,
) -> None:
    """Solve each split in the space of its rows; small ones side by side."""
    table, n_splits = design.table, len(design.mass)
    products = table.n_rows**2 * task.n_columns
    one_at_a_time = Lock()

    def arrive_alone(*solved: Any) -> None:
        with one_at_a_time:
            arrive(*solved)

    def solve_split(p: int) -> None:
        _solve_one_turned(task, turn(design, p), p, grid, options, arrive_alone)

    small = table.device.type == "cpu" and products < SMALL
    n_workers = min(n_splits, torch.get_num_threads()) if small else 1
    with threads_for(products):
        side_by_side(solve_split, n_splits, n_workers)


def _solve_one_turned(
    task: Task,
    turned: Turned,
    p: int,
    grid: Grid,
    options: Options,
    arrive: Arrive,
) -> None:
    def arrive_back(
        _: int, position: int, theta: torch.Tensor, gap: float, taken: int
    ) -> None:
        w = theta[:, :-1] @ turned.back.T
        arrive(p, position, torch.cat([w, theta[:, -1:]], dim=1), gap, taken)

    if task.loss == "linear":
        Cs = torch.from_numpy(grid.Cs).to(turned.spread.device)
        for position, theta in enumerate(ridge_turned(turned, task.n_classes, Cs)):
            arrive_back(0, position, theta, 0.0, 1)
        return
    spread = turned.spread[None] / turned.design.mass[:, None]
    top = turned.spread[-1:]
    where = None, spread, top
    if grid.start is not None:
        start = torch.cat([grid.start[:, :-1] @ turned.back, grid.start[:, -1:]], 1)
        grid = grid._replace(start=start)
    _set_out(task, turned.design, grid, options, where).run(
        lambda at: arrive_back(
            0, at.position, at.theta.flatten(0, 1), at.gap, at.n_passes
        )
    )


def _geometry(
    design: Design, options: Options
) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """Give the basis, each split's spread in it, and bounds of its top eigenvalue."""
    table, n_splits = design.table, len(design.mass)
    heaviest = design.weights.amax(0).sum()
    if 40 * table.width**2 > options.n_bytes:
        # Too wide for a Gram matrix: columns are taken as they come.
        spread = torch.ones(n_splits, table.width, dtype=torch.float64)
        return None, spread.to(table.device), design.mass * design.radius**2
    gram = _gram.covariance(design, table.dtype)
    values, vectors = _gram.principal(gram)
    top = heaviest * _gram.top_eigenvalues(gram, values[-1], design.ratio)
    return vectors, values.expand(n_splits, -1), top


def _set_out(
    task: Task,
    design: Design,
    grid: Grid,
    options: Options,
    geometry: tuple[torch.Tensor | None, torch.Tensor, torch.Tensor],
) -> Descent:
    """Give the descent of all splits of a design, one walker a split."""
    basis, spread, top = geometry
    n_splits, device = len(design.mass), design.table.device
    together = task.loss == "logistic"
    k = task.n_columns if together else 1
    walker = torch.arange(n_splits, device=device)
    # Of two classes the second is told from the first.
    own = torch.ones_like(walker)
    if not together and task.n_columns > 1:
        own = torch.arange(task.n_columns, device=device).repeat(n_splits)
        walker = walker.repeat_interleave(task.n_columns)
    objective = Objective(
        design=design,
        split=walker,
        basis=basis,
        loss=task.loss,
        n_columns=k,
        own=own,
    )
    intercepts, flat = _without_codes(task.loss, design.class_mass[walker], own, k)
    if grid.start is None:
        theta = design.mass.new_zeros(len(walker), k, design.table.width + 1)
        theta[..., -1] = intercepts
    else:
        theta = objective.turned(grid.start).view(len(walker), k, -1).clone()
    first = np.zeros(n_splits, np.int64)
    return Descent(
        objective,
        Walkers(walker, first, first + len(grid.Cs), grid),
        Sample(objective, spread[walker], options.n_bytes // 10),
        top[walker],
        theta,
        flat,
        memory=options.n_bytes,
        kept=int(KEPT * options.n_bytes),
    )


def _without_codes(
    loss: str, class_mass: torch.Tensor, own: torch.Tensor, n_columns: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the best intercepts where W is zero, and the loss of each unit there.

    Returns
    -------
    (n_units, n_columns), (n_units,)
    """
    mass = class_mass.sum(1)
    share = class_mass / mass[:, None]
    if n_columns == 1:
        mine = share.gather(1, own[:, None])
        if loss == "svm":
            return 2 * mine - 1, mass * (4 * mine * (1 - mine))[:, 0]
        share = torch.cat([mine, 1 - mine], dim=1)
    entropy = -torch.xlogy(share, share).sum(1)
    if n_columns == 1:
        return torch.logit(mine), mass * entropy
    return torch.where(share > 0, share.log(), 0.0), mass * entropy
