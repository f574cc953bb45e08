"""Real images for a first look, offline: scikit-learn's handwritten digits.

Only writes them to disk; everything after that is the ordinary job.
"""

from pathlib import Path

import numpy as np

__all__ = ["write_digits"]

_TEST_SHARE = 1 / 3


def write_digits(folder: Path) -> int:
    """Write scikit-learn's digits as PNG files in a train/test tree of class folders.

    Files that are there already are left alone, so that a second run finds nothing
    new.

    Parameters
    ----------
    folder : Path
        Made if missing; gets ``train/0`` … ``test/9``, a stratified third in ``test``.

    Returns
    -------
    int
        Number of images: 1,797, of 8 × 8 pixels.

    References
    ----------
    E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI
    Machine Learning Repository, 1998; the copy that comes with scikit-learn.
    """
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    _, test = train_test_split(
        np.arange(len(labels)),
        test_size=_TEST_SHARE,
        stratify=labels,
        random_state=0,
    )
    split = np.full(len(labels), "train", dtype="U5")
    split[test] = "test"
    # The digits are counts from 0 to 16, dark strokes high.
    grey = np.rint(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    for i, (image, label) in enumerate(zip(grey, labels, strict=True)):
        path = folder / split[i] / str(label) / f"{i:04d}.png"
        # A second run leaves the files alone, so that nothing is extracted again.
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return len(labels)
