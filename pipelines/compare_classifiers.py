"""A complete study of which classifier is best on the codes of one backbone.

Extracts the codes (or only what is new since the last run), compares every classifier
by the protocol of docs/concepts/protocol.md, prints the table and writes its numbers to
files::

    python pipelines/compare_classifiers.py photos -o study --backbone resnet18

The folder ``study`` then holds ``codes.h5``, ``scores.json``, ``scores.csv`` and
``predictions.csv``.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

import featpipe

CLASSIFIERS = ("linear", "svm", "logistic", "knn", "nearest-mean", "lda", "ensemble")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Compare classifiers on CNN codes.")
    parser.add_argument("source", help="folder, CSV or archive of labelled images")
    parser.add_argument("-o", "--output", type=Path, default=Path("study"))
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--weights", help="an entry's name, 'none' or a file")
    parser.add_argument("--depth", action="append", help="may be repeated")
    parser.add_argument("--classifiers", nargs="+", help="default: all there are")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> featpipe.Comparison:
    """Run the study and give its scores."""
    options = parse(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    codes = featpipe.extract(
        options.source,
        options.output / "codes.h5",
        backbone=options.backbone,
        weights=options.weights,
        depth=options.depth or ["penultimate"],
        device=options.device,
        seed=options.seed,
    )
    # An ensemble is one over depths: with a single one there is nothing to average.
    everything = CLASSIFIERS if len(codes.depths) > 1 else CLASSIFIERS[:-1]
    comparison = featpipe.compare(
        codes,
        classifiers=options.classifiers or everything,
        folds=options.folds,
        device=options.device,
        seed=options.seed,
    )
    comparison.write_json(options.output / "scores.json")
    comparison.write_csv(options.output / "scores.csv")
    comparison.write_predictions(options.output / "predictions.csv")
    Console().print(comparison)
    return comparison


if __name__ == "__main__":
    main()
