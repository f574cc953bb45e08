"""The scores of all rows where units stand, and where a trial would put them.

Where memory allows the scores are kept, in double precision, beside how they change
along the direction of each unit. A step is then added to scores that are exact, so that
what single precision rounds off is a share of the step and not of the scores; and a
trial at another length takes no product with the codes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from featpipe.solvers._frame import Frame, rows_at_once, scores
from featpipe.solvers._losses import Exponentials
from featpipe.solvers._table import Block

__all__ = ["Standing", "Trial"]


class Standing:
    """Scores where the units stand, and how they change along their directions.

    Parameters
    ----------
    frame : Frame
    like : (n_units, n_columns, width + 1) tensor
    memory : int
        Bytes that keeping may take; beyond, all is worked out anew in each pass.
    """

    def __init__(self, frame: Frame, like: torch.Tensor, memory: int) -> None:
        table = frame.design.table
        self.frame = frame
        shape = (*like.shape[:2], table.n_rows)
        n_cells = shape[0] * shape[1] * shape[2]
        self.keeps = self.n_bytes(n_cells) <= memory
        shape = shape if self.keeps else (0, 0, 0)
        self.here = like.new_zeros(shape, dtype=torch.float64)
        self.ahead = like.new_zeros(shape, dtype=table.dtype)
        flags = torch.zeros(len(like), dtype=torch.bool, device=like.device)
        self.knows_here, self.knows_ahead = flags, flags.clone()
        # Which units have gone on since, and how far: rows follow when read next.
        self.gone = flags.clone()
        self.lengths = like.new_zeros(len(like))
        self.shifts = like.new_zeros(like.shape[:2])

    @staticmethod
    def n_bytes(n_cells: int) -> int:
        """Say what keeping so many scores takes: 8 bytes here, 4 ahead, 4 of a pass."""
        return 16 * n_cells

    def turn(self, units: torch.Tensor) -> None:
        """Forget how scores change: these units have another direction."""
        self.knows_ahead[units] = False

    def leave(self, units: torch.Tensor | slice = slice(None)) -> None:
        """Forget the scores: these units have been put elsewhere."""
        self.knows_here[units] = False
        self.gone[units] = False

    def go(
        self, units: torch.Tensor, lengths: torch.Tensor, shifts: torch.Tensor
    ) -> None:
        """Note that units went so far along their directions, and were shifted."""
        if self.keeps:
            self.gone[units] = True
            self.lengths[units], self.shifts[units] = lengths, shifts

    def follow(self, units: torch.Tensor, rows: slice) -> None:
        """Put some rows of these units where they went."""
        moved = units[self.gone[units]]
        if not len(moved):
            return
        which = slice(None) if len(moved) == len(self.gone) else moved
        ahead = self.ahead[which, :, rows].double()
        lengths, shifts = self.lengths[moved, None, None], self.shifts[moved, :, None]
        self.here[which, :, rows] += torch.addcmul(shifts, ahead, lengths)

    def arrive(self, units: torch.Tensor) -> None:
        """Note that all rows of these units are known where they stand."""
        self.knows_here[units] = self.knows_ahead[units] = True
        self.gone[units] = False


class Trial:
    """Units put somewhere along their directions.

    Parameters
    ----------
    standing : Standing
    theta, direction : (n_units, n_columns, width + 1) float64
    lengths : (n_units,) float64
    units : (n_units,) int64
    dtype : torch.dtype
        Of residuals and of their products with the codes.
    exact : bool
        Whether to work out all scores anew, in ``dtype``, instead of adding to what is
        kept what the table's precision makes of the step.

    Attributes
    ----------
    shifts : (n_units, n_columns) float64
        What is added to the intercepts on top of that; kept scores only.
    exponentials : dict
        By the first of some rows, what is known of their scores before ``shifts``.
    """

    def __init__(
        self,
        standing: Standing,
        theta: torch.Tensor,
        direction: torch.Tensor,
        lengths: torch.Tensor,
        units: torch.Tensor,
        dtype: torch.dtype,
        *,
        exact: bool = False,
    ) -> None:
        frame, self.standing = standing.frame, standing
        self.units, self.dtype, self.lengths = units, dtype, lengths
        self.table = frame.design.table
        self.kept = standing.keeps and not exact
        if not self.kept:
            theta = theta + lengths[:, None, None] * direction
        self.theta = frame.to_table(theta, units)
        self.direction = frame.to_table(direction, units)
        self.at_once = rows_at_once(self.theta[0])
        self.shifts = torch.zeros_like(self.theta[1])
        self.exponentials: dict[int, Exponentials] = {}

    @property
    def shape(self) -> torch.Size:
        """Units, columns, width."""
        return self.theta[0].shape

    def cut(self, block: Block) -> Iterator[slice]:
        """Cut a block into rows that are worked on at once."""
        for start in range(block.start, block.stop, self.at_once):
            yield slice(start, min(start + self.at_once, block.stop))

    def read(self, rows: slice, chosen: torch.Tensor | None) -> torch.Tensor:
        """Read some rows, and work out what is not known of their scores."""
        z = self.table.rows(rows.start, rows.stop)
        if not self.kept:
            return z.to(self.dtype)
        self._learn(z, rows, chosen)
        return z

    def end(self) -> None:
        """Note that all rows have been seen."""
        if self.kept:
            self.standing.arrive(self.units)

    def scores(
        self, z: torch.Tensor, rows: slice, chosen: torch.Tensor | None
    ) -> torch.Tensor:
        """Give the scores of some rows, (n_chosen, n_columns, n_rows)."""
        if not self.kept:
            return self._product(self.theta, z, chosen)
        here, ahead = self._known(rows, chosen)
        every = slice(None) if chosen is None else chosen
        shifts, lengths = self.shifts[every, :, None], self.lengths[every, None, None]
        step = torch.addcmul(shifts.to(ahead.dtype), ahead, lengths.to(ahead.dtype))
        return here + step

    def changes(
        self, z: torch.Tensor, rows: slice, chosen: torch.Tensor | None
    ) -> torch.Tensor:
        """Give how the scores of some rows change along the direction."""
        if not self.kept:
            return self._product(self.direction, z, chosen)
        return self._known(rows, chosen)[1]

    def _learn(self, z: torch.Tensor, rows: slice, chosen: torch.Tensor | None) -> None:
        """Work out what is not known of these rows."""
        standing = self.standing
        units = self.units if chosen is None else self.units[chosen]
        standing.follow(units, rows)
        lacking = (~standing.knows_here[units]).nonzero()[:, 0]
        if len(lacking):
            which = lacking if chosen is None else chosen[lacking]
            found = self._product(self.theta, z.double(), which)
            standing.here[units[lacking], :, rows] = found
        lacking = (~standing.knows_ahead[units]).nonzero()[:, 0]
        if len(lacking):
            which = lacking if chosen is None else chosen[lacking]
            # A step is short beside the scores: the table's precision does for it.
            found = self._product(self.direction, z, which)
            standing.ahead[units[lacking], :, rows] = found

    def _known(
        self, rows: slice, chosen: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        units = self.units if chosen is None else self.units[chosen]
        here, ahead = self.standing.here[..., rows], self.standing.ahead[..., rows]
        every = len(units) == len(here)
        return (here, ahead) if every else (here[units], ahead[units])

    def _product(
        self,
        coefficients: tuple[torch.Tensor, torch.Tensor],
        z: torch.Tensor,
        chosen: torch.Tensor | None,
    ) -> torch.Tensor:
        v, shift = coefficients
        if chosen is not None:
            v, shift = v[chosen], shift[chosen]
        return scores(v.to(z.dtype), shift.to(z.dtype), z)
