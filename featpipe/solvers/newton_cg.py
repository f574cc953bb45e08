"""Newton's method with conjugate gradients, for a batch of units at once.

Every unit takes the steps it would take alone; what is shared is the products with the
codes. A step is: a direction from preconditioned conjugate gradients on the Hessian,
solved to a share of the gradient (Dembo, Eisenstat and Steihaug 1982); then lengths
along it until every unit has gone down enough. Units whose gap is proven leave the
batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from featpipe.solvers.objective import Curvature, Evaluation, Objective
from featpipe.solvers.preconditioner import (
    FEW,
    Preconditioner,
    mean_row,
    most_active,
    own_column,
)
from featpipe.solvers.sharing import raise_if_cancelled

__all__ = ["Result", "minimize"]

Method = Callable[[Objective, Evaluation, torch.Tensor], Preconditioner]

# Where rows are streamed: share of its gap to which the objective of a sample is
# solved, the least gap, passes over the sample at most, and steps remembered.
INNER, LEAST_INNER, MAX_INNER, MAX_PAIRS = 0.02, 1e-12, 200, 10

# Share of the gradient, in the preconditioner's norm, that a direction is solved to.
# Passes of logistic over 245, 500 and 2,000 codes of 512 numbers: 1,313, 1,124 and 634
# with 0.03; 1,014, 890 and 548 with 0.1; 852, 959 and 462 with 0.3.
FORCING = 0.2
# Conjugate gradient steps at most in one direction.
MAX_CG = 250
# Share of the decrease promised by the slope that a step must bring (Armijo 1966), and
# share of the slope's size that may be left behind the lowest point.
DECREASE, OVERSHOOT = 1e-4, 0.5
# Lengths tried along one direction at most, the last of them zero.
MAX_TRIALS = 20
# Rows for each column of the basis that Hessian products are taken of (Byrd et al.
# 2011); that sample is too small where gaps of so many units fall to no less than this.
SAMPLED, MANY, SLOW = 20, 0.25, 0.1
# Decrease of a gap beyond which, twice in a row, rounding stands in the way, if the
# objective falls by no more than this: some rounding of single precision. (Gaps of
# ``svm`` go up and down while rows leave the hinge, and the objective falls by much.)
STUCK, ROUNDED = 0.5, 1e-4
# The same where rows are streamed: steps may be short there for other reasons.
ROUNDED_STREAMED = 1e-7
# Decrease of the objective that is none, and steps in a row without any, after which
# rounding lets nothing more be gained.
IDLE, IDLE_STEPS = 1e-15, 5
# Time of an operation in forming and factoring Hessians of columns relative to one in a
# product: the former are large square products, the latter have few columns.
FACTOR_COST = 0.4
# Share of the memory that they may take.
FACTORS = 0.5


@dataclass(frozen=True, eq=False)
class Result:
    """Where a batch ended.

    Attributes
    ----------
    theta : (n_folds, n_units, n_columns, rank + 1) float64
    gap : (n_folds, n_units) float64
        Proven and relative; nan where the batch was stopped.
    n_passes : (n_folds, n_units) int64
    """

    theta: torch.Tensor
    gap: torch.Tensor
    n_passes: torch.Tensor


def minimize(
    objective: Objective,
    theta: torch.Tensor,
    tol: float,
    max_passes: int,
    stop: Callable[[torch.Tensor], bool] | None = None,
) -> Result:
    """Minimise every unit of a batch to a proven relative gap.

    Parameters
    ----------
    objective : Objective
    theta : (n_folds, n_units, n_columns, rank + 1) float64
        Where to begin.
    tol : float
        Proven relative gap to reach.
    max_passes : int
        Products with the codes and back at most, a unit.
    stop : callable or None
        Asked after every step, with coefficients like ``theta``; true ends the batch.

    Returns
    -------
    Result
    """
    result = Result(
        theta.clone(),
        theta.new_full(theta.shape[:2], torch.inf),
        torch.zeros(theta.shape[:2], dtype=torch.int64, device=theta.device),
    )
    units = torch.arange(theta.shape[1], device=theta.device)
    batch = _Batch(objective, theta)
    while True:
        raise_if_cancelled()
        result.theta[:, units] = batch.theta
        result.gap[:, units], result.n_passes[:, units] = batch.at.gap, batch.n_passes
        going = (batch.at.gap > tol).any(0).nonzero()[:, 0]
        if not len(going) or batch.n_passes >= max_passes or batch.n_idle >= IDLE_STEPS:
            return result
        if stop is not None and batch.n_passes > 1 and stop(result.theta):
            result.gap.fill_(torch.nan)
            return result
        if len(going) < len(units):
            units = units[going]
            # Solved units leave the batch: every product that follows is smaller.
            batch.keep(going)
        batch.step(tol, max_passes)


class _Batch:
    """The units still under way, and what is known where they stand."""

    def __init__(self, objective: Objective, theta: torch.Tensor) -> None:
        codes = objective.codes
        self.stride = max(1, codes.rows.n_rows // (SAMPLED * codes.rank))
        self.objective, self.theta = objective, theta
        self.at = objective.evaluate(theta)
        # Of the last steps: way, change of the gradient, one over their product.
        self.pairs: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self.n_passes, self.n_stuck, self.n_idle = 1, 0, 0
        # Units whose last direction was not solved in the steps that factoring costs.
        self.slow = torch.zeros(theta.shape[1], dtype=torch.bool, device=theta.device)

    def keep(self, units: torch.Tensor) -> None:
        """Let the other units go."""
        self.objective = self.objective.select(units)
        self.theta, self.at = self.theta[:, units], self.at.select(units)
        self.slow = self.slow[units]
        self.pairs = [
            (s[:, units], y[:, units], scale[:, units]) for s, y, scale in self.pairs
        ]

    def step(self, tol: float, max_passes: int) -> None:
        """Take one Newton step with the units whose gap is above ``tol``."""
        before, value, active = self.at.gap, self.at.value, self.at.gap > tol
        model = self._model()
        if model is None:
            direction = self._direction(active, max_passes - self.n_passes)
        else:
            direction = self._towards_minimum_of(model, active)
        # A direction of zero is a step that gains nothing, and is counted as such.
        direction = torch.where(direction.isfinite(), direction, 0.0)
        theta, gradient = self.theta, self.at.gradient
        self.theta, self.at, n_trials = search(
            self.objective, self.at, self.theta, direction, active
        )
        self.n_passes += n_trials
        if model is not None:
            self._remember(self.theta - theta, self.at.gradient - gradient)
        share = torch.where(self.at.gap > tol, self.at.gap / before, 0.0)
        halved = bool((share > SLOW).sum() > MANY * active.sum()) and self.stride > 1
        if halved:
            self.stride = self.stride // 2
        fall = (value - self.at.value) / value.abs()
        rounded = ROUNDED if model is None else ROUNDED_STREAMED
        stuck = (share > STUCK) & (fall < rounded)
        # Where the sample was too small, rounding is not to blame.
        is_stuck = bool(stuck.any()) and not (halved and model is not None)
        self.n_stuck = self.n_stuck + 1 if is_stuck else 0
        falls = (fall > IDLE) & active
        self.n_idle = 0 if bool(falls.any()) else self.n_idle + 1
        finer = self.objective.finer() if self.n_stuck > 1 else None
        if finer is not None:
            self.objective, self.n_stuck = finer, 0
            self.at = finer.evaluate(self.theta)
            self.n_passes += 1

    def _model(self) -> Objective | None:
        """Return the objective of a sample in memory, where rows are streamed."""
        if not self.objective.codes.rows.streams:
            return None
        model = self.objective.sampled(self.stride)
        return None if model.codes.rows.streams else model

    def _towards_minimum_of(
        self, model: Objective, active: torch.Tensor
    ) -> torch.Tensor:
        """Return the way to the minimum of a sample's objective, for active units.

        It is tilted to have the gradient of all rows here, so that the minimum of all
        rows stays where it is (Shamir, Srebro and Zhang 2014; Jordan, Lee and Yang
        2019): all the steps that a sample can tell are taken for one pass.
        """
        of_sample = model.evaluate(self.theta).gradient
        # The two loops of L-BFGS, with the sample in place of the first Hessian.
        q, shares = self.at.gradient, []
        for s, y, scale in reversed(self.pairs):
            shares.append(scale * inner(s, q))
            q = q - shares[-1][..., None, None] * y
        tilted = model.tilted(q - of_sample)
        gap = float(tilted.evaluate(self.theta).gap[active].min())
        tol = max(INNER * min(gap, 1.0), LEAST_INNER)
        found = minimize(tilted, self.theta, tol, MAX_INNER)
        way = found.theta - self.theta
        for (s, y, scale), share in zip(self.pairs, reversed(shares), strict=True):
            way = way - (share + scale * inner(y, way))[..., None, None] * s
        return way * active[..., None, None]

    def _remember(self, s: torch.Tensor, y: torch.Tensor) -> None:
        """Keep a step and what it did to the gradient, for the next ones."""
        bend, least = inner(s, y), torch.finfo(s.dtype).tiny
        scale = torch.where(bend > least, 1 / bend.clamp_min(least), 0.0)
        self.pairs = [*self.pairs[-MAX_PAIRS + 1 :], (s, y, scale)]

    def _direction(self, active: torch.Tensor, most: int) -> torch.Tensor:
        """Return a direction for the active units, zero for the others."""
        r = -self.at.gradient * active[..., None, None]
        direction = torch.zeros_like(r)
        going, worth = active.any(0), worth_factoring(self.objective, self.at)
        quick = (going & ~self.slow).nonzero()[:, 0]
        if len(quick):
            # A direction that is not there after half of it is worth factoring.
            few = int(min(most, MAX_CG, worth / 2))
            direction[:, quick] = self._part(quick, r, max(1, few), mean_row)
            # Where factors do not fit into the memory, no unit is slow.
            self.slow &= worth < math.inf
        slow = (going & self.slow).nonzero()[:, 0]
        if len(slow):
            direction[:, slow] = self._part(slow, r, min(most, MAX_CG), own_column)
        return direction

    def _part(
        self, units: torch.Tensor, r: torch.Tensor, most: int, method: Method
    ) -> torch.Tensor:
        """Return the direction of some units, and note which of them are slow."""
        objective, at, theta = self.objective, self.at, self.theta
        if len(units) < theta.shape[1]:
            objective, at = objective.select(units), at.select(units)
            theta, r = theta[:, units], r[:, units]
        model, curvature = objective, at.curvature
        if self.stride > 1 and method is mean_row:
            model = objective.sampled(self.stride)
            curvature = model.curvature(theta)
        direction, n_cg, unsolved = conjugate_gradients(
            model, curvature, theta, r, method(objective, at, theta), most
        )
        if method is mean_row:
            self.slow[units] = unsolved
        self.n_passes += n_cg
        return direction


def worth_factoring(objective: Objective, at: Evaluation) -> float:
    """Return how many conjugate gradient steps cost as much as factoring."""
    n_rows, rank = objective.codes.rows.n_rows, objective.codes.rank
    n_folds, n_units, *_ = objective.shape
    if objective.joint:
        # Every row bends every column a little: factors save few steps.
        return math.inf
    size = 8 * n_folds * n_units * rank**2
    if objective.codes.rows.kept is None and size > FACTORS * objective.n_bytes:
        return math.inf
    n_active = most_active(objective, at)
    if n_active <= FEW * rank:
        factor = n_active**2 * rank + n_active**3 / 3
    else:
        # Rows that do not bend the loss are left out.
        factor = n_active * rank**2 + rank**3 / 3
    return FACTOR_COST * factor / (2 * n_rows * rank)


def conjugate_gradients(
    objective: Objective,
    curvature: Curvature,
    theta: torch.Tensor,
    r: torch.Tensor,
    preconditioner: Preconditioner,
    max_steps: int,
) -> tuple[torch.Tensor, int, torch.Tensor]:
    """Solve Hessian · direction = r to `FORCING`.

    Parameters
    ----------
    objective : Objective
    curvature : Curvature
        Of the objective at ``theta``.
    theta, r : (n_folds, n_units, n_columns, rank + 1) float64
    preconditioner : Preconditioner
    max_steps : int

    Returns
    -------
    direction : like ``theta``
    n_steps : int
    unsolved : (n_units,) bool
        Units that were not solved in ``max_steps``, in any fold.
    """
    r = preconditioner.enter(r)
    z = preconditioner(r)
    direction, p = torch.zeros_like(theta), z
    rz = inner(r, z)
    target, tiny = FORCING**2 * rz, torch.finfo(rz.dtype).tiny
    eps = torch.finfo(objective.product_dtype).eps
    n_steps = 0
    going = torch.ones_like(rz, dtype=torch.bool)
    for _ in range(max(1, max_steps)):
        hp = objective.hessian_product(p, curvature, theta, preconditioner.classes)
        n_steps += 1
        bend = inner(p, hp)
        # Curvature below the rounding of the product is none that can be relied on.
        bends = bend > eps * (inner(p, p) * inner(hp, hp)).sqrt()
        alpha = torch.where(bends, rz / bend.clamp_min(tiny), 0.0)[..., None, None]
        direction = torch.addcmul(direction, alpha, p)
        r = torch.addcmul(r, alpha, hp, value=-1)
        z = preconditioner(r)
        new = inner(r, z)
        going = (new > target) & bends
        if not bool(going.any()):
            break
        # A unit that has its direction stays there: its p is zero from then on.
        beta = torch.where(going, new / rz.clamp_min(tiny), 0.0)
        p = torch.addcmul(z, beta[..., None, None], p) * going[..., None, None]
        rz = new * going
    return preconditioner.leave(direction), n_steps, going.any(0)


def search(
    objective: Objective,
    at: Evaluation,
    theta: torch.Tensor,
    direction: torch.Tensor,
    active: torch.Tensor,
) -> tuple[torch.Tensor, Evaluation, int]:
    """Find a length along the direction for every active unit.

    The objective is convex, so its slope along a line grows: where the slope is still
    negative the objective has fallen. Where it is positive and the step too long, the
    next length is where a straight slope would be zero.

    Returns
    -------
    theta : like ``theta``
    at : Evaluation
    n_trials : int
    """
    slope = inner(at.gradient, direction)
    going = active & (slope < 0)
    # The full Newton step first: near the minimum it is taken as it is.
    length = going.double()
    noise = 10 * torch.finfo(objective.dtype).eps * at.value.abs()
    n_trials = 0
    for _ in range(MAX_TRIALS - 1):
        n_trials += 1
        here = theta + length[..., None, None] * direction
        then = objective.evaluate(here)
        now = inner(then.gradient, direction)
        lower = then.value <= at.value + DECREASE * length * slope + noise
        done = ~going | (now <= 0) | (lower & (now <= OVERSHOOT * slope.abs()))
        if bool(done.all()):
            break
        # The secant rule on the slope; bounded, so that the length changes by a factor
        # of 20 at most.
        share = slope / (slope - now)
        length = torch.where(done, length, length * share.clamp(0.05, 0.95))
    else:
        # Units that no length served stay where they were.
        here = theta + torch.where(done, length, 0.0)[..., None, None] * direction
        then, n_trials = objective.evaluate(here), n_trials + 1
    return here, then, n_trials


def inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the inner product of every unit, (n_folds, n_units)."""
    products: torch.Tensor = torch.linalg.vecdot(a.flatten(2), b.flatten(2))
    return products
