"""A complete study of whether fine-tuning is worth it here.

The same backbone and the same held-out images, seven ways: a logistic classifier on
fixed codes, a head trained by gradient, the last part of the network from two places
on, all of it, all of it from the probe on (LP-FT), and all of it from scratch. One
table, with paired tests against the probe, and one picture::

    python pipelines/fixed_or_finetuned.py photos -o study --backbone resnet18

Every time is from nothing: what a way needs of extraction is in it. The folder
``study`` then holds ``study.png``, ``study.json``, the codes, and a model and a score
document of each way. Ways whose score is there already are not trained again.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import featpipe
from featpipe import backbones, scores
from featpipe.scores import Score

PLACES = (0.75, 0.95)  # shares of the forward cost before the node to train from


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Is fine-tuning worth it here?")
    parser.add_argument("source", help="folder, CSV or archive of labelled images")
    parser.add_argument("-o", "--output", type=Path, default=Path("study"))
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--weights", help="an entry's name or a file")
    parser.add_argument("--depth", default="penultimate")
    parser.add_argument("--from", dest="nodes", action="append", help="two of them")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--input-size", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def places(options: argparse.Namespace) -> list[str]:
    """Choose the nodes to train from: outer ones, at about `PLACES` of the cost."""
    backbone = backbones.load(
        options.backbone,
        weights="none",
        depths=[options.depth],
        input_size=options.input_size,
    )
    rows = backbones.describe_depths(options.backbone)
    outer = [row for row in rows if row.node.count(".") <= 2 and row.node[-1].isdigit()]
    able = [
        (before.cost_share, row.node)
        for before, row in pairwise(outer)
        if row.n_parameters > before.n_parameters
        and before.cost_share < 1
        and backbones.input_depth(backbone, row.node) is not None
    ]
    near = (min(able, key=lambda way: abs(way[0] - share))[1] for share in PLACES)
    return list(dict.fromkeys(near))


def ways(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Name the ways to train, and what each asks of `featpipe.finetune`."""
    nodes = options.nodes or places(options)
    # Out of the cache an epoch costs little.
    more = {"epochs": 2 * options.epochs}
    return {
        "head": {"train": "head", **more},
        **{f"from {node}": {"train": f"from:{node}", **more} for node in nodes},
        "all": {"train": "all"},
        "all, probe first": {"train": "all", "init": "probe"},
        "from scratch": {"train": "all", "weights": "none"},
    }


def probe(options: argparse.Namespace, common: dict[str, Any]) -> Score:
    """Extract the codes and fit the logistic classifier, timed from nothing."""
    start = time.perf_counter()
    path = options.output / "codes.h5"
    codes = featpipe.extract(options.source, path, depth=options.depth, **common)
    comparison = featpipe.compare(codes, classifiers=["logistic"], seed=options.seed)
    seconds = time.perf_counter() - start
    score = comparison.scores[0]
    return replace(score, fit_seconds=seconds, image_passes=score.n_train)


def study(options: argparse.Namespace) -> dict[str, Score]:
    """Train all ways, one after another; test them against the probe."""
    common = {
        "backbone": options.backbone,
        "weights": options.weights,
        "device": options.device,
        "input_size": options.input_size,
        "seed": options.seed,
    }
    files = {"probe": options.output / "probe.json"}
    if not files["probe"].exists():
        score = probe(options, common)
        scores.write_json(files["probe"], [score], seed=options.seed)
    for name, training in ways(options).items():
        stem = name.replace(", ", "-").replace(" ", "-")
        files[name] = options.output / f"{stem}.json"
        if not files[name].exists():
            print(f"{name} ...", flush=True)
            tuned = featpipe.finetune(
                options.source,
                options.output / f"{stem}.model",
                depth=options.depth,
                **{**common, "epochs": options.epochs, **training},
            )
            tuned.write_json(files[name])
    compared = featpipe.compare(
        options.output / "codes.h5",
        classifiers=["logistic"],
        with_=[path for name, path in files.items() if name != "probe"],
        seed=options.seed,
    )
    tested = {(s.trained, s.weights): s for s in compared.scores}
    by_way = {name: scores.read_json(path)[0] for name, path in files.items()}
    return {
        name: replace(
            tested[score.trained, score.weights],
            fit_seconds=score.fit_seconds,
            image_passes=score.image_passes,
        )
        for name, score in by_way.items()
    }


def tabulate(by_way: dict[str, Score]) -> Table:
    """Lay the ways out, with what each costs beside what it gives."""
    first = by_way["probe"]
    table = Table(
        *("way", "accuracy %", "p", "seconds", "image passes"),
        title=f"{first.backbone} {first.depth}, {first.n_test} images held out",
        caption="accuracy with its 95 % interval; p: paired test against the probe, "
        "Holm-corrected; image passes: images put through the network from their "
        "pixels on, to learn from or to choose by",
    )
    for name, score in by_way.items():
        low, high = 100 * score.accuracy_low, 100 * score.accuracy_high
        table.add_row(
            name,
            f"{100 * score.accuracy:.1f} [{low:.1f}, {high:.1f}]",
            "" if score.p_value is None else f"{score.p_value:.2g}",
            f"{score.fit_seconds:.0f}",
            f"{score.image_passes:,}",
        )
    return table


def draw(by_way: dict[str, Score], path: Path) -> None:
    """Draw accuracy against seconds, as a PNG."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="seconds, from nothing")
    axes.set_ylabel("accuracy on held-out images (%)")
    for i, (name, score) in enumerate(
        sorted(by_way.items(), key=lambda way: way[1].fit_seconds)
    ):
        x, y = score.fit_seconds, 100 * score.accuracy
        low, high = 100 * score.accuracy_low, 100 * score.accuracy_high
        axes.errorbar(x, y, yerr=[[y - low], [high - y]], fmt="o", capsize=3)
        # Above and below in turn, so that neighbours do not hide one another.
        end, away, side = (low, -6, "top") if i % 2 else (high, 6, "bottom")
        axes.annotate(
            name,
            (x, end),
            xytext=(0, away),
            textcoords="offset points",
            ha="center",
            va=side,
        )
    axes.margins(x=0.15, y=0.15)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> dict[str, Score]:
    """Run the study and give its scores, by way."""
    options = parse(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    by_way = study(options)
    scores.write_json(
        options.output / "study.json", list(by_way.values()), seed=options.seed
    )
    draw(by_way, options.output / "study.png")
    Console().print(tabulate(by_way))
    return by_way


if __name__ == "__main__":
    main()
