"""A server that speaks OpenAI's chat completions: many requests in flight, retried by the client."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar

import openai

from drift.config.servers import EndpointConfig
from drift.ground.errors import ConfigError, ServiceError, UnavailableError
from drift.inference.images import data_url
from drift.inference.placeholders import IMAGE, with_images
from drift.inference.reply import Reply

CHECK_SECONDS = 30.0

NEUTRAL = {"top_p": 1, "frequency_penalty": 0, "presence_penalty": 0}
NEUTRAL_EXTRA = {"top_k": -1, "min_p": 0, "repetition_penalty": 1}
"""Sampling that changes nothing; the second are parameters of vLLM and SGLang, which OpenAI's API does not know."""

_HOPELESS = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
"""Refusals that every further request would meet as well."""


class Question(Protocol):
    """What is asked: the user's text and encoded images."""

    @property
    def text(self) -> str: ...

    @property
    def images(self) -> list[bytes]: ...


Asked = TypeVar("Asked", bound=Question)


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

        Sampling that they leave out is sent as neutral, unless the server's section says otherwise.

        Raises ConfigError if the key's variable is not set.
        """
        self.server, self.model, self.where = server, model, where
        self.settings, self.pixels = settings, (image_max_pixels, image_min_pixels)
        self.answered = False
        self.key = api_key(server.api_key_env, where)
        for name in ("httpx2", "httpx", "openai"):
            logging.getLogger(name).setLevel(logging.WARNING)  # one line per request otherwise

    def sample(self, requests: Iterable[Asked]) -> Generator[tuple[Asked, Reply], None, None]:
        """Replies as they come. Raises ServiceError: no such server, or it refuses the key or the model."""
        with asyncio.Runner() as runner:
            answers = self._answers(iter(requests))

            async def following() -> tuple[Asked, Reply] | None:
                return await anext(answers, None)

            try:
                while answered := runner.run(following()):
                    yield answered
            finally:
                runner.run(answers.aclose())

    async def _answers(self, requests: Iterator[Asked]) -> AsyncGenerator[tuple[Asked, Reply], None]:
        client = openai.AsyncOpenAI(
            base_url=self.server.base_url,
            api_key=self.key or "none",
            timeout=self.server.timeout_seconds,
            max_retries=self.server.max_retries,
        )
        finished: asyncio.Queue[tuple[Asked, Reply] | BaseException | None] = asyncio.Queue()

        async def work() -> None:
            try:
                for request in requests:
                    await finished.put((request, await self._ask(client, request)))
            except BaseException as error:
                await finished.put(error)
                raise
            await finished.put(None)

        async with client:
            await self._check(client)
            workers = [asyncio.create_task(work()) for _ in range(self.server.concurrency)]
            try:
                async for answered in _until_all_end(finished, len(workers)):
                    yield answered
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _check(self, client: openai.AsyncOpenAI) -> None:
        """One cheap request with one retry, so that an unreachable server shows within seconds."""
        seconds = min(CHECK_SECONDS, self.server.timeout_seconds)
        try:
            await client.with_options(max_retries=1, timeout=seconds).models.with_raw_response.list()
        except (openai.APIConnectionError, openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise self._refused(error) from None
        except openai.APIError:
            pass  # it answers, if not this question

    async def _ask(self, client: openai.AsyncOpenAI, request: Asked) -> Reply:
        content: Any = await asyncio.to_thread(self._content, request)
        try:
            completion = await client.chat.completions.create(
                model=self.model, messages=[{"role": "user", "content": content}], **self._sampling(request)
            )
        except _HOPELESS as error:
            raise self._refused(error) from None
        except openai.APIError as error:
            self._require_accepted(error)
            return Reply(error=self._message(error))
        except ValueError:  # JSON by its header alone
            completion = None
        return self._read(completion)

    def _sampling(self, request: Asked) -> dict[str, Any]:
        given = self.settings(request)
        return {**NEUTRAL, **given, "extra_body": NEUTRAL_EXTRA} if self.server.neutral else given

    def _read(self, completion: Any) -> Reply:
        """Raises ServiceError for what is no completion, if none came before: every further one would be the same."""
        if is_completion(completion):
            self.answered = True
            return _reply(completion)
        if not self.answered:
            raise no_completion(self.where, self.server.base_url)
        return Reply(error="the server sent no chat completion, but a page or another thing")

    def _require_accepted(self, error: openai.APIError) -> None:
        """Raise ServiceError for a server that does not know a neutral parameter: it refuses every request."""
        if not (self.server.neutral and isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError)):
            return
        if refused := next((name for name in (*NEUTRAL_EXTRA, *NEUTRAL) if name in str(error)), None):
            raise ServiceError(
                f"{self.where}: {self.server.base_url} refuses the parameter '{refused}': {self._message(error)}; set "
                f"{self.where}.neutral: false, and see that the server adds no penalties of its own"
            ) from None

    def _content(self, request: Asked) -> list[dict[str, Any]]:
        images = ({"url": data_url(image, *self.pixels)} for image in request.images)
        blocks = with_images(request.text, len(request.images))
        return [{"type": "image_url", "image_url": next(images)} if one == IMAGE else one for one in blocks]

    def _refused(self, error: openai.APIError) -> ServiceError:
        where = f"{self.where}: {self.server.base_url}"
        if isinstance(error, openai.APIConnectionError):
            cause = f" ({type(error.__cause__).__name__})" if error.__cause__ else ""
            return UnavailableError(f"{where} does not answer{cause}; start the server or correct base_url")
        hint = "correct model" if isinstance(error, openai.NotFoundError) else "check api_key_env"
        return ServiceError(f"{where} refuses '{self.model}': {self._message(error)}; {hint}")

    def _message(self, error: openai.APIError) -> str:
        message = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return (message.replace(self.key, "***") if self.key else message)[:200]


async def _until_all_end(
    finished: asyncio.Queue[tuple[Asked, Reply] | BaseException | None], workers: int
) -> AsyncIterator[tuple[Asked, Reply]]:
    while workers:
        item = await finished.get()
        if isinstance(item, BaseException):
            raise item
        if item is None:
            workers -= 1
        else:
            yield item


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


def _reply(completion: Any) -> Reply:
    if not completion.choices:
        return Reply(error="the server sent no choice")
    choice, usage = completion.choices[0], completion.usage
    reasoning = getattr(choice.message, "reasoning", None) or getattr(choice.message, "reasoning_content", None)
    return Reply(
        text=_encodable(choice.message.content or ""),
        reasoning=_encodable(reasoning) if reasoning else None,
        finish_reason=choice.finish_reason if choice.finish_reason in {"stop", "length"} else None,
        prompt_tokens=usage.prompt_tokens if usage else None,
        completion_tokens=usage.completion_tokens if usage else None,
    )


def _encodable(text: str) -> str:
    """Without lone surrogates, which JSON can carry and files cannot."""
    return text.encode("utf-8", "replace").decode()
