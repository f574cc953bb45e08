"""The named classifiers, as scikit-learn estimators that choose C themselves.

Lives here: checking X, y and the parameters; folds, weights and class names; choosing
C from out-of-fold predictions; predicting. Never here: optimisation (that is
`featpipe.solvers`, imported only inside ``fit``), codes files, and the protocol that
compares classifiers.
"""

from featpipe.classifiers.budgeting import Budget, budget
from featpipe.classifiers.checking import BlockReader, check_C_grid
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
    "budget",
    "check_C_grid",
    "fit_nested",
    "make",
    "repeated_score",
]
