"""The whole regularisation path of linear classifiers, for every fold at once.

What lives here: optimisation in torch, on CPU or GPU. What never does: scikit-learn,
files, choosing C, names of classes.
"""

from featpipe.solvers._path import skips_Cs, solve_path
from featpipe.solvers._single import solve
from featpipe.solvers._task import Options, Path, Solution, Split, Start, Task

__all__ = [
    "Options",
    "Path",
    "Solution",
    "Split",
    "Start",
    "Task",
    "skips_Cs",
    "solve",
    "solve_path",
]
