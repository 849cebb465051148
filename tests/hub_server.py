"""A Hugging Face hub on loopback over folders, as far as huggingface_hub 2.4 asks for models.

What is answered is what its source reads: `GET /api/models/ID/revision/R` with `sha` (`hf_api.model_info`), `/tree/R`
with `type`, `path`, `size` and `oid` (`hf_api.list_repo_tree`, `RepoFile`), `HEAD` and `GET /ID/resolve/R/FILE` with
`X-Repo-Commit`, `ETag` and `Content-Length` (`file_download.get_hf_file_metadata`), 206 for a `Range`
(`hf_api.parse_safetensors_file_metadata`), and 404 with `X-Error-Code` (`utils._http.hf_raise_for_status`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.loopback import Answering, Loopback

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_MODEL = re.compile(r"/api/models/([^/]+/[^/?]+)/?(revision|tree)?")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)$")
_PART = re.compile(r"bytes=(\d+)-(\d+)$")


@contextmanager
def hub_server(root: Path) -> Iterator[tuple[str, Counter[str]]]:
    """Its address, and the bytes it has sent of each file; ``root`` has a folder per id (`owner/name`)."""
    sent: Counter[str] = Counter()

    class Hub(Answering, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if model := _MODEL.match(self.path):
                self.answer(200, _told(root / model[1], tree=model[2] == "tree"))
            elif (file := _FILE.match(self.path)) and (root / file[1] / file[2]).is_file():
                self._file(root / file[1] / file[2])
            else:
                self._headers(404, {"X-Error-Code": "EntryNotFound", "Content-Length": "0"})

        do_HEAD = do_GET  # noqa: N815  # as the library calls it

        def _file(self, path: Path) -> None:
            content = path.read_bytes()
            part = _PART.match(self.headers.get("range", ""))
            body = content[int(part[1]) : int(part[2]) + 1] if part else content
            etag = {"X-Repo-Commit": COMMIT, "ETag": f'"{len(content)}"'}
            self._headers(206 if part else 200, etag | {"Content-Length": str(len(body))})
            if self.command == "GET":
                sent[path.name] += len(body)
                self.wfile.write(body)

        def _headers(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

    with Loopback(Hub) as server:
        yield server.host, sent


def _told(folder: Path, *, tree: bool) -> Any:
    """What the API says of a model, or of its files."""
    if not tree:
        return {"id": "/".join(folder.parts[-2:]), "sha": COMMIT}
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [
        {"type": "file", "path": str(path.relative_to(folder)), "size": path.stat().st_size, "oid": COMMIT}
        for path in files
    ]
