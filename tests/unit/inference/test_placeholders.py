"""Where images stand in a question: at its placeholders, in front without; for a server, a model here, a training."""

import pytest

from drift.config.data import GenerateConfig
from drift.data.chains.requests import Request
from drift.data.chains.teacher import open_teacher
from drift.inference.placeholders import IMAGE, with_images
from tests.openai_server import OpenAIServer
from tests.pool_rows import png
from tests.world import TEACHER


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


@pytest.mark.parametrize(
    ("question", "images", "blocks"),
    [
        ("who?", 2, [IMAGE, IMAGE, text("who?")]),
        ("a <image> b <image>", 2, [text("a "), IMAGE, text(" b "), IMAGE]),
        ("a <image> b", 2, [IMAGE, IMAGE, text("a <image> b")]),
        ("the tag `<image>`", 1, [IMAGE, text("the tag `<image>`")]),
        ("who?", 0, [text("who?")]),
        ("the tag <image>", 0, [text("the tag <image>")]),
    ],
)
def test_images_stand_at_their_placeholders_or_in_front(question, images, blocks):
    assert with_images(question, images) == blocks


def request(question: str, *images: bytes) -> Request:
    return Request(question, 0, question, list(images), seed=1)


def test_a_server_is_sent_the_image_between_the_words_and_text_alone_where_there_is_none():
    with OpenAIServer() as server:
        teacher = {"kind": "endpoint", "model": "served", "base_url": server.url, "concurrency": 1}
        asked = [request("what is <image> worth?", png()), request("2+2?")]
        list(open_teacher(GenerateConfig(teacher=teacher)).sample(asked))
        alone, between = sorted((body["messages"][-1]["content"] for body in server.requests), key=len)
    assert [block["type"] for block in between] == ["text", "image_url", "text"]
    assert [block.get("text") for block in between] == ["what is ", None, " worth?"]
    assert alone == [text("2+2?")]


@pytest.mark.parametrize("batch", ["text alone", "mixed"])
def test_a_model_here_answers_questions_without_images_too(batch):
    teacher = {"kind": "local", "model": str(TEACHER), "threads": 1}
    asked = [request("compute a + b"), request("compute <image> b", png()), request("compute a", png())]
    asked = asked[:1] if batch == "text alone" else asked
    replies = list(open_teacher(GenerateConfig(teacher=teacher, max_new_tokens=2)).sample(asked))
    assert [reply.error for _, reply in replies] == [None] * len(asked)
