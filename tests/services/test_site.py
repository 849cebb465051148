"""The pages that `make site` has built, in a browser: only a table or a block scrolls sideways."""

import json
from pathlib import Path

import pytest

from tests.browser import browser

SITE = Path("site")
OVER = """[...document.querySelectorAll('article *, header *')].filter(one => {
  for (let box = one.parentElement; box !== document.body; box = box.parentElement)
    if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(box).overflowX)) return false
  return one.getBoundingClientRect().right > WIDTH + 1
}).map(one => one.tagName + ': ' + one.textContent.slice(0, 60))"""
"""What reaches out of a window of WIDTH on its right, and lies in no box that scrolls by itself. A phone's `innerWidth`
grows with what is too wide."""


@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_the_window(width: int, tmp_path: Path) -> None:
    pages = sorted(SITE.rglob("*.html"))
    assert len(pages) > 30, "`make site` first"
    over = {}
    with browser(tmp_path) as page:
        for file in pages:
            address = file.resolve().as_uri()
            page.show(
                address, width, ready=f"location.href === {json.dumps(address)} && document.readyState === 'complete'"
            )
            wide = page.run(f"document.documentElement.scrollWidth > {width}")
            if (found := page.run(OVER.replace("WIDTH", str(width)))) or wide:
                over[file.name] = found
    assert over == {}
