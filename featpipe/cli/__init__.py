"""The command line: parse arguments, call the package, print the results."""

from featpipe.cli.starting import main

__all__ = ["main"]
