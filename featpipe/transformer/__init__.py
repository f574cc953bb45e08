"""Extraction as a scikit-learn transformer: `CNNCodes` turns images into codes.

`estimator` follows scikit-learn's contract, `cache` looks images up by their content in
a codes file. Importing this package does not import torch.
"""

from featpipe.transformer.estimator import CNNCodes

__all__ = ["CNNCodes"]
