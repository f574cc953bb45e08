"""Writing files that appear whole or not at all, and locks that name their holder.

Every output of featpipe goes through here: codes, models, score records, CSV, ONNX
and caches. Imports nothing else of featpipe and knows nothing of what a file means.

| module | what lives there |
|---|---|
| `atomic` | write under a temporary name, sync, rename; devices and FIFOs written to |
| `reserved` | a file for libhdf5 whose space is taken from the disk beforehand |
| `lock` | one writer a file |
| `records` | small JSON documents from anywhere |
| `names` | names as text that a terminal may show |
| `outputs` | which names are one file, and which files belong to an output |
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
