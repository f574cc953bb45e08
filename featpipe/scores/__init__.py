"""The record every contender is judged by, its intervals and paired tests.

What lives here is shared by everything that claims an accuracy: cached codes under
a classifier, an ensemble, a fine-tuned network. Knows nothing of codes files, of
networks or of how a contender was fitted; it sees labels, predictions and paths.
"""

from featpipe.scores.measures import METRICS, judge, wilson
from featpipe.scores.paired import SIGNIFICANT, holm, mcnemar, sign_flip
from featpipe.scores.record import (
    OF_TRAINING,
    Score,
    read_json,
    write_json,
)

__all__ = [
    "METRICS",
    "OF_TRAINING",
    "SIGNIFICANT",
    "Score",
    "holm",
    "judge",
    "mcnemar",
    "read_json",
    "sign_flip",
    "wilson",
    "write_json",
]
