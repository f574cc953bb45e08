"""What `compare` is asked for, checked before any work is done."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import numpy as np

from featpipe.bounds import require_number, require_seed
from featpipe.classifiers import NAMES, check_C_grid
from featpipe.comparison.contenders import BASELINES
from featpipe.defaults import N_FOLDS
from featpipe.scores import METRICS

__all__ = ["check_options", "depths_asked"]


def check_options(
    *,
    classifiers: Sequence[str],
    metric: str = "accuracy",
    folds: int = N_FOLDS,
    Cs: Sequence[float] | np.ndarray | None = None,
    class_weight: str | dict[str, float] | None = None,
    test_size: float | None = None,
    memory: str | int | None = None,
    seed: int = 0,
) -> None:
    """Raise for what no images could make sense of; see `compare` for each.

    Raises
    ------
    ValueError
        With the name of the option, what came, and what would do.

    Examples
    --------
    >>> check_options(classifiers=["svm"], folds=1)
    Traceback (most recent call last):
        ...
    ValueError: folds=1 ...
    """
    choices = [*NAMES, *BASELINES, "ensemble"]
    # A string is a sequence too, of letters.
    if isinstance(classifiers, str) or not classifiers:
        raise ValueError(f"classifiers={classifiers!r} is not a list of {choices}")
    for name in classifiers:
        if name not in choices:
            raise ValueError(
                f"no classifier {name!r}; choose from {', '.join(choices)}"
            )
    if metric not in METRICS:
        raise ValueError(f"no metric {metric!r}; choose from {', '.join(METRICS)}")
    require_number("folds", folds, 2, 1000)
    require_seed(seed)
    check_C_grid(Cs)
    if isinstance(class_weight, dict):
        for name, weight in class_weight.items():
            require_number(f"class_weight[{name!r}]", weight, 0, 1e12, whole=False)
    if test_size is not None and not (
        isinstance(test_size, Real) and 0 < test_size < 1
    ):
        raise ValueError(
            f"test_size={test_size!r:.60} is not a share between 0 and 1; give 0.2 to "
            "hold out a fifth of the images"
        )
    if memory is not None:
        from featpipe.solvers import Options  # which brings torch

        _ = Options(memory=memory).n_bytes  # raises where it is no size


def depths_asked(
    depth: str | Sequence[str] | None, depths: str | Sequence[str] | None
) -> Sequence[str] | None:
    """Return the depths to compare as a list; None for all.

    Raises
    ------
    ValueError
        If both are given.
    """
    if depth is not None and depths is not None:
        raise ValueError(
            f"depth={depth!r} and depths={depths!r} ask for the same; give depth or "
            "depths, not both"
        )
    asked = depths if depth is None else depth
    return [asked] if isinstance(asked, str) else asked
