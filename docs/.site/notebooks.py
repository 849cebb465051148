"""A hook of `make site`: a notebook under docs/ is a page, with the outputs that are kept in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

Tree = dict[str, Any]
SUFFIX = ".ipynb"
_DRESS = re.compile(r"<style scoped>.*?</style>| border=\"1\" class=\"dataframe\"| style=\"[^\"]*\"", re.DOTALL)


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """Take every notebook for a page; mkdocs would copy it as it is."""
    from mkdocs.structure.files import File

    class Notebook(File):
        def is_documentation_page(self) -> bool:
            return True

    for file in [one for one in files if one.src_uri.endswith(SUFFIX)]:
        files.remove(file)
        files.append(Notebook(file.src_uri, file.src_dir, file.dest_dir, file.use_directory_urls))
    return files


def on_page_read_source(page: Any, config: Any, **_: Any) -> str | None:
    """The Markdown of a notebook; None for any other page, which mkdocs then reads itself."""
    return markdown(json.loads(page.file.content_string)) if page.file.src_uri.endswith(SUFFIX) else None


def markdown(notebook: Tree) -> str:
    """Text cells as they are, code cells as blocks, each followed by what it put out."""
    return "\n\n".join(part for cell in notebook["cells"] for part in _cell(cell)) + "\n"


def _cell(cell: Tree) -> Iterator[str]:
    source = "".join(cell["source"])
    yield source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"
    for output in cell.get("outputs", ()):
        yield _output(output)


def _output(output: Tree) -> str:
    """A picture or a table where there is one, else text."""
    held = output.get("data", {})
    if "image/png" in held:
        return f"![what the code above draws](data:image/png;base64,{''.join(''.join(held['image/png']).split())})"
    if "text/html" in held:
        return _DRESS.sub("", "".join(held["text/html"]))
    return f"```text\n{''.join(held.get('text/plain', output.get('text', ''))).rstrip()}\n```"
