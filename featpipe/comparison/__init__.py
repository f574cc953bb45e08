"""Turn codes of labelled images into a table of classifiers, scored by the protocol.

``sources`` finds the images all files agree on, ``contenders``
and ``ensemble`` fit without seeing a held-out label, ``comparing`` ranks and scores,
``table`` prints and writes. ``duplicates`` looks for leaks, ``external`` reads scores
from elsewhere. Knows nothing of images or networks, and imports no torch.
"""

from featpipe.comparison.comparing import compare
from featpipe.comparison.table import Comparison

__all__ = ["Comparison", "compare"]
