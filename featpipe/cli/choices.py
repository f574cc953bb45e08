"""The values of the options that have a fixed set of them."""

from enum import StrEnum

__all__ = [
    *(
        "Backend",
        "ClassWeight",
        "DecodingMode",
        "Dtype",
        "FitClassifier",
        "Init",
        "Metric",
    ),
    *("OnError", "Optimiser", "Precision", "Schedule"),
]


# StrEnum, here and below: typer shows the values, and a comparison with plain text
# works.
class Precision(StrEnum):
    """Arithmetic of the network."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class DecodingMode(StrEnum):
    """How much of an image is decoded."""

    auto = "auto"
    exact = "exact"
    scaled = "scaled"


class Dtype(StrEnum):
    """Numbers as stored."""

    float32 = "float32"
    float16 = "float16"


class Backend(StrEnum):
    """The joblib backend whose processes share the work."""

    loky = "loky"
    dask = "dask"


class OnError(StrEnum):
    """What happens to a broken image."""

    skip = "skip"
    fail = "fail"


class Metric(StrEnum):
    """What C and the recommended row are chosen by."""

    accuracy = "accuracy"
    balanced_accuracy = "balanced_accuracy"
    macro_f1 = "macro_f1"


# Weights for single classes are for Python: on a command line they would be a table.
class ClassWeight(StrEnum):
    """How classes of different size count."""

    balanced = "balanced"


# Only classifiers that are linear in the codes can be exported as one layer.
class FitClassifier(StrEnum):
    """What is fitted into a model: linear in the codes, each."""

    linear = "linear"
    svm = "svm"
    logistic = "logistic"


class Init(StrEnum):
    """What a new head starts from."""

    random = "random"
    probe = "probe"


class Optimiser(StrEnum):
    """How gradients become steps."""

    adamw = "adamw"
    sgd = "sgd"


class Schedule(StrEnum):
    """How the learning rate falls."""

    cosine = "cosine"
    step = "step"
