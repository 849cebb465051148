"""Servers that speak OpenAI's chat completions: many requests in flight, tried again, within limits."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import openai
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_exponential_jitter

from drift.config.servers import EndpointConfig
from drift.ground.errors import ConfigError, ServiceError
from drift.inference.completion import MalformedReplyError, read_completion
from drift.inference.images import data_url
from drift.inference.limits import Budget, Pace, Tokens
from drift.inference.placeholders import IMAGE
from drift.inference.reply import Reply
from drift.inference.servers import HOPELESS, Servers
from drift.inference.turns import Message, Question, images_of, messages

HANDED = 16
"""Replies that wait for the caller at most; more keep their places in flight. So a process that is killed loses at most
these, as many that the caller has just taken, and ``concurrency``."""
ALIVE = 2
"""Requests alive for each place in flight: one that waits to be tried again leaves its place to another."""
MALFORMED_RETRIES = 3
LONGEST_WAIT_SECONDS = 120.0
"""A server that asks for a longer one refuses."""
_WAIT = wait_exponential_jitter(multiplier=0.5, max=8.0, jitter=0.5)
_PASSING = (openai.APIConnectionError, openai.ConflictError, openai.RateLimitError, openai.InternalServerError)

NEUTRAL = {"top_p": 1, "frequency_penalty": 0, "presence_penalty": 0}
NEUTRAL_EXTRA = {"top_k": -1, "min_p": 0, "repetition_penalty": 1}
"""Sampling that changes nothing; the second are parameters of vLLM and SGLang, which OpenAI's API does not know."""


Asked = TypeVar("Asked", bound=Question)
Result = TypeVar("Result")
Start = Callable[[Coroutine[Any, Any, Result]], Future[Result]]


class Endpoint(Generic[Asked]):
    """Keeps ``concurrency`` requests in flight. The key comes from the named variable alone and is never written."""

    batch_size = 1

    def __init__(
        self,
        server: EndpointConfig,
        model: str,
        where: str,
        settings: Callable[[Asked], dict[str, Any]],
        image_max_pixels: int | None,
        image_min_pixels: int | None = None,
    ) -> None:
        """``settings`` are the sampling of each request; ``where`` is the server's key in the configuration.

        Sampling that they leave out is sent as neutral, unless the server's section says otherwise. ``budget`` may be
        told what was paid for before. Raises ConfigError if the key's variable is not set.
        """
        self.server, self.model, self.where = server, model, where
        self.settings, self.pixels = settings, (image_max_pixels, image_min_pixels)
        self.budget = Budget(where, server.price_per_million, server.max_price)
        self.answered = False
        self.key = api_key(server.api_key_env, where)
        for name in ("httpx2", "httpx", "openai"):
            logging.getLogger(name).setLevel(logging.WARNING)  # one line per request otherwise

    def sample(self, requests: Iterable[Asked]) -> Generator[tuple[Asked, Reply], None, None]:
        """Replies as they come, however long the caller takes for each; ``requests`` are read in another thread.

        Raises ServiceError: no such server, or it refuses the key or the model; ConfigError: `max_price` is reached.
        """
        finished: Finished[Asked] = asyncio.Queue(HANDED)
        with _beside(_Asking(self, iter(requests), finished).run()) as start:
            while True:
                for item in start(_ready(finished)).result():
                    if item is None:
                        return
                    if isinstance(item, Exception):
                        raise item
                    yield item

    def sent(self, request: Asked, urls: list[str]) -> dict[str, Any]:
        """A request's body: all turns with their images; the sampling under the names that the server knows."""
        server = self.server
        given = {**(NEUTRAL | NEUTRAL_EXTRA if server.neutral else {}), **self.settings(request)}
        kept = {name: value for name, value in given.items() if name not in server.omit}
        if "max_tokens" in kept:
            kept[server.token_limit] = kept.pop("max_tokens")
        extra = {name: kept.pop(name) for name in NEUTRAL_EXTRA if name in kept} | server.extra_body
        images = iter(urls)
        turns = [{**message, "content": _content(message, images)} for message in messages(request)]
        system = [] if server.system is None else [{"role": "system", "content": server.system}]
        return {"model": self.model, "messages": [*system, *turns], **kept, "extra_body": extra}


Finished = asyncio.Queue[tuple[Asked, Reply] | Exception | None]


class _Asking(Generic[Asked]):
    """One call of `sample`, inside its event loop."""

    def __init__(self, endpoint: Endpoint[Asked], requests: Iterator[Asked], finished: Finished[Asked]) -> None:
        config = endpoint.server
        self.endpoint, self.requests, self.finished = endpoint, requests, finished
        self.servers = Servers(config, endpoint.model, endpoint.where, endpoint.key)
        self.places = asyncio.Semaphore(config.concurrency)
        self.pace, self.tokens = Pace(config.requests_per_minute), Tokens(config.tokens_per_minute)
        self.refused: ServiceError | None = None
        self.encoded: tuple[list[bytes], asyncio.Task[list[str]]] | None = None

    async def run(self) -> None:
        """All requests; then None, or what ended it, goes to the caller."""
        end: Exception | None = None
        try:
            async with self.servers.connected():
                await self._answer_all()
        except Exception as error:
            end = error
        await self.finished.put(end)

    async def _answer_all(self) -> None:
        async def work() -> None:
            for request in self.requests:
                await self._answer(request)

        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(ALIVE * self.endpoint.server.concurrency):
                    workers.create_task(work())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _answer(self, request: Asked) -> None:
        """The caller gets its reply, or its error once it was tried often enough."""
        sent = self.endpoint.sent(request, await self._urls(images_of(request)))
        again = AsyncRetrying(retry=retry_if_exception(_passing), wait=_wait, stop=self._enough(), reraise=True)
        try:
            await again(self._try, request, sent)
        except (openai.APIError, MalformedReplyError) as error:
            if isinstance(error, MalformedReplyError) and error.page and not self.endpoint.answered:
                raise no_completion(self.endpoint.where, ", ".join(self.endpoint.server.urls)) from None
            await self.finished.put((request, Reply(error=self.servers.message(error))))

    async def _try(self, request: Asked, sent: dict[str, Any]) -> None:
        """One attempt. It keeps its place in flight until the caller has room for the reply."""
        limit, budget, reply = sent.get(self.endpoint.server.token_limit), self.endpoint.budget, None
        async with self.places:
            if self.refused:
                raise self.refused
            await self.pace.take(1)
            expected, held = await self.tokens.take(limit), await budget.hold(limit)
            try:
                reply = await self._reply(sent)
                await self.finished.put((request, reply))
            finally:
                self.tokens.correct(expected, reply)
                budget.settle(held, reply)

    async def _reply(self, sent: dict[str, Any]) -> Reply:
        server = self.servers.next()
        try:
            with server.asked():
                raw = await server.client.chat.completions.with_raw_response.create(**sent)
                reply = read_completion(raw.content)
        except HOPELESS as error:
            self.refused = self.servers.refused(server, error)  # also of those that wait for this place
            raise self.refused from None
        except openai.APIError as error:
            self.servers.require_accepted(
                server, error, [*NEUTRAL_EXTRA, *NEUTRAL] if self.endpoint.server.neutral else []
            )
            raise
        self.endpoint.answered = True
        return reply

    async def _urls(self, images: list[bytes]) -> list[str]:
        """Encoded once for all requests in a row that have the same."""
        if self.encoded is None or self.encoded[0] != images:
            self.encoded = images, asyncio.create_task(asyncio.to_thread(_urls, images, self.endpoint.pixels))
        return await self.encoded[1]

    def _enough(self) -> Callable[[RetryCallState], bool]:
        """When to give up one request; of its tries, those with a malformed reply are counted for themselves."""
        malformed, retries = itertools.count(1), self.endpoint.server.max_retries

        def enough(state: RetryCallState) -> bool:
            error, often = _error(state), False
            if isinstance(error, MalformedReplyError):
                often = next(malformed) > (MALFORMED_RETRIES if self.endpoint.answered or not error.page else 1)
            return often or state.attempt_number > retries or (_asked_wait(error) or 0) > LONGEST_WAIT_SECONDS

        return enough


async def _ready(finished: Finished[Asked]) -> list[tuple[Asked, Reply] | Exception | None]:
    """All that is there, once anything is."""
    ready = [await finished.get()]
    while not finished.empty():
        ready.append(finished.get_nowait())
    return ready


@contextlib.contextmanager
def _beside(main: Coroutine[Any, Any, None]) -> Iterator[Start[Any]]:
    """``main`` in a thread of its own, which goes on whatever the caller does meanwhile; what starts more beside it."""
    running: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def stay() -> None:
        end = asyncio.Event()
        running.set_result((asyncio.get_running_loop(), end))
        task = asyncio.create_task(main)
        await end.wait()
        task.cancel()  # once, and to its end: a second time would leave connections open
        await asyncio.gather(task, return_exceptions=True)

    thread = threading.Thread(target=lambda: asyncio.run(stay()), name="endpoint", daemon=True)
    thread.start()
    loop, end = running.result()
    try:
        yield lambda more: asyncio.run_coroutine_threadsafe(more, loop)
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()


def _content(message: Message, urls: Iterator[str]) -> str | list[dict[str, Any]]:
    """A user's blocks with the next images; an answer is plain text, which every server takes."""
    blocks = message["content"]
    if message["role"] == "assistant":
        return "".join(block["text"] for block in blocks)
    return [
        {"type": "image_url", "image_url": {"url": next(urls)}} if block == IMAGE else dict(block) for block in blocks
    ]


def _urls(images: list[bytes], pixels: tuple[int | None, int | None]) -> list[str]:
    return [data_url(image, *pixels) for image in images]


def _passing(error: BaseException) -> bool:
    """Whether the same request may go well a little later."""
    return isinstance(error, (*_PASSING, MalformedReplyError)) or getattr(error, "status_code", None) == 408


def _wait(state: RetryCallState) -> float:
    """As long as the server asks for, else longer each time."""
    asked = _asked_wait(_error(state))
    return _WAIT(state) if asked is None else asked


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _asked_wait(error: BaseException | None) -> float | None:
    """Seconds of the headers `retry-after-ms` and `retry-after`; None if there is none, or it is a date."""
    if not isinstance(error, openai.APIStatusError):
        return None
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        with contextlib.suppress(KeyError, ValueError):
            if (seconds := float(error.response.headers[name]) * unit) >= 0:
                return seconds
    return None


def api_key(variable: str | None, where: str) -> str | None:
    """The key in an environment variable; None where none is named. Raises ConfigError if it is not set."""
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise ConfigError(
            f"{where}.api_key_env: the environment variable '{variable}' is not set; export it, "
            "or remove api_key_env for a server without keys"
        )
    return key


def is_completion(answer: Any) -> bool:
    """Whether a server's answer is a chat completion; a web page comes through the client as text."""
    choices = getattr(answer, "choices", None)
    return isinstance(choices, list) and all(getattr(choice, "message", None) is not None for choice in choices)


def no_completion(where: str, url: str) -> ServiceError:
    """The error for a server that answers with something else, such as a web page."""
    return ServiceError(
        f"{where}: {url} answers, but with no chat completion (a web page?); correct base_url, which often ends in /v1"
    )
