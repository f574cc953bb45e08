"""Decide whether a training with a budget ends: by a test, or because time is over."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featpipe.scores import SIGNIFICANT, mcnemar

__all__ = ["decided", "out_of_time", "unbeatable"]


def unbeatable(probe: Sequence[bool]) -> str | None:
    """Return the reason why no training could be significantly better, or None.

    Parameters
    ----------
    probe : sequence of bool
        Whether the probe is right on each image that chooses the epoch.

    Returns
    -------
    str or None
        A sentence where an exact McNemar test could not call even a network that is
        right on all of these images better.
    """
    right = np.asarray(probe, bool)
    # Of a network that is right on every image.
    p_value = mcnemar(np.ones_like(right), right)
    if p_value < SIGNIFICANT:
        return None
    return (
        f"not trained: the probe gets {int((~right).sum())} of the {len(right)} images "
        "that choose wrong, and a network that got all of them right could not be told "
        f"from it (exact McNemar test, p = {p_value:.2g})"
    )


def decided(probe: Sequence[bool], network: Sequence[bool], epoch: int) -> str | None:
    """Return a sentence if the network is significantly better than the probe.

    The test is repeated after every epoch, so its p-value is multiplied by their
    number (Bonferroni).

    Parameters
    ----------
    probe, network : sequence of bool
        Whether each is right, on the same images.
    epoch : int
        Epochs so far.
    """
    before, now = np.asarray(probe, bool), np.asarray(network, bool)
    # Bonferroni: the test was made after each epoch so far.
    p_value = min(1.0, epoch * mcnemar(now, before))
    if now.sum() <= before.sum() or p_value >= SIGNIFICANT:
        return None
    return (
        f"stopped after epoch {epoch}: on the {len(now)} images that choose, the "
        f"network gets {100 * now.mean():.1f} % right and the probe "
        f"{100 * before.mean():.1f} % (exact McNemar test, p = {p_value:.2g})"
    )


def out_of_time(
    budget: float, spent: float, epoch_seconds: float, final_seconds: float, epoch: int
) -> str | None:
    """Return a sentence if another epoch does not fit the budget, or None.

    Parameters
    ----------
    budget, spent : float
        Seconds allowed, and seconds so far.
    epoch_seconds : float
        Of one epoch with its measurement; 0 before the first.
    final_seconds : float
        Seconds of training anew on all images after one epoch more.
    epoch : int
        Epochs so far.
    """
    if spent + epoch_seconds + final_seconds <= budget:
        return None
    return (
        f"stopped after epoch {epoch}: {spent:.0f} s are spent, and another epoch with "
        f"the training on all images would pass the budget of {budget:g} s; the probe "
        "is not beaten beyond noise so far"
    )
