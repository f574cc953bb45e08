"""The options of a fine-tuning, checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from featpipe.bounds import LARGEST_SEED, require_number
from featpipe.defaults import N_FOLDS
from featpipe.scores import METRICS

__all__ = ["AUGMENTATIONS", "Settings"]

AUGMENTATIONS = ("flip", "vflip", "crop", "colour")
_CHOICES = {
    "init": ("random", "probe"),
    "optimiser": ("adamw", "sgd"),
    "schedule": ("cosine", "step"),
    "metric": tuple(METRICS),
}
_OPTIONAL = ("batch_size", "views", "lr", "budget")
_WHOLE = {
    "epochs": (1, 100_000),
    "batch_size": (1, 65_536),
    "views": (0, 1000),
    "folds": (2, 1000),
    "seed": (0, LARGEST_SEED),
}
# Lowest, highest, and whether these themselves are excluded. A rate that is merely too
# large shows when training diverges.
_REAL = {
    "lr": (0, 1e30, True, False),
    "backbone_lr": (0, 1000, True, False),
    "warmup": (0, 1, False, True),
    "weight_decay": (0, 1000, False, False),
    "clip": (0, 1e6, False, False),
    "label_smoothing": (0, 1, False, True),
    "budget": (0, 1e8, True, False),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of a training; `featpipe.finetune` explains each.

    Examples
    --------
    >>> settings = Settings(train="from:stage3", init="probe", augment="flip,crop")
    >>> settings.node, settings.augment
    ('stage3', ('flip', 'crop'))
    >>> Settings(train="half")
    Traceback (most recent call last):
        ...
    ValueError: train='half' is not known; use 'all', 'head' or 'from:NODE'
    """

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
    folds: int = N_FOLDS
    metric: str = "accuracy"
    seed: int = 0

    def __post_init__(self) -> None:
        is_text = isinstance(self.train, str)
        if self.train not in ("all", "head") and not (is_text and self.node):
            raise ValueError(
                f"train={self.train!r} is not known; use 'all', 'head' or 'from:NODE'"
            )
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(
                    f"{name}={value!r} is not known; use {' or '.join(choices)}"
                )
        self._require_numbers()
        if self.budget is not None and self.init != "probe":
            raise ValueError(
                f"budget={self.budget!r} compares with the probe while training, which "
                f"takes init='probe', not {self.init!r}"
            )
        object.__setattr__(self, "augment", _augmentations(self.augment))

    def _require_numbers(self) -> None:
        plain: dict[str, Any] = {}
        if isinstance(self.class_weight, Mapping):
            plain["class_weight"] = {
                name: require_number(
                    f"class_weight[{name!r}]", weight, 0, 1e6, whole=False
                )
                for name, weight in self.class_weight.items()
            }
        for name, (low, high) in _WHOLE.items():
            if (value := getattr(self, name)) is not None or name not in _OPTIONAL:
                plain[name] = require_number(name, value, low, high)
        for name, (least, most, above, below) in _REAL.items():
            if (value := getattr(self, name)) is not None or name not in _OPTIONAL:
                plain[name] = require_number(
                    name, value, least, most, whole=False, above=above, below=below
                )
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    @property
    def node(self) -> str | None:
        """The node of ``from:NODE``; None for ``all`` and ``head``."""
        start, colon, node = self.train.partition(":")
        return node if start == "from" and colon and node else None

    @property
    def words(self) -> str:
        """The layers that are trained, and their start, for a table."""
        return f"{self.train}, {'probe' if self.init == 'probe' else 'new head'}"

    def digest(self, **more: Any) -> str:
        """Return the digest of the settings and of other inputs."""
        # A training with a larger budget is the same training.
        settings = {k: v for k, v in asdict(self).items() if k != "budget"}
        text_ = json.dumps({**settings, **more}, sort_keys=True, default=list)
        return hashlib.sha256(text_.encode()).hexdigest()


def _augmentations(augment: tuple[str, ...] | str) -> tuple[str, ...] | str:
    if augment == "auto":
        return augment
    names = tuple(augment.split(",")) if isinstance(augment, str) else tuple(augment)
    if names == ("none",):
        return ()
    for name in names:
        if name not in AUGMENTATIONS:
            raise ValueError(
                f"augment={name!r} is not known; use auto, none, or some of "
                f"{', '.join(AUGMENTATIONS)}"
            )
    # In a fixed order and without repeats, so that equal sets have the same digest.
    return tuple(a for a in AUGMENTATIONS if a in names)
