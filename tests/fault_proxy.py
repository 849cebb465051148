"""A proxy on loopback before a real server, which breaks what a test says: a status, a web page, a delay, a hang.

Closed, its port refuses connections until it is opened again.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

from tests.loopback import Loopback

HOP = ("transfer-encoding", "content-length", "connection", "accept-encoding")


@dataclass(frozen=True)
class Fault:
    """What happens to requests whose `METHOD path` has `pattern` in it; `hang` and `delay` last `seconds`."""

    pattern: str
    kind: Literal["status", "page", "delay", "hang", "drop"] = "status"
    status: int = 500
    seconds: float = 0.0


@dataclass
class FaultProxy:
    """Use as a context manager; ``host`` is its address. Faults may be set and removed at any time."""

    upstream: str
    faults: list[Fault] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """The requests that a fault met."""
    asked: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self, port: int = 0) -> None:
        """Take requests, at a free port if none is given."""
        self._loopback = Loopback(_handler(self), port)
        self._loopback.__enter__()
        self.host = self._loopback.host

    def close(self) -> None:
        """Refuse connections."""
        self._loopback.__exit__(None, None, None)

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """Refuse connections while the block runs, and take them at the same address after it."""
        self.close()
        yield
        self.open(int(self.host.rpartition(":")[2]))


def _handler(proxy: FaultProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Silent."""

        def pass_on(self) -> None:
            body, line = _body(self), f"{self.command} {self.path}"
            proxy.asked.append(line)
            fault = next((one for one in proxy.faults if re.search(one.pattern, line)), None)
            if fault is None:
                _forward(self, proxy.upstream, body)
                return
            proxy.broken.append(line)
            time.sleep(fault.seconds)
            if fault.kind == "delay":
                _forward(self, proxy.upstream, body)
            elif fault.kind == "page":
                _answer(self, 200, [("Content-Type", "text/html")], b"<html><body>Sign in</body></html>")
            elif fault.kind == "status":
                _answer(self, fault.status, [], b'{"error_code": "INTERNAL_ERROR", "message": "injected"}')
            else:
                self.close_connection = True

    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"):
        setattr(Handler, f"do_{method}", Handler.pass_on)
    return Handler


def _body(request: BaseHTTPRequestHandler) -> bytes | None:
    if length := request.headers.get("Content-Length"):
        return request.rfile.read(int(length))
    if "chunked" not in request.headers.get("Transfer-Encoding", ""):
        return None
    pieces = []
    while size := int(request.rfile.readline().strip(), 16):
        pieces.append(request.rfile.read(size))
        request.rfile.readline()
    request.rfile.readline()
    return b"".join(pieces)


def _forward(request: BaseHTTPRequestHandler, upstream: str, body: bytes | None) -> None:
    headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP}
    connection = http.client.HTTPConnection(urlsplit(upstream).netloc, timeout=60)
    try:
        connection.request(request.command, request.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
    except OSError:
        _answer(request, 502, [], b"")
        return
    finally:
        connection.close()
    _answer(request, answer.status, [pair for pair in answer.getheaders() if pair[0].lower() not in HOP], content)


def _answer(request: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
    request.send_response(status)
    for name, value in headers:
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(content)
