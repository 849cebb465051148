"""What a server may be asked: requests and tokens a minute, and a price that is not passed."""

from __future__ import annotations

import asyncio
import time

from drift.config.servers import PriceConfig
from drift.ground.errors import ConfigError
from drift.inference.reply import Reply

LOOK_SECONDS = 0.1
"""From one look at a limit to the next."""


class Pace:
    """At most so many units a minute, spread evenly: who comes waits until what others took is worked off."""

    def __init__(self, per_minute: float | None) -> None:
        """None is no limit."""
        self._seconds = 60 / per_minute if per_minute else 0.0
        self._free = 0.0
        self._line = asyncio.Lock()

    async def take(self, amount: float) -> None:
        """Wait for one's turn, and take ``amount`` units."""
        if not self._seconds:
            return
        async with self._line:
            while (wait := self._free - time.monotonic()) > 0:
                await asyncio.sleep(min(wait, LOOK_SECONDS))
            self._free = time.monotonic() + amount * self._seconds

    def correct(self, amount: float) -> None:
        """So many units more were taken than was said, or fewer."""
        self._free += amount * self._seconds


class Budget:
    """What replies have cost, and may: a request is sent only if its bound still fits beside all that are in flight.

    The bound of a reply is its token limit, that of a prompt the longest so far: the first request goes alone.
    """

    def __init__(self, where: str, prices: PriceConfig | None, limit: float | None) -> None:
        self.where, self.limit = where, limit
        self.prices = prices or PriceConfig(prompt=0, completion=0)
        self.spent = 0.0
        self._held: list[float] = []
        self._prompt, self._completion = 0, 0

    def add(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Count what was paid for."""
        self.spent += self.prices.of(prompt_tokens, completion_tokens)

    async def hold(self, max_tokens: int | None) -> float:
        """The bound of one more reply, held back until `settle`, once there is room for it.

        Raises ConfigError where there never will be: nothing is in flight that may cost less than its bound.
        """
        while True:
            bound = self.prices.of(self._prompt, max_tokens or self._completion)
            alone = self._prompt or not self._held
            if self.limit is None or (alone and self.spent + sum(self._held) + bound <= self.limit):
                self._held.append(bound)
                return bound
            if not self._held:
                raise ConfigError(
                    f"{self.where}.max_price: {self.spent:.4g} of {self.limit:g} is spent, and one more reply may cost "
                    f"{bound:.2g}; what was drawn is kept: raise max_price to go on"
                )
            await asyncio.sleep(LOOK_SECONDS)

    def settle(self, bound: float, reply: Reply | None) -> None:
        """Give back what was held for a reply, and count what it cost: its bound if the server does not say."""
        self._held.remove(bound)
        if reply is None:
            return
        if reply.prompt_tokens is None or reply.completion_tokens is None:
            self.spent += bound
            return
        self._prompt = max(self._prompt, reply.prompt_tokens)
        self._completion = max(self._completion, reply.completion_tokens)
        self.add(reply.prompt_tokens, reply.completion_tokens)


class Tokens:
    """Tokens a minute: a reply is taken to be as long as the mean so far, at first as its limit, and corrected."""

    def __init__(self, per_minute: float | None) -> None:
        self._pace = Pace(per_minute)
        self._replies = self._sum = 0

    async def take(self, max_tokens: int | None) -> float:
        """Wait for one's turn; the tokens that were taken."""
        expected = self._sum / self._replies if self._replies else float(max_tokens or 0)
        await self._pace.take(expected)
        return expected

    def correct(self, expected: float, reply: Reply | None) -> None:
        """Once it is known what ``expected`` became; None: no reply."""
        used = (reply.prompt_tokens or 0) + (reply.completion_tokens or 0) if reply else 0
        self._pace.correct(used - expected)
        if reply:
            self._replies, self._sum = self._replies + 1, self._sum + used
