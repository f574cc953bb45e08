"""How much faster an epoch is from cached maps than through the whole network.

The same part of the same network is trained on the same images, once through the whole
network and once out of the cache, in one run::

    python benchmarks/finetuning.py photos --backbone resnet18 --node layer4

Prints seconds an epoch (median; the first of the whole network, which decodes, apart)
and the largest difference of a weight after as many epochs, without augmentation.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
from safetensors import safe_open

import featpipe


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="folder, CSV or archive of labelled images")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--weights", help="an entry's name or a file")
    parser.add_argument("--node", default="layer4")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=0.003)
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def weights(path: Path) -> dict[str, np.ndarray]:
    """Read the backbone's weights out of a model."""
    with safe_open(path, framework="np") as file:
        # SIM118: a file of safetensors can only be iterated by `keys`.
        names = [name for name in file.keys() if name.startswith("backbone.")]  # noqa: SIM118
        return {name: file.get_tensor(name) for name in names}


def main() -> None:
    """Measure and print."""
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        seconds, learned = [], []
        for views in (0, 1):
            path = Path(folder) / f"{views}.model"
            tuned = featpipe.finetune(
                options.source,
                path,
                backbone=options.backbone,
                weights=options.weights,
                train=f"from:{options.node}",
                epochs=options.epochs,
                lr=options.lr,
                augment="none",
                views=views,
                refit=False,
                codes=Path(folder) / "codes.h5",
                precision="fp32",
                device=options.device,
            )
            seconds.append([entry["seconds"] for entry in tuned.history[1:]])
            learned.append(weights(path))
        whole, cached = (statistics.median(each[1:] or each) for each in seconds)
        print(f"whole network: {seconds[0][0]:.1f} s the first epoch, then {whole:.2f}")
        print(f"from the cache: {cached:.2f} s an epoch, {whole / cached:.1f} times")
        off = max(float(np.abs(learned[0][k] - x).max()) for k, x in learned[1].items())
        print(f"largest difference of a weight of the chosen epoch: {off:.1e}")


if __name__ == "__main__":
    main()
