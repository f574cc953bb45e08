"""The regularisation path of linear classifiers, for every fold at once.

Lives here: optimisation in torch, on CPU or GPU. Never here: scikit-learn, files, the
choice of C itself, names of classes. docs/inside/solvers.md has the algorithm; the
modules in the order of a fit: `problem`, `standardize` and `streaming`, `sharing`,
`eigenbasis` and `fold_codes`, `losses`, `objective`, `preconditioner`, `newton_cg`,
`ridge`, `selection`, `path`.
"""

from featpipe.solvers.path import solve, solve_path
from featpipe.solvers.problem import Options, Path, Problem, Solution, Split, Start
from featpipe.solvers.selection import Judge
from featpipe.solvers.sharing import cancellable, share_codes, shared_rows

__all__ = [
    "Judge",
    "Options",
    "Path",
    "Problem",
    "Solution",
    "Split",
    "Start",
    "cancellable",
    "share_codes",
    "shared_rows",
    "solve",
    "solve_path",
]
