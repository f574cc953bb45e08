"""The state of a training, kept in a file so that a kill loses at most one epoch.

torch's own format, with tensors and plain values only, so that reading runs no code.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featpipe import files
from featpipe.errors import first_line

__all__ = ["Checkpoint"]


@dataclass
class Checkpoint:
    """The state of a training after some epochs.

    Parameters
    ----------
    digest : str
        Of all inputs of the training; another digest is another training.
    tried : dict of float to float
        Learning rates and their losses, best first; empty before the choice.
    stage : str
        ``select`` while the epoch is being chosen, then ``refit``.
    epoch : int
        Epochs done in this stage.
    history : list of dict
        ``epoch``, ``loss``, ``seconds``, and ``held_out_loss``,
        ``held_out_loss_error`` and ``held_out_score`` of the first stage, beginning
        with epoch 0, before the first step.
    start_correct : list of bool
        Whether the start is right on each image that chooses; with a budget only.
    best_epoch : int or None
    best : dict of str to Tensor
        The learned weights of that epoch.
    now : dict of str to Tensor
        The learned weights; empty before the first epoch of a stage.
    trainer : dict
        The optimiser's state.
    n_passes : int
        Images that went through the whole network so far.
    seconds : float
        Of all runs so far.
    warnings : list of str
    """

    digest: str
    tried: dict[float, float] = field(default_factory=dict)
    stage: str = "select"
    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    start_correct: list[bool] = field(default_factory=list)
    best_epoch: int | None = None
    best: dict[str, Tensor] = field(default_factory=dict)
    now: dict[str, Tensor] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    n_passes: int = 0
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """The head's learning rate that was chosen."""
        return next(iter(self.tried))

    def write(self, path: Path | None) -> None:
        """Write it atomically; do nothing with None.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        if path is not None:
            file = io.BytesIO()
            # In memory, since the file is replaced as a whole.
            torch.save({f.name: getattr(self, f.name) for f in fields(self)}, file)
            files.write_bytes(path, file.getvalue())

    @classmethod
    def read(cls, path: Path | None, digest: str, device: torch.device) -> Checkpoint:
        """Read the checkpoint of this training; an empty one where there is none."""
        if path is None or not path.is_file():
            return cls(digest)
        try:
            with path.open("rb") as file:
                # weights_only: a checkpoint may come from anywhere, and nothing in it
                # is executed.
                state = torch.load(file, map_location=device, weights_only=True)
            checkpoint = cls(**state)
        except (pickle.UnpicklingError, RuntimeError, EOFError, TypeError) as error:
            raise ValueError(
                f"the checkpoint {path} is damaged ({first_line(error)}); remove it "
                "to begin anew"
            ) from error
        # Another training, with other images, labels or settings, starts anew.
        return checkpoint if checkpoint.digest == digest else cls(digest)
