"""The two servers that commands talk to, a teacher and MLflow, each behind a proxy that breaks as it is told."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fault_proxy import FaultProxy
from tests.mlflow_server import mlflow_server
from tests.openai_server import OpenAIServer, question

TEACHER, MLFLOW = "teacher", "mlflow"
SECONDS = 3
"""How long a command of the campaign waits for a server, where that can be set."""
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(SECONDS),
    "DRIFT_MLFLOW_LIMITS": "",
}


def answer(body: dict[str, Any]) -> dict[str, Any]:
    """A chain that depends on the question alone, right now and then."""
    digits = re.findall(r"\d", question(body))
    return {"content": f"<think> {' + '.join(digits)} </think> \\boxed{{{digits[-1] if digits else 0}}}"}


@dataclass
class Servers:
    """Addresses by name; MLflow, which takes seconds to start, is started when it is first asked for."""

    folder: Path
    _open: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _addresses: dict[str, str] = field(default_factory=dict)

    def upstream(self, name: str) -> str:
        """The server itself, which never breaks."""
        if name not in self._addresses:
            self._addresses[name] = self._start(name)
        return self._addresses[name]

    def _start(self, name: str) -> str:
        if name == TEACHER:
            return self._open.enter_context(OpenAIServer(answer)).host
        folder = self.folder / name
        folder.mkdir()
        return self._open.enter_context(mlflow_server(folder))

    @contextlib.contextmanager
    def proxy(self, name: str) -> Iterator[FaultProxy]:
        """A way to the server of a cell's own."""
        with FaultProxy(self.upstream(name)) as proxy:
            yield proxy

    def close(self) -> None:
        """Stop what was started."""
        self._open.close()
