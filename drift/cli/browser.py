"""A page in this machine's browser, where it has a screen."""

from __future__ import annotations

import os
import sys
import webbrowser


def show_page(address: str) -> bool:
    """Open the address; False without a screen, where a browser would take over the terminal."""
    screens = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    has_screen = sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in screens)
    return has_screen and webbrowser.open(address)
