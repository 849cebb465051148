"""The servers of a section: which one is asked next, whether they answer at all, and what their refusals mean."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import openai

from drift.config.servers import EndpointConfig
from drift.ground.errors import ServiceError, UnavailableError
from drift.inference.completion import MalformedReplyError

logger = logging.getLogger(__name__)

CHECK_SECONDS = 30.0
LOST = 3
"""Requests in a row that a server did not answer, after which the others are asked."""
AWAY_SECONDS = 30.0
"""Until such a server is tried again."""

HOPELESS = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
"""Refusals that every further request would meet as well."""
UNKNOWN = ("unsupported_parameter", "unsupported_value")
"""Codes of an error about a parameter that the model does not take."""


@dataclass
class Server:
    """One address: its requests in flight, and how many it has not answered since it last did."""

    url: str
    client: openai.AsyncOpenAI
    in_flight: int = 0
    lost: int = 0
    back: float = 0.0

    def rank(self) -> tuple[bool, int]:
        """The server with the lowest is asked next."""
        return self.lost >= LOST and time.monotonic() < self.back, self.in_flight

    def leave_out(self, lost: int = LOST) -> None:
        """It did not answer: from `LOST` such requests on, others are asked for a while."""
        self.lost, self.back = lost, time.monotonic() + AWAY_SECONDS

    @contextlib.contextmanager
    def asked(self) -> Iterator[None]:
        """Around a request."""
        self.in_flight += 1
        try:
            yield
            self.lost = 0
        except openai.APIConnectionError:
            self.leave_out(self.lost + 1)
            raise
        except (openai.APIError, MalformedReplyError):
            self.lost = 0
            raise
        finally:
            self.in_flight -= 1


class Servers:
    """All of them, each with its client."""

    def __init__(self, config: EndpointConfig, model: str, where: str, key: str | None) -> None:
        self.config, self.model, self.where, self.key = config, model, where, key
        self.all: list[Server] = []

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """While the block runs. Raises ServiceError: none of them answers, or one refuses the key."""
        seconds = self.config.timeout_seconds
        async with contextlib.AsyncExitStack() as stack:
            for url in self.config.urls:
                client = openai.AsyncOpenAI(
                    base_url=url,
                    api_key=self.key or "none",
                    timeout=openai.Timeout(seconds, connect=min(CHECK_SECONDS, seconds)),
                    max_retries=0,
                )
                self.all.append(Server(url, await stack.enter_async_context(client)))
            await self._check()
            yield

    def next(self) -> Server:
        """The one with the fewest in flight, of those that answer if there are any."""
        return min(self.all, key=Server.rank)

    async def _check(self) -> None:
        """One cheap request with one retry, so that an unreachable server shows within seconds."""
        errors = [error for error in await asyncio.gather(*map(self._reached, self.all)) if error]
        fatal = [error for error in errors if not isinstance(error, UnavailableError)]
        if fatal or len(errors) == len(self.all):
            raise [*fatal, *errors][0]
        for error in errors:
            logger.warning("%s; the others are asked", error)

    async def _reached(self, server: Server) -> ServiceError | None:
        seconds = min(CHECK_SECONDS, self.config.timeout_seconds)
        try:
            await server.client.with_options(max_retries=1, timeout=seconds).models.with_raw_response.list()
        except (openai.APIConnectionError, openai.AuthenticationError, openai.PermissionDeniedError) as error:
            server.leave_out()
            return self.refused(server, error)
        except openai.APIError:
            pass  # it answers, if not this question
        return None

    def refused(self, server: Server, error: openai.APIError) -> ServiceError:
        """The error for a refusal that every request would meet."""
        where = f"{self.where}: {server.url}"
        if isinstance(error, openai.APIConnectionError):
            cause = f" ({type(error.__cause__).__name__})" if error.__cause__ else ""
            return UnavailableError(f"{where} does not answer{cause}; start the server or correct base_url")
        hint = "correct model" if isinstance(error, openai.NotFoundError) else "check api_key_env"
        return ServiceError(f"{where} refuses '{self.model}': {self.message(error)}; {hint}")

    def require_accepted(self, server: Server, error: openai.APIError, neutral: list[str]) -> None:
        """Raise ServiceError for a server that does not take a parameter: it refuses every request.

        Which one is known for ``neutral`` parameters by their name, for others where the server says that it is that.
        """
        if not isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError):
            return
        where = f"{self.where}: {server.url} refuses the parameter"
        if refused := next((name for name in neutral if name in str(error)), None):
            raise ServiceError(
                f"{where} '{refused}': {self.message(error)}; set {self.where}.neutral: false, and see that the server "
                "adds no penalties of its own"
            ) from None
        if error.code in UNKNOWN and error.param:
            limit = error.param == self.config.token_limit == "max_tokens"
            remedy = "token_limit: max_completion_tokens" if limit else f"omit: [{error.param}]"
            raise ServiceError(f"{where} '{error.param}': {self.message(error)}; set {self.where}.{remedy}") from None

    def message(self, error: Exception) -> str:
        """An error on one line, without the key."""
        message = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return (message.replace(self.key, "***") if self.key else message)[:200]
