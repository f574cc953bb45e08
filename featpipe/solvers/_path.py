"""Paths and single solutions: choosing the road, and folding the answers back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import torch

from featpipe.solvers import _gram, _plan
from featpipe.solvers._descent import Descent
from featpipe.solvers._evaluation import Objective
from featpipe.solvers._predictions import Predictions
from featpipe.solvers._ridge import ridge, ridge_fits, ridge_path, ridge_turned
from featpipe.solvers._rowspace import Turned, turn
from featpipe.solvers._sample import Sample
from featpipe.solvers._standing import Standing
from featpipe.solvers._table import Design, as_given, build
from featpipe.solvers._task import Options, Path, Solution, Split, Task
from featpipe.solvers._threads import SMALL, side_by_side, threads_for
from featpipe.solvers._walkers import Arrival, Grid, Walkers

__all__ = ["skips_Cs", "solve", "solve_path"]

# A single fit is solved this much more exactly than a path, for its predictions.
FINER = 1e-2
# Passes that may go into that once ``tol`` is proven.
FINER_PASSES = 25
# Rungs that lead a single fit to its C: their ratio, their tolerance, the first.
RUNG, RUNG_TOL, FIRST_MASS = 2.0, 1e-2, 50.0
# Share of the memory that kept scores may take.
KEPT = 0.25
# Columns beyond which turning into the row space cannot be afforded.
TURN_ROWS = 12000

Arrive = Callable[[int, int, torch.Tensor, float, int], None]
Score = Callable[[int, np.ndarray], float]


def solve_path(
    task: Task,
    Cs: np.ndarray,
    splits: list[Split],
    *,
    options: Options | None = None,
    score: Score | None = None,
) -> Path:
    """Solve every C for every split, and predict the held-out rows.

    Parameters
    ----------
    task : Task
    Cs : (n_C,) float64
        Ascending, above zero.
    splits : list of (train, held-out) row numbers
    options : Options or None
    score : callable or None
        Takes the number of a split and its held-out predictions (n_held_out,), gives
        how good they are, 1 being perfect. With it, not every C of a large problem is
        solved (`featpipe.solvers._plan`). Splits that memory parts into groups follow
        the first group.

    Returns
    -------
    Path

    Examples
    --------
    >>> codes = np.random.default_rng(0).normal(size=(40, 3))
    >>> labels = (codes[:, 0] > 0).astype(np.int64)
    >>> ones, rows = np.ones(40), np.arange(40)
    >>> task = Task(codes, labels, 2, "logistic", ones, ones)
    >>> path = solve_path(task, np.array([0.1, 1.0]), [(rows[10:], rows[:10])])
    >>> path.converged, path.predicted[0].shape
    (True, (2, 10))
    """
    options = options or Options()
    if task.loss == "linear" and ridge_fits(task, len(splits), len(Cs), options):
        return ridge_path(task, Cs, splits, options)
    Cs = np.asarray(Cs, np.float64)
    gaps = np.full((len(splits), len(Cs)), np.nan)
    chosen = np.arange(len(Cs))
    n_passes = np.zeros((len(splits), len(Cs)), np.int64)
    found: list[np.ndarray] = []
    for group in _groups(task, len(splits), options):
        design = build(task, [splits[p] for p in group], options)
        predictions = Predictions(design, [splits[p] for p in group], len(Cs))
        first = group[0]

        def arrive(
            p: int,
            position: int,
            theta: torch.Tensor,
            gap: float,
            taken: int,
            *,
            first: int = first,
            predictions: Predictions = predictions,
            chosen: np.ndarray = chosen,
        ) -> None:
            position = int(chosen[position])
            gaps[first + p, position] = gap
            n_passes[first + p, position] = taken
            predictions.add(p, position, theta)

        grid = Grid.evenly(Cs[chosen], options.tol, options.max_passes)
        judge = None
        if score is not None and not first:
            judge = _Judge(predictions, score, first)
        solved = _solve_all(task, design, grid, options, arrive, judge)
        chosen = chosen[solved]
        predictions.flush()
        found += predictions.found
    evaluated = np.isin(np.arange(len(Cs)), chosen)
    gaps[:, ~evaluated] = np.nan
    converged = bool((gaps[:, evaluated] <= options.tol).all())
    return Path(found, gaps, n_passes, converged, evaluated)


def skips_Cs(task: Task, n_splits: int, n_Cs: int) -> bool:
    """Say whether `solve_path`, given a score, solves some of the C only."""
    n_rows, width = task.codes.shape
    many = _plan.is_large(n_rows, width, n_splits * task.n_columns, n_Cs)
    return task.loss != "linear" and many


@dataclass(frozen=True, eq=False)
class _Judge:
    """Scores what has been solved of a group of splits."""

    predictions: Predictions
    score: Score
    first: int

    @property
    def n_held_out(self) -> int:
        return sum(part.shape[1] for part in self.predictions.found)

    def __call__(self, position: int) -> float:
        self.predictions.flush()
        found = enumerate(self.predictions.found, self.first)
        return float(np.mean([self.score(p, rows[position]) for p, rows in found]))


class _Walk:
    """A descent that is sent to one C after another."""

    def __init__(self, descent: Descent, arrived: Callable[[Arrival], None]) -> None:
        self.descent, self.arrived, self.theta = descent, arrived, descent.theta
        self.return_to = descent.return_to

    def visit(self, position: int, *, rough: bool = False) -> None:
        self.descent.stand(position, rough=rough)
        self.descent.run(self.arrived)


def solve(task: Task, C: float, *, options: Options | None = None) -> Solution:
    """Solve one C on all rows.

    Parameters
    ----------
    task : Task
    C : float
    options : Options or None
        The fit is solved a hundred times more exactly than ``tol`` where ``max_passes``
        allows, so that its predictions are those of the minimum.

    Returns
    -------
    Solution
    """
    options = options or Options()
    rows = np.arange(len(task.labels))
    design = build(task, [(rows, rows[:0])], options)
    lowest = min(C, FIRST_MASS / float(design.mass[0]))
    n_rungs = int(np.floor(np.log(C / lowest) / np.log(RUNG) + 1e-9))
    if task.loss == "linear":
        n_rungs = 0
    Cs = C * RUNG ** -np.append(np.arange(n_rungs, -1.0, -1.0), 0.0)
    tols = np.full(len(Cs), max(RUNG_TOL, options.tol))
    tols[-2:] = options.tol, FINER * options.tol
    most = np.full(len(Cs), options.max_passes)
    most[-1] = min(FINER_PASSES, options.max_passes)
    found: list[tuple[float, torch.Tensor]] = []
    passes = np.zeros(len(Cs), np.int64)

    def arrive(
        p: int, position: int, theta: torch.Tensor, gap: float, taken: int
    ) -> None:
        passes[position] = taken
        if position >= len(Cs) - 2:
            found.append((gap, theta))

    _solve_all(task, design, Grid(Cs, tols, most), options, arrive)
    gap, theta = min(found, key=lambda each: each[0])
    coef, intercept = as_given(design, theta)
    n_passes = max(1, int(passes.sum()))
    return Solution(coef, intercept, gap, n_passes, gap <= options.tol)


def _groups(task: Task, n_splits: int, options: Options) -> list[list[int]]:
    """Cut the splits into groups whose state the memory holds."""
    width = task.codes.shape[1]
    # About a dozen arrays of coefficients in double precision a split.
    one = 12 * 8 * task.n_columns * (width + 1)
    if task.loss == "linear":
        # A Gram matrix a split, and what its eigenvectors take.
        one = max(one, 3 * 8 * width**2)
    else:
        # Kept scores are worth a group for each few splits, if one split's fit.
        kept = Standing.n_bytes(len(task.labels) * task.n_columns)
        if kept <= KEPT * options.n_bytes:
            one = max(one, int(0.5 / KEPT * kept))
    size = int(max(1, min(n_splits, 0.5 * options.n_bytes // one)))
    numbers = list(range(n_splits))
    return [numbers[i : i + size] for i in range(0, n_splits, size)]


def _solve_all(
    task: Task,
    design: Design,
    grid: Grid,
    options: Options,
    arrive: Arrive,
    judge: _Judge | None = None,
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
    judge: _Judge | None,
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

    def arrived(at: Arrival) -> None:
        theta = descent.objective.unturned(at.theta).flatten(0, 1)
        arrive(at.walker, at.position, theta, at.gap, at.n_passes)

    n_columns = len(design.mass) * task.n_columns
    if judge and _plan.is_large(n_rows, table.width, n_columns, len(every)):
        walk = _Walk(descent, arrived)
        return _plan.coarse_to_fine(walk, len(every), judge, judge.n_held_out)
    descent.run(arrived)
    return every


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
    theta = design.mass.new_zeros(len(walker), k, design.table.width + 1)
    theta[..., -1] = _first_intercepts(task.loss, design.class_mass[walker], own, k)
    first = np.zeros(n_splits, np.int64)
    return Descent(
        objective,
        Walkers(walker, first, first + len(grid.Cs), *grid),
        Sample(objective, spread[walker], options.n_bytes // 10),
        top[walker],
        theta,
        memory=options.n_bytes,
        kept=int(KEPT * options.n_bytes),
    )


def _first_intercepts(
    loss: str, class_mass: torch.Tensor, own: torch.Tensor, n_columns: int
) -> torch.Tensor:
    """Give the best intercepts where W is zero, (n_units, n_columns)."""
    share = class_mass / class_mass.sum(1, keepdim=True)
    if n_columns > 1:
        return torch.where(share > 0, share.log(), 0.0)
    mine = share.gather(1, own[:, None])
    return torch.logit(mine) if loss == "logistic" else 2 * mine - 1
