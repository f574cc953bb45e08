"""Extraction as a scikit-learn transformer: `CNNCodes`, images in, codes out.

`estimator` keeps scikit-learn's contract, `cache` looks images up by their content in
a codes file. Importing this package imports no torch.
"""

from featpipe.transformer.estimator import CNNCodes

__all__ = ["CNNCodes"]
