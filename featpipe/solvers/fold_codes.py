"""Codes of every fold in the eigenbasis of the fold's own Gram matrix.

In that basis the Gram matrix is diagonal, so that the preconditioner only divides, and
least squares needs no iteration. Coefficients of fold f are u with W = V_f u; V_f has
orthonormal columns, so that the penalty stays ½‖u‖². The last coefficient is the
intercept, of a column of ones.

Two forms, one interface: `RotatedCodes` hold a rotated copy of the rows for every fold
(little data, or more width than rows, where the basis has no more columns than rows);
`SharedCodes` rotate the coefficients instead, and all folds share one product with the
rows (much data, or rows that are read again on every pass).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch

from featpipe.solvers.problem import Start
from featpipe.solvers.standardize import Moments, Rows

__all__ = ["FoldCodes", "RotatedCodes", "SharedCodes"]

# Scores held at once: small enough for the caches of a CPU; a GPU wants many.
CPU_SCORES, GPU_SCORES = 2**19, 2**26


@dataclass(frozen=True, eq=False)
class FoldCodes(ABC):
    """The codes as every fold standardises and rotates them.

    Parameters
    ----------
    rows : Rows
    moments : Moments
    labels : (n,) int64
    weights : (n_folds, n) float64
        Of each row in the loss of each fold; zero outside its training rows.
    eigenvalues : (n_folds, rank) float64
        Of the weighted Gram matrix of each fold, ascending.
    top : (n_folds,) float64
        The largest of them, or an upper bound.
    is_diagonal : bool
        Whether each fold's Gram matrix is diagonal in its basis; else the basis is one
        for all folds, for want of memory, and ``eigenvalues`` are close.
    radius : (n_folds,) float64
        Largest norm of a training row.
    class_weight : (n_folds, n_classes) float64
        Summed weight of each class.
    samples : dict
        What `sample` has made so far, by its stride.
    """

    rows: Rows
    moments: Moments
    labels: torch.Tensor
    weights: torch.Tensor
    eigenvalues: torch.Tensor
    top: torch.Tensor
    is_diagonal: bool
    radius: torch.Tensor
    class_weight: torch.Tensor
    samples: dict[int, FoldCodes] = field(default_factory=dict, kw_only=True)

    @property
    def n_folds(self) -> int:
        """How many folds there are."""
        return len(self.weights)

    @property
    def rank(self) -> int:
        """Columns of the basis."""
        return self.eigenvalues.shape[1]

    @property
    @abstractmethod
    def summed_width(self) -> int:
        """Columns of what `adjoint` returns."""

    @property
    def mass(self) -> torch.Tensor:
        """Summed weight of the training rows, (n_folds,)."""
        return self.weights.sum(1)

    @cached_property
    def _single_weights(self) -> torch.Tensor:
        return self.weights.float()

    def weights_in(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the weights in the precision that a pass has."""
        return self.weights if dtype == torch.float64 else self._single_weights

    def blocks(self, n_columns: int) -> Iterator[tuple[int, int]]:
        """Cut the rows into blocks whose scores a cache holds."""
        scores = CPU_SCORES if self.rows.device.type == "cpu" else GPU_SCORES
        step = min(max(512, scores // n_columns), self.rows.n_rows)
        step = step if self.rows.kept is not None else min(step, self.rows.step)
        for start in range(0, self.rows.n_rows, step):
            yield start, min(start + step, self.rows.n_rows)

    def sample(self, stride: int) -> FoldCodes:
        """Return every so many-th row, each weighing so much more.

        Of rows that are read from a file, as many of these as are held in memory.
        """
        if stride == 1 and not self.rows.streams:
            return self
        if stride not in self.samples:
            self.samples[stride] = self._every(stride)
        return self.samples[stride]

    def _every(self, stride: int) -> FoldCodes:
        # Copies for every fold are made of few rows only: all of them are taken.
        return self

    @abstractmethod
    def to_rows(self, theta: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return coefficients (n_folds, m, rank + 1) as `scores` takes them."""

    @abstractmethod
    def from_rows(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the gradient by coefficients from sums of `adjoint`, float64."""

    @abstractmethod
    def block(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        """Return some rows as `scores` and `adjoint` take them."""

    @abstractmethod
    def scores(self, z: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Return the scores of a block, (n_folds, m, n_rows)."""

    @abstractmethod
    def fold_rows(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        """Return rows of every fold in its basis, (n_folds, n, rank + 1)."""

    @abstractmethod
    def take(self, chosen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return rows that each column chose, for coefficients from `turn`.

        Parameters
        ----------
        chosen : (n_folds, m, n) int64
            Row numbers.
        dtype : torch.dtype

        Returns
        -------
        (n_folds, m, n, n_coefficients)
            A copy.
        """

    @abstractmethod
    def turn(self, u: torch.Tensor) -> torch.Tensor:
        """Return coefficients (n_folds, m, rank) as rows of `take` want them."""

    @abstractmethod
    def turn_back(self, w: torch.Tensor) -> torch.Tensor:
        """Return coefficients in the basis from those of `turn`."""

    @abstractmethod
    def fold_scores(
        self, z: torch.Tensor, v: torch.Tensor, fold: int, chosen: torch.Tensor
    ) -> torch.Tensor:
        """Return the scores of some rows of a block for one fold, (m, n_chosen)."""

    @abstractmethod
    def adjoint(self, z: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Return sums of rows weighted by ``residual`` (n_folds, m, n_rows)."""

    @abstractmethod
    def unrotate(self, u: torch.Tensor, fold: int) -> torch.Tensor:
        """Return W = V u of a fold, (n_columns, width), from (n_columns, rank)."""

    @abstractmethod
    def rotate(self, w: torch.Tensor, fold: int) -> torch.Tensor:
        """Return u = Vᵀ W of a fold, (n_columns, rank), from (n_columns, width)."""

    def as_given(self, theta: torch.Tensor, fold: int) -> Start:
        """Return coefficients (n_columns, rank + 1) for the codes as given."""
        # Standardisation is folded back: the user's codes are not standardised.
        v = self.unrotate(theta[:, :-1], fold) * self.moments.ratio[fold]
        coef = v / self.rows.scale
        intercept = theta[:, -1] - v @ self.moments.centre[fold] - coef @ self.rows.mean
        return Start((coef / self.rows.unit).cpu().numpy(), intercept.cpu().numpy())

    def from_given(self, start: Start, fold: int) -> torch.Tensor:
        """Return the coefficients in the basis nearest to some for codes as given."""
        device = self.rows.device
        coef, intercept = (torch.from_numpy(np.asarray(x, float)) for x in start)
        coef, intercept = coef.to(device), intercept.to(device)
        coef = coef * self.rows.unit
        v = coef * self.rows.scale
        b = intercept + v @ self.moments.centre[fold] + coef @ self.rows.mean
        u = self.rotate(v / self.moments.ratio[fold], fold)
        return torch.cat([u, b[:, None]], dim=1)


@dataclass(frozen=True, eq=False)
class RotatedCodes(FoldCodes):
    """A rotated copy of the rows for every fold.

    Parameters
    ----------
    rotated, single : (n_folds, n, rank + 1)
        The last column is one; ``single`` is the same in float32.
    vectors : list of (width, rank) or (n_train, rank) tensors
        Of each fold V itself, or, with more width than rows, what makes it out of its
        standardised training rows X: V = Xᵀ vectors, which is never formed.
    """

    rotated: torch.Tensor
    single: torch.Tensor
    vectors: list[torch.Tensor]

    @property
    def summed_width(self) -> int:
        """Columns of what `adjoint` returns."""
        return self.rank + 1

    def to_rows(self, theta: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return the coefficients as they are."""
        return theta.to(dtype)

    def from_rows(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the sums as they are."""
        return gradient.double()

    def block(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        """Return rows of all folds, (n_folds, n_rows, rank + 1)."""
        table = self.single if dtype == torch.float32 else self.rotated
        return table[:, start:stop].to(dtype)

    def scores(self, z: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Return the scores of a block."""
        return v @ z.mT

    def fold_rows(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        """Return rows of every fold in its basis."""
        return self.block(start, stop, dtype)

    def take(self, chosen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return rows that each column chose, in the basis."""
        fold = torch.arange(self.n_folds, device=chosen.device)[:, None, None]
        table = self.single if dtype == torch.float32 else self.rotated
        return table[..., :-1][fold, chosen]

    def turn(self, u: torch.Tensor) -> torch.Tensor:
        """Return the coefficients as they are."""
        return u

    def turn_back(self, w: torch.Tensor) -> torch.Tensor:
        """Return the coefficients as they are."""
        return w

    def fold_scores(
        self, z: torch.Tensor, v: torch.Tensor, fold: int, chosen: torch.Tensor
    ) -> torch.Tensor:
        """Return the scores of some rows of a block for one fold."""
        return v[fold] @ z[fold, chosen].T

    def adjoint(self, z: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Return the weighted sums of rows."""
        return residual @ z

    def unrotate(self, u: torch.Tensor, fold: int) -> torch.Tensor:
        """Return W = V u of a fold."""
        rows = self._training_rows(fold)
        w = u @ self.vectors[fold].T
        return w if rows is None else w @ rows

    def rotate(self, w: torch.Tensor, fold: int) -> torch.Tensor:
        """Return u = Vᵀ W of a fold."""
        rows = self._training_rows(fold)
        return (w if rows is None else w @ rows.T) @ self.vectors[fold]

    def _training_rows(self, fold: int) -> torch.Tensor | None:
        """Return standardised training rows where V is made of them, else None."""
        train = self.weights[fold].nonzero()[:, 0]
        if len(train) >= self.rows.width:
            return None
        z = self.rows.read(0, self.rows.n_rows, torch.float64)[train]
        return (z - self.moments.centre[fold]) * self.moments.ratio[fold]


@dataclass(frozen=True, eq=False)
class SharedCodes(FoldCodes):
    """One set of rows for all folds; coefficients are rotated and scaled instead.

    Parameters
    ----------
    bases : (n_folds, width, rank) float64 or None
        None keeps the codes' own columns, where one Gram matrix is too much.
    """

    bases: torch.Tensor | None

    def _every(self, stride: int) -> FoldCodes:
        rows = self.rows.every(stride)
        if rows is self.rows:
            return self
        # Streamed rows choose a stride near the one asked for.
        step = rows.stride // self.rows.stride
        return replace(
            self,
            rows=rows,
            labels=self.labels[::step],
            weights=self.weights[:, ::step] * step,
            samples={},
        )

    @cached_property
    def _single_bases(self) -> torch.Tensor | None:
        return None if self.bases is None else self.bases.float()

    def bases_in(self, dtype: torch.dtype) -> torch.Tensor | None:
        """Return the bases in the precision that a pass has."""
        return self.bases if dtype == torch.float64 else self._single_bases

    @property
    def summed_width(self) -> int:
        """Columns of what `adjoint` returns."""
        return self.rows.width + 1

    def to_rows(self, theta: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return coefficients of the table's rows, with what is added to scores."""
        u, bases = theta[..., :-1], self.bases_in(dtype)
        w = u if bases is None else (u.to(dtype) @ bases.mT).double()
        v = w * self.moments.ratio[:, None]
        shift = theta[..., -1:] - v @ self.moments.centre[..., None]
        return torch.cat([v, shift], dim=2).to(dtype)

    def from_rows(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the gradient in the basis."""
        g, total = gradient[..., :-1].double(), gradient[..., -1:].double()
        w = self.moments.ratio[:, None] * (g - self.moments.centre[:, None] * total)
        bases = self.bases_in(gradient.dtype)
        w = w if bases is None else (w.to(gradient.dtype) @ bases).double()
        return torch.cat([w, total], dim=2)

    def block(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        """Return rows that all folds share, (n_rows, width)."""
        return self.rows.read(start, stop, dtype)

    def scores(self, z: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Return the scores of a block."""
        flat = v.flatten(0, 1)
        # One product for all folds, since they share the rows.
        f = torch.addmm(flat[:, -1:], flat[:, :-1], z.T)
        return f.view(*v.shape[:2], len(z))

    def fold_rows(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        """Return rows of every fold in its basis."""
        z = self.rows.read(start, stop, torch.float64)
        x = (z - self.moments.centre[:, None]) * self.moments.ratio[:, None]
        x = x if self.bases is None else x @ self.bases
        return torch.cat([x, torch.ones_like(x[..., :1])], dim=2).to(dtype)

    def take(self, chosen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return rows that each column chose, not rotated."""
        x = self.rows.read(0, self.rows.n_rows, dtype)[chosen]
        ratio, centre = (part[:, None, None].to(dtype) for part in self.moments)
        return x.sub_(centre).mul_(ratio)

    def turn(self, u: torch.Tensor) -> torch.Tensor:
        """Return coefficients of the standardised columns, W = V u."""
        bases = self.bases_in(u.dtype)
        return u if bases is None else u @ bases.mT

    def turn_back(self, w: torch.Tensor) -> torch.Tensor:
        """Return u = Vᵀ W."""
        bases = self.bases_in(w.dtype)
        return w if bases is None else w @ bases

    def fold_scores(
        self, z: torch.Tensor, v: torch.Tensor, fold: int, chosen: torch.Tensor
    ) -> torch.Tensor:
        """Return the scores of some rows of a block for one fold."""
        return torch.addmm(v[fold, :, -1:], v[fold, :, :-1], z[chosen].T)

    def adjoint(self, z: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Return the weighted sums of rows, and of the weights last."""
        flat = residual.flatten(0, 1)
        sums = torch.cat([flat @ z, flat.sum(1, keepdim=True)], dim=1)
        return sums.view(*residual.shape[:2], -1)

    def unrotate(self, u: torch.Tensor, fold: int) -> torch.Tensor:
        """Return W = V u of a fold."""
        return u if self.bases is None else u @ self.bases[fold].T

    def rotate(self, w: torch.Tensor, fold: int) -> torch.Tensor:
        """Return u = Vᵀ W of a fold."""
        return w if self.bases is None else w @ self.bases[fold]
