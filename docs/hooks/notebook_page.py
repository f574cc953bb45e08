"""Turn docs/first-look.ipynb into a page, with its outputs and pictures."""

import base64
from collections.abc import Iterator
from pathlib import Path

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

NAME = "first-look"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page and the pictures that the notebook's cells gave."""
    path = Path(config.docs_dir) / f"{NAME}.ipynb"
    # nbformat declares no types for it.
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    pictures: list[bytes] = []
    blocks = [block for cell in notebook.cells for block in _blocks(cell, pictures)]
    files.append(File.generated(config, f"{NAME}.md", content="\n\n".join(blocks)))
    for i, content in enumerate(pictures):
        files.append(File.generated(config, _picture(i), content=content))
    return files


def _picture(number: int) -> str:
    return f"pictures/{NAME}-{number}.png"


def _blocks(cell: nbformat.NotebookNode, pictures: list[bytes]) -> Iterator[str]:
    """Yield the Markdown of a cell and of its outputs; collect its pictures."""
    if cell.cell_type == "markdown":
        yield cell.source
        return
    yield f"```python\n{cell.source}\n```"
    for output in cell.outputs:
        data = output.get("data", {"text/plain": output.get("text", "")})
        if "image/png" in data:
            pictures.append(base64.b64decode(data["image/png"]))
            yield f"![The output of the cell above]({_picture(len(pictures) - 1)})"
        elif "text/html" in data:
            yield f'<div class="output">{data["text/html"]}</div>'
        else:
            yield f"```text\n{data['text/plain'].rstrip()}\n```"
