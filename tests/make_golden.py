"""Make the golden codes file of a format version: `python tests/make_golden.py`.

Run once for each format version, and its file then stays as it is for ever: what was
written must always be read. `contents` is what `test_codes.py` expects to find in it.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from featpipe import codes

GOLDEN = Path(__file__).parent / "data" / "golden-1.h5"


def contents() -> dict[str, Any]:
    """Return the arguments of `codes.write` that made the golden file."""
    n = 5
    ramp = np.arange(n * 8, dtype=np.float32).reshape(n, 8)
    names = ["train/ant/a.jpg", "train/bee/b\udcff.jpg", "val/ant/c\nd.jpg"]
    names += ["val/bee/ü/日本.png", "z loose.gif"]
    return {
        "codes": {
            "features:avg": ramp / 3 - 4,
            "layer.0:map": (ramp.reshape(n, 2, 2, 2) / 7).astype(np.float16),
            "penultimate": np.sqrt(ramp[:, :3]),
        },
        "labels": np.array([0, 1, 0, 1, -1]),
        "class_names": ["ant", "bee"],
        "splits": ["train", "train", "val", "val", ""],
        "groups": ["g1", "g1", "g2", "", ""],
        "paths": names,
        "images_root": "/photos/of insects",
        "sizes": np.arange(n, dtype=np.int64) + 2**33,
        "mtimes": np.arange(n, dtype=np.int64) + 1_700_000_000_000_000_000,
        "sha256": np.arange(n * 32, dtype=np.uint8).reshape(n, 32),
        "failures": [
            ("val/bee/broken.jpg", "decode", "image file is truncated", 17, 12345),
            ("val/loop", "scan", "a loop of links"),
        ],
        "provenance": {
            "backbone": "mini",
            "weights": "DEFAULT",
            "weights_sha256": "0" * 64,
            "preprocessing": {"resize": 72, "crop": 64, "mean": [0.5, 0.25, 0.125]},
            "decoding": {"mode": "exact"},
            "precision": "fp32",
            "dtype": "float32",
            "depths": ["features:avg", "layer.0:map", "penultimate"],
        },
    }


if __name__ == "__main__":
    if GOLDEN.exists():
        sys.exit(f"{GOLDEN} is there; a golden file is never made anew")
    codes.write(GOLDEN, **contents())
