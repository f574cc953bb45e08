"""The options that divide the work among processes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featpipe.cli.choices import Backend
from featpipe.cli.options import MACHINE

if TYPE_CHECKING:
    from featpipe.parallel import Jobs

__all__ = ["BackendOption", "JobsOption", "SchedulerOption", "jobs_of"]

JobsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        metavar="N",
        min=1,
        help="Number of processes; with dask, of workers to wait for. Default: this "
        "process alone.",
        rich_help_panel=MACHINE,
    ),
]
BackendOption = Annotated[
    Backend,
    typer.Option(
        "--backend",
        help="loky: processes of this machine; dask: those of a cluster.",
        rich_help_panel=MACHINE,
    ),
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="ADDR",
        help="Address of the dask scheduler, as tcp://host:8786, or its file.",
        rich_help_panel=MACHINE,
    ),
]


def jobs_of(values: Mapping[str, Any]) -> "Jobs | None":
    """Return the processes that the options select; None for this one alone."""
    n, backend, scheduler = (values[name] for name in ("jobs", "backend", "scheduler"))
    if n is None and backend is Backend.loky and scheduler is None:
        return None
    from featpipe.parallel import Jobs

    # Here and not in `Jobs`, so that the message has the names of the options.
    if scheduler is not None and backend is not Backend.dask:
        raise typer.BadParameter("--scheduler goes with --backend dask")
    if scheduler is None and backend is Backend.dask:
        raise typer.BadParameter(
            "--backend dask needs --scheduler ADDR, as tcp://host:8786; `dask "
            "scheduler` starts one and prints it"
        )
    return Jobs(n, backend.value, scheduler)
