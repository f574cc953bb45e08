"""The whole regularisation path of linear classifiers, for every fold at once.

What lives here: optimisation in torch, on CPU or GPU. What never does: scikit-learn,
files, choosing C, names of classes.
"""

from featpipe.solvers._path import skips_Cs, solve, solve_path
from featpipe.solvers._task import Options, Path, Solution, Split, Task

__all__ = [
    "Options",
    "Path",
    "Solution",
    "Split",
    "Task",
    "skips_Cs",
    "solve",
    "solve_path",
]
