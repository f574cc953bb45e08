"""The codes file: write, read, verify, merge; `docs/reference/format.md` specifies it.

Knows nothing of images, networks or classifiers. A codes file is complete or absent,
a SHA-256 covers every byte of it, and a `CodesError` reports whatever is wrong with it.
"""

from featpipe.codes.access import Codes
from featpipe.codes.assembly import Row, assemble, content, save, write
from featpipe.codes.block import (
    CodesError,
    is_replaceable,
    require_no_codes,
    require_replaceable,
)
from featpipe.codes.fingerprint import FINGERPRINT, require_same_fingerprint
from featpipe.codes.layout import SPLITS, FailureRecord, Tables
from featpipe.codes.merging import merge
from featpipe.codes.reading import checked, digest, read, verify
from featpipe.codes.view import CodesView

__all__ = [
    "FINGERPRINT",
    "SPLITS",
    "Codes",
    "CodesError",
    "CodesView",
    "FailureRecord",
    "Row",
    "Tables",
    "assemble",
    "checked",
    "content",
    "digest",
    "is_replaceable",
    "merge",
    "read",
    "require_no_codes",
    "require_replaceable",
    "require_same_fingerprint",
    "save",
    "verify",
    "write",
]
