"""Codes drawn at random around class centres, for the tests of the comparison."""

import hashlib

import numpy as np

from featpipe import codes

CLASS_NAMES = ["ant", "bee", "cat"]
DEPTHS = {"layer1:avg": 0.5, "layer2:avg": 1.0}  # the deeper separates better


def draw(n=90, *, width=12, n_classes=3, seed=0, depths=DEPTHS):
    """Return labels and codes of ``n`` images, classes taking turns."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    made = {}
    for depth, distance in depths.items():
        centres = rng.normal(size=(n_classes, width))
        noise = rng.normal(size=(n, width))
        made[depth] = (distance * centres[labels] + noise).astype(np.float32)
    return labels, made


def splits_of(n, *names):
    """Cut ``n`` rows into as many runs of equal length as there are names."""
    return [name for name in names for _ in range(n // len(names))]


def write(path, labels, made, *, splits=None, groups=None, paths=None, order=None,
          class_names=None, sha256=None):  # fmt: skip
    """Write a codes file; ``order`` shuffles its rows."""
    n = len(labels)
    order = np.arange(n) if order is None else np.asarray(order)
    paths = [f"images/{i:03d}.png" for i in range(n)] if paths is None else paths
    if sha256 is None:
        sha256 = [hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
                  for name in paths]  # fmt: skip
        sha256 = np.array([np.frombuffer(each, np.uint8) for each in sha256])
    splits = [""] * n if splits is None else splits
    groups = [""] * n if groups is None else groups
    codes.write(
        path,
        codes={depth: X[order] for depth, X in made.items()},
        labels=np.asarray(labels)[order],
        class_names=class_names or CLASS_NAMES[: int(max(labels)) + 1],
        paths=[paths[i] for i in order],
        splits=[splits[i] for i in order],
        groups=[groups[i] for i in order],
        sha256=sha256[order],
        provenance={"backbone": "tiny", "weights": "none"},
    )
    return path
