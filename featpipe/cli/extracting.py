"""The command `extract` (stage one)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from featpipe.cli import options as o
from featpipe.cli.choices import Backend, DecodingMode, OnError, Precision
from featpipe.cli.outputs import require_outputs
from featpipe.cli.parallel import BackendOption, JobsOption, SchedulerOption, jobs_of
from featpipe.cli.planning import print_plan
from featpipe.cli.progress import image_progress, summary
from featpipe.cli.terminal import terminal

if TYPE_CHECKING:
    from featpipe.codes import Codes
    from featpipe.images import ImageSet
    from featpipe.inference import Progress

__all__ = ["extract", "extract_codes", "numbers", "pixel_limit", "print_set_aside"]


def extract(
    source: o.Source,
    output: o.Output,
    backbone: o.Backbone = "resnet50",
    weights: o.Weights = None,
    depth: o.ExtractDepths = None,
    hflip: o.HFlip = False,
    allow_random: o.AllowRandom = False,
    input_size: o.InputSize = None,
    resize: o.Resize = None,
    crop: o.Crop = None,
    mean: o.Mean = None,
    std: o.Std = None,
    interpolation: o.Interpolation = None,
    value_range: o.ValueRange = "file",
    max_pixels: o.MaxPixels = None,
    device: o.Device = "auto",
    precision: o.PrecisionOption = Precision.auto,
    decoding: o.DecodingOption = DecodingMode.auto,
    batch_size: o.BatchSize = None,
    workers: o.Workers = None,
    jobs: JobsOption = None,
    backend: BackendOption = Backend.loky,
    scheduler: SchedulerOption = None,
    shard: o.Shard = None,
    unlabelled: o.Unlabelled = False,
    limit: o.Limit = None,
    on_error: o.OnErrorOption = OnError.skip,
    seed: o.Seed = 0,
    dtype: o.DtypeOption = None,
    plan: o.PlanOnly = False,
    json_path: o.ExtractJson = None,
    overwrite: o.Overwrite = False,
    break_lock: o.BreakLock = False,
) -> None:
    """Run images through a frozen network and keep the codes in a file.

    After an interruption the same command goes on; run again, it computes only codes
    of new images. Every input becomes a row, or a failure with its reason.

    For example:

        featpipe extract flowers -o flowers.h5
        featpipe extract flowers -o flowers.h5 --depth layer3 --depth penultimate
        featpipe extract photos.csv -o photos.h5 --backbone mini
        featpipe extract photos -o p.h5 --backend dask --scheduler tcp://head:8786
    """
    extract_codes(dict(locals()))


def extract_codes(
    values: dict[str, Any],
    finish: Callable[[str], None] = terminal.result,
    *,
    check: "Callable[[ImageSet], None] | None" = None,
) -> "Codes | None":
    """Extract with the options of `extract`; return None after ``--plan``.

    ``finish`` prints the last line; ``check`` raises if the images cannot be used.
    """
    from featpipe import files, images
    from featpipe.extraction import Extraction
    from featpipe.inference import Machine, Recipe

    # A wrong option raises here, before a scan of images that may take minutes.
    recipe = Recipe(
        backbone=values["backbone"],
        weights=values["weights"],
        depths=tuple(values["depth"] or ["penultimate"]),
        precision=values["precision"].value,
        decoding=values["decoding"].value,
        value_range=values["value_range"],
        max_pixels=pixel_limit(values["max_pixels"]),
        dtype=values["dtype"] and values["dtype"].value,
        hflip=values["hflip"],
        seed=values["seed"],
        input_size=values["input_size"],
        resize=values["resize"],
        crop=values["crop"],
        interpolation=values["interpolation"],
        mean=numbers(values["mean"], "--mean"),
        std=numbers(values["std"], "--std"),
        allow_random=values["allow_random"],
    )
    require_outputs(
        {"-o": values["output"], "--json": values["json_path"]},
        {"SOURCE": values["source"], "--weights": values["weights"]},
        codes=["-o"],
    )
    jobs = jobs_of(values)
    image_set = images.scan(
        values["source"],
        unlabelled=values["unlabelled"],
        limit=values["limit"],
        # The outputs may lie inside the folder of images.
        ignore=files.belongs_to(values["output"], values["json_path"]),
    )
    print_set_aside(image_set)
    if check is not None:
        check(image_set)
    latest: list[Progress] = []
    # The bar ends with this block, and the summary is printed after it.
    with image_progress() as show:

        def progress(tally: "Progress") -> None:
            # The summary needs the last one.
            latest[:] = [tally]
            show(tally)

        job = Extraction(
            recipe,
            image_set,
            values["output"],
            Machine(values["device"], values["batch_size"], values["workers"]),
            on_error=values["on_error"].value,
            shard=_shard(values["shard"]),
            jobs=jobs,
            progress=progress,
        )
        if values["plan"]:
            print_plan(job, image_set, overwrite=values["overwrite"])
            return None
        codes = job.run(overwrite=values["overwrite"], break_lock=values["break_lock"])
    if values["json_path"]:
        _write_json(values["json_path"], codes, latest[0])
    _print_done(codes, latest[0])
    finish(summary(latest[0]))
    return codes


def print_set_aside(image_set: "ImageSet") -> None:
    """Print how many names of the source are neither images nor failures."""
    counts = (
        (image_set.n_hidden, "hidden"),
        (
            image_set.n_set_aside,
            "that are no images (README, checksums, tables, files of systems)",
        ),
    )
    if parts := [f"{count:,} {kind}" for count, kind in counts if count]:
        terminal.info(f"files and folders set aside: {' and '.join(parts)}")


def _print_done(codes: "Codes", tally: "Progress") -> None:
    from featpipe import images

    for text in tally.messages:
        terminal.info(text)
    provenance = codes.provenance
    # Whoever allowed random codes should be reminded with every run.
    if random := provenance["preprocessing"].get("random"):
        terminal.info(f"codes are not a function of the image: {random}")
    notes = (note for *_, note in codes.notes)
    recorded = provenance["decoding"].get("value_range", "file")
    value_range = images.parse_value_range(recorded)
    if text := images.describe_values(notes, value_range):
        terminal.info(text)
    widths = ", ".join(f"{spec} ({codes.width(spec)})" for spec in codes.depths)
    terminal.info(
        f"{codes.path}: {provenance['backbone']}, weights {provenance['weights']}, "
        f"{provenance['precision']}, {provenance['decoding'].get('mode')} decoding; "
        f"{widths}"
    )
    # Three are examples; thousands would hide the summary.
    shown = len(codes.failures) if terminal.verbose else 3
    for path, stage, reason in codes.failures[:shown]:
        terminal.info(f"failed: {path}: {stage}: {reason}")
    if len(codes.failures) > shown:
        more = len(codes.failures) - shown
        terminal.info(f"… and {more:,} more; `featpipe inspect -v {codes.path}`")


def _write_json(path: Path, codes: "Codes", tally: "Progress") -> None:
    from featpipe.files import write_bytes

    document = {
        "path": str(codes.path),
        "n_images": tally.n_images,
        "computed": tally.computed,
        "kept": tally.kept,
        "failed": tally.failed,
        "seconds": tally.elapsed,
        "images_per_second": tally.rate if tally.computed else None,
        "busy_seconds": tally.seconds,
        "threads": tally.threads,
        "bottleneck": tally.bottleneck,
        "messages": tally.messages,
        "failures": codes.failures,
        "provenance": codes.provenance,
    }
    # JSON is UTF-8, and paths may hold other bytes.
    write_bytes(path, json.dumps(document, indent=1).encode("utf-8", "replace"))


def numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    """Return the numbers of an option, given with commas between them."""
    if text is None:
        return None
    try:
        # `Preprocessing` checks how many there are, and how large.
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{option} is {text!r}; give numbers with commas, as 0.5,0.5,0.5"
        ) from None


def pixel_limit(text: str | None) -> int | None:
    """Return the limit of ``--max-pixels``; None for "none"."""
    from featpipe.images import MAX_PIXELS

    if text is None:
        return MAX_PIXELS
    if text == "none":
        return None
    try:
        return int(text.replace("_", ""))
    except ValueError:
        raise typer.BadParameter(
            f"--max-pixels is {text!r}; give a whole number of pixels, as 250000000, "
            "or none"
        ) from None


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        i, n = (int(part) for part in text.split("/"))
    except ValueError:
        raise typer.BadParameter(f"--shard is {text!r}; give it as 0/4") from None
    return i, n
