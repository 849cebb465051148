"""A server that is asked: what goes with a request, whoever asks, and what is no answer."""

import io

import pytest
from PIL import Image

from drift.config.data import GenerateConfig
from drift.data.chains.requests import Request
from drift.data.chains.teacher import open_teacher
from drift.ground.errors import ServiceError
from drift.inference.endpoint import NEUTRAL_EXTRA
from tests.openai_server import Body, OpenAIServer, chain


def request() -> Request:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 30)).save(buffer, "PNG")
    return Request("a", 0, "How many?", [buffer.getvalue()], seed=7)


def config(url: str, **more: object) -> GenerateConfig:
    return GenerateConfig(teacher={"kind": "endpoint", "model": "served", "base_url": url, **more}, top_p=0.8)


def test_a_teacher_draws_with_its_own_sampling_and_no_penalty_of_the_server() -> None:
    with OpenAIServer(chain) as server:
        assert len(list(open_teacher(config(server.url)).sample([request()]))) == 1
    (sent,) = server.requests
    assert (sent["temperature"], sent["top_p"], sent["seed"]) == (0.7, 0.8, 7)
    assert {name: sent[name] for name in NEUTRAL_EXTRA} == NEUTRAL_EXTRA
    assert (sent["frequency_penalty"], sent["presence_penalty"]) == (0, 0)


@pytest.mark.parametrize(
    "answer", ["<title>Chat</title>", "", "[]"], ids=["a page", "nothing", "JSON that is no completion"]
)
def test_a_teacher_that_is_a_web_page_is_an_error_of_one_line(answer: str) -> None:
    said = r"generate\.teacher: http://\S+ answers, but with no chat completion \(a web page\?\); correct base_url"
    with (
        OpenAIServer(lambda body: answer, models="<title>Chat</title>") as server,
        pytest.raises(ServiceError, match=said) as raised,
    ):
        list(open_teacher(config(server.url)).sample([request()]))
    assert "\n" not in str(raised.value)


def test_what_reasoning_models_and_servers_want_can_be_set() -> None:
    wanted = {
        "system": "Be brief.",
        "omit": ["temperature", "top_p", "min_p"],
        "token_limit": "max_completion_tokens",
        "extra_body": {"top_k": 20, "chat_template_kwargs": {"enable_thinking": True}},
    }
    with OpenAIServer(chain) as server:
        assert len(list(open_teacher(config(server.url, **wanted)).sample([request()]))) == 1
    (sent,) = server.requests
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    assert sent["messages"][1]["content"][-1]["text"] == "How many?"
    assert not {"temperature", "top_p", "min_p", "max_tokens"} & set(sent)
    assert (sent["max_completion_tokens"], sent["seed"]) == (4096, 7)
    assert (sent["top_k"], sent["repetition_penalty"]) == (20, 1)
    assert sent["chat_template_kwargs"] == {"enable_thinking": True}


@pytest.mark.parametrize(
    ("parameter", "remedy"),
    [("max_tokens", r"token_limit: max_completion_tokens"), ("temperature", r"omit: \[temperature\]")],
)
def test_a_parameter_that_the_model_does_not_take_stops_at_once_with_the_remedy(parameter: str, remedy: str) -> None:
    error = {"message": f"'{parameter}' is not supported", "code": "unsupported_parameter", "param": parameter}
    with (
        OpenAIServer(chain, status=lambda number: 400, refusal=error) as server,
        pytest.raises(
            ServiceError, match=rf"refuses the parameter '{parameter}': .*; set generate\.teacher\.{remedy}$"
        ),
    ):
        list(open_teacher(config(server.url)).sample([request()]))
    assert len(server.requests) == 1


def test_an_answer_without_content_is_empty() -> None:
    def empty(body: Body) -> Body:
        return {"content": None}

    with OpenAIServer(empty) as server:
        ((_, reply),) = open_teacher(config(server.url)).sample([request()])
    assert (reply.text, reply.error) == ("", None)
