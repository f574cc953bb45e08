"""What coefficients are given in, and what they are for the rows of the table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from featpipe.solvers._table import Design

__all__ = ["Frame", "rows_at_once", "scores", "training"]

# Scores held at once on a CPU: small enough for its caches; a GPU wants many.
CPU_SCORES = 2**18
# Rows at once at least: fewer make the sums over blocks dearer than the products.
# 60,000 x 512, 1,000 columns: 1.36 s a pass with 262 rows at once, 0.87 s with 2,048.
LEAST_ROWS = 2048
GPU_SCORES = 2**26


@dataclass(frozen=True, eq=False, kw_only=True)
class Frame:
    """The coefficients of all units of one design.

    Parameters
    ----------
    design : Design
    split : (n_units,) int64
        What each unit trains on.
    basis : (width, width) float64 tensor or None
        What coefficients are given in: the eigenvectors of the Gram matrix, as
        columns. None is that of the codes' own columns.
    """

    design: Design
    split: torch.Tensor
    basis: torch.Tensor | None = None

    def to_table(
        self, theta: torch.Tensor, units: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Give coefficients and intercepts for the rows of the table."""
        ratio, centre = self._scales(units)
        v = self.unturned(theta)[..., :-1] * ratio
        return v, theta[..., -1] - (v * centre).sum(2)

    def from_table(
        self,
        gradient: torch.Tensor,
        total: torch.Tensor,
        units: torch.Tensor,
        dtype: torch.dtype = torch.float64,
    ) -> torch.Tensor:
        """Give the gradient by theta from sums over the rows of the table.

        ``dtype`` is what it is turned in.
        """
        ratio, centre = self._scales(units)
        total = total.unsqueeze(2)
        plain = torch.cat([ratio * (gradient - centre * total), total], dim=2)
        return self.turned(plain.to(dtype)).double()

    def rounded(self, theta: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
        """Give the nearest coefficients that the precision of the table holds.

        Scores of these are wrong by the rounding of products alone, which differs from
        row to row; rounding of coefficients would move all of them together.
        """
        ratio, centre = self._scales(units)
        v, shift = (
            x.to(self.design.table.dtype).double() for x in self.to_table(theta, units)
        )
        last = shift + (v * centre).sum(2)
        return self.turned(torch.cat([v / ratio, last.unsqueeze(2)], dim=2))

    def standardised(self, rows: torch.Tensor, split: int) -> torch.Tensor:
        """Give some rows as a split standardises them, (n, width) float64."""
        kept, design = self.design.table.kept, self.design
        if kept is None:
            raise RuntimeError("no rows are kept")
        return (kept[rows].double() - design.centre[split]) * design.ratio[split]

    def turned_rows(self, stride: int) -> torch.Tensor:
        """Give every so many-th row of the table in the basis, (n, width)."""
        table, some = self.design.table, []
        for start in range(0, table.n_rows, table.step):
            z = table.rows(start, min(start + table.step, table.n_rows))
            z = z[-start % stride :: stride]
            some.append(self.turn(z))
        return torch.cat(some)

    def turn(self, v: torch.Tensor) -> torch.Tensor:
        """Give vectors (..., width) in the basis instead of the codes' own columns."""
        basis = self._basis(v.dtype)
        return v if basis is None else v @ basis

    def turned(self, theta: torch.Tensor) -> torch.Tensor:
        """Give coefficients in the basis instead of the codes' own columns."""
        if self.basis is None:
            return theta
        return torch.cat([self.turn(theta[..., :-1]), theta[..., -1:]], dim=-1)

    def unturned(self, theta: torch.Tensor) -> torch.Tensor:
        """Give coefficients of the codes' own columns instead of in the basis."""
        basis = self._basis(theta.dtype)
        if basis is None:
            return theta
        return torch.cat([theta[..., :-1] @ basis.T, theta[..., -1:]], dim=-1)

    def _basis(self, dtype: torch.dtype) -> torch.Tensor | None:
        return self.basis if dtype == torch.float64 else self._rounded_basis

    @cached_property
    def _rounded_basis(self) -> torch.Tensor | None:
        return None if self.basis is None else self.basis.to(self.design.table.dtype)

    def _scales(self, units: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        split = self.split[units]
        return self.design.ratio[split][:, None], self.design.centre[split][:, None]


def scores(v: torch.Tensor, shift: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Give scores as (unit, column, row)."""
    flat = torch.addmm(shift.reshape(-1, 1), v.flatten(0, 1), z.T)
    return flat.view(*v.shape[:2], len(z))


def rows_at_once(v: torch.Tensor) -> int:
    """Say how many rows to take at a time for so many columns."""
    scores = CPU_SCORES if v.device.type == "cpu" else GPU_SCORES
    columns = v.shape[0] * v.shape[1]
    return max(LEAST_ROWS, min(scores // columns, 8192 * scores // 2**18))


def training(split: torch.Tensor, splits: tuple[int, ...]) -> torch.Tensor | None:
    """Give the units that train on one of these splits; None where all do."""
    inside = torch.isin(split, torch.tensor(splits, device=split.device))
    return None if inside.all() else inside.nonzero()[:, 0]
