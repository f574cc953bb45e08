"""Codes of every fold, standardised by the fold's own training rows.

Coefficients of a fold are W itself, for its standardised columns, or u with W = V u,
where V has orthonormal columns, so that the penalty is ½‖u‖². The last coefficient is
the intercept, of a column of ones.

Two forms, one interface: `SharedCodes` take W, scale it instead of the rows, and all
folds share one product with the rows. With more width than rows, `RotatedCodes` take u:
every fold holds its rows in the eigenbasis of its Gram matrix, which has no more
columns than there are rows.
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
    """The codes as every fold standardises them.

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
    basis : (n_folds, rank + 1, rank + 1) or (rank + 1, rank + 1) float64, or None
        Eigenvectors of the Gram matrix, for coefficients with their intercept; None
        where the coefficients are in the eigenbasis, or where they take too much.
    is_exact : bool
        Whether basis and eigenvalues are each fold's own; else they are near enough
        for a preconditioner.
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
    basis: torch.Tensor | None
    is_exact: bool
    radius: torch.Tensor
    class_weight: torch.Tensor
    samples: dict[int, FoldCodes] = field(default_factory=dict, kw_only=True)

    @property
    def n_folds(self) -> int:
        """How many folds there are."""
        return self.weights.shape[0]

    @property
    def rank(self) -> int:
        """Coefficients of a column without its intercept."""
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
    def _casts(self) -> dict[tuple[str, torch.dtype], torch.Tensor]:
        return {}

    def cast(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """Return one of the tensors in the precision that a pass has."""
        if (name, dtype) not in self._casts:
            self._casts[name, dtype] = getattr(self, name).to(dtype)
        return self._casts[name, dtype]

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
    def to_rows(
        self, theta: torch.Tensor, dtype: torch.dtype, turned: bool = False
    ) -> torch.Tensor:
        """Return coefficients (n_folds, m, rank + 1) as `scores` takes them.

        ``turned`` says that they are along ``basis``.
        """

    @abstractmethod
    def from_rows(self, gradient: torch.Tensor, turned: bool = False) -> torch.Tensor:
        """Return the gradient by such coefficients from sums of `adjoint`, float64."""

    @abstractmethod
    def block(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        """Return some rows as `scores` and `adjoint` take them."""

    @abstractmethod
    def scores(self, z: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Return the scores of a block, (n_folds, m, n_rows)."""

    @abstractmethod
    def fold_rows(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        """Return rows of every fold, (n_folds, n, rank + 1), the last column one."""

    @abstractmethod
    def take(self, chosen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return rows that each column chose by their numbers (n_folds, m, n).

        A copy, (n_folds, m, n, rank), without the column of ones.
        """

    @abstractmethod
    def fold_scores(
        self, z: torch.Tensor, v: torch.Tensor, fold: int, chosen: torch.Tensor
    ) -> torch.Tensor:
        """Return the scores of some rows of a block for one fold, (n_chosen, m)."""

    @abstractmethod
    def adjoint(self, z: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Return sums of rows weighted by ``residual`` (n_folds, m, n_rows)."""

    def own_adjoint(
        self, z: torch.Tensor, residual: torch.Tensor, own: torch.Tensor
    ) -> torch.Tensor:
        """Return what `adjoint` does of the rows that are ``own`` (m, n_rows) only."""
        return self.adjoint(z, residual * own)

    def unrotate(self, u: torch.Tensor, fold: int) -> torch.Tensor:
        """Return W of a fold, (n_columns, width), from (n_columns, rank)."""
        return u

    def rotate(self, w: torch.Tensor, fold: int) -> torch.Tensor:
        """Return the coefficients of a fold, (n_columns, rank), nearest to W."""
        return w

    def as_given(self, theta: torch.Tensor, fold: int) -> Start:
        """Return coefficients (n_columns, rank + 1) for the codes as given."""
        # Standardisation is folded back: the user's codes are not standardised.
        v = self.unrotate(theta[:, :-1], fold) * self.moments.ratio[fold]
        coef = v / self.rows.scale
        intercept = theta[:, -1] - v @ self.moments.centre[fold] - coef @ self.rows.mean
        return Start((coef / self.rows.unit).cpu().numpy(), intercept.cpu().numpy())

    def from_given(self, start: Start, fold: int) -> torch.Tensor:
        """Return the coefficients nearest to some for codes as given."""
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
    rotated : (n_folds, n, rank + 1) float64
        The last column is one.
    vectors : list of (n_train, rank) tensors
        What makes each fold's basis out of its standardised training rows X:
        V = Xᵀ vectors, which is never formed.
    """

    rotated: torch.Tensor
    vectors: list[torch.Tensor]

    @property
    def summed_width(self) -> int:
        """Columns of what `adjoint` returns."""
        return self.rank + 1

    def to_rows(
        self, theta: torch.Tensor, dtype: torch.dtype, turned: bool = False
    ) -> torch.Tensor:
        """Return the coefficients as they are."""
        return theta.to(dtype)

    def from_rows(self, gradient: torch.Tensor, turned: bool = False) -> torch.Tensor:
        """Return the sums as they are."""
        return gradient.double()

    def block(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        """Return rows of all folds, (n_folds, n_rows, rank + 1)."""
        return self.cast("rotated", dtype)[:, start:stop]

    def scores(self, z: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Return the scores of a block."""
        return v @ z.mT

    def fold_rows(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        """Return rows of every fold."""
        return self.block(start, stop, dtype)

    def take(self, chosen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return rows that each column chose."""
        fold = torch.arange(self.n_folds, device=chosen.device)[:, None, None]
        return self.cast("rotated", dtype)[..., :-1][fold, chosen]

    def fold_scores(
        self, z: torch.Tensor, v: torch.Tensor, fold: int, chosen: torch.Tensor
    ) -> torch.Tensor:
        """Return the scores of some rows of a block for one fold."""
        return z[fold, chosen] @ v[fold].T

    def adjoint(self, z: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Return the weighted sums of rows."""
        return residual @ z

    def unrotate(self, u: torch.Tensor, fold: int) -> torch.Tensor:
        """Return W = V u of a fold."""
        return u @ self.vectors[fold].T @ self._training_rows(fold)

    def rotate(self, w: torch.Tensor, fold: int) -> torch.Tensor:
        """Return u = Vᵀ W of a fold."""
        return w @ self._training_rows(fold).T @ self.vectors[fold]

    def _training_rows(self, fold: int) -> torch.Tensor:
        """Return the standardised training rows of a fold."""
        train = self.weights[fold].nonzero()[:, 0]
        z = self.rows.read(0, self.rows.n_rows, torch.float64)[train]
        return (z - self.moments.centre[fold]) * self.moments.ratio[fold]


@dataclass(frozen=True, eq=False)
class SharedCodes(FoldCodes):
    """One set of rows for all folds; coefficients are scaled instead."""

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
    def ratio(self) -> torch.Tensor:
        """What coefficients are multiplied by: one for the intercept."""
        ratio = self.moments.ratio[:, None]
        return torch.cat([ratio, torch.ones_like(ratio[..., :1])], dim=2)

    @cached_property
    def centre(self) -> torch.Tensor:
        """What rows are moved by: zero for the column of ones."""
        centre = self.moments.centre[:, None]
        return torch.cat([centre, torch.zeros_like(centre[..., :1])], dim=2)

    @cached_property
    def turn(self) -> torch.Tensor:
        """What makes coefficients along each fold's own basis those of the rows."""
        assert self.basis is not None
        return self._scaled(self.basis.mT).mT

    def _scaled(self, theta: torch.Tensor) -> torch.Tensor:
        """Return coefficients of the shared rows, with what is added to scores."""
        v = theta * self.cast("ratio", theta.dtype)
        v[..., -1:] -= v @ self.cast("centre", theta.dtype).mT
        return v

    @property
    def summed_width(self) -> int:
        """Columns of what `adjoint` returns."""
        return self.rows.width + 1

    def to_rows(
        self, theta: torch.Tensor, dtype: torch.dtype, turned: bool = False
    ) -> torch.Tensor:
        """Return coefficients of the shared rows, with what is added to scores."""
        if self.basis is None or not turned:
            return self._scaled(theta).to(dtype)
        if self.is_exact:
            return theta.to(dtype) @ self.cast("turn", dtype).mT
        return self._scaled(theta.to(dtype) @ self.cast("basis", dtype).mT)

    def from_rows(self, gradient: torch.Tensor, turned: bool = False) -> torch.Tensor:
        """Return the gradient by the coefficients."""
        turned = turned and self.basis is not None
        if turned and self.is_exact:
            return (gradient @ self.cast("turn", gradient.dtype)).double()
        sums = gradient if turned else gradient.double()
        ratio, centre = (self.cast(x, sums.dtype) for x in ("ratio", "centre"))
        sums = ratio * torch.addcmul(sums, sums[..., -1:], centre, value=-1)
        return (sums @ self.cast("basis", sums.dtype)).double() if turned else sums

    def block(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        """Return rows that all folds share, (n_rows, width)."""
        return self.rows.read(start, stop, dtype)

    def scores(self, z: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Return the scores of a block."""
        flat = v.flatten(0, 1)
        # One product for all folds, since they share the rows.
        f = torch.addmm(flat[:, -1:], flat[:, :-1], z.T)
        return f.view(*v.shape[:2], -1)

    def fold_rows(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        """Return rows of every fold."""
        z = self.rows.read(start, stop, torch.float64)
        x = (z - self.moments.centre[:, None]) * self.moments.ratio[:, None]
        return torch.cat([x, torch.ones_like(x[..., :1])], dim=2).to(dtype)

    def take(self, chosen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return rows that each column chose."""
        x = self.rows.read(0, self.rows.n_rows, dtype)[chosen]
        ratio, centre = (part[:, None, None].to(dtype) for part in self.moments)
        return x.sub_(centre).mul_(ratio)

    def fold_scores(
        self, z: torch.Tensor, v: torch.Tensor, fold: int, chosen: torch.Tensor
    ) -> torch.Tensor:
        """Return the scores of some rows of a block for one fold."""
        return torch.addmm(v[fold, :, -1], z[chosen], v[fold, :, :-1].T)

    def adjoint(self, z: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Return the weighted sums of rows, and of the weights last."""
        flat = residual.flatten(0, 1)
        sums = torch.cat([flat @ z, flat.sum(1, keepdim=True)], dim=1)
        return sums.view(*residual.shape[:2], -1)

    def own_adjoint(
        self, z: torch.Tensor, residual: torch.Tensor, own: torch.Tensor
    ) -> torch.Tensor:
        """Return what `adjoint` does, of few rows each."""
        column, row = own.nonzero(as_tuple=True)
        values = residual[:, column, row]
        fold = torch.arange(self.n_folds, device=z.device)[:, None]
        place = (fold * len(own) + column).flatten(), row.repeat(self.n_folds)
        size = self.n_folds * len(own), len(z)
        sparse = torch.sparse_coo_tensor(
            torch.stack(place),
            values.flatten(),
            size,
            is_coalesced=True,
            check_invariants=False,
        )
        total = torch.zeros_like(residual[..., 0])
        total = total.index_add(1, column, values)[..., None]
        sums = (sparse @ z).view(*residual.shape[:2], -1)
        return torch.cat([sums, total], dim=2)
