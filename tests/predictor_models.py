"""Images of three classes, and checkpoints, for the tests of the predictor."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from featpipe.backbones import load as load_backbone

SMALL = {
    "backbone": "mini",
    "weights": "none",
    "input_size": 32,
    "precision": "fp32",
}
KINDS = {"dark": (0, 90), "grey": (80, 170), "light": (160, 255)}


def draw(folder: Path, split: str, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for name, (low, high) in KINDS.items():
        for k in range(n):
            pixels = rng.integers(low, high, (40, 36 + k, 3), dtype=np.uint8)
            path = folder / split / name / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


def checkpoint(path: Path, seed: int) -> Path:
    backbone = load_backbone("mini", weights="none", seed=seed)
    torch.save(backbone.network.state_dict(), path)
    return path
