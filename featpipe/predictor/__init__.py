"""A fitted model bound to its recipe: save, load, predict on images, export.

`fit` binds a classifier to the recipe of its codes, `load` reads a file that
`Predictor.save` wrote, and a `Predictor` runs new images through the same recipe.
Importing this package imports no torch.

| module | what lives there |
|---|---|
| `model` | the numbers, the recipe, and their strict JSON record |
| `storing` | the file |
| `fitting` | codes to a model |
| `loading` | the file to a predictor |
| `predicting` | a model and its network, applied to images |
| `calibrating` | out-of-fold decision values, and their probabilities |
| `rejecting` | the threshold below which a label is too doubtful |
| `binding` | finds its weights, and checks that they are the right ones |
| `predictions` | the labels of some images, and their accuracy |
| `exporting` | the model as one ONNX network |
"""

from featpipe.predictor.exporting import ExportCheck, export
from featpipe.predictor.fitting import fit
from featpipe.predictor.loading import load
from featpipe.predictor.model import FINETUNE, Model
from featpipe.predictor.predicting import Predictor
from featpipe.predictor.predictions import Predictions, failures_path
from featpipe.predictor.storing import read_model, write_model

__all__ = [
    "FINETUNE",
    "ExportCheck",
    "Model",
    "Predictions",
    "Predictor",
    "export",
    "failures_path",
    "fit",
    "load",
    "read_model",
    "write_model",
]
