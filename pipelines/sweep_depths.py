"""A complete study of how deep into a backbone the codes should be taken.

One pass over the images gives the codes at depths spread evenly over the network; one
classifier then tells what each is worth, beside what it costs::

    python pipelines/sweep_depths.py photos -o study --backbone resnet18 --n-depths 6

The folder ``study`` then holds ``depths.h5`` and ``depths.csv``.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import featpipe
from featpipe import backbones


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Compare the depths of a backbone.")
    parser.add_argument("source", help="folder, CSV or archive of labelled images")
    parser.add_argument("-o", "--output", type=Path, default=Path("study"))
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--weights", help="an entry's name, 'none' or a file")
    parser.add_argument("--n-depths", type=int, default=6)
    parser.add_argument("--classifier", default="logistic")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def spread_depths(backbone: str, n: int) -> list[backbones.DepthRow]:
    """Choose ``n`` depths up to the penultimate, evenly spread over the network."""
    rows = backbones.describe_depths(backbone)
    last = next(k for k, row in enumerate(rows) if row.node == "penultimate")
    return [rows[k] for k in np.unique(np.linspace(0, last, n).round().astype(int))]


def tabulate(
    rows: Sequence[backbones.DepthRow], comparison: featpipe.Comparison
) -> Table:
    """Lay the depths out in the network's order, with their scores and their cost."""
    table = Table(
        "depth",
        "width",
        "cost %",
        "accuracy %",
        "cv %",
        "",
        title=f"{comparison.recommended.backbone}, {comparison.recommended.classifier}",
        caption="★ recommended, = cannot be told apart from it; cost: share of the "
        "forward pass up to the depth",
    )
    scores = {score.depth: score for score in comparison.scores}
    for row in rows:
        score = scores[row.spec]
        ends = f"[{100 * score.accuracy_low:.1f}, {100 * score.accuracy_high:.1f}]"
        table.add_row(
            row.spec,
            str(row.width),
            f"{100 * row.cost_share:.0f}",
            f"{100 * score.accuracy:.1f} {ends}",
            f"{100 * (score.cv_accuracy or 0):.1f}",
            "★" if score.recommended else "=" * score.tied_with_recommended,
        )
    return table


def main(argv: Sequence[str] | None = None) -> featpipe.Comparison:
    """Run the study and give its scores."""
    options = parse(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    rows = spread_depths(options.backbone, options.n_depths)
    codes = featpipe.extract(
        options.source,
        options.output / "depths.h5",
        backbone=options.backbone,
        weights=options.weights,
        depth=[row.spec for row in rows],
        device=options.device,
        seed=options.seed,
    )
    comparison = featpipe.compare(
        codes,
        classifiers=[options.classifier],
        depths=[row.spec for row in rows],
        device=options.device,
        seed=options.seed,
    )
    comparison.write_csv(options.output / "depths.csv")
    Console().print(tabulate(rows, comparison))
    return comparison


if __name__ == "__main__":
    main()
