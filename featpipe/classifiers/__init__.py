"""The named classifiers, as scikit-learn estimators that choose C themselves.

This package checks X, y and the parameters, weighs rows and classes, makes folds,
chooses C from out-of-fold predictions, and predicts. `featpipe.solvers`, which is
imported only inside ``fit``, optimises; this package does not read codes files, and
does not compare classifiers.
"""

from featpipe.classifiers.budgeting import Budget, budget
from featpipe.classifiers.checking import BlockReader, check_C_grid
from featpipe.classifiers.costing import SolveCost, solve_cost
from featpipe.classifiers.estimators import (
    NAMES,
    LinearClassifier,
    LogisticClassifier,
    SVMClassifier,
    make,
)
from featpipe.classifiers.nesting import NestedPart, fit_nested
from featpipe.classifiers.repeating import repeated_score

__all__ = [
    "NAMES",
    "BlockReader",
    "Budget",
    "LinearClassifier",
    "LogisticClassifier",
    "NestedPart",
    "SVMClassifier",
    "SolveCost",
    "budget",
    "check_C_grid",
    "fit_nested",
    "make",
    "repeated_score",
    "solve_cost",
]
