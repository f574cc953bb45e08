"""Train for one epoch, and measure; `training_loop` has the sequence of epochs.

Gradients, learning rates and precision are handled here. Knows nothing of the source of
the input, or of the best epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featpipe.finetuning.feeds import Feed, parts
from featpipe.finetuning.network import Tuned
from featpipe.finetuning.settings import Settings
from featpipe.scores import METRICS

__all__ = ["Diverged", "Measure", "Trainer"]

_LOWER = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_MOMENTUM = 0.9


class Diverged(ArithmeticError):
    """The loss is not finite."""


class Measure(NamedTuple):
    """The quality of the predictions of some rows.

    Parameters
    ----------
    loss : float
        Mean log-loss in nats.
    error : float
        Its standard error.
    score : float
        The metric.
    correct : tuple of bool
        Whether each row is predicted right.
    """

    loss: float
    error: float
    score: float
    correct: tuple[bool, ...] = ()


class Trainer:
    """A network, its optimiser and its input.

    Parameters
    ----------
    network : Tuned
        Moved to the device.
    feed : Feed
    labels : (n_rows,) int64
        Class numbers from 0; −1 for rows that are not used.
    settings : Settings
    batch_size : int
    weights : (n_classes,) float, optional
        Of the classes in the loss.
    device : torch.device
    precision : str
        ``fp32``, ``bf16`` or ``fp16``.
    """

    def __init__(
        self,
        network: Tuned,
        feed: Feed,
        labels: np.ndarray,
        settings: Settings,
        *,
        batch_size: int,
        weights: np.ndarray | None = None,
        device: torch.device,
        precision: str = "fp32",
    ) -> None:
        self.network = network.to(device)
        if network.trunk is not None:
            # Convolutions are faster with channels last, on CPUs and on tensor cores.
            network.trunk.to(memory_format=torch.channels_last)
        self.feed = feed
        self.settings = settings
        self.batch_size = batch_size
        self.n_passes = 0
        self.messages: list[str] = []
        self._micro = batch_size
        self._labels = torch.from_numpy(labels)
        self._weights = None if weights is None else torch.tensor(weights).float()
        self._device = device
        self._lower = _LOWER[precision]
        self.tell: Callable[[int], None] = lambda n: None
        self.begin()

    def begin(self) -> None:
        """Make a new optimiser."""
        groups = self.network.groups(self.settings.weight_decay)
        self.optimiser: torch.optim.Optimizer = (
            torch.optim.AdamW(groups)
            if self.settings.optimiser == "adamw"
            else torch.optim.SGD(groups, lr=1.0, momentum=_MOMENTUM, nesterov=True)
        )
        half = self._lower is torch.float16
        # Only fp16 has gradients that underflow; bf16 has the exponents of float32.
        self.scaler = torch.amp.GradScaler(self._device.type, enabled=half)

    def n_steps(self, n_rows: int) -> int:
        """Return the number of steps of one epoch."""
        return len(parts(np.empty(n_rows), self.batch_size))

    def epoch(
        self,
        rows: np.ndarray,
        draw: tuple[int, ...],
        rate_at: Callable[[int], float],
    ) -> float:
        """Train on some rows once.

        Parameters
        ----------
        rows : (n,) int64
        draw : tuple of int
            The seed of order, views and dropout.
        rate_at : callable
            The head's learning rate at a step of this epoch.

        Returns
        -------
        float
            Mean loss.

        Raises
        ------
        Diverged
            If the loss is not finite.
        """
        rows = np.random.default_rng(list(draw)).permutation(rows)
        total = 0.0
        with _seeded(draw, self._device):
            self.network.train()
            batches = self.feed.batches(rows, self.batch_size, draw)
            for step, (part, x) in enumerate(batches):
                self._set_rate(rate_at(step))
                loss = self._step(x, self._labels[torch.from_numpy(part)])
                if not math.isfinite(loss):
                    raise Diverged
                total += loss * len(part)
                self._count(len(part))
                self.tell(len(part))
        return total / len(rows)

    def measure(self, rows: np.ndarray) -> Measure:
        """Predict some rows as `predict` will, and judge by their labels."""
        self.network.eval()
        outputs, truth = [], []
        with torch.inference_mode():
            for part, x in self.feed.batches(rows, max(32, self._micro)):
                with self._autocast():
                    scores = self.network(x)
                outputs.append(scores.float().cpu())
                truth.append(self._labels[torch.from_numpy(part)])
                self._count(len(part))
        scores, labels = torch.cat(outputs), torch.cat(truth)
        # Without class weights and smoothing, since it only compares epochs.
        losses = F.cross_entropy(scores.double(), labels, reduction="none")
        loss, spread = float(losses.mean()), float(losses.std(correction=0))
        predicted = scores.argmax(1).numpy()
        score = float(METRICS[self.settings.metric](labels.numpy(), predicted))
        if not math.isfinite(loss):
            return Measure(math.inf, math.inf, score)
        correct = tuple((predicted == labels.numpy()).tolist())
        return Measure(loss, spread / math.sqrt(len(rows)), score, correct)

    def state(self) -> dict[str, Any]:
        """Return the state that the next epoch depends on, beside the network."""
        return {
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def put_back(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.begin()
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])

    def _step(self, x: Tensor, labels: Tensor) -> float:
        """Learn from one batch, in parts if memory is short; return the mean loss."""
        labels = labels.to(x.device)
        while True:
            try:
                loss = self._descend(x, labels)
                break
            except torch.OutOfMemoryError:
                if self._micro == 1:
                    raise
            # Outside the handler, which keeps the failed part's memory alive.
            self._micro = min(self._micro, len(x)) // 2 or 1
            self.messages.append(
                f"out of memory: batches are computed in parts of {self._micro}"
            )
        # Before clipping, whose norm is that of the true gradient.
        self.scaler.unscale_(self.optimiser)
        if self.settings.clip:
            learning = [p for g in self.optimiser.param_groups for p in g["params"]]
            nn.utils.clip_grad_norm_(learning, self.settings.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return loss

    def _descend(self, x: Tensor, labels: Tensor) -> float:
        self.optimiser.zero_grad()
        weights = None if self._weights is None else self._weights.to(x.device)
        # Of the whole batch, so that the losses of its parts add up to its mean.
        mass = len(x) if weights is None else float(weights[labels].sum())
        total = 0.0
        for part, targets in zip(
            x.split(self._micro), labels.split(self._micro), strict=True
        ):
            with self._autocast():
                scores = self.network(part)
            loss = F.cross_entropy(
                scores.float(),
                targets,
                weights,
                label_smoothing=self.settings.label_smoothing,
                reduction="sum",
            )
            self.scaler.scale(loss / mass).backward()
            total += loss.item() / mass
        return total

    def _set_rate(self, rate: float) -> None:
        for group in self.optimiser.param_groups:
            share = 1.0 if group["head"] else self.settings.backbone_lr
            group["lr"] = rate * share

    def _autocast(self) -> torch.autocast:
        lower = self._lower or torch.bfloat16
        enabled = self._lower is not None
        return torch.autocast(self._device.type, lower, enabled=enabled)

    def _count(self, n: int) -> None:
        if self.feed.runs_images:
            self.n_passes += n


@contextmanager
def _seeded(draw: tuple[int, ...], device: torch.device) -> Iterator[None]:
    """Seed torch's generators, which dropout uses, and restore them afterwards."""
    cuda = [device] if device.type == "cuda" else []
    seed = int(np.random.SeedSequence(list(draw)).generate_state(1)[0])
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
