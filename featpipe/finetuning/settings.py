"""What a user asks of a fine-tuning, checked; no work is done here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from featpipe.scores import METRICS

__all__ = ["AUGMENTATIONS", "Settings"]

AUGMENTATIONS = ("flip", "vflip", "crop", "colour")
_CHOICES = {
    "init": ("random", "probe"),
    "optimiser": ("adamw", "sgd"),
    "schedule": ("cosine", "step"),
    "metric": tuple(METRICS),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a network is trained; as in `featpipe.finetune`, which explains each."""

    train: str = "all"
    init: str = "random"
    epochs: int = 10
    lr: float | None = None
    backbone_lr: float = 0.1
    optimiser: str = "adamw"
    schedule: str = "cosine"
    warmup: float = 0.1
    weight_decay: float = 1e-4
    clip: float = 1.0
    batch_size: int | None = None
    augment: tuple[str, ...] | str = "auto"
    label_smoothing: float = 0.0
    class_weight: str | Mapping[str, float] | None = None
    views: int | None = None
    refit: bool = True
    budget: float | None = None
    folds: int = 5
    metric: str = "accuracy"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.train not in ("all", "head") and not self.node:
            raise ValueError(
                f"train={self.train!r} is not known; use 'all', 'head' or 'from:NODE'"
            )
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(
                    f"{name}={value!r} is not known; use {' or '.join(choices)}"
                )
        self._require("epochs", self.epochs >= 1, "at least 1")
        self._require("lr", self.lr is None or self.lr > 0, "above zero")
        self._require("backbone_lr", self.backbone_lr > 0, "above zero")
        self._require("warmup", 0 <= self.warmup < 1, "a share of the steps below 1")
        self._require("weight_decay", self.weight_decay >= 0, "zero or more")
        self._require("clip", self.clip >= 0, "above zero, or zero for no clipping")
        self._require("batch_size", (self.batch_size or 1) >= 1, "at least 1")
        self._require("label_smoothing", 0 <= self.label_smoothing < 1, "0 to below 1")
        self._require("views", (self.views or 0) >= 0, "zero or more")
        self._require("budget", self.budget is None or self.budget > 0, "above zero")
        if self.budget is not None and self.init != "probe":
            raise ValueError(
                f"budget={self.budget!r} compares with the probe while training, which "
                f"takes init='probe', not {self.init!r}"
            )
        self._require("folds", self.folds >= 2, "at least 2")
        object.__setattr__(self, "augment", _augmentations(self.augment))

    def _require(self, name: str, holds: bool, would_do: str) -> None:
        if not holds:
            raise ValueError(f"{name}={getattr(self, name)!r} has to be {would_do}")

    @property
    def node(self) -> str | None:
        """The node of ``from:NODE``; None for ``all`` and ``head``."""
        start, colon, node = self.train.partition(":")
        return node if start == "from" and colon and node else None

    @property
    def words(self) -> str:
        """What is trained, from which start, for a table."""
        return f"{self.train}, {'probe' if self.init == 'probe' else 'new head'}"

    def digest(self, **more: Any) -> str:
        """Name the settings and whatever else decides the outcome."""
        # With more time the same training goes on.
        settings = {k: v for k, v in asdict(self).items() if k != "budget"}
        said = json.dumps({**settings, **more}, sort_keys=True, default=list)
        return hashlib.sha256(said.encode()).hexdigest()


def _augmentations(asked: tuple[str, ...] | str) -> tuple[str, ...] | str:
    if asked == "auto":
        return asked
    names = tuple(asked.split(",")) if isinstance(asked, str) else tuple(asked)
    if names == ("none",):
        return ()
    for name in names:
        if name not in AUGMENTATIONS:
            raise ValueError(
                f"augment={name!r} is not known; use auto, none, or some of "
                f"{', '.join(AUGMENTATIONS)}"
            )
    return tuple(a for a in AUGMENTATIONS if a in names)
