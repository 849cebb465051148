"""Several servers, requests and tokens a minute, and a price that is not passed: against real servers on loopback."""

import threading
import time

import pytest

from drift.config.section import validate
from drift.config.servers import EndpointConfig
from drift.data.chains.requests import Request
from drift.ground.errors import ConfigError, ServiceError
from drift.inference import endpoint as module
from drift.inference.endpoint import Endpoint
from drift.inference.servers import LOST
from tests.openai_server import Body, OpenAIServer, chain

PRICE = {"prompt": 1e6, "completion": 2e6}
"""Of a token 1 and 2: a reply of 10 and 5 tokens costs 20."""


def requests(count: int) -> list[Request]:
    return [Request(str(number), 0, f"question {number}", [], seed=number) for number in range(count)]


def served(url: str | list[str], **more: object) -> Endpoint[Request]:
    config = EndpointConfig(base_url=url, **{"concurrency": 4, "max_retries": 8, **more})
    return Endpoint(config, "served", "here", lambda request: {"seed": request.seed, "max_tokens": 5}, None)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Without the waits between two tries."""
    monkeypatch.setattr(module, "_WAIT", lambda state: 0.0)


# ------------------------------------------------------------------------------------- several servers


def test_requests_go_to_the_server_with_the_fewest_in_flight():
    both = threading.Barrier(2, timeout=10)

    def together(body: Body) -> Body:
        if int(body["seed"]) < 2:
            both.wait()  # the first two are in flight at once: one at each
        return chain(body)

    with OpenAIServer(together) as first, OpenAIServer(together) as second:
        replies = list(served([first.url, second.url], concurrency=2).sample(requests(20)))
    assert len(replies) == 20 == len(first.requests) + len(second.requests)
    assert first.requests and second.requests


def test_a_server_that_is_down_from_the_beginning_is_said_and_left_out(caplog):
    with OpenAIServer() as dead:
        pass
    with OpenAIServer() as alive:
        replies = [reply.error for _, reply in served([dead.url, alive.url]).sample(requests(20))]
    assert replies == [None] * 20 == [None] * len(alive.requests)
    (said,) = [record.message for record in caplog.records if "the others are asked" in record.message]
    assert f"here: {dead.url} does not answer" in said


def test_a_server_that_dies_in_the_middle_ends_nothing():
    with OpenAIServer(lambda body: None) as dying, OpenAIServer() as alive:
        replies = [reply.error for _, reply in served([dying.url, alive.url]).sample(requests(40))]
    assert replies == [None] * 40 == [None] * len(alive.requests)
    assert LOST <= len(dying.requests) <= LOST + 4, "then it is left out for a while"


def test_where_none_answers_the_first_is_named():
    with OpenAIServer() as first, OpenAIServer() as second:
        urls = [first.url, second.url]
    with pytest.raises(ServiceError, match=f"here: {urls[0]} does not answer"):
        list(served(urls).sample(requests(1)))


# ----------------------------------------------------------------------------------- limits of a minute


def test_requests_keep_their_distance_tries_again_included():
    with OpenAIServer(status=lambda number: 500 if number == 2 else 200) as server:
        started = time.monotonic()
        assert len(list(served(server.url, requests_per_minute=600).sample(requests(5)))) == 5
    assert time.monotonic() - started >= 5 * 0.1, "six requests, a tenth of a second apart"


def test_replies_longer_than_the_tokens_of_a_minute_are_waited_for():
    with OpenAIServer() as server:  # 15 tokens a reply; the first are taken to be 5 long, their limit
        started = time.monotonic()
        assert len(list(served(server.url, tokens_per_minute=6000, concurrency=1).sample(requests(5)))) == 5
    assert time.monotonic() - started >= 4 * 0.15


# ----------------------------------------------------------------------------------------------- price


def test_the_run_stops_before_the_price_is_passed_and_gives_what_was_paid_for():
    kept = []
    with OpenAIServer() as server:
        replies = served(server.url, price_per_million=PRICE, max_price=75).sample(requests(20))
        with pytest.raises(ConfigError, match=r"here\.max_price: 60 of 75 is spent, and one more reply may cost 20;"):
            kept.extend(replies)
    assert len(kept) == len(server.requests) == 3  # 3 x 20; a fourth would make 80


def test_what_was_paid_for_before_counts():
    with OpenAIServer() as server:
        endpoint = served(server.url, price_per_million=PRICE, max_price=75)
        endpoint.budget.add(10, 20)  # 50
        with pytest.raises(ConfigError, match=r"70 of 75 is spent, and one more reply may cost 20;"):
            list(endpoint.sample(requests(20)))
    assert len(server.requests) == 1


def test_refused_requests_cost_nothing_and_a_reply_without_usage_its_bound():
    def silent(body: Body) -> bytes:
        return b'{"choices": [{"message": {"content": "a"}}]}'

    with OpenAIServer(silent, status=lambda number: 500 if number % 2 else 200) as server:
        endpoint = served(server.url, price_per_million=PRICE, max_price=45, concurrency=1)
        with pytest.raises(ConfigError, match=r"40 of 45 is spent, and one more reply may cost 10;"):
            list(endpoint.sample(requests(20)))
    assert endpoint.budget.spent == 40  # four replies, each at its limit of 5 tokens at 2


# ------------------------------------------------------------------------------------------ the section


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"base_url": []}, r"^here\.base_url: must be the URL of a server, or a list of some"),
        ({"base_url": 3}, r"^here\.base_url: must be the URL of a server"),
        ({"base_url": "x", "max_price": 1}, r"^here: max_price: needs price_per_million"),
        ({"base_url": "x", "omit": ["temprature"]}, r"^here\.omit\.0: input should be 'temperature', "),
        ({"base_url": "x", "token_limit": "max"}, r"^here\.token_limit: input should be 'max_tokens' or"),
        ({"base_url": "x", "max_price": 0}, r"^here\.max_price: "),
    ],
)
def test_a_wrong_setting_is_one_line_with_its_key(settings, said):
    with pytest.raises(ConfigError, match=said) as raised:
        validate(EndpointConfig, settings, "here")
    assert "\n" not in str(raised.value)
