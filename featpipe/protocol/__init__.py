"""Which rows train, which choose and which judge: one decision for every command.

`plan` makes it for `compare` and `fit`, `tuning_rows` takes what `finetune` needs from
the same plan, `learned_splits` tells `predict` which splits a model was trained on.
Sees labels, splits and groups; knows nothing of codes, images, classifiers or scores.
"""

from featpipe.protocol.finetuning_rows import (
    TuningRows,
    describe_rows,
    tuning_rows,
    unseen_classes,
)
from featpipe.protocol.folding import Pairs, folds, given_groups, group_numbers
from featpipe.protocol.labelled import HasLabels, LabelledRows, labelled_rows
from featpipe.protocol.parts import Part, Protocol
from featpipe.protocol.planning import FEW, plan, resolve_C
from featpipe.protocol.splitting import SplitRows, learned_splits, split_rows

__all__ = [
    "FEW",
    "HasLabels",
    "LabelledRows",
    "Pairs",
    "Part",
    "Protocol",
    "SplitRows",
    "TuningRows",
    "describe_rows",
    "folds",
    "given_groups",
    "group_numbers",
    "labelled_rows",
    "learned_splits",
    "plan",
    "resolve_C",
    "split_rows",
    "tuning_rows",
    "unseen_classes",
]
