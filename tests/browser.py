"""A headless Chromium with a fresh profile, driven over the DevTools protocol: one page, what it asked for and said."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from websocket import WebSocket, create_connection

PROGRAM = "chromium"
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--remote-debugging-port=0", "--remote-allow-origins=*",
)  # fmt: skip
SECONDS = 60
READY = "document.readyState + document.documentElement?.dataset.ready === 'completeyes'"


class Page:
    """The one tab. `requests`: addresses asked for besides the page and `data:`; `faults`: errors on the console."""

    def __init__(self, address: str) -> None:
        self.requests: list[str] = []
        self.faults: list[str] = []
        self._address, self._number = address, 0
        self._socket: WebSocket = create_connection(address, timeout=SECONDS)
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command; its result. Events that come before the answer are noted."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while (message := json.loads(self._socket.recv())).get("id") != self._number:
            self._note(message)
        assert "error" not in message, f"{method}: {message}"
        return dict(message["result"])

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event["method"] == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if params["type"] != "Document" and not url.startswith("data:"):
                self.requests.append(url)
        elif event["method"] == "Runtime.exceptionThrown":
            self.faults.append(str(params["exceptionDetails"]))
        elif event["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.faults.append(params["entry"]["text"])

    def show(self, address: str, width: int, *, height: int = 900, dark: bool = False, ready: str = READY) -> None:
        """The page in a window of so many pixels, when it says that it is ready: by default as a report does."""
        phone = width < 600
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url=address)
        self.until(ready)

    def frame(self) -> Page:
        """The one frame in it that has a process of its own, as sandboxed ones do."""
        # The element is there before its process is
        self._wait(lambda: self._frames() != [], "a frame")
        (frame,) = self._frames()
        return Page(f"{self._address.rpartition('/')[0]}/{frame}")

    def _frames(self) -> list[str]:
        targets = self.send("Target.getTargets")["targetInfos"]
        return [one["targetId"] for one in targets if one["type"] == "iframe"]

    def until(self, expression: str) -> None:
        """Wait for an expression to be true."""
        self._wait(lambda: self.run(expression) is True, expression)

    def _wait(self, true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not true():
            assert time.monotonic() < deadline, f"never {what}: {self.faults}"
            time.sleep(0.05)

    def close(self) -> None:
        """Say no more to it."""
        self._socket.close()

    def run(self, expression: str) -> Any:
        """The value of an expression in the page."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, *keys: str) -> None:
        """Keys by their names, such as `Tab`, `ArrowDown`; single letters are typed."""
        for key in keys:
            typed = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
            code = CODES.get(key, ord(key[0].upper()))
            self.send("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **typed)
            self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def pdf(self) -> bytes:
        """As it is printed."""
        return base64.b64decode(self.send("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"])

    def picture(self) -> bytes:
        """A PNG of what the window shows."""
        return base64.b64decode(self.send("Page.captureScreenshot")["data"])


CODES = {
    "Tab": 9, "Enter": 13, "Escape": 27, "PageUp": 33, "PageDown": 34, "End": 35, "Home": 36, "ArrowUp": 38,
    "ArrowDown": 40,
}  # fmt: skip


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A browser that ends with the block."""
    program = shutil.which(PROGRAM)
    assert program, f"no {PROGRAM}; apt-get install {PROGRAM}"
    command = [program, *QUIET, f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            with contextlib.closing(Page(_address(profile, process))) as page:
                yield page
        finally:
            process.terminate()


def _address(profile: Path, process: subprocess.Popen[bytes]) -> str:
    """Of the tab's socket, once the browser has written where it listens."""
    said, deadline = profile / "DevToolsActivePort", time.monotonic() + SECONDS
    while not (said.is_file() and said.read_text().count("\n")):
        assert process.poll() is None and time.monotonic() < deadline, "the browser did not start"
        time.sleep(0.05)
    port = int(said.read_text().split()[0])
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=SECONDS) as answer:
        tabs = json.load(answer)
    return str(next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"))
