"""Advice from codes alone: which depth, which classifier, whether to fine-tune.

``transferability`` scores codes for labels without training a classifier, ``advising``
decides which of the four cases of cs231n applies to a file, ``finetuning`` estimates
the gain and the cost of training the network, ``checking`` compares the advice with the
probe. Only the check reads held-out labels. This package does not import torch.
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
