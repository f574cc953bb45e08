"""Extraction as the tests do it: a tiny network, on the CPU, in float32."""

from pathlib import Path
from typing import Any

from featpipe import images
from featpipe.codes import Codes
from featpipe.extraction import Tally, extract

OPTIONS: dict[str, Any] = {
    "backbone": "networks:tiny",
    "weights": "none",
    "input_size": 16,
    "depth": ["stem:avg", "penultimate"],
    "precision": "fp32",
    "device": "cpu",
    "batch_size": 3,
    "workers": 2,
}


def run(
    source: Path | images.ImageSet, path: Path, **changes: Any
) -> tuple[Codes, Tally]:
    """Extract; give the codes and the last tally."""
    tallies: list[Tally] = []
    found = extract(source, path, **{**OPTIONS, "progress": tallies.append, **changes})
    return found, tallies[-1]
