"""``python -m featpipe``: parses, calls, prints, and nothing else."""

from featpipe.cli.app import main

__all__ = ["main"]
