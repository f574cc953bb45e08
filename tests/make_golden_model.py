"""Make the golden model file of a format version: `python tests/make_golden_model.py`.

Run once for each format version, and its file then stays as it is for ever: what was
written must always be read, and label the same images the same. `numbers` is what
`test_predictor_golden.py` expects to find in it.
"""

import contextlib
import sys
import tempfile
from pathlib import Path

import numpy as np

import featpipe
from featpipe import images

GOLDEN = {
    version: Path(__file__).parent / "data" / f"golden-model-{version}.safetensors"
    for version in (1, 2)
}


def drawn() -> list[np.ndarray]:
    """Return six images by arithmetic alone: three classes of stripes, twice."""
    y, x = np.mgrid[:40, :48]
    waves = [x // 3 % 2, y // 3 % 2, (x // 3 + y // 3) % 2]
    return [
        np.stack([200 * wave, 90 + 60 * wave * k, 255 - 190 * wave], -1).astype("u1")
        for k in (0, 1)
        for wave in waves
    ]


NAMES = ["upright", "level", "check ✓"]


def fitted() -> featpipe.Predictor:
    """Fit on the first convolution of a network that is always there; codes go here."""
    image_set = images.from_arrays(drawn(), labels=[*NAMES, *NAMES])
    file = featpipe.extract(
        image_set,
        "golden.h5",
        backbone="squeezenet1_1",
        weights="none",
        depth="features.0:gem",
        precision="fp32",
        input_size=32,
        device="cpu",
    )
    # Version 1 was a logistic model.
    return featpipe.fit(file, "svm", C=1.0, device="cpu")


if __name__ == "__main__":
    newest = GOLDEN[max(GOLDEN)]
    if newest.exists():
        sys.exit(f"{newest} is there; a golden file is never made anew")
    # The file remembers the name of its codes, not this folder's.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        fitted().save(newest, embed_weights=True)
    predictions = featpipe.load(newest, device="cpu").classify(drawn())
    np.savetxt(sys.stdout, predictions.scores, fmt="%.6f")
    np.savetxt(sys.stdout, predictions.probabilities, fmt="%.6f")
