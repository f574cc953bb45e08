"""The two metrics of the descent: a Kronecker-factored one, and what it has learnt.

The Hessian of the loss is a sum over rows of (curvature between classes) x (Gram of
the row). `Metric` inverts the product of the two means, plus the penalty, exactly
(Martens and Grosse 2015 do so for networks; Böhning 1992 bounds the first factor), and
stretches it by where each column bends; `History` corrects it by the last steps
(L-BFGS).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from featpipe.solvers._sample import Bent

__all__ = ["History", "Metric"]

# Share of a metric's step that is taken at least.
LEAST_SCALE = 0.05
# Steps remembered, at least and at most, as memory allows.
LENGTHS = 4, 30


class Metric:
    """Inverse of C (A x G) + 1 for each unit, A by classes and G by columns.

    A column bends at rows of its own: coefficients act about their centre, and beside
    the common G, diagonal in the basis the coefficients are given in, each column has
    its own diagonal, by the ratio of which it is stretched.

    Parameters
    ----------
    like : (n_units, n_columns, width + 1) float64 tensor
    mass : (n_units,) float64 tensor
    dtype : torch.dtype
    """

    def __init__(
        self, like: torch.Tensor, mass: torch.Tensor, dtype: torch.dtype
    ) -> None:
        self.mass = mass
        self.bend = like.new_zeros(like.shape[:2])
        self.turn = torch.eye(like.shape[1], dtype=dtype, device=like.device)
        self.turn = self.turn.repeat(len(like), 1, 1)
        self.spread = like.new_zeros(len(like), like.shape[2] - 1)
        self.centre = torch.zeros_like(like[..., :-1], dtype=dtype)
        self.stretch = torch.ones_like(self.centre)

    def refresh(
        self, units: torch.Tensor, curvature: torch.Tensor, C: torch.Tensor, bent: Bent
    ) -> None:
        """Take what these units are like now.

        Parameters
        ----------
        curvature : (n, n_columns, n_columns) float64
            Its mean over rows.
        C : (n,) float64
        bent : Bent
        """
        own = curvature.diagonal(dim1=1, dim2=2).clamp_min(0)
        share = own / own.sum(1, keepdim=True)
        common = (share.nan_to_num(0.0).unsqueeze(2) * bent.spread).sum(1)
        much = (C * self.mass[units])[:, None, None] * own[..., None]
        ratio = (much * common[:, None] + 1) / (much * bent.spread + 1)
        self.spread[units] = common
        self.centre[units] = bent.centre.to(self.centre.dtype)
        self.stretch[units] = ratio.sqrt().to(self.stretch.dtype)
        if curvature.shape[1] == 1:
            self.bend[units] = own
            return
        values, vectors = torch.linalg.eigh(curvature)
        self.bend[units] = values.clamp_min(0)
        self.turn[units] = vectors.to(self.turn.dtype)

    def solve(
        self, v: torch.Tensor, units: torch.Tensor, C: torch.Tensor
    ) -> torch.Tensor:
        """Apply the inverse to (n, n_columns, width + 1)."""
        bend = (C * self.mass[units])[:, None] * self.bend[units]
        turn, stretch, centre = (
            part[units].to(v.dtype) for part in (self.turn, self.stretch, self.centre)
        )
        inner, last = v[..., :-1], v[..., -1:]
        inner = turn.mT @ ((inner - last * centre) * stretch)
        inner = inner / (bend[..., None] * self.spread[units, None] + 1).to(v.dtype)
        inner = (turn @ inner) * stretch
        # An intercept direction without curvature (all alike) changes nothing.
        floor = 1e-9 * bend.amax(1, keepdim=True)
        step = torch.where(bend > floor, 1 / bend, 0.0).to(v.dtype).unsqueeze(2)
        last = turn @ (turn.mT @ last * step)
        last = last - (inner * centre).sum(2, keepdim=True)
        return torch.cat([inner, last], dim=2)


class History:
    """The last steps of each unit and how its loss gradient changed along them.

    The change is kept without C and without the penalty, so that what was learnt at
    one C is exact at the next: y = s + C * (change of the loss gradient).

    Parameters
    ----------
    like : (n_units, n_columns, width + 1) float64 tensor
    dtype : torch.dtype
    memory : int
        Bytes it should take at most.
    """

    def __init__(self, like: torch.Tensor, dtype: torch.dtype, memory: int) -> None:
        least, most = LENGTHS
        length = max(least, min(memory // (2 * like.numel() * dtype.itemsize), most))
        # A quadratic is learnt in as many steps as it has directions.
        length = min(length, like[0].numel())
        shape = (length, *like.shape)
        self.step = torch.zeros(shape, dtype=dtype, device=like.device)
        self.change = torch.zeros_like(self.step)
        # Of each pair: step . change, and the penalised step . itself.
        self.bend = like.new_zeros(length, len(like))
        self.square = like.new_zeros(length, len(like))
        self.newest = 0

    def push(
        self, units: torch.Tensor, step: torch.Tensor, change: torch.Tensor
    ) -> None:
        """Remember a step of these units; other units remember nothing this time."""
        self.newest = (self.newest + 1) % len(self.step)
        self.bend[self.newest] = 0
        self.square[self.newest] = 0
        self.step[self.newest, units] = step.to(self.step.dtype)
        self.change[self.newest, units] = change.to(self.step.dtype)
        bend = (step * change).sum((1, 2))
        square = (step[..., :-1] ** 2).sum((1, 2))
        self.bend[self.newest, units] = bend.clamp_min(0)
        self.square[self.newest, units] = torch.where(bend > 0, square, 0.0)

    def forget(self, units: torch.Tensor) -> None:
        """Drop all that is known of these units."""
        self.bend[:, units] = 0
        self.square[:, units] = 0

    def direction(
        self,
        gradient: torch.Tensor,
        metric: Metric,
        units: torch.Tensor,
        C: torch.Tensor,
    ) -> torch.Tensor:
        """Give minus the inverse Hessian, as known, times the gradient."""
        dtype = self.step.dtype
        q, c = gradient.to(dtype), C.to(dtype)[:, None, None]
        length = len(self.step)
        order = [(self.newest - i) % length for i in range(length)]
        useful = (self.bend[:, units] > 0).any(1).tolist()
        order = [i for i in order if useful[i]]
        kept = []
        for i in order:
            step, y = self.step[i, units], c * self.change[i, units]
            y[..., :-1] += step[..., :-1]
            product = self.square[i, units] + C * self.bend[i, units]
            rho = torch.where(self.bend[i, units] > 0, 1 / product, 0.0).to(dtype)
            rho = rho[:, None, None]
            alpha = rho * (step * q).sum((1, 2), keepdim=True)
            q = q - alpha * y
            kept.append((step, y, rho, alpha))
        r = metric.solve(q, units, C)
        if kept:
            step, y, rho, _ = kept[0]
            r = r * _scale(step, y, metric.solve(y, units, C), rho > 0)
        for step, y, rho, alpha in reversed(kept):
            beta = rho * (y * r).sum((1, 2), keepdim=True)
            r = r + step * (alpha - beta)
        return -r.double()

    def frozen(
        self,
        metric: Metric,
        units: torch.Tensor,
        C: torch.Tensor,
    ) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """Give the inverse Hessian, as known, to be applied many times.

        The same as `direction` but for its sign, in the compact form of Byrd, Nocedal
        and Schnabel (1994): two products with all pairs, instead of a loop over them.

        Returns
        -------
        callable
            Takes (n, n_columns, width + 1) and which of the units they belong to.
        """
        length = len(self.step)
        order = [(self.newest + 1 + i) % length for i in range(length)]
        order = [i for i in order if bool((self.bend[i, units] > 0).any())]
        if not order:
            return lambda v, which: metric.solve(v, units[which], C[which])
        index = torch.tensor(order, device=units.device)
        bend = self.bend[index][:, units].T
        useful = bend > 0
        product = torch.where(useful, self.square[index][:, units].T, 0.0)
        product = product + C[:, None] * torch.where(useful, bend, 0.0)
        steps, changes, solved = [], [], []
        for i, used in zip(order, useful.T, strict=True):
            one = used.to(self.step.dtype)[:, None, None]
            step = self.step[i, units] * one
            change = C.to(one.dtype)[:, None, None] * self.change[i, units] * one
            change[..., :-1] += step[..., :-1]
            steps.append(step)
            changes.append(change)
            solved.append(metric.solve(change, units, C))
        scale = _scale(step, change, solved[-1], used[:, None, None])
        S, Y, HY = (
            torch.stack(part, dim=1).flatten(2) for part in (steps, changes, solved)
        )
        HY *= scale
        R = (S @ Y.mT).double().triu()
        R.diagonal(dim1=1, dim2=2).copy_(torch.where(useful, product, 1.0))
        inner = torch.diag_embed(product) + (Y @ HY.mT).double()
        del Y, changes, steps, solved

        def apply(v: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
            every = slice(None) if len(which) == len(units) else which
            plain = metric.solve(v.to(S.dtype), units[which], C[which])
            plain = plain * scale[every]
            q = v.to(S.dtype).flatten(1).unsqueeze(2)
            a, b = (S[every] @ q).double(), (HY[every] @ q).double()
            a = torch.linalg.solve_triangular(R[every], a, upper=True)
            b = torch.linalg.solve_triangular(
                R[every].mT, inner[every] @ a - b, upper=False
            )
            more = S[every].mT @ b.to(S.dtype) - HY[every].mT @ a.to(S.dtype)
            return (plain + more.view_as(plain)).double()

        return apply


def _scale(
    step: torch.Tensor, y: torch.Tensor, solved: torch.Tensor, useful: torch.Tensor
) -> torch.Tensor:
    """Give by how much the metric promises too long a step, (n, 1, 1), at most 1.

    Curvature between many classes is not the same along all columns, as the metric
    has it; by the last step it is scaled as Shanno and Phua (1978) do.

    Parameters
    ----------
    step, y, solved : (n, n_columns, width + 1)
        The last step, the change of the gradient, and the metric's inverse times that.
    useful : (n, 1, 1) bool
    """
    share = (step * y).sum((1, 2), keepdim=True) / (y * solved).sum(
        (1, 2), keepdim=True
    )
    share = torch.where(useful, share, 1.0).nan_to_num(1.0)
    return share.clamp(LEAST_SCALE, 1.0)
