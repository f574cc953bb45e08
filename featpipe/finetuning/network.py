"""The network that learns: a part of a backbone, and a new head on its codes.

Decides which weights may change. The head, pool → scaler → Linear, replaces all layers
after the depth. Knows nothing of images or training.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from featpipe.backbones import TrainablePart

__all__ = ["Head", "Tuned"]

# Scaling a nearly constant column by more would amplify rounding errors.
_LARGEST_GAIN = 1e3


class Head(nn.Module):
    """Standardisation by the training rows, then a Linear.

    The scaler is fixed. Without it the usable learning rates would depend on the scale
    of the codes, which ranges from hundredths to hundreds over the architectures.

    Parameters
    ----------
    X : (n, width) float32
        Codes of the rows learned from.
    n_classes : int
    seed : int
        Of the Linear's first weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, X: np.ndarray, n_classes: int, *, seed: int = 0) -> None:
        super().__init__()
        std = X.std(axis=0, dtype=np.float64)
        # Constant columns are not scaled, and nearly constant ones not by much.
        std = np.where(std > 0, np.maximum(std, std.max() / _LARGEST_GAIN), 1.0)
        self.register_buffer("mean", _float(X.mean(axis=0, dtype=np.float64)))
        self.register_buffer("std", _float(std))
        # Without changing the state of the user's generator.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.linear = nn.Linear(X.shape[1], n_classes)

    def forward(self, code: Tensor) -> Tensor:
        """Turn codes (n, width) into class scores (n, n_classes)."""
        scores: Tensor = self.linear((code.float() - self.mean) / self.std)
        return scores

    @torch.no_grad()
    def start_from(self, coef: np.ndarray, intercept: np.ndarray) -> None:
        """Set the weights so that the class scores are those of a fitted classifier.

        Parameters
        ----------
        coef : (n_classes, width) float64, or (1, width) for two classes
            On the scale of the codes.
        intercept : (n_classes,) float64, or (1,)
        """
        if len(coef) == 1:  # the one value is that of the second class
            coef = np.concatenate([-coef / 2, coef / 2])
            intercept = np.concatenate([-intercept / 2, intercept / 2])
        mean, std = (b.double().cpu().numpy() for b in (self.mean, self.std))
        # The coefficients are for plain codes; this layer takes standardised ones.
        self.linear.weight.copy_(_float(coef * std))
        self.linear.bias.copy_(_float(intercept + coef @ mean))

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        """Return coef and intercept on the scale of the codes, the scaler included.

        Returns
        -------
        coef : (n_classes, width) float64, or (1, width) for two classes
        intercept : (n_classes,) float64, or (1,)
        """
        arrays = (self.linear.weight, self.linear.bias, self.mean, self.std)
        weight, bias, mean, std = (a.detach().double().cpu().numpy() for a in arrays)
        coef = weight / std
        intercept = bias - coef @ mean
        if len(coef) == 2:
            # Only the difference of two scores matters; a model of two classes has one
            # row.
            coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
        return coef, intercept


class Tuned(nn.Module):
    """A part of a backbone and a head, from images or cached maps to class scores.

    Frozen layers stay in eval mode, so that batch norm keeps its statistics and dropout
    is off, and have no gradients.

    Parameters
    ----------
    part : TrainablePart or None
        None for a head alone, whose input is codes.
    head : Head
    train : bool
        Whether the layers of the part that are not frozen learn; else the head alone.
    """

    def __init__(
        self, part: TrainablePart | None, head: Head, *, train: bool = True
    ) -> None:
        super().__init__()
        self.trunk = None if part is None else part.network
        self.head = head
        self._part = part
        self._learning = part is not None and train
        for name, parameter in self._named_trunk():
            # Frozen parameters get no gradient, which saves its memory too.
            parameter.requires_grad_(self._learning and not self._frozen(name))

    def forward(self, x: Tensor) -> Tensor:
        """Compute class scores, (n, n_classes) float32."""
        scores: Tensor = self.head(x if self.trunk is None else self.trunk(x)[0])
        return scores

    def train(self, mode: bool = True) -> Tuned:
        """Set training mode, except in frozen layers."""
        super().train(mode)
        if self.trunk is not None and mode:
            for name, module in self.trunk.named_modules():
                if not self._learning or self._frozen(name):
                    # Frozen batch norm must not update its statistics.
                    module.training = False
        return self

    def groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return the parameters that learn, in groups for an optimiser.

        The head's groups have ``head`` True. Weight decay acts on filters and matrices
        only: on biases and on the scales of norms it is known to hurt.
        """
        parameter_groups = []
        for head, named in (
            (True, self.head.named_parameters()),
            (False, self._named_trunk()),
        ):
            learning = [p for _, p in named if p.requires_grad]
            for decay in (True, False):
                # Biases and the scales of norms are the parameters of one dimension.
                parameters = [p for p in learning if (p.ndim > 1) == decay]
                if parameters:
                    pull = weight_decay if decay else 0.0
                    parameter_groups.append(
                        {"params": parameters, "weight_decay": pull, "head": head}
                    )
        return parameter_groups

    def learned(self) -> dict[str, Tensor]:
        """Return copies of all tensors that training changes: head, layers, buffers."""
        return {name: x.detach().clone() for name, x in self._changing()}

    @torch.no_grad()
    def put_back(self, learned: dict[str, Tensor]) -> None:
        """Restore the tensors that `learned` returned."""
        for name, x in self._changing():
            x.copy_(learned[name])

    def trunk_state(self) -> dict[str, Tensor]:
        """Return the tensors of the layers that learn, by the backbone's names."""
        assert self._part is not None
        prefix = f"trunk.{self._part.prefix}"
        return {
            name.removeprefix(prefix): x.detach().cpu().contiguous()
            for name, x in self._changing()
            if name.startswith("trunk.")
        }

    def _changing(self) -> Iterator[tuple[str, Tensor]]:
        for name, x in self.state_dict(keep_vars=True).items():
            own = name.removeprefix("trunk.")
            if name == own or (self._learning and not self._frozen(own)):
                yield name, x

    def _named_trunk(self) -> Iterator[tuple[str, nn.Parameter]]:
        if self.trunk is not None:
            yield from self.trunk.named_parameters()

    def _frozen(self, name: str) -> bool:
        return self._part is not None and self._part.is_frozen(name)


def _float(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).float()
