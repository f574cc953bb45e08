"""Walking the regularisation path: every split at its own C, all in one pass.

Each walker (a split and a stretch of the grid) solves one C after another, starting
from the last; one evaluation serves them all. What is solved leaves the batch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from featpipe.solvers._evaluation import Evaluation, Objective
from featpipe.solvers._metric import History, Metric
from featpipe.solvers._newton import Newton, Point, bent_rows
from featpipe.solvers._proof import Proof
from featpipe.solvers._sample import MANY, Sample
from featpipe.solvers._search import crossing
from featpipe.solvers._standing import Standing, Trial
from featpipe.solvers._walkers import Arrival, Trail, Walkers

__all__ = ["Descent"]

ARMIJO = 1e-4
# Rejected or idle trials in a row after which single precision is at its end.
PATIENCE = 3
# Relative gap, as a multiple of the tolerance, that single precision can shrink.
FAR = 100.0
# Multiples of a gradient's rounding: of what proves a C solved, below which double
# precision is taken, and of what a step must show to be learnt from.
COARSE, RELIABLE = 500.0, 2.0
# Multiple of the tolerance from which on intercepts are settled in every pass.
SETTLED = 1e4
# Passes at one C after which a walker takes Newton steps.
HARD = 15
# The same where C are skipped, so that a step along the path is longer, and where
# columns are so many that a Newton step takes hundreds of products.
PATIENT = 100
# Relative gap at which a C is solved roughly, or passes after which it is taken so.
ROUGH, ROUGH_PASSES, LIMITLESS = 0.1, 25, 2**31
# Operations after which it is asked, each time, whether to go on.
LONG = 2e12


class Descent:
    """Minimise all units of an objective along their walkers' paths."""

    def __init__(
        self,
        objective: Objective,
        walkers: Walkers,
        sample: Sample,
        top: torch.Tensor,
        theta: torch.Tensor,
        flat: torch.Tensor,
        *,
        memory: int,
        kept: int,
    ) -> None:
        self.objective, self.walkers, self.sample = objective, walkers, sample
        self.theta, self.dtype = theta, objective.design.table.dtype
        self.radius = objective.design.radius[objective.split]
        self.proof = Proof(objective, top, flat)
        mass = objective.design.mass[objective.split]
        self.metric = Metric(theta, mass, self.dtype)
        n = len(theta)
        new = theta.new_zeros
        self.history = History(theta, self.dtype, 3 * memory // 10)
        self.standing = Standing(objective, theta, kept)
        self.newton = Newton(objective, self.radius, memory // 5)
        self.patience = PATIENT if theta.shape[1] > MANY else HARD
        self.limit = LIMITLESS
        self.at = Evaluation.nothing(theta)
        self.direction = torch.zeros_like(theta)
        self.trail = Trail(theta)
        self.length = new(n)
        self.position = walkers.first.copy()
        self.n_passes = np.zeros(len(walkers.first), np.int64)
        self.n_operations = 0.0
        self.C, self.tol = new(n), new(n)
        self.gap = new(n) + torch.inf
        flags = torch.zeros(n, dtype=torch.bool, device=theta.device)
        # Units that single precision does not solve, and of them those that need
        # scores whose steps are not rounded either.
        self.precise, self.exact = flags.clone(), flags.clone()
        self.known, self.solved = flags.clone(), flags.clone()
        self.entered, self.hard = flags.clone(), flags.clone()
        self.stale = ~flags
        self.rejected = torch.zeros(n, dtype=torch.int64, device=theta.device)
        self.stalled = torch.zeros_like(self.rejected)
        self._set_C(np.arange(len(walkers.first)))

    def run(
        self,
        arrive: Callable[[Arrival], None],
        worth: Callable[[list[Arrival]], bool] | None = None,
    ) -> None:
        """Walk to the end; report every arrival.

        Where that takes long, ``worth`` is told where those stand who walk on, and
        says whether they should.
        """
        asked = 0.0
        while True:
            walking = self.position < self.walkers.last
            on = torch.from_numpy(walking).to(self.theta.device)
            units = (on[self.walkers.walker] & ~self.solved).nonzero()[:, 0]
            if not len(units):
                return
            self.n_passes[walking] += 1
            self.n_operations += len(units) * self.objective.n_operations
            level = (self.precise.int() + self.exact)[units]
            for one in range(3):
                if len(chosen := units[level == one]):
                    self._step(chosen, torch.float64 if one else self.dtype)
            self._arrive(np.flatnonzero(walking), arrive)
            slow = torch.from_numpy(self.n_passes >= self.patience).to(self.C.device)
            self.hard |= slow[self.walkers.walker]
            self._aim()
            spent = self.n_operations + self.newton.n_operations
            if worth and spent - asked > LONG:
                asked, walking = spent, self.position < self.walkers.last
                if not worth([self._here(w) for w in np.flatnonzero(walking)]):
                    return

    def stand(self, position: int, *, rough: bool = False) -> None:
        """Send all walkers to this one C next, to solve it or to get near."""
        self.patience = PATIENT
        self.limit = ROUGH_PASSES if rough else LIMITLESS
        self.hard[:] = False
        self.position[:] = position
        self.walkers.last[:] = position + 1
        self.n_passes[:] = 0
        self._set_C(np.arange(len(self.position)))
        if rough:
            self.tol[:] = ROUGH
            self.solved[:] = self.known & (self.gap <= self.tol)
        self._aim()

    def return_to(self, theta: torch.Tensor) -> None:
        """Stand at ``theta`` instead; what was learnt on the way is kept."""
        self.theta.copy_(theta)
        self.known[:] = False
        self.length[:] = 0
        self.standing.leave()
        self.trail = Trail(theta)

    def _step(self, units: torch.Tensor, dtype: torch.dtype) -> None:
        """Evaluate the trials of these units, and take those that go down."""
        aimed = self._trial(units, self.length[units], dtype)
        settled = bool((self.gap[units] < SETTLED * self.tol[units]).any())
        new = self.objective.evaluate(aimed, settled=settled)
        step = self.length[units, None, None] * self.direction[units]
        step[..., -1] += aimed.shifts
        theta, old = self.theta[units] + step, self.at.some(units)
        value, slope = self._value(self.theta[units], old, units)
        value_new, slope_new = self._value(theta, new, units)
        down, down_new = (slope * step).sum((1, 2)), (slope_new * step).sum((1, 2))
        noise = 4 * self.C[units] * new.blur
        good = value_new <= value + ARMIJO * down
        # Where values no longer tell, slopes do (Hager and Zhang 2005).
        level = (value_new <= value + noise) & (down_new.abs() <= 0.9 * down.abs())
        known, before = self.known[units], self.gap[units]
        gap = self._gap(theta, new, units)
        taken = good | level | (gap <= self.tol[units]) | ~known
        sway = self.C[units] * self.radius[units] * torch.maximum(old.sway, new.sway)
        self._learn(units, step, new.gradient - old.gradient, taken & known, sway)
        self._take(units, taken, theta, new, gap)
        here = units[taken]
        if aimed.kept:
            self.standing.go(here, self.length[here], aimed.shifts[taken])
        else:
            self.standing.leave(here)
        if not taken.all():
            self._shorten(units[~taken], down[~taken], down_new[~taken])
        # Below the noise of values, gradients may still shrink: go on while they do.
        idle = known & (-down < noise) & (self.gap[units] > 0.5 * before)
        self._wear(units, idle & ~self.solved[units], dtype)
        coarse = (2 * self.tol[units] * value_new).sqrt() < COARSE * sway
        self.precise[units[coarse]] = True

    def _take(
        self,
        units: torch.Tensor,
        taken: torch.Tensor,
        theta: torch.Tensor,
        new: Evaluation,
        gap: torch.Tensor,
    ) -> None:
        """Put the units whose trials are taken there, and count the others'."""
        here = units[taken]
        self.theta[here] = theta[taken]
        for part, part_new in zip(self.at, new, strict=True):
            part[here] = part_new[taken]
        self.known[here] = True
        self.gap[here] = gap[taken]
        self.solved[here] = gap[taken] <= self.tol[here]
        self.rejected[here] = 0
        self.rejected[units[~taken]] += 1

    def _wear(
        self, units: torch.Tensor, idle: torch.Tensor, dtype: torch.dtype
    ) -> None:
        """Refine units for which this precision is at its end."""
        # Kept scores say by themselves when it is: see ``coarse``.
        blind = not self.standing.keeps and dtype != torch.float64
        self.stalled[units] = torch.where(idle & blind, self.stalled[units] + 1, 0)
        patience = PATIENCE if blind else 4 * PATIENCE
        worn = (self.rejected[units] >= patience) | (self.stalled[units] >= PATIENCE)
        self._refine(units[worn])

    def _learn(
        self,
        units: torch.Tensor,
        step: torch.Tensor,
        change: torch.Tensor,
        moved: torch.Tensor,
        sway: torch.Tensor,
    ) -> None:
        """Remember steps along which the gradient changed by more than rounding."""
        bend = self.C[units] * (step * change).sum((1, 2))
        told = moved & (bend > RELIABLE * sway * step.square().sum((1, 2)).sqrt())
        if told.any():
            self.history.push(units[told], step[told], change[told])

    def _trial(
        self, units: torch.Tensor, lengths: torch.Tensor, dtype: torch.dtype
    ) -> Trial:
        theta, direction = self.theta[units], self.direction[units]
        exact = bool(self.exact[units].any())
        return Trial(
            self.standing, theta, direction, lengths, units, dtype, exact=exact
        )

    def _shorten(
        self, units: torch.Tensor, down: torch.Tensor, down_new: torch.Tensor
    ) -> None:
        """Set the length to where the slope along the direction is zero, about.

        Parameters
        ----------
        down, down_new : (n_units,) float64
            Slopes before and after the rejected step, times its length.
        """
        length, again = self.length[units], self.rejected[units] > 1
        # Of a quadratic the zero is known; only if that was rejected too is it sought.
        self.length[units] = length * (down / (down - down_new)).clamp(0.01, 0.99)
        if again.any():
            few = units[again]
            start, end = (part[again] / length[again] for part in (down, down_new))
            self.length[few] = crossing(
                lambda at: self._slope(few, at), start, length[again], end
            )

    def _slope(self, units: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Give the objective's slope along the direction, (n_units,) float64."""
        theta, direction = self.theta[units], self.direction[units]
        w, v = theta[..., :-1], direction[..., :-1]
        along, square = (w * v).sum((1, 2)), (v * v).sum((1, 2))
        dtype = torch.float64 if self.exact[units].any() else self.dtype
        losses = self.objective.along(self._trial(units, lengths, dtype))
        return along + lengths * square + self.C[units] * losses

    def _refine(self, units: torch.Tensor) -> None:
        """Go on in double precision, from where these units stand."""
        again = units[self.precise[units]]
        self.history.forget(again)
        self.exact[again] = True
        self.precise[units] = True
        self.known[units] = False
        self.rejected[units] = self.stalled[units] = 0
        self.length[units] = 0

    def _value(
        self, theta: torch.Tensor, at: Evaluation, units: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Give objective and gradient at the units' C."""
        C = self.C[units]
        value = 0.5 * (theta[..., :-1] ** 2).sum((1, 2)) + C * at.loss
        gradient = C[:, None, None] * at.gradient
        gradient[..., :-1] += theta[..., :-1]
        return value, gradient

    def _bound(self, units: torch.Tensor) -> None:
        """Bound the relative gap of these units where they stand."""
        at = self.at.some(units)
        self.gap[units] = self._gap(self.theta[units], at, units)
        self.solved[units] = self.gap[units] <= self.tol[units]

    def _gap(
        self, theta: torch.Tensor, at: Evaluation, units: torch.Tensor
    ) -> torch.Tensor:
        """Bound the relative gap at the units' C, (n_units,) float64."""
        value, gradient = self._value(theta, at, units)
        return self.proof.gap(value, gradient, at, units, self.C[units])

    def _arrive(self, walking: np.ndarray, arrive: Callable[[Arrival], None]) -> None:
        """Move on every walker whose units are all solved, as far as they are."""
        while len(walking):
            open_units = torch.bincount(
                self.walkers.walker, (~self.solved).double(), len(self.position)
            )
            done = open_units.cpu().numpy() == 0
            here = self.position.clip(max=len(self.walkers.grid.most) - 1)
            done |= self.n_passes >= self.walkers.grid.most[here].clip(max=self.limit)
            walking = walking[done[walking]]
            for at in map(self._here, walking):
                if at.n_passes:
                    self.trail.add(at.units, at.theta, self.C[at.units])
                arrive(at)
            self.position[walking] += 1
            self.n_passes[walking] = 0
            walking = walking[self.position[walking] < self.walkers.last[walking]]
            self._set_C(walking)

    def _here(self, w: np.integer) -> Arrival:
        """Say where a walker stands."""
        units = (self.walkers.walker == int(w)).nonzero()[:, 0]
        position, n_passes = int(self.position[w]), int(self.n_passes[w])
        gap, theta = float(self.gap[units].max()), self.theta[units].clone()
        return Arrival(int(w), position, units, theta, gap, n_passes)

    def _set_C(self, walkers: np.ndarray) -> None:
        """Set the C where these walkers stand; the gap there may be small already."""
        if not len(walkers):
            return
        chosen = torch.from_numpy(walkers).to(self.theta.device)
        units = torch.isin(self.walkers.walker, chosen).nonzero()[:, 0]
        position = self.position[self.walkers.walker[units].cpu().numpy()]
        grid, device = self.walkers.grid, self.C.device
        self.C[units] = torch.from_numpy(grid.Cs[position]).to(device)
        self.tol[units] = torch.from_numpy(grid.tols[position]).to(device)
        self.solved[units] = False
        self.stale[units] = True
        self.rejected[units] = 0
        seen = units[self.known[units]]
        if len(seen):
            self._bound(seen)
            # Far from the minimum again, single precision serves.
            self.precise[seen] &= self.gap[seen] < FAR * self.tol[seen]
            self.exact[seen] &= self.precise[seen]
            self.entered[seen] = True
            # Aim anew: the direction was meant for another C.
            self.length[seen] = 0

    def _newton(self, units: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """Give Newton directions, as exact as the distance to the minimum asks."""
        C = self.C[units]
        theta, loss = self.theta[units], self.at.loss[units]
        value = 0.5 * (theta[..., :-1] ** 2).sum((1, 2)) + C * loss
        # Settling every row is dear: it is for what Newton steps did not solve.
        taken = self.n_passes[self.walkers.walker[units].cpu().numpy()].max()
        n_bent = bent_rows(self.objective, units, self.at.sides[units])
        at = Point(theta, gradient, units, C, self.tol[units] * value, n_bent)
        return self.newton.directions(
            at,
            lambda which: self.history.frozen(self.metric, units[which], C[which]),
            torch.float64 if self.exact[units].any() else self.dtype,
            settle=bool(taken >= 2 * HARD and taken % HARD == 0),
        )

    def _look(self, units: torch.Tensor) -> None:
        """Make the metric that of where these units stand; once a C if that is dear."""
        units = units[self.stale[units]] if self.sample.looks else units
        if len(units):
            curvature = self.at.curvature[units] / self.at.sampled[units, None, None]
            bent = self.sample.bent(self.theta[units], units)
            self.metric.refresh(units, curvature, self.C[units], bent)
            self.stale[units] = False

    def _aim(self) -> None:
        """Give a new direction to units that took their step or changed their C."""
        on = torch.from_numpy(self.position < self.walkers.last).to(self.C.device)
        fresh = on[self.walkers.walker] & self.known & ~self.solved
        units = (fresh & (self.rejected == 0)).nonzero()[:, 0]
        if not len(units):
            return
        at = self.at.some(units)
        self._look(units)
        C = self.C[units]
        _, gradient = self._value(self.theta[units], at, units)
        direction = self.trail.step(units, C)
        entered = self.entered[units]
        onward = entered & ((direction * gradient).sum((1, 2)) < 0)
        hard = (self.hard[units] & ~entered).nonzero()[:, 0]
        plain = ~onward & (entered | ~self.hard[units])
        if len(hard):
            direction[hard] = self._newton(units[hard], gradient[hard])
        if plain.any():
            direction[plain] = self.history.direction(
                gradient[plain], self.metric, units[plain], C[plain]
            )
        self.entered[units] = False
        rounded = self.objective.rounded(direction, units)
        exact = self.exact[units, None, None]
        self.direction[units] = torch.where(exact, direction, rounded)
        self.standing.turn(units)
        self.length[units] = 1.0
