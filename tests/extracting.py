"""Extraction as the tests do it: a tiny network, on the CPU, in float32."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from featpipe import images
from featpipe.codes import Codes
from featpipe.extraction import extract
from featpipe.inference import Progress

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
    source: Path | images.ImageSet,
    path: Path,
    progress: Callable[[Progress], None] | None = None,
    **changes: Any,
) -> tuple[Codes, Progress]:
    """Extract; return the codes and the last progress."""
    seen: list[Progress] = []

    def tell(now: Progress) -> None:
        seen.append(now)
        if progress is not None:
            progress(now)

    file = extract(source, path, **{**OPTIONS, "progress": tell, **changes})
    return file, seen[-1]
