"""The record every contender is judged by, its intervals and paired tests.

What lives here is shared by everything that claims an accuracy: cached codes under
a classifier, an ensemble, a fine-tuned network. Knows nothing of codes files, of
networks or of how a contender was fitted; it sees labels, predictions and paths.
"""

from featpipe.scores.differences import (
    detectable_difference,
    difference_interval,
    grouped_difference,
    images_needed,
)
from featpipe.scores.intervals import (
    accuracy_interval,
    exact,
    grouped_interval,
    wilson,
)
from featpipe.scores.measures import METRICS, judge
from featpipe.scores.paired import (
    SIGNIFICANT,
    holm,
    least_p_value,
    mcnemar,
    sign_flip,
)
from featpipe.scores.record import (
    FINETUNE_FIELDS,
    Document,
    Score,
    read_document,
    read_json,
    write_json,
)
from featpipe.scores.selected import fold_variance_ratio, gain_p_value, max_t

__all__ = [
    "FINETUNE_FIELDS",
    "METRICS",
    "SIGNIFICANT",
    "Document",
    "Score",
    "accuracy_interval",
    "detectable_difference",
    "difference_interval",
    "exact",
    "fold_variance_ratio",
    "gain_p_value",
    "grouped_difference",
    "grouped_interval",
    "holm",
    "images_needed",
    "judge",
    "least_p_value",
    "max_t",
    "mcnemar",
    "read_document",
    "read_json",
    "sign_flip",
    "wilson",
    "write_json",
]
