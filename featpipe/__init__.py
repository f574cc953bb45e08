"""CNN codes once, classifiers in seconds.

featpipe runs a frozen, pretrained network over images once, keeps the codes
(its activations at chosen depths) in one checked HDF5 file, and compares
classifiers on them.

The packages, in the order of the flow:

- ``bounds``: what a number that a user gives may be
- ``kinds``: what a file is that was given where another is needed
- ``images``: which images exist, their labels and splits; decoding one image
- ``backbones``: names to frozen networks, their weights and preprocessing
- ``codes``: the codes file: write, read, verify, merge
- ``inference``: images through a backbone to codes in memory
- ``extraction``: images through a backbone into a codes file
- ``solvers``: the regularisation path of every fold in one optimisation
- ``classifiers``: ``linear``, ``svm``, ``logistic`` as scikit-learn estimators
- ``scores``: the record every contender is judged by, intervals, paired tests
- ``comparison``: the protocol that turns codes into a table
- ``advice``: which depth, which classifier, whether to fine-tune, and why
- ``report``: pictures: one HTML page, and the same plots as figures
- ``transformer``: `CNNCodes`, extraction as a scikit-learn transformer
- ``predictor``: a fitted model bound to its recipe: save, load, predict, export
- ``finetuning``: trains the network itself, on the same split
- ``demo``, ``cli``: the offline demo, the command line

The public names below are loaded when first used, so that ``import featpipe``
costs nothing and brings in no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featpipe.advice import Advice, advise
    from featpipe.classifiers import (
        LinearClassifier,
        LogisticClassifier,
        SVMClassifier,
    )
    from featpipe.codes import Codes, CodesError, merge, read, verify
    from featpipe.comparison import Comparison, compare
    from featpipe.extraction import extract
    from featpipe.finetuning import Finetuned, finetune
    from featpipe.predictor import Predictor, fit, load
    from featpipe.transformer import CNNCodes

__version__ = "0.2.0"

_ROOM_OF = {
    "extract": "extraction",
    "read": "codes",
    "verify": "codes",
    "merge": "codes",
    "Codes": "codes",
    "CodesError": "codes",
    "advise": "advice",
    "Advice": "advice",
    "compare": "comparison",
    "Comparison": "comparison",
    "LinearClassifier": "classifiers",
    "SVMClassifier": "classifiers",
    "LogisticClassifier": "classifiers",
    "fit": "predictor",
    "load": "predictor",
    "Predictor": "predictor",
    "CNNCodes": "transformer",
    "finetune": "finetuning",
    "Finetuned": "finetuning",
}

__all__ = [
    "Advice",
    "CNNCodes",
    "Codes",
    "CodesError",
    "Comparison",
    "Finetuned",
    "LinearClassifier",
    "LogisticClassifier",
    "Predictor",
    "SVMClassifier",
    "advise",
    "compare",
    "extract",
    "finetune",
    "fit",
    "load",
    "merge",
    "read",
    "verify",
]


# Reached as attributes too: `featpipe.report.plot_map`.
_PACKAGES = ("advice", "report")


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"featpipe.{name}")
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'featpipe' has no attribute {name!r}")
    return getattr(import_module(f"featpipe.{_ROOM_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
