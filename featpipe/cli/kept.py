"""Describe what an interrupted command keeps, for its last line.

Outputs are written whole or not at all, so there are two cases: the file of ``-o`` was
written before the interruption, or it was not.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["KEPT", "describe_kept", "file_id"]


def _by_extract(values: dict[str, Any]) -> str:
    if values.get("plan"):
        return _NOTHING_CHANGED
    if values.get("overwrite"):
        return "with --overwrite the same command starts again"
    return "finished images are kept; the same command goes on from there"


def _by_finetune(values: dict[str, Any]) -> str:
    if values.get("output") is None:
        return (
            "nothing is kept; with -o MODEL finished epochs are kept, and the same "
            "command goes on from there"
        )
    return f"finished epochs are kept; the same command goes on to {values['output']}"


_NOTHING_CHANGED = "nothing was changed"
KEPT: dict[str, str | Callable[[dict[str, Any]], str]] = {
    "run": _by_extract,
    "extract": _by_extract,
    "demo": _by_extract,
    "finetune": _by_finetune,
    "compare": "the codes are unchanged; the same command starts again",
    "fit": "the codes are unchanged, and no model was written",
    "predict": "the model is unchanged; the same command starts again",
    "export": "the model is unchanged, and no network was written",
    "advise": "the codes are unchanged; the same command starts again",
    "report": "the codes are unchanged; the same command starts again",
    "merge": "the given files are unchanged, and no other was written",
    **dict.fromkeys(("backbones", "depths", "inspect", "verify"), _NOTHING_CHANGED),
}


def describe_kept(
    command: str, values: dict[str, Any], before: tuple[int, int] | None
) -> str:
    """Return what an interrupted command has written or kept.

    Parameters
    ----------
    command : str
        Its name.
    values : dict
        Its arguments.
    before : tuple or None
        `file_id` of its output before it started.
    """
    if file_id(values) != before:
        return f"{values['output']} was written, and is whole"
    kept = KEPT[command]
    return kept if isinstance(kept, str) else kept(values)


def file_id(values: dict[str, Any]) -> tuple[int, int] | None:
    """Return inode and modification time of the file of ``-o``; None without one."""
    output = values.get("output")
    if not isinstance(output, Path):
        return None
    try:
        stat = output.stat()
    except (OSError, ValueError):  # a name that no file can have
        return None
    # A folder changes with every file in it, so it has no id.
    return (stat.st_ino, stat.st_mtime_ns) if output.is_file() else None
