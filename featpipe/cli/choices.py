"""The values of options that take one of a fixed set."""

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


# StrEnum, so that typer lists the values and they compare with plain text.
class Precision(StrEnum):
    """The arithmetic of the network."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class DecodingMode(StrEnum):
    """The mode of decoding."""

    auto = "auto"
    exact = "exact"
    scaled = "scaled"


class Dtype(StrEnum):
    """The type of stored numbers."""

    float32 = "float32"
    float16 = "float16"


class Backend(StrEnum):
    """The joblib backend whose processes share the work."""

    loky = "loky"
    dask = "dask"


class OnError(StrEnum):
    """The treatment of broken images."""

    skip = "skip"
    fail = "fail"


class Metric(StrEnum):
    """The metric by which C and the recommended row are chosen."""

    accuracy = "accuracy"
    balanced_accuracy = "balanced_accuracy"
    macro_f1 = "macro_f1"


# Only Python takes a weight for each class, which would be a table on a command line.
class ClassWeight(StrEnum):
    """The weights of classes of different size."""

    balanced = "balanced"


# Only classifiers that are linear in the codes can be exported as one layer.
class FitClassifier(StrEnum):
    """The classifier of a model, linear in the codes."""

    linear = "linear"
    svm = "svm"
    logistic = "logistic"


class Init(StrEnum):
    """The start of a new head."""

    random = "random"
    probe = "probe"


class Optimiser(StrEnum):
    """The optimiser of a training."""

    adamw = "adamw"
    sgd = "sgd"


class Schedule(StrEnum):
    """The schedule of the learning rate."""

    cosine = "cosine"
    step = "step"
