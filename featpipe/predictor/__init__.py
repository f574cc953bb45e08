"""A fitted model bound to its recipe: save, load, predict on images, export.

`fit` binds a classifier to the recipe of its codes, `load` reads what `Predictor.save`
wrote, and a `Predictor` puts new images through the very same recipe. Importing this
package imports no torch.

| module | what lives there |
|---|---|
| `model` | the numbers, the recipe, and their strict JSON record |
| `storing` | the file |
| `fitting` | codes to a model |
| `loading` | the file to a model at work |
| `predicting` | a model at work on images |
| `calibrating` | out-of-fold decision values, and their probabilities |
| `rejecting` | the threshold below which a label is too doubtful |
| `binding` | its network found again, and refused where it is another |
| `predictions` | what it said, and how right it was |
| `exporting` | the model as one ONNX network |
"""

from featpipe.predictor.exporting import Agreement, export
from featpipe.predictor.fitting import fit
from featpipe.predictor.loading import load
from featpipe.predictor.predicting import Predictor
from featpipe.predictor.predictions import Predictions

__all__ = ["Agreement", "Predictions", "Predictor", "export", "fit", "load"]
