"""Codes of labelled images into a table of contenders, judged by the protocol.

``sources`` finds the images all files agree on, ``contenders``
and ``ensemble`` fit without seeing a held-out label, ``comparing`` ranks and judges,
``table`` prints and writes. ``duplicates`` looks for leaks, ``rivals`` brings in scores
from elsewhere. Knows nothing of images or networks, and imports no torch.
"""

from featpipe.comparison.comparing import compare
from featpipe.comparison.table import Comparison

__all__ = ["Comparison", "compare"]
