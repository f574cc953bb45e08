"""The inputs of a training: the network, its codes, and the parts of their rows."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from featpipe.backbones import Backbone
from featpipe.codes import Codes
from featpipe.finetuning.settings import Settings
from featpipe.protocol import TuningRows

__all__ = ["Ready"]


class Ready(NamedTuple):
    """The inputs of a training."""

    folder: Path
    backbone: Backbone
    codes: Codes
    rows: TuningRows
    classes: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(
        cls, folder: Path, backbone: Backbone, file: Codes, rows: TuningRows
    ) -> Ready:
        """Make it with labels of training images only, numbered by their classes."""
        learned = np.asarray(file.labels)[rows.train]
        classes = np.unique(learned)
        # The labels of rows held out are not to be read by mistake.
        labels = np.full(len(file), -1, np.int64)
        labels[rows.train] = np.searchsorted(classes, learned)
        return cls(folder, backbone, file, rows, classes, labels)

    @property
    def depth(self) -> str:
        """The depth that is the input of the head."""
        return self.backbone.depths[0].spec

    @property
    def names(self) -> list[str]:
        """The names of the classes to learn."""
        return [self.codes.class_names[k] for k in self.classes]

    def digest(self, settings: Settings, feed: str) -> str:
        """Return the digest of all that decides the resulting weights."""
        train = self.rows.train
        return settings.digest(
            weights=self.backbone.weights_sha256,
            rows=[rows.tolist() for rows in self.rows[:3]],
            labels=self.labels[train].tolist(),
            images=[self.codes.sha256[row].tobytes().hex() for row in train],
            fingerprint=self.codes.fingerprint,
            depth=self.depth,
            feed=feed,
        )
