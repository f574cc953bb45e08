"""Estimate the gain and the cost of fine-tuning from codes alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from featpipe.advice.lines import Line

__all__ = ["PUBLISHED", "FinetuningEstimate", "estimate_lines"]

PUBLISHED: dict[str, tuple[float, float]] = {
    "SUN397": (54.9, 62.4),
    "Aircraft": (42.2, 86.1),
    "Birdsnap": (49.2, 73.7),
    "Caltech-101": (91.1, 94.6),
    "Caltech-256": (82.5, 84.6),
    "CIFAR-10": (94.8, 98.3),
    "CIFAR-100": (79.5, 87.4),
    "DTD": (70.6, 75.5),
    "Flowers": (91.5, 97.0),
    "Food-101": (66.0, 87.7),
    "Pets": (91.3, 93.7),
    "Cars": (47.4, 91.5),
}
"""Accuracy in % of fixed codes and of full fine-tuning, ResNet-50, by data set.

Salman et al., "Do Adversarially Robust ImageNet Models Transfer Better?", NeurIPS 2020.
"""

_EPOCHS = 10  # of `finetune`: first to choose the epoch, then again on all images
_BACKWARD = 3  # a training step costs about three forward passes


@dataclass(frozen=True)
class FinetuningEstimate:
    """The estimated gain and cost of fine-tuning.

    Attributes
    ----------
    n_train, n_judged : int
        Number of images to learn from, and of images that judge.
    accuracy : float
        Accuracy that fixed codes are expected to reach.
    """

    n_train: int
    n_judged: int
    accuracy: float

    @property
    def errors(self) -> float:
        """Number of judged images that fixed codes are expected to get wrong."""
        return (1 - self.accuracy) * self.n_judged

    @property
    def gains(self) -> tuple[float, float, float]:
        """Least, median and largest gain, as shares of all images.

        Published fine-tuning removed these shares of the errors of fixed codes.
        """
        # As a share of the errors, so that data sets of 50 and of 95 % can be compared.
        removed = [(tuned - fixed) / (100 - fixed) for fixed, tuned in
                   PUBLISHED.values()]  # fmt: skip
        # The worst and the best data set too, since few reach the mean.
        least, median, most = np.quantile(removed, (0, 0.5, 1))
        error = 1 - self.accuracy
        return float(least * error), float(median * error), float(most * error)

    @property
    def can_be_significant(self) -> bool:
        """Whether the removal of every error would be significant at 5 %."""
        # By the exact McNemar test, 6 wins and no loss have p = 2 * 0.5**6 = 0.03.
        # With 5 wins p is 0.06.
        return self.errors >= 6

    @property
    def forward_passes(self) -> int:
        """The cost of a `finetune` run, in forward passes of one image."""
        return 2 * _EPOCHS * _BACKWARD * self.n_train


def estimate_lines(estimate: FinetuningEstimate, case: str) -> Iterator[Line]:
    """Yield the possible gain of fine-tuning, its cost, and what to freeze.

    Parameters
    ----------
    estimate : FinetuningEstimate
    case : str
        As in `Advice.case`.
    """
    least, median, most = (100 * gain for gain in estimate.gains)
    gain = (
        f"could gain {least:.1f} to {most:.1f} points, {median:.1f} at the median of "
        "12 data sets"
    )
    if not estimate.can_be_significant:
        verdict = (
            f"not worth it here: fixed codes are expected to get {estimate.errors:.1f} "
            f"of {estimate.n_judged} judged images wrong, and fewer than 6 images won "
            "cannot be told from chance"
        )
    # Less than a point is within the noise of most test sets.
    elif median < 1:
        verdict = f"unlikely to pay: it {gain}"
    elif case.startswith("small, similar"):
        verdict = f"try it last: it {gain}, but few labels overfit a whole network"
    else:
        verdict = f"worth trying: it {gain}"
    yield Line(
        "fine-tuning",
        verdict,
        "share of errors removed by full fine-tuning, Salman et al. 2020 (ResNet-50); "
        "exact McNemar test",
    )
    yield Line(
        "cost",
        f"about {estimate.forward_passes:,} forward passes of one image; the codes "
        "took one for each image",
        f"{_EPOCHS} epochs, twice, a step as {_BACKWARD} forward passes",
    )
    yield Line("if you do", _how(case), "cs231n's notes; LP-FT: Kumar et al. 2022")


def _how(case: str) -> str:
    rates = (
        "head at 0.001, backbone at a tenth of it (`finetune` also tries other rates)"
    )
    if case.startswith("small"):
        return (
            "freeze all but the last stage (`finetune --train from:NODE --init "
            f"probe`); {rates}"
        )
    if "similar" in case and "unknown" not in case:
        return f"train all of it from the probe (`finetune --init probe`); {rates}"
    return (
        "train all of it (`finetune --train all`), and compare with --weights none; "
        f"{rates}"
    )
