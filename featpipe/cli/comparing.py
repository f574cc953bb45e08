"""The commands `compare` (stage two) and `run` (both stages)."""

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featpipe.cli import options as o
from featpipe.cli import protocol_options as po
from featpipe.cli.choices import Backend, Metric
from featpipe.cli.extracting import extract, extract_codes
from featpipe.cli.outputs import require_outputs, run_all
from featpipe.cli.parallel import BackendOption, JobsOption, SchedulerOption, jobs_of
from featpipe.cli.progress import fit_progress
from featpipe.cli.reporting import ReportPath, write_report
from featpipe.cli.run_folder import RECORD, claim_folder, default_folder
from featpipe.cli.terminal import terminal
from featpipe.defaults import N_FOLDS

if TYPE_CHECKING:
    from featpipe.comparison import Comparison
    from featpipe.images import ImageSet

__all__ = ["compare", "grid", "run"]

_DEFAULT_CLASSIFIERS = "linear,svm,logistic"


def compare(
    files: o.CodesPaths,
    classifiers: po.Classifiers = _DEFAULT_CLASSIFIERS,
    depth: po.CompareDepths = None,
    folds: po.Folds = N_FOLDS,
    c_grid: po.CGrid = None,
    metric: po.MetricOption = Metric.accuracy,
    class_weight: po.ClassWeightOption = None,
    test_size: po.TestSize = None,
    with_: po.With = None,
    json_path: po.CompareJson = None,
    csv_path: po.Csv = None,
    predictions: po.Predictions = None,
    report_path: ReportPath = None,
    device: o.Device = "auto",
    memory: po.Memory = None,
    seed: o.Seed = 0,
    full_path: po.FullPath = False,
    jobs: JobsOption = None,
    backend: BackendOption = Backend.loky,
    scheduler: SchedulerOption = None,
) -> None:
    """Train classifiers on cached codes and compare them honestly.

    Held-out images (`test`, else `val`, else cross-validation) choose nothing: C and
    the recommended row come from the training rows.

    For example:

        featpipe compare flowers.h5
        featpipe compare flowers.h5 --depth layer3 --depth layer3+penultimate
        featpipe compare small.h5 large.h5 --classifiers logistic,knn
        featpipe compare flowers.h5 --json scores.json --csv scores.csv
    """
    compare_codes(dict(locals()))


def compare_codes(values: dict[str, Any]) -> None:
    """Compare with the options of `compare`."""
    from featpipe.comparison import compare as compare_files

    # First, since a bad grid is wrong usage, with exit status 2.
    options = _comparison_options(values)
    require_outputs(
        _outputs(values), {"FILE.h5": values["files"], "--with": values["with_"]}
    )
    if values["report_path"]:
        # A missing extra must stop the command before the fits, not after them.
        from featpipe.report import require_packages

        require_packages()
    with fit_progress() as progress:
        comparison = compare_files(
            values["files"],
            depth=values["depth"] or None,
            with_=values["with_"] or (),
            jobs=jobs_of(values),
            progress=progress,
            **options,
        )
    run_all(*_writers(comparison, values), lambda: _print(comparison))


def _comparison_options(values: dict[str, Any]) -> dict[str, Any]:
    """Return the options that `featpipe.compare` and `ComparisonOptions` share."""
    same = ("folds", "test_size", "device", "memory", "seed", "full_path")
    return {
        "classifiers": values["classifiers"].split(","),
        "Cs": grid(values["c_grid"]),
        "metric": values["metric"].value,
        "class_weight": values["class_weight"] and values["class_weight"].value,
        **{name: values[name] for name in same},
    }


def _outputs(values: dict[str, Any]) -> dict[str, Path | None]:
    """Return the output files of `compare`, by option."""
    return {
        "--json": values["json_path"],
        "--csv": values["csv_path"],
        "--predictions": values["predictions"],
        "--report": values["report_path"],
    }


def _writers(
    comparison: "Comparison", values: dict[str, Any]
) -> Iterator[Callable[[], None]]:
    """Yield the functions that write the requested files."""
    for name, write in {
        "json_path": comparison.write_json,
        "csv_path": comparison.write_csv,
        "predictions": comparison.write_predictions,
    }.items():
        if values[name]:
            yield partial(_write, write, values[name])
    if values["report_path"]:
        yield partial(
            write_report,
            values["files"],
            values["report_path"],
            scores=comparison.scores,
            notes=comparison.notes,
            seed=values["seed"],
        )


def _write(write: Callable[[Path], None], path: Path) -> None:
    write(path)
    terminal.info(f"wrote {path}")


def _print(comparison: "Comparison") -> None:
    from featpipe.comparison import describe_details

    terminal.out.print(comparison)
    for part in describe_details(comparison):
        terminal.out.print(part)


def _run_signature() -> inspect.Signature:
    """Return the signature of `run`: the options of `extract` and of `compare`."""
    of_compare = inspect.signature(compare).parameters
    of_extract = inspect.signature(extract).parameters
    # Options that both have are those of `extract`, whose order comes first.
    both = {**of_extract, **of_compare, **of_extract}
    del both["files"]
    # In `run`, -o is a folder, and --json is that of `compare`.
    both["output"] = both["output"].replace(annotation=_Folder, default=None)
    both["json_path"] = of_compare["json_path"]
    # Python needs parameters without a default first.
    parameters = sorted(both.values(), key=lambda p: p.default is not p.empty)
    return inspect.Signature(
        [p.replace(kind=p.KEYWORD_ONLY) for p in parameters], return_annotation=None
    )


_CODES = "codes.h5"
_Folder = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="DIR",
        help="A folder for the codes and scores of one source. Default: "
        "featpipe-SOURCE-BACKBONE here.",
    ),
]


def run(**values: Any) -> None:
    """Do the whole job: extract the codes, compare the classifiers, show the table.

    Takes the options of `extract` and of `compare`. Leaves the codes and the scores in
    a folder, one for each source and backbone; run again, only what is new is computed.

    For example:

        featpipe run flowers
        featpipe run flowers -o out --backbone mini
        featpipe run flowers.csv --depth layer3 --depth penultimate
    """
    folder = values["output"] or default_folder(values["source"], values["backbone"])
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(
            f"{folder} is a file; give -o a folder for codes and scores"
        )
    # Only a folder that this command made may be removed again.
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _check_comparison(values)
        require_outputs(
            _outputs(values),
            {
                "SOURCE": values["source"],
                "--weights": values["weights"],
                "--with": values["with_"],
                "the codes file": folder / _CODES,
                "the record of -o": folder / RECORD,
            },
        )
        if not values["plan"]:
            claim_folder(
                folder,
                values["source"],
                values["backbone"],
                overwrite=values["overwrite"],
            )
        _run_in(folder, values)
    finally:
        # Bad input leaves no folder; unfinished work stays, for the next run.
        if is_new and {path.name for path in folder.iterdir()} <= {RECORD}:
            (folder / RECORD).unlink(missing_ok=True)
            folder.rmdir()


def _check_comparison(values: dict[str, Any]) -> None:
    """Raise before the extraction if `compare` would refuse its options after it."""
    from featpipe.comparison import ComparisonOptions

    ComparisonOptions(**_comparison_options(values))


def _run_in(folder: Path, values: dict[str, Any]) -> None:
    # stdout is for the table of `compare`, so `extract` prints to stderr.
    request = {**values, "output": folder / _CODES, "json_path": None}
    codes = extract_codes(
        request,
        finish=terminal.info,
        check=lambda image_set: _require_protocol(image_set, values),
    )
    if codes is None:
        return
    written = {
        "json_path": values["json_path"] or folder / "scores.json",
        "csv_path": values["csv_path"] or folder / "scores.csv",
    }
    depths = [codes.spec(depth) for depth in values["depth"] or []]
    compare_codes({**values, **written, "files": [codes.path], "depth": depths})


def _require_protocol(image_set: "ImageSet", values: dict[str, Any]) -> None:
    """Raise before a long extraction if its codes could not be compared."""
    from featpipe.protocol import labelled_rows, plan

    present = sorted({image_set.class_names[k] for k in image_set.labels if k >= 0})
    if len(present) < 2:
        have = f"all of class {present[0]!r}" if present else "without a label"
        raise ValueError(
            f"the images of {image_set.source!r} are {have}, and comparing needs at "
            "least two classes; name folders after classes, give a CSV with the "
            "columns path,label, or take `featpipe extract` for codes alone"
        )
    _, labelled = labelled_rows(image_set)
    options = _comparison_options(values)
    plan(
        labelled,
        n_folds=options["folds"],
        test_size=options["test_size"],
        seed=options["seed"],
    )


# typer reads the signature, so `run` has the options of both commands.
run.__signature__ = _run_signature()  # type: ignore[attr-defined]  # typer reads it


def grid(text: str | None) -> list[float] | None:
    """Return the values of C of ``--C-grid``, ``lo:hi:n``."""
    if text is None:
        return None
    import numpy as np

    try:
        low, high, count = text.split(":")
        first, last = sorted((float(low), float(high)))
        n = int(count)
    except ValueError:
        first, last, n = 0.0, 0.0, 0
    if not (1 <= n <= 1000 and 1e-30 <= first <= last <= 1e30):
        raise typer.BadParameter(
            f"--C-grid is {text!r}; give the smallest, the largest (both from 1e-30 to "
            "1e30) and how many (1 to 1,000), as 1e-6:1e5:45"
        )
    # `unique`, since all n values are equal where first == last.
    values: list[float] = np.unique(np.geomspace(first, last, n)).tolist()
    return values
