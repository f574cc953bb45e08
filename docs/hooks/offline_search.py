"""Let the search work where pages are opened from the disk, without a server.

A browser forbids a page from the disk to fetch another file. The theme reads the index
from a variable `__index` where there is one, so the index is also written as a script.
"""

import json
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig


def on_post_build(config: MkDocsConfig) -> None:
    """Write search_index.js beside the search index."""
    folder = Path(config.site_dir) / "search"
    index = json.loads((folder / "search_index.json").read_text())
    script = f"var __index = {json.dumps(index, ensure_ascii=False)}"
    (folder / "search_index.js").write_text(script)
