"""A real HTTP server on loopback with the two routes of Kubernetes' API that say what a namespace has."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

ROOT = "/api/v1/namespaces/kubeflow"


@contextlib.contextmanager
def namespace(folder: Path, claims: set[str], secrets: Mapping[str, list[str]]) -> Iterator[Path]:
    """Serve a namespace `kubeflow` with these claims, and secrets with these keys; the kubeconfig that leads to it."""
    there: dict[str, Any] = {f"{ROOT}/persistentvolumeclaims/{name}": {} for name in claims}
    there |= {f"{ROOT}/secrets/{name}": {"data": dict.fromkeys(keys, "eA==")} for name, keys in secrets.items()}
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(there))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield _kubeconfig(folder, f"http://127.0.0.1:{server.server_address[1]}")
    finally:
        server.shutdown()
        server.server_close()


def _kubeconfig(folder: Path, url: str) -> Path:
    path = folder / "kubeconfig.yaml"
    config = {
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": {"server": url}}],
        "users": [{"name": "test", "user": {}}],
    }
    path.write_text(yaml.safe_dump(config))
    return path


def _handler(there: Mapping[str, Any]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            payload = json.dumps(there.get(self.path, {"kind": "Status", "code": 404})).encode()
            self.send_response(200 if self.path in there else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    return Handler
