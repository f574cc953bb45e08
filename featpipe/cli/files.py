"""The commands for codes files: `inspect`, `verify` and `merge`."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featpipe.cli import options as o
from featpipe.cli.facts import as_text, describe_decoding, format_mapping, print_facts
from featpipe.cli.terminal import terminal

if TYPE_CHECKING:
    from featpipe.codes import Codes

__all__ = ["inspect", "merge", "verify"]

_FEW = 10


def inspect(path: o.CodesPath) -> None:
    """Show what is in a codes file: network, depths, images, failures.

    With -v, every failure and note.

    For example:

        featpipe inspect flowers.h5
        featpipe inspect -v flowers.h5
    """
    from featpipe import codes

    # An interrupted extraction has parts, and no file yet.
    parts = path.with_name(f"{path.name}.parts")
    if not path.exists() and parts.is_dir():
        done = len(list(parts.glob("*.h5")))
        terminal.result(
            f"{path} is unfinished: {done} parts are done; run the same extract "
            "command again to go on"
        )
        return
    # Without the check, which reads the whole file.
    file = codes.read(path, check=False)
    _print_facts(file)
    _print_classes(file)
    _print_rows("failed", file.failures)
    _print_rows("note", file.notes)


def _print_facts(file: "Codes") -> None:
    provenance = file.provenance
    shape = {s: "×".join(map(str, file.shapes[s][1:])) for s in file.depths}
    decoding = provenance.get("decoding") or {}
    facts: dict[str, Any] = {
        "file": f"{file.path}, {file.path.stat().st_size:,} bytes",
        "images": f"{len(file):,} rows, {len(file.failures):,} failures",
        "from": file.images_root,
        "backbone": provenance.get("backbone"),
        "weights": f"{provenance.get('weights')} "
        f"(SHA-256 of the tensors {str(provenance.get('weights_sha256'))[:12]}…)",
        "depths": ", ".join(f"{spec} ({shape[spec]})" for spec in file.depths),
        "precision": f"{provenance.get('precision')}, stored as "
        f"{provenance.get('dtype')}",
        "preprocessing": format_mapping(provenance.get("preprocessing")),
        "decoding": format_mapping(decoding)
        if terminal.verbose
        else describe_decoding(decoding),
        "made with": format_mapping(provenance.get("versions")),
    }
    if provenance.get("shard"):
        # Only where there is one: most files are whole.
        facts["shard"] = (
            f"{provenance['shard'].get('number')}/{provenance['shard'].get('of')}"
        )
    print_facts(facts)


def _print_classes(file: "Codes") -> None:
    """Print the number of images of each class in each split."""
    from rich import box
    from rich.table import Table

    from featpipe import codes

    # In the order train, val, test.
    splits = [s for s in codes.SPLITS if s in set(file.tables.splits)]
    counts = Counter(zip(file.labels.tolist(), file.tables.splits, strict=True))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("class")
    for split in splits:
        table.add_column(split or "images", justify="right")
    # Unlabelled images are counted too, so that the sums are right.
    numbers = [*range(len(file.class_names)), *([-1] if -1 in file.labels else [])]
    shown = numbers if terminal.verbose else numbers[: 2 * _FEW]
    for number in shown:
        name = file.class_names[number] if number >= 0 else "(unlabelled)"
        cells = [f"{counts[number, split]:,}" for split in splits]
        table.add_row(as_text(name), *cells)
    terminal.out.print(table)
    if len(shown) < len(numbers):
        terminal.result(
            f"… and {len(numbers) - len(shown):,} more classes; -v shows all"
        )


def _print_rows(what: str, rows: list[tuple[str, str, str]]) -> None:
    shown = rows if terminal.verbose else rows[:_FEW]
    for path, stage, text in shown:
        terminal.result(f"{what}: {path}: {stage}: {text}")
    if len(shown) < len(rows):
        terminal.result(f"… and {len(rows) - len(shown):,} more; -v shows all")


def verify(path: o.CodesPath) -> None:
    """Check that a codes file is whole: every byte, and every code finite.

    Run it after you copy a file, and before you archive it.

    For example:

        featpipe verify flowers.h5
    """
    from featpipe import codes

    file = codes.verify(path)
    terminal.result(
        f"{path} is whole: {len(file):,} rows at {len(file.depths)} depths, every "
        "byte matches its SHA-256, every code is finite"
    )


def merge(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="FILE.h5", help="The codes files."),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE.h5", help="The merged file.")
    ],
) -> None:
    """Join codes files: the shards of one extraction.

    Give all shards at once. Files of several folders can be joined too, if they were
    extracted with the same options and lie below one root.

    For example:

        featpipe extract flowers -o part0.h5 --shard 0/2
        featpipe extract flowers -o part1.h5 --shard 1/2
        featpipe merge part0.h5 part1.h5 -o flowers.h5
    """
    from featpipe import codes

    merged = codes.merge(paths, output)
    terminal.result(
        f"{output}: {len(merged):,} rows and {len(merged.failures):,} failures from "
        f"{len(paths)} files"
    )
