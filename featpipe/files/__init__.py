"""Write files atomically, and lock them against a second writer.

This package writes every output of featpipe: codes, models, score records, CSV, ONNX
and caches. It imports no other package of featpipe, and does not know what the files
mean.

| module | contents |
|---|---|
| `atomic` | writing under a temporary name, sync and rename; devices and FIFOs |
| `reserved` | a file for libhdf5 whose disk space is reserved beforehand |
| `lock` | a lock file that allows one writer for each file |
| `records` | reading small JSON documents that may be damaged |
| `names` | names as text that is safe on a terminal |
| `outputs` | which names mean the same file, and which files belong to an output |
"""

from featpipe.files.atomic import (
    explained,
    is_stream,
    remove_temporaries,
    replacing,
    sync_folder,
    write_bytes,
    write_text,
)
from featpipe.files.lock import Lock, LockedError, key_of
from featpipe.files.names import visible
from featpipe.files.outputs import (
    belongs_to,
    follow_links,
    require_distinct,
    require_own_name,
    require_writable,
)
from featpipe.files.records import read_json
from featpipe.files.reserved import ReservedFile

__all__ = [
    "Lock",
    "LockedError",
    "ReservedFile",
    "belongs_to",
    "explained",
    "follow_links",
    "is_stream",
    "key_of",
    "read_json",
    "remove_temporaries",
    "replacing",
    "require_distinct",
    "require_own_name",
    "require_writable",
    "sync_folder",
    "visible",
    "write_bytes",
    "write_text",
]
