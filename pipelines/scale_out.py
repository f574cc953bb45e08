"""The four steps from a laptop to a cluster, one command each, run here on few images.

Prints what an extraction will take; makes the codes in one process, in several, and as
two shards that are merged; checks that the three are one; then shares a comparison
among the processes, and fits one classifier within a limit of memory::

    python pipelines/scale_out.py photos -o study --jobs 2 --memory 2GB
    python pipelines/scale_out.py photos -o study --scheduler tcp://head:8786

With ``--scheduler`` the processes are the workers of a Dask cluster that shares the
folder. docs/concepts/scale.md tells which step to take when.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

import featpipe
from featpipe import codes, images
from featpipe.extraction import Extraction
from featpipe.inference import Recipe
from featpipe.parallel import Jobs


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Scale a study out.")
    parser.add_argument("source", help="folder, CSV or archive of labelled images")
    parser.add_argument("-o", "--output", type=Path, default=Path("study"))
    parser.add_argument("--backbone", default="mini")
    parser.add_argument("--jobs", type=int, default=2, help="processes, or workers")
    parser.add_argument("--scheduler", help="of a Dask cluster: tcp://host:8786")
    parser.add_argument("--memory", default="2GB", help="what the fit may take")
    parser.add_argument("--limit", type=int, help="at most so many images")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> featpipe.Predictor:
    """Take the four steps and return the fitted model."""
    options = parse(argv)
    folder: Path = options.output
    folder.mkdir(parents=True, exist_ok=True)
    source = images.scan(options.source, limit=options.limit)
    jobs = Jobs(options.jobs)
    if options.scheduler:
        jobs = Jobs(options.jobs, "dask", options.scheduler)

    foretell(source, folder / "codes.h5", options.backbone)
    made = featpipe.extract(source, folder / "codes.h5", backbone=options.backbone)
    shared = featpipe.extract(
        source, folder / "shared.h5", backbone=options.backbone, jobs=jobs
    )
    shards = [folder / f"shard{k}.h5" for k in range(2)]
    for k, shard in enumerate(shards):
        featpipe.extract(source, shard, backbone=options.backbone, shard=(k, 2))
    codes.merge(shards, folder / "merged.h5")
    require_same([made, shared, featpipe.read(folder / "merged.h5")])

    table = featpipe.compare(made, jobs=jobs)
    table.write_json(folder / "scores.json")
    Console().print(table)
    best = table.recommended
    model = featpipe.fit(made, best.classifier, depth=best.depth, memory=options.memory)
    model.save(folder / "model")
    return model


def foretell(source: images.ImageSet, path: Path, backbone: str) -> None:
    """Print what the extraction will take in one process of this machine."""
    job = Extraction(Recipe(backbone=backbone), source, path)
    cost = job.cost(job.plan_update())
    print(
        f"{cost.n_images:,} images: about {cost.total:,.0f} s, {cost.disk / 1e6:,.1f} "
        f"MB; {cost.bottleneck} takes longest"
    )


def require_same(files: Sequence[codes.Codes]) -> None:
    """Raise unless all files hold the same codes of the same images."""
    first, *others = files
    for other in others:
        for depth in first.depths:
            one, two = (x.rows(depth, 0, len(x)) for x in (first, other))
            if other.paths != first.paths or one.tobytes() != two.tobytes():
                raise SystemExit(f"{other.path} has other codes than {first.path}")
    print(f"{len(files)} ways, the same {len(first):,} rows to the byte")


# Worker processes import this file too.
if __name__ == "__main__":
    main()
