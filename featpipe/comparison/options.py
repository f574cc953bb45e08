"""The options of `compare`, checked before any work is done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np

from featpipe.bounds import require_number, require_seed
from featpipe.classifiers import NAMES, check_C_grid
from featpipe.comparison.baselines import BASELINES
from featpipe.comparison.contenders import FitSettings
from featpipe.defaults import N_FOLDS
from featpipe.scores import METRICS

__all__ = ["ComparisonOptions", "requested_depths"]


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions:
    """The options of `compare`, each described there.

    Raises
    ------
    ValueError
        If an option is invalid whatever the images are; names it, its value, and valid
        ones.

    Examples
    --------
    >>> ComparisonOptions(classifiers=["svm"], seed=7).folds
    5
    >>> ComparisonOptions(classifiers=["svm"], folds=1)
    Traceback (most recent call last):
        ...
    ValueError: folds=1 ...
    """

    classifiers: Sequence[str]
    folds: int = N_FOLDS
    Cs: Sequence[float] | np.ndarray | None = None
    metric: str = "accuracy"
    class_weight: str | dict[str, float] | None = None
    test_size: float | None = None
    device: str = "auto"
    memory: str | int | None = None
    seed: int = 0
    full_path: bool = False

    def __post_init__(self) -> None:
        self._check_names()
        # JSON takes no numpy scalars.
        object.__setattr__(self, "folds", require_number("folds", self.folds, 2, 1000))
        object.__setattr__(self, "seed", require_seed(self.seed))
        check_C_grid(self.Cs)
        if isinstance(self.class_weight, dict):
            for name, weight in self.class_weight.items():
                require_number(f"class_weight[{name!r}]", weight, 0, 1e12, whole=False)
        test_size = self.test_size
        if test_size is not None and not (
            isinstance(test_size, Real) and 0 < test_size < 1
        ):
            raise ValueError(
                f"test_size={test_size!r:.60} is not a share between 0 and 1; give 0.2 "
                "to hold out a fifth of the images"
            )
        if self.memory is not None:
            from featpipe.solvers import Options  # which brings torch

            _ = Options(memory=self.memory).n_bytes  # raises where it is no size

    def _check_names(self) -> None:
        choices = [*NAMES, *BASELINES, "ensemble"]
        # A string would pass for a sequence of letters.
        if isinstance(self.classifiers, str) or not self.classifiers:
            raise ValueError(
                f"classifiers={self.classifiers!r} is not a list of {choices}"
            )
        for name in self.classifiers:
            if name not in choices:
                raise ValueError(
                    f"no classifier {name!r}; choose from {', '.join(choices)}"
                )
        if self.metric not in METRICS:
            raise ValueError(
                f"no metric {self.metric!r}; choose from {', '.join(METRICS)}"
            )

    @property
    def baselines(self) -> list[str]:
        """The classifiers without a C."""
        return [name for name in self.classifiers if name in BASELINES]

    def settings(self, class_names: list[str]) -> FitSettings:
        """Return the settings of the fits.

        Raises
        ------
        ValueError
            If ``class_weight`` names no class of these.
        """
        return FitSettings(
            n_classes=len(class_names),
            Cs=None if self.Cs is None else np.asarray(self.Cs, dtype=np.float64),
            metric=self.metric,
            class_weight=self._weight_by_number(class_names),
            device=self.device,
            memory=self.memory,
            seed=self.seed,
            full_path=self.full_path,
        )

    def _weight_by_number(
        self, class_names: list[str]
    ) -> str | dict[int, float] | None:
        """Return class weights by the class numbers that the fits know."""
        if not isinstance(self.class_weight, dict):
            return self.class_weight
        unknown = sorted(set(self.class_weight) - set(class_names))
        if unknown:
            raise ValueError(
                f"class_weight names {unknown[0]!r}, which is no class; choose from "
                f"{', '.join(class_names[:10])}"
            )
        return {class_names.index(name): w for name, w in self.class_weight.items()}


def requested_depths(
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
    chosen = depths if depth is None else depth
    if chosen is None or isinstance(chosen, str):
        return chosen if chosen is None else [chosen]
    if not isinstance(chosen, Iterable):
        raise ValueError(
            f"depth={chosen!r:.60} is no depth; give names such as 'penultimate'"
        )
    return list(chosen)
