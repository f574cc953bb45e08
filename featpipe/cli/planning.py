"""Print `extract --plan`: what would be done, and its time and memory."""

from typing import TYPE_CHECKING

from featpipe.cli.facts import describe_decoding, format_mapping, print_facts
from featpipe.cli.progress import duration
from featpipe.cli.terminal import terminal

if TYPE_CHECKING:
    from featpipe.extraction import Cost, Extraction, UpdatePlan
    from featpipe.images import ImageSet

__all__ = ["print_plan"]


def print_plan(job: "Extraction", image_set: "ImageSet", *, overwrite: bool) -> None:
    """Print what an extraction would do, and its cost, as a table."""
    update = job.plan_update(overwrite=overwrite)
    facts: dict[str, object] = {"images": _images(update)}
    if len(update.todo) or update.added:
        cost = job.cost(update)
        facts |= _costs(cost) | _solving(image_set, cost.width)
    facts["depths"] = ", ".join(update.depths)
    facts["weights"] = update.provenance["weights"]
    facts |= {name: format_mapping(value) for name, value in update.fingerprint.items()}
    facts["decoding"] = describe_decoding(update.fingerprint["decoding"])
    if update.fingerprint["weights_sha256"] is None:
        # The digest is that of tensors, which are not there before the download.
        facts["weights_sha256"] = "not known: a plan downloads no weights"
    print_facts(facts)
    if len(update.todo) or update.added:
        terminal.info(
            "times are of one process on this machine as it is now, from a second of "
            "trying the network, a sample of the images and a product as the solver's; "
            "nothing was downloaded or written"
        )


def _images(update: "UpdatePlan") -> str:
    parts = [f"{len(update.todo):,} images to compute", f"{len(update.kept):,} kept"]
    if update.added:
        parts.append(f"{', '.join(update.added)} added to those kept")
    return "; ".join([*parts, f"{len(update.failed):,} known failures"])


def _costs(cost: "Cost") -> dict[str, object]:
    stages = ", ".join(
        f"{stage} {duration(seconds)}"
        for stage, seconds in cost.seconds.items()
        # Stages that take hardly any time would hide the ones that matter.
        if seconds >= 0.5 or stage == cost.bottleneck
    )
    return {
        "time": f"about {duration(cost.total)}: {stages}",
        "bottleneck": cost.bottleneck,
        "disk": f"{_size(cost.disk)}; at the end twice that for a moment",
        "memory": f"about {_size(cost.memory)}",
    }


def _solving(image_set: "ImageSet", width: int) -> dict[str, object]:
    """Return what `compare` will take, if the images have two classes to learn."""
    import numpy as np

    from featpipe.classifiers import solve_cost
    from featpipe.defaults import N_FOLDS

    labels = image_set.labels[~np.isin(image_set.splits, ("val", "test"))]
    labels = labels[labels >= 0]
    n_classes = len(np.unique(labels))
    if n_classes < 2 or not width:
        return {}
    cost = solve_cost(len(labels), width, n_classes)
    each = ", ".join(
        f"{name} {duration(least)} to {duration(most)}"
        if round(least)
        else f"{name} under {duration(most)}"
        for name, (least, most) in cost.seconds.items()
    )
    codes = f"{len(labels):,} x {width:,} codes ({_size(cost.n_bytes)})"
    gflop = f"{max(1, round(cost.operations / 1e9)):,}"
    return {
        "compare": f"{each}, by how separable {n_classes:,} classes are; a pass over "
        f"{codes} in {N_FOLDS} folds is {gflop} GFLOP and takes "
        f"{_short(cost.pass_seconds)}"
    }


def _short(seconds: float) -> str:
    """Return a time with the unit that keeps it short.

    Examples
    --------
    >>> _short(0.0274), _short(2.74), _short(274.3)
    ('27.4 ms', '2.74 s', '4 min 34 s')
    """
    if seconds < 1:
        return f"{1e3 * seconds:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 60 else duration(seconds)


def _size(n_bytes: int) -> str:
    """Return a number of bytes with its unit.

    Examples
    --------
    >>> _size(8_190), _size(6_200_000_000)
    ('8.2 kB', '6.2 GB')
    """
    size, unit = float(n_bytes), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}"
