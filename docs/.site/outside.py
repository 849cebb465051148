"""Hooks of `make site`: links to files that are not on it become their paths, and no page loads from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_OUT = re.compile(r"\[([^\]]*)\]\(((?:\.\./)+[^)#\s]*)(?:#[^)]*)?\)")
_LOADED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=\"?((?:https?:)?//[^\"\s>]+)", re.I)
_STYLED = re.compile(r"(?:url\(|@import )[\"']?((?:https?:)?//[^\"')\s]+)")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """A link out of docs/ as its text, with the file's path where that says more."""
    pages = Path(config["docs_dir"]).resolve()
    here = (pages / page.file.src_uri).parent

    def told(link: re.Match[str]) -> str:
        target = (here / link[2]).resolve()
        if target.is_relative_to(pages):
            return link[0]
        path = str(target.relative_to(pages.parent))
        return f"`{path}`" if link[1].strip("`").endswith(path) else f"{link[1]} (`{path}`)"

    return _OUT.sub(told, markdown)


def on_post_build(config: Any, **_: Any) -> None:
    """Raise where a page or a style would ask another server."""
    from mkdocs.exceptions import PluginError

    for file in sorted(Path(config["site_dir"]).rglob("*")):
        pattern = {".html": _LOADED, ".css": _STYLED}.get(file.suffix)
        if pattern and (asked := pattern.findall(file.read_text(encoding="utf-8"))):
            raise PluginError(f"{file}: loads {asked[0]} from elsewhere")
