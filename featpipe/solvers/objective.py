"""The objectives of a batch of units: value, gradient, proven gap, Hessian products.

A unit is what is minimised together: all columns of one C for multinomial
``logistic``, one column of one C else. A batch holds the same units for every fold;
its coefficients are (n_folds, n_units, n_columns, rank + 1), the intercept last.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import torch

from featpipe.solvers.fold_codes import FoldCodes
from featpipe.solvers.losses import (
    Softmax,
    hinge_gap,
    logistic_gap,
    make_loss,
    relative_gap,
    unweighted,
)

__all__ = ["Curvature", "Evaluation", "Objective"]

# Rows at most that the mean curvature between classes is measured on.
CURVATURE_ROWS = 4096
# What a sum of curvature is at least taken to be.
TINY = 1e-300
# Share of the memory that the curvature of every score may take.
KEPT = 0.3


Curvature = list[torch.Tensor] | None


class Evaluation(NamedTuple):
    """A batch at some coefficients.

    Attributes
    ----------
    value, gap : (n_folds, n_units) float64
        The objective, and the proven relative gap to its minimum.
    gradient : (n_folds, n_units, n_columns, rank + 1) float64
    bends : (n_folds, n_units, n_columns) float64
        Eigenvalues of the mean second derivative of the loss by the scores, per weight.
    classes : (n_folds, n_units, n_columns, n_columns) float64
        Its eigenvectors.
    curvature : list of tensors, or None
        Of every block of rows, as `Loss.hessian_product` takes it; None where that
        does not fit into the memory, and is worked out anew for every product.
    """

    value: torch.Tensor
    gap: torch.Tensor
    gradient: torch.Tensor
    bends: torch.Tensor
    classes: torch.Tensor
    curvature: Curvature

    def select(self, units: torch.Tensor) -> Evaluation:
        """Return the evaluation of some of the units."""
        kept = self.curvature
        return Evaluation(
            self.value[:, units],
            self.gap[:, units],
            self.gradient[:, units],
            self.bends[:, units],
            self.classes[:, units],
            None if kept is None else [part[:, units] for part in kept],
        )


class Objective:
    """½‖W‖² + C Σ loss for every unit and fold of a batch.

    Parameters
    ----------
    codes : FoldCodes
    loss : {"linear", "svm", "logistic"}
    n_columns : int
        Of one classifier: 1 for two classes, else one a class.
    C : (n_units,) float64
    column : (n_units,) int64
        Which class a unit of one column tells from the rest.
    dtype : torch.dtype
        Of products and scores; sums are float64.
    n_bytes : int
        Memory that kept curvature may take its share of.
    tilt : (n_folds, n_units, n_columns, rank + 1) float64 or None
        Coefficients of a linear term that is added.
    """

    def __init__(
        self,
        codes: FoldCodes,
        loss: str,
        n_columns: int,
        C: torch.Tensor,
        column: torch.Tensor,
        dtype: torch.dtype,
        n_bytes: int,
        product_dtype: torch.dtype = torch.float32,
        spans: list[tuple[int, int]] | None = None,
        tilt: torch.Tensor | None = None,
    ) -> None:
        self.codes, self.name, self.C, self.column = codes, loss, C, column
        self.n_columns = n_columns
        self.loss = make_loss(loss, n_columns)
        self.joint = isinstance(self.loss, Softmax)
        self.k = n_columns if self.joint else 1
        # Of the coefficients.
        self.shape = codes.n_folds, len(C), self.k, codes.rank + 1
        self.spans = spans or list(codes.blocks(codes.n_folds * len(C) * self.k))
        self.dtype, self.n_bytes = dtype, n_bytes
        self.product_dtype, self.tilt = product_dtype, tilt
        # One number for each score: kept, a Hessian product needs one pass instead of
        # two. Of streamed rows products are taken of a sample.
        cells = codes.n_folds * len(C) * self.k * codes.rows.n_rows
        fits = cells * product_dtype.itemsize <= KEPT * n_bytes
        self.keeps = fits and not codes.rows.streams
        self.penalty = torch.ones(codes.rank + 1, dtype=torch.float64, device=C.device)
        # The intercept, the last coefficient, is not penalised.
        self.penalty[-1] = 0
        present = codes.class_weight > 0
        # Scores of a class without rows can fall without end: the loss does not resist.
        absent = (~present).sum(1, keepdim=True)
        self.n_free = absent if self.joint else absent * 0

    def _but(self, **changes: Any) -> Objective:
        """Return an objective that differs from this one in some parameters."""
        names = "codes", "n_columns", "C", "column", "dtype", "n_bytes"
        more = "product_dtype", "spans", "tilt"
        same = {name: getattr(self, name) for name in (*names, *more)}
        return Objective(loss=self.name, **(same | changes))

    def select(self, units: torch.Tensor) -> Objective:
        """Return the objective of some of the units."""
        tilt = None if self.tilt is None else self.tilt[:, units]
        return self._but(C=self.C[units], column=self.column[units], tilt=tilt)

    def finer(self) -> Objective | None:
        """Return the same objective in the next precision, None if there is none.

        First evaluations become double, then Hessian products too.
        """
        double = torch.float64
        if self.product_dtype == double:
            return None
        products = self.product_dtype if self.dtype != double else double
        return self._but(dtype=double, product_dtype=products)

    def targets(self, start: int, stop: int) -> torch.Tensor:
        """Return what a block of rows is to be told as."""
        labels = self.codes.labels[start:stop]
        if self.joint:
            return labels
        return 2 * (labels == self.column[:, None]).to(self.dtype) - 1

    def evaluate(self, theta: torch.Tensor) -> Evaluation:
        """Evaluate the batch at coefficients ``theta``."""
        codes, (n_folds, n_units, k, _) = self.codes, self.shape
        v = codes.to_rows(theta.flatten(1, 2), self.dtype)
        value = theta.new_zeros(n_folds, n_units)
        steep = torch.zeros_like(value)
        between = theta.new_zeros(n_folds, n_units, k, k)
        sampled = theta.new_zeros(n_folds, 1, 1)
        # Of many blocks: single precision would lose digits of the sums.
        sums, own = self._zero_sums(torch.float64), self._zero_sums(torch.float64)
        kept: list[torch.Tensor] = []
        stride = max(1, codes.rows.n_rows // CURVATURE_ROWS) if self.joint else 1
        for start, stop in self.spans:
            z = codes.block(start, stop, self.dtype)
            f = codes.scores(z, v).view(n_folds, n_units, k, -1)
            weights = codes.cast("weights", self.dtype)[:, start:stop]
            part = self.loss(f, self.targets(start, stop), weights)
            value += part.value
            steep += part.steep
            residual = part.residual.flatten(1, 2)
            sums += codes.adjoint(z, residual)
            if self.name == "svm":
                labels = codes.labels[start:stop]
                own += codes.own_adjoint(z, residual, labels == self.column[:, None])
            some, w = part.curvature[..., ::stride], weights[:, None, None, ::stride]
            between += self._between(some, w)
            sampled += w.sum(3, dtype=torch.float64)
            if self.keeps:
                kept.append(part.curvature.to(self.product_dtype))
        C = self.C[:, None, None]
        loss, pull = self.C * value, C * codes.from_rows(sums).view(self.shape)
        gradient = pull + self.penalty * theta
        square = (self.penalty * theta * theta).sum((2, 3))
        value = loss + square / 2
        if self.tilt is not None:
            gradient = gradient + self.tilt
            value = value + (self.tilt * theta).sum((2, 3))
        bends, classes = self._diagonalize(between)
        if self.name == "svm":
            own = C * codes.from_rows(own).view(self.shape)
            gap = hinge_gap(gradient[:, :, 0], pull[:, :, 0], own[:, :, 0], loss)
        else:
            gap = self._gap(gradient, bends, classes, steep)
        floor = 1e-12 * self.C * codes.mass[:, None]
        gap = relative_gap(gap, value, self.C * self.without, floor)
        bends = bends / sampled
        keeps = kept if self.keeps else None
        return Evaluation(value, gap, gradient, bends, classes, keeps)

    def _between(self, curvature: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return the summed second derivative of some rows by the scores."""
        if not self.joint:
            return curvature.sum(3, keepdim=True).double()
        p = unweighted(curvature, weights[:, 0, 0])
        diagonal = torch.diag_embed(curvature.sum(3).double())
        return diagonal - (p @ curvature.mT).double()

    def _diagonalize(self, between: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return eigenvalues, ascending, and eigenvectors of what `_between` summed."""
        if self.k == 1:
            return between[..., 0], torch.ones_like(between)
        # All scores moved alike change nothing: that is made the last eigenvector.
        trace = between.diagonal(dim1=2, dim2=3).sum(2).clamp_min(TINY)
        values, vectors = torch.linalg.eigh(between + trace[..., None, None])
        return values.clamp_min_(0), vectors

    def _gap(
        self,
        gradient: torch.Tensor,
        bends: torch.Tensor,
        classes: torch.Tensor,
        steep: torch.Tensor,
    ) -> torch.Tensor:
        codes, C = self.codes, self.C
        mass, radius = codes.mass[:, None], codes.radius[:, None]
        slope = gradient[..., :-1].square().sum((2, 3)).sqrt()
        if self.name == "linear":
            # Rows are centred by the weights of the loss: no W moves with b.
            return slope**2 / 2 + gradient[:, :, 0, -1] ** 2 / (4 * C * mass)
        every = (0.5 if self.joint else 0.25) * codes.top[:, None]
        steepest = C * torch.minimum(every, steep * radius**2)
        # A sample of the rows bends less than all of them, as the bound needs.
        along = (gradient[..., None, :, -1] @ classes).squeeze(2)
        return logistic_gap(slope, along, C[:, None] * bends, steepest, self.n_free)

    @cached_property
    def without(self) -> torch.Tensor:
        """The loss where W is zero and the intercept best, (n_folds, n_units)."""
        share = self.codes.class_weight / self.codes.mass[:, None]
        mass = self.codes.mass[:, None]
        if self.joint:
            entropy: torch.Tensor = torch.special.entr(share).sum(1, keepdim=True)
            return mass * entropy
        share = share[:, self.column]
        if self.name == "logistic":
            entropy = torch.special.entr(share) + torch.special.entr(1 - share)
            return mass * entropy
        # Squared hinge and squared error with one constant: 4 s (1 - s).
        return mass * 4 * share * (1 - share)

    def sampled(self, stride: int) -> Objective:
        """Return the objective of every so many-th row, for Hessian products."""
        codes, single = self.codes.sample(stride), torch.float32
        return self._but(
            codes=codes, dtype=single, product_dtype=single, spans=None, tilt=None
        )

    def tilted(self, tilt: torch.Tensor) -> Objective:
        """Return the objective with a linear term added."""
        return self._but(tilt=tilt)

    def curvature(self, theta: torch.Tensor) -> Curvature:
        """Return the curvature of every score, a block of rows each, if it fits."""
        if not self.keeps:
            return None
        return [part for *_, part in self.curvatures(None, theta)]

    def hessian_product(
        self,
        direction: torch.Tensor,
        kept: Curvature,
        theta: torch.Tensor,
        classes: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the Hessian at ``theta``, of such curvature, times a direction.

        With eigenvectors ``classes`` of an `Evaluation`, both are along them and along
        the basis of the codes.
        """
        codes, (n_folds, n_units, k, _) = self.codes, self.shape
        dtype, turned = self.product_dtype, classes is not None
        moved = direction if classes is None or k == 1 else classes @ direction
        dv = codes.to_rows(moved.flatten(1, 2), dtype, turned)
        sums = self._zero_sums(dtype)
        for start, stop, curvature in self.curvatures(kept, theta):
            z = codes.block(start, stop, dtype)
            df = codes.scores(z, dv).view(n_folds, n_units, k, -1)
            weights = codes.cast("weights", dtype)[:, start:stop]
            change = self.loss.hessian_product(curvature, df, weights)
            sums += codes.adjoint(z, change.flatten(1, 2))
        product = codes.from_rows(sums, turned).view(self.shape)
        product = product if classes is None or k == 1 else classes.mT @ product
        return torch.addcmul(self.C[:, None, None] * product, self.penalty, direction)

    def _zero_sums(self, dtype: torch.dtype) -> torch.Tensor:
        """Return zeros for the sums of `FoldCodes.adjoint`."""
        codes, (n_folds, n_units, k, _) = self.codes, self.shape
        width = codes.summed_width
        shape = n_folds, n_units * k, width
        return torch.zeros(shape, dtype=dtype, device=self.C.device)

    def curvatures(
        self, kept: Curvature, theta: torch.Tensor
    ) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Yield blocks with their curvature, kept or worked out anew."""
        if kept is not None:
            for (start, stop), part in zip(self.spans, kept, strict=True):
                yield start, stop, part
            return
        codes, (n_folds, n_units, k, _) = self.codes, self.shape
        v = codes.to_rows(theta.flatten(1, 2), self.dtype)
        for start, stop in self.spans:
            z = codes.block(start, stop, self.dtype)
            f = codes.scores(z, v).view(n_folds, n_units, k, -1)
            weights = codes.cast("weights", self.dtype)[:, start:stop]
            loss = self.loss(f, self.targets(start, stop), weights)
            yield start, stop, loss.curvature.to(self.product_dtype)
