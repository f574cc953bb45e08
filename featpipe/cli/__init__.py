"""``python -m featpipe``: parses, calls, prints, and nothing else."""

from featpipe.cli.starting import main

__all__ = ["main"]
