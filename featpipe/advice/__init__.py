"""Advice from codes alone: which depth, which classifier, whether to fine-tune.

``transferability`` scores codes for labels without training a classifier, ``advising``
decides which of the four cases of cs231n a file is, ``finetuning`` estimates what
training the network could gain and cost, ``checking`` runs the probe. Held-out labels
are never read, except by the check. Imports no torch.
"""

from featpipe.advice.advising import Advice, DepthScores, advise
from featpipe.advice.checking import check_advice
from featpipe.advice.lines import Line
from featpipe.advice.transferability import h_score, logme, loo_predictions

__all__ = [
    "Advice",
    "DepthScores",
    "Line",
    "advise",
    "check_advice",
    "h_score",
    "logme",
    "loo_predictions",
]
