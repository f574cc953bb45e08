"""`extract --plan`: what would be done, and what it would take."""

from typing import TYPE_CHECKING

from featpipe.cli.facts import describe_decoding, joined, print_facts
from featpipe.cli.progress import duration
from featpipe.cli.voice import voice

if TYPE_CHECKING:
    from featpipe.extraction import Cost, Job
    from featpipe.extraction.outlook import Outlook

__all__ = ["print_plan"]


def print_plan(job: "Job", *, overwrite: bool) -> None:
    """Print what an extraction would do, and take, as a table."""
    outlook = job.look(overwrite=overwrite)
    facts: dict[str, object] = {"images": _images(outlook)}
    if len(outlook.todo) or outlook.added:
        facts |= _costs(job.cost(outlook))
    facts["depths"] = ", ".join(outlook.depths)
    facts["weights"] = outlook.provenance["weights"]
    facts |= {name: joined(value) for name, value in outlook.fingerprint.items()}
    facts["decoding"] = describe_decoding(outlook.fingerprint["decoding"])
    if outlook.fingerprint["weights_sha256"] is None:
        facts["weights_sha256"] = "not known: a plan downloads no weights"
    print_facts(facts)
    if len(outlook.todo) or outlook.added:
        voice.remark(
            "times are of one process on this machine as it is now, from a second of "
            "trying the network and a sample of the images; nothing was downloaded or "
            "written"
        )


def _images(outlook: "Outlook") -> str:
    parts = [f"{len(outlook.todo):,} images to compute", f"{len(outlook.kept):,} kept"]
    if outlook.added:
        parts.append(f"{', '.join(outlook.added)} added to those kept")
    return "; ".join([*parts, f"{len(outlook.failed):,} known failures"])


def _costs(cost: "Cost") -> dict[str, object]:
    stages = ", ".join(
        f"{stage} {duration(seconds)}"
        for stage, seconds in cost.seconds.items()
        if seconds >= 0.5 or stage == cost.bottleneck
    )
    return {
        "time": f"about {duration(cost.total)}: {stages}",
        "bottleneck": cost.bottleneck,
        "disk": f"{_size(cost.disk)}; at the end twice that for a moment",
        "memory": f"about {_size(cost.memory)}",
    }


def _size(n_bytes: int) -> str:
    """Write bytes with a unit.

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
