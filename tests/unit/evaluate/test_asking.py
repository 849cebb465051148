"""A question to a model outside any benchmark: the same engine and template, and a dialogue that goes on."""

import random
from pathlib import Path

import pytest

from drift.config.evaluate import EvaluateConfig
from drift.evaluate.answering import open_model, replies
from drift.evaluate.asking import NO_BENCHMARK, dialogue
from drift.evaluate.questions import Question
from drift.ground.errors import ServiceError
from drift.inference.turns import Turn
from drift.planning.miniature import render, world
from drift.planning.miniature.world import Split
from tests.openai_server import OpenAIServer
from tests.world import TEACHER

RNG = random.Random(3)
SCENE = world.sample_scene(RNG, Split.TRAIN)
IMAGE = render.scene_png(SCENE, Split.TRAIN, RNG)
PROBLEM = world.compute(SCENE, world.sample_problem_in(SCENE, RNG, 2, Split.TRAIN), chain=True)


def config(**more: object) -> EvaluateConfig:
    return EvaluateConfig(**NO_BENCHMARK, **{"dtype": "float32", "threads": 1, "max_new_tokens": 64, **more})


def test_a_checkpoint_answers_a_person_as_it_answers_an_evaluation_with_its_thinking_apart(tmp_path: Path):
    asked = Question("Sums", "1", PROBLEM.question, IMAGE, (1, 1))
    (measured,) = replies(open_model(TEACHER, config()), [asked])
    with dialogue(config(), str(TEACHER), tmp_path) as opened:
        answer = opened.ask(PROBLEM.question, [IMAGE])
    assert measured.text == f"<think> {answer.thinking} </think> {answer.answer}"
    assert answer.answer.startswith("\\boxed{") and "=" in str(answer.thinking)
    assert (answer.tokens, answer.finish_reason) == (measured.completion_tokens, "stop") and answer.seconds > 0


def test_a_later_question_is_read_after_the_earlier_ones_with_all_their_pictures():
    model = open_model(TEACHER, config(max_new_tokens=1))
    first = Turn("read all", [IMAGE])
    second = Turn("value of a ?", [IMAGE], before=((first, "a 1"),))
    alone, earlier, both = (model.replies([turn])[0] for turn in (Turn("value of a ?", [IMAGE]), first, second))
    processed = model.processor(text="<|im_start|>assistant\na 1<|im_end|>\n", add_special_tokens=False)
    prompts = [int(reply.prompt_tokens or 0) for reply in (alone, earlier, both)]
    opened = len(model.processor.tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"])
    assert prompts[2] == prompts[0] + prompts[1] - opened + len(processed["input_ids"][0])


def test_a_server_gets_the_dialogue_without_its_thinking_and_a_failed_question_is_no_part_of_it(tmp_path: Path):
    said = {"content": "<think> so </think> one", "finish_reason": "length"}
    with OpenAIServer(lambda body: said, status=lambda number: 400 if number == 2 else 200) as server:
        asks = config(endpoint={"base_url": server.url, "max_retries": 0}, instruction="Be brief.")
        with dialogue(asks, "served", tmp_path) as opened:
            first = opened.ask("How many?", [IMAGE])
            with pytest.raises(ServiceError, match=r"^served: no answer \(BadRequestError"):
                opened.ask("refused", [])
            opened.ask("Sure?", [])
            opened.forget()
            opened.ask("Hello", [])
    assert (first.thinking, first.answer, first.tokens, first.finish_reason) == ("so", "one", 5, "length")
    third, last = (body["messages"] for body in server.requests[2:])
    assert [turn["role"] for turn in third] == ["user", "assistant", "user"]
    assert [part["type"] for part in third[0]["content"]] == ["image_url", "text"]
    assert third[1]["content"] == "one"
    assert third[2]["content"] == [{"type": "text", "text": "Sure?\nBe brief."}]
    assert [turn["content"][0]["text"] for turn in last] == ["Hello\nBe brief."]
    assert server.requests[0]["temperature"] == 0 and "seed" not in server.requests[0]
