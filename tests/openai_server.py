"""A real HTTP server on loopback that speaks enough of OpenAI's chat completions for a teacher.

Failures are injected by status; requests and their headers are kept for the test to look at.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.loopback import Loopback

Body = dict[str, Any]


def chain(body: Body) -> Body:
    """A chain of thought that depends on the seed alone."""
    return {"content": f"<think> seed {body['seed']} </think> \\boxed{{{body['seed'] % 3}}}"}


def question(body: Body) -> str:
    """The text of the user's turn."""
    return str(body["messages"][0]["content"][-1]["text"])


def image_of(body: Body) -> bytes:
    """The encoded image of the user's turn."""
    return base64.b64decode(body["messages"][0]["content"][0]["image_url"]["url"].partition(",")[2])


class OpenAIServer(Loopback):
    """Use as a context manager; ``url`` goes into `base_url`.

    ``answer`` makes a message (or a message with ``finish_reason``) of a request's body; a text is sent as a web page
    instead of a completion, bytes as JSON whatever they are, and for None the connection is cut. ``status`` gets the
    number of the request, counted from 1, and may return an error's status instead of 200; ``refusal`` is what the
    error says, or all of it, ``retry_after`` the seconds that a 429 or 500 asks for. ``models`` is the status of
    `GET /models`, or its page.
    """

    def __init__(
        self,
        answer: Callable[[Body], Body | str | bytes | None] = chain,
        status: Callable[[int], int] = lambda number: 200,
        models: int | str = 200,
        delay_seconds: float = 0.0,
        refusal: str | Body = "injected",
        retry_after: float = 1e-3,
    ) -> None:
        self.answer, self.status, self.models, self.delay_seconds = answer, status, models, delay_seconds
        self.refusal, self.retry_after = refusal, retry_after
        self.requests: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.in_flight = self.most_in_flight = 0
        self._lock = threading.Lock()
        super().__init__(_handler(self))
        self.url = f"{self.host}/v1"

    def complete(self, body: Body, headers: dict[str, str]) -> tuple[int, Body | str | bytes | None]:
        """Status and body of a completion, or of an injected error."""
        with self._lock:
            self.requests.append(body)
            self.headers.append(headers)
            number = len(self.requests)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        time.sleep(self.delay_seconds)
        with self._lock:
            self.in_flight -= 1
        status = self.status(number)
        if status != 200:
            said = {"message": f"{self.refusal} {status} for {headers.get('authorization')}"}
            return status, {"error": said if isinstance(self.refusal, str) else self.refusal}
        answer = self.answer(body)
        if not isinstance(answer, dict):
            return 200, answer
        message = dict(answer)
        finish_reason = message.pop("finish_reason", "stop")
        choice = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", **message}}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        head = {"id": str(number), "object": "chat.completion", "created": 0, "model": body["model"]}
        return 200, {**head, "choices": [choice], "usage": usage}


def _handler(server: OpenAIServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if isinstance(server.models, str):
                self._send(200, server.models)
            else:
                self._send(server.models, {"object": "list", "data": []})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self._send(*server.complete(body, {name.lower(): value for name, value in self.headers.items()}))

        def _send(self, status: int, body: Body | str | bytes | None) -> None:
            if body is None:
                self.close_connection = True
                return
            page = isinstance(body, str)
            content = body if isinstance(body, bytes) else (body if page else json.dumps(body)).encode()
            self.send_response(status)
            self.send_header("content-type", "text/html" if page else "application/json")
            self.send_header("content-length", str(len(content)))
            if status in {429, 500}:
                self.send_header("retry-after", str(server.retry_after))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    return Handler
