"""What servers send in place of a completion: tried again, counted when it stays so, and never a traceback."""

import io
import json
import threading
import time
from collections import Counter

import pytest
from PIL import Image

from drift.config.servers import EndpointConfig
from drift.data.chains.requests import Request
from drift.inference import endpoint as module
from drift.inference.completion import MalformedReplyError, read_completion
from drift.inference.endpoint import HANDED, Endpoint
from tests.openai_server import Body, OpenAIServer, chain, question

buffer = io.BytesIO()
Image.new("RGB", (30, 30)).save(buffer, "PNG")
IMAGE = buffer.getvalue()


def body(choices: object = None, **more: object) -> bytes:
    """A completion with one choice, or with other ``choices``."""
    choices = choices or [{"finish_reason": "stop", "message": {"content": "\\boxed{1}"}}]
    return json.dumps({"id": "c", "choices": choices, **more}).encode()


def message(**fields: object) -> bytes:
    return body([{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", **fields}}])


MALFORMED = {
    "a page": "<html>502 upstream</html>",
    "plain text": "ok",
    "nothing": b"",
    "cut JSON": b'{"id": "c", "choices": [{"ind',
    "JSON without end": b"[" * 100_000,
    "a number too long": b"1" * 10_000,
    "no object": b"[]",
    "an empty object": b"{}",
    "bytes": b"\xff\xfe\x00",
    "an error with status 200": b'{"error": {"message": "internal", "code": 500}}',
    "choices null": b'{"choices": null}',
    "choices empty": b'{"choices": []}',
    "choices a text": b'{"choices": "none"}',
    "choice null": b'{"choices": [null]}',
    "message null": body([{"message": None}]),
    "message a text": body([{"message": "hello"}]),
    "content a number": message(content=42),
    "content an object": message(content={"text": "a"}),
    "a block with a number": message(content=[{"type": "text", "text": 42}]),
}
READ = {
    "blocks": (message(content=[{"type": "text", "text": "a"}, {"type": "image_url"}, "b"]), "ab", None),
    "no content": (message(content=None), "", None),
    "tool calls": (message(content=None, tool_calls=[{"id": "1"}]), "", None),
    "reasoning": (message(content="a", reasoning="because"), "a", "because"),
    "reasoning in blocks": (message(content="a", reasoning_content=[{"text": "because"}]), "a", "because"),
    "reasoning an object": (message(content="a", reasoning={"effort": 1}), "a", None),
    "a lone surrogate": (message(content="a\ud83d b"), "a? b", None),
    "NUL": (message(content="a\u0000b"), "a\u0000b", None),
    "usage null": (body(usage=None), "\\boxed{1}", None),
    "usage a text": (body(usage={"prompt_tokens": "3"}), "\\boxed{1}", None),
    "a finish reason that is a list": (body([{"finish_reason": [], "message": {"content": "a"}}]), "a", None),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_what_is_no_completion_is_said_on_one_short_line(kind):
    sent = MALFORMED[kind]
    with pytest.raises(MalformedReplyError) as raised:
        read_completion(sent.encode() if isinstance(sent, str) else sent)
    assert 0 < len(str(raised.value)) < 200 and "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", READ)
def test_what_is_one_in_another_form_is_read(kind):
    sent, text, reasoning = READ[kind]
    reply = read_completion(sent)
    assert (reply.text, reply.reasoning, reply.error, reply.prompt_tokens) == (text, reasoning, None, None)


def requests(count: int) -> list[Request]:
    return [Request(str(number), 0, f"question {number}", [IMAGE], seed=number) for number in range(count)]


def served(url: str, **more: object) -> Endpoint[Request]:
    config = EndpointConfig(base_url=url, **{"concurrency": 8, "max_retries": 3, **more})
    return Endpoint(config, "served", "generate.teacher", lambda request: {"seed": request.seed}, None)


@pytest.fixture
def quick(monkeypatch):
    """Without the waits between two tries."""
    monkeypatch.setattr(module, "_WAIT", lambda state: 0.0)


def odd_at_first(times: int):
    """Question n gets a reply of the n-th malformed kind so many times, and then a good one; before all, a good one."""
    asked: Counter[str] = Counter()
    kinds = [chain, *(lambda body, sent=sent: sent for sent in MALFORMED.values()), lambda body: None]
    lock, begun = threading.Lock(), threading.Event()

    def answer(body: Body):
        number = int(question(body).split()[1])
        with lock:
            asked[question(body)] += 1
            good = asked[question(body)] > times
        if number:
            begun.wait(10)
        reply = chain(body) if good else kinds[number](body)
        if not number:
            begun.set()
        return reply

    return answer, len(kinds)


def test_every_odd_reply_is_tried_again_and_its_key_kept(quick):
    answer, kinds = odd_at_first(2)
    with OpenAIServer(answer) as server:
        replies = {request.id: reply for request, reply in served(server.url).sample(requests(kinds))}
    assert len(replies) == kinds == len(server.requests) - 2 * (kinds - 1)
    assert {reply.error for reply in replies.values()} == {None}


def test_one_that_stays_odd_is_a_counted_failure_that_says_what_came(quick):
    answer, kinds = odd_at_first(100)
    with OpenAIServer(answer) as server:
        replies = {request.id: reply for request, reply in served(server.url).sample(requests(kinds))}
    said = [replies[str(number)].error or "" for number in range(1, kinds)]
    assert replies["0"].error is None
    assert [error.partition(":")[0] for error in said] == ["MalformedReplyError"] * len(MALFORMED) + [
        "APIConnectionError"
    ]
    assert "502 upstream" in said[0] and all(len(error) <= 200 and "\n" not in error for error in said)
    assert len(server.requests) == 1 + 4 * (kinds - 1), "three more tries each"


def test_odd_replies_are_counted_for_themselves_among_other_failures(quick):
    """Three refusals, three odd replies, then a good one: neither limit is passed."""
    pages = iter(["<html>", "<html>", "<html>"])
    with OpenAIServer(
        lambda body: next(pages, chain(body)), status=lambda number: 500 if number < 4 else 200
    ) as server:
        endpoint = served(server.url, max_retries=6)
        endpoint.answered = True
        ((_, reply),) = endpoint.sample(requests(1))
    assert (reply.error, len(server.requests)) == (None, 7)


def test_a_server_that_wants_a_long_wait_has_refused():
    with OpenAIServer(status=lambda number: 429 if number == 1 else 200, retry_after=600) as server:
        replies = [reply.error for _, reply in served(server.url, concurrency=1).sample(requests(2))]
    assert sorted(str(error)[:14] for error in replies) == ["None", "RateLimitError"]
    assert len(server.requests) == 2


def test_a_request_that_waits_to_be_tried_again_leaves_its_place_to_others(monkeypatch):
    """One place, and the first question is refused until the second is answered."""
    monkeypatch.setattr(module, "_WAIT", lambda state: 0.05)
    answered = threading.Event()

    def answer(body: Body):
        if question(body) == "question 1":
            answered.set()
            return chain(body)
        return chain(body) if answered.is_set() else "<html>busy</html>"

    with OpenAIServer(answer) as server:
        endpoint = served(server.url, concurrency=1)
        endpoint.answered = True
        replies = [(request.id, reply.error) for request, reply in endpoint.sample(requests(2))]
    assert replies == [("1", None), ("0", None)]
    assert server.most_in_flight == 1


def test_a_caller_that_takes_its_time_holds_the_server_up(quick):
    """What is answered and not yet taken would be lost in a process that is killed."""
    with OpenAIServer() as server:
        replies = served(server.url).sample(requests(200))
        next(replies)
        before = -1
        while before < (before := len(server.requests)):
            time.sleep(0.3)
        assert 8 < before <= 8 + 2 * HANDED
        assert len(list(replies)) == 199


def test_images_of_requests_in_a_row_are_encoded_once(monkeypatch):
    encoded = []
    monkeypatch.setattr(module, "data_url", lambda image, *pixels: encoded.append(image) or "data:image/png;base64,AA")
    asked = [Request(str(number // 4), number % 4, "how many?", [IMAGE], seed=number) for number in range(12)]
    other = [Request("other", 0, "how many?", [IMAGE + b"\0"], seed=0)]
    with OpenAIServer() as server:
        assert len(list(served(server.url).sample([*asked, *other]))) == 13
    assert encoded == [IMAGE, IMAGE + b"\0"]
