"""Turn codes of labelled images into a table of classifiers, scored by the protocol.

``sources`` finds the images all files agree on, ``contenders``
and ``ensemble`` fit without seeing a held-out label, ``comparing`` ranks and scores,
``table`` prints and writes. ``duplicates`` looks for leaks, ``external`` reads scores
from elsewhere. Knows nothing of images or networks, and imports no torch.
"""

from featpipe.comparison.comparing import compare
from featpipe.comparison.details import (
    describe_details,
    describe_needed,
    gather_warnings,
)
from featpipe.comparison.duplicates import (
    NearDuplicate,
    duplicate_threshold,
    find_duplicates,
)
from featpipe.comparison.learning_curve import CurvePoint, LearningCurve, learning_curve
from featpipe.comparison.options import ComparisonOptions
from featpipe.comparison.sources import align_files, choose_depths
from featpipe.comparison.table import Comparison, plain_text

__all__ = [
    "Comparison",
    "ComparisonOptions",
    "CurvePoint",
    "LearningCurve",
    "NearDuplicate",
    "align_files",
    "choose_depths",
    "compare",
    "describe_details",
    "describe_needed",
    "duplicate_threshold",
    "find_duplicates",
    "gather_warnings",
    "learning_curve",
    "plain_text",
]
