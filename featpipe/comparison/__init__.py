"""The protocol that turns codes into a table: who trains, who judges, who is chosen.

``sources`` finds the images all files agree on, ``protocol`` cuts them, ``contenders``
and ``ensemble`` fit without seeing a held-out label, ``comparing`` ranks and judges,
``table`` prints and writes. ``duplicates`` looks for leaks, ``rivals`` brings in scores
from elsewhere. Knows nothing of images or networks, and imports no torch.
"""

from featpipe.comparison.comparing import compare
from featpipe.comparison.table import Comparison

__all__ = ["Comparison", "compare"]
