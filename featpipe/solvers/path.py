"""The regularisation path of every fold, over the C that can be chosen; single fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch

from featpipe.solvers.eigenbasis import fold_codes
from featpipe.solvers.fold_codes import FoldCodes
from featpipe.solvers.newton_cg import Result, minimize
from featpipe.solvers.objective import Objective
from featpipe.solvers.problem import (
    FREE_RIDGE,
    Options,
    Path,
    Problem,
    Solution,
    Split,
    Start,
    choose_device,
    count_operations,
    few_threads,
    group_size,
)
from featpipe.solvers.ridge import products, ridge
from featpipe.solvers.selection import Judge, predict_held_out

__all__ = ["solve", "solve_path"]

# Steps of the grid between the C that are solved first.
STRIDE = 4
# A grid of so few C is solved whole: somebody typed it, to see a score for each.
FEW = 8
# A C within one row of the best, and a single fit, are solved this much finer.
FINER = 1e-2
# Gaps above this, of codes of so many numbers, are evaluated in single precision to
# begin with: two thirds of the time for digits and 5,000 x 64, in as many steps. Fewer
# numbers gain nothing by it.
SINGLE_TOL, SINGLE_FROM = 1e-5, 2**15
# Growth of the norm of the coefficients over a stride, from which they are taken to
# grow like C: the penalty rules, and nothing has been fitted yet. On codes of 245 to
# 2,000 images it falls from 10 through 4 where accuracy nears its best.
GROWING = 4.0
# Steps in a row after which a C must be out of reach to be dropped: scores of
# coefficients that are far from the minimum yet go up and down.
IN_A_ROW = 2
# Rungs that lead a single fit up to its C: their ratio, the tolerance, and the first
# one's C times the weight of the rows.
RUNG, RUNG_TOL, FIRST = 10.0, 1e-2, 50.0


@torch.inference_mode()
def solve_path(
    problem: Problem,
    Cs: np.ndarray,
    splits: list[Split],
    *,
    judges: Sequence[Judge] = (),
    options: Options | None = None,
) -> Path:
    """Solve the path of C for every split, and predict the held-out rows.

    Parameters
    ----------
    problem : Problem
    Cs : (n_C,) float64
        Ascending, above zero.
    splits : list of (train, held-out) row numbers
    judges : sequence of Judge
        What C is chosen by. Without one, and with ``options.full_path``, every C is
        solved; else those that one of them can still choose (`featpipe.solvers.
        selection`). The C within one row of a judge's best are solved a hundred times
        finer than ``options.tol``.
    options : Options or None

    Returns
    -------
    Path

    Examples
    --------
    >>> codes = np.random.default_rng(0).normal(size=(40, 3))
    >>> labels = (codes[:, 0] > 0).astype(np.int64)
    >>> ones, rows = np.ones(40), np.arange(40)
    >>> problem = Problem(codes, labels, 2, "logistic", ones, ones)
    >>> path = solve_path(problem, np.array([0.1, 1.0]), [(rows[10:], rows[:10])])
    >>> path.solved.tolist(), path.predicted[0].shape
    ([True, True], (2, 10))
    """
    options = options or Options()
    codes = _codes(problem, splits, options)
    search = _Search(problem, codes, Cs, splits, options, judges)
    with few_threads(search.n_operations):
        search.run()
    return search.path()


@torch.inference_mode()
def solve(
    problem: Problem,
    C: float,
    *,
    options: Options | None = None,
    start: Start | None = None,
) -> Solution:
    """Solve one C on all rows.

    Parameters
    ----------
    problem : Problem
    C : float
    options : Options or None
        The fit is solved a hundred times finer than ``tol`` where ``max_passes``
        allows, so that its predictions are those of the minimum.
    start : Start or None
        Where to begin; None leads up to C from below.

    Returns
    -------
    Solution

    Examples
    --------
    >>> from featpipe.solvers import Problem
    >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1])
    >>> solution = solve(Problem(X, y, 2, "linear", np.ones(4), np.ones(4)), 1e6)
    >>> solution.coef.round(3).tolist(), solution.intercept.round(3).tolist()
    ([[0.8]], [-1.2])
    """
    options = options or Options()
    rows = np.arange(len(problem.labels))
    codes = _codes(problem, [(rows, rows[:0])], options)
    with few_threads(count_operations(problem, 1, codes.rank)):
        if problem.loss == "linear" and codes.is_exact:
            grid = torch.tensor([C], dtype=torch.float64, device=codes.rows.device)
            theta = ridge(codes, problem.n_classes, grid)[0, 0]
            return Solution(*codes.as_given(theta, 0), 0.0, 1, True)
        lowest = C if start else min(C, FIRST / float(codes.mass[0]))
        n_rungs = int(np.log(C / lowest) / np.log(RUNG) + 1e-9)
        k = problem.n_columns
        shape = 1, 1, k, codes.rank + 1
        theta = torch.zeros(shape, dtype=torch.float64, device=codes.rows.device)
        if start:
            theta = codes.from_given(start, 0)[None, None]
        n_passes, finest = 0, FINER * options.tol
        if codes.rows.dtype == torch.float64:
            # A step more, which few codes afford: rows that weigh twice and rows given
            # twice lead to the same numbers.
            finest *= FINER
        for rung in range(n_rungs, -1, -1):
            tol = max(RUNG_TOL, finest) if rung else finest
            objective = _objective(problem, codes, [C / RUNG**rung], options, tol)
            result = _minimize(objective, theta, tol, options)
            theta, n_passes = result.theta, n_passes + int(result.n_passes.max())
    gap = float(result.gap.max())
    given = codes.as_given(theta.view(k, -1), 0)
    return Solution(*given, gap, n_passes, gap <= options.tol)


class _Search:
    """The C solved so far, and which of the others still matter."""

    def __init__(
        self,
        problem: Problem,
        codes: FoldCodes,
        Cs: np.ndarray,
        splits: list[Split],
        options: Options,
        judges: Sequence[Judge],
    ) -> None:
        self.problem, self.codes, self.options = problem, codes, options
        self.Cs = np.asarray(Cs, np.float64)
        self.held_out = [np.asarray(held) for _, held in splits]
        self.judges = list(judges)
        self.theta: dict[int, torch.Tensor] = {}
        shape = len(splits), len(self.Cs)
        self.gaps = np.full(shape, np.nan)
        self.n_passes = np.zeros(shape, np.int64)
        kind = np.min_scalar_type(problem.n_classes)
        self.predicted = [np.zeros((shape[1], len(h)), kind) for h in self.held_out]
        self.n_operations = count_operations(problem, len(splits), codes.rank)
        free = self.n_operations * shape[1] <= FREE_RIDGE
        self.closed = problem.loss == "linear" and codes.is_exact
        self.products = products(codes, problem.n_classes) if self.closed else None
        few = shape[1] <= FEW
        self.every = options.full_path or not judges or few or (self.closed and free)

    def run(self) -> None:
        """Solve what is needed."""
        if self.closed and self.every:
            self._solve(list(range(len(self.Cs))))
            return
        self._climb()
        self._fill()
        fine: set[int] = set()
        while not self.closed:
            close = {p for judge in self.judges for p in judge.within_one_row()} - fine
            close -= set(np.flatnonzero(np.isnan(self.gaps).any(0)).tolist())
            if not close:
                break
            self._solve(sorted(close), FINER)
            fine |= close

    def _climb(self) -> None:
        """Solve every `STRIDE`-th C upwards, and the last, while they matter."""
        # A short grid is typed with wide steps: each start serves the next.
        step = 1 if len(self.Cs) <= FEW else STRIDE
        coarse = sorted({*range(0, len(self.Cs), step), len(self.Cs) - 1})
        if self.closed:
            # What costs is reading the rows, whatever the number of C.
            self._solve(coarse)
            return
        for i, position in enumerate(coarse):
            self._solve([position])
            if self.every or not i:
                continue
            low, growing = coarse[i - 1], self._growing(coarse[i - 1], position)
            if not any(j.needs_beyond(low, position, growing) for j in self.judges):
                break

    def _fill(self) -> None:
        """Solve the C halfway between two solved ones, while they matter."""
        while True:
            ends = [(a, b) for a, b in pairwise(sorted(self.theta)) if b - a > 1]
            halfway = [
                (low + high) // 2
                for low, high in ends
                if self.every or any(j.needs_between(low, high) for j in self.judges)
            ]
            if not halfway:
                break
            group = group_size(self.n_operations)
            group = len(halfway) if self.closed else group
            for first in range(0, len(halfway), group):
                self._solve(halfway[first : first + group])

    def _growing(self, low: int, high: int) -> bool:
        """Return whether coefficients still grow like C."""
        before, after = (self.theta[p][..., :-1].square().sum() for p in (low, high))
        return bool(after > GROWING**2 * before)

    def _solve(self, positions: list[int], finer: float = 1.0) -> None:
        """Solve some C together, and note their held-out predictions.

        On the way they are dropped if none of them can be chosen any more.
        """
        codes, k = self.codes, self.problem.n_columns
        n_folds, n = codes.n_folds, len(positions)
        gaps: np.ndarray | float = 0.0
        passes: np.ndarray | int = 1
        if self.closed:
            Cs = torch.from_numpy(self.Cs[positions]).to(codes.rows.device)
            theta = ridge(codes, self.problem.n_classes, Cs, self.products)
        else:
            Cs = self.Cs[positions].tolist()
            tol = finer * self.options.tol
            objective = _objective(self.problem, codes, Cs, self.options, tol)
            start = torch.cat([self._start(p) for p in positions], dim=1)
            race = self._race(positions)
            result = _minimize(objective, start, tol, self.options, race)
            theta = result.theta.view(n_folds, n, k, -1)
            gaps = result.gap.view(n_folds, n, -1).amax(2).cpu().numpy()
            passes = result.n_passes.view(n_folds, n, -1).amax(2).cpu().numpy()
        self.gaps[:, positions] = gaps
        self.n_passes[:, positions] += passes
        predicted = predict_held_out(codes, theta, self.held_out)
        for i, position in enumerate(positions):
            self.theta[position] = theta[:, i]
            for fold, of_fold in enumerate(predicted):
                self.predicted[fold][position] = of_fold[i]
            for judge in self.judges:
                judge.add(position, [of_fold[i] for of_fold in predicted])

    def _race(self, positions: list[int]) -> Callable[[torch.Tensor], bool] | None:
        """Return what tells, after each step, whether all of these C have lost.

        None where they are solved anyhow.
        """
        below = [p for p in self.theta if p < positions[0]]
        if self.every or not below or positions[0] in self.theta:
            return None
        n, n_lost = len(positions), 0
        before = [[of_fold[max(below)] for of_fold in self.predicted]] * n

        def lose(theta: torch.Tensor) -> bool:
            nonlocal before, n_lost
            each = theta.view(len(theta), n, -1, theta.shape[-1])
            single = torch.float32
            predicted = predict_held_out(self.codes, each, self.held_out, single)
            now = [[of_fold[i] for of_fold in predicted] for i in range(n)]
            pairs = list(zip(before, now, strict=True))
            loses = all(j.rejects(*pair) for j in self.judges for pair in pairs)
            before, n_lost = now, n_lost + 1 if loses else 0
            return n_lost >= IN_A_ROW

        return lose

    def _start(self, position: int) -> torch.Tensor:
        """Return where to begin: the solution, or one read off those nearest by log C.

        Between two solved C they are joined by a line; beyond them the line goes on.
        """
        codes, k = self.codes, self.problem.n_columns
        if position in self.theta:
            return self.theta[position][:, None]
        solved = sorted(self.theta)
        if not solved:
            shape = codes.n_folds, 1, k, codes.rank + 1
            return torch.zeros(shape, dtype=torch.float64, device=codes.rows.device)
        high = int(np.searchsorted(solved, position).clip(1, max(1, len(solved) - 1)))
        ends = solved[high - 1 : high + 1]
        if len(ends) == 1:
            return self.theta[ends[0]][:, None]
        a, b = np.log(self.Cs[ends])
        share = float((np.log(self.Cs[position]) - a) / (b - a))
        if self.problem.loss == "svm":
            # Rows enter and leave the hinge: beyond the last C the line misleads.
            share = min(share, 1.0)
        return torch.lerp(self.theta[ends[0]], self.theta[ends[1]], share)[:, None]

    def path(self) -> Path:
        """Return what was solved."""
        solved = ~np.isnan(self.gaps[0])
        converged = bool(np.nanmax(self.gaps) <= self.options.tol)
        return Path(
            self.predicted, self.gaps, self.n_passes, converged, solved, self._mean
        )

    def _mean(self, position: int, folds: Sequence[int] | None = None) -> Start:
        """Return the mean of some folds' solutions at a C, for codes as given."""
        theta = self.theta[position]
        chosen = range(len(theta)) if folds is None else folds
        each = [self.codes.as_given(theta[fold], fold) for fold in chosen]
        return Start(*(np.mean(part, axis=0) for part in zip(*each, strict=True)))


def _objective(
    problem: Problem,
    codes: FoldCodes,
    Cs: list[float],
    options: Options,
    tol: float = 0.0,
) -> Objective:
    """Return the batch of every column of some C, to be solved to a gap."""
    k, device = problem.n_columns, codes.rows.device
    columns = torch.arange(k) if k > 1 else torch.ones(1, dtype=torch.int64)
    if problem.loss == "logistic" and k > 1:
        columns = columns[:1]
    C = torch.tensor(Cs, dtype=torch.float64).repeat_interleave(len(columns))
    single = tol > SINGLE_TOL and codes.rows.n_rows * codes.rows.width > SINGLE_FROM
    return Objective(
        codes,
        problem.loss,
        k,
        C.to(device),
        columns.repeat(len(Cs)).to(device),
        torch.float32 if single else codes.rows.dtype,
        options.n_bytes,
    )


def _minimize(
    objective: Objective,
    start: torch.Tensor,
    tol: float,
    options: Options,
    stop: Callable[[torch.Tensor], bool] | None = None,
) -> Result:
    """Minimise a batch from coefficients (n_folds, n_C, n_columns, rank + 1)."""
    start = start.reshape(objective.shape)
    return minimize(objective, start, tol, options.max_passes, stop)


def _codes(problem: Problem, splits: list[Split], options: Options) -> FoldCodes:
    device = choose_device(problem, len(splits), options)
    n_rows, width = problem.codes.shape
    with few_threads(n_rows * width * min(n_rows, width)):
        return fold_codes(problem, splits, options, device)
