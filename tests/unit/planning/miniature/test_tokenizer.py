import random
from typing import Any

import pytest
import torch

from drift.planning.miniature import dialogs, measure, models, render, world
from drift.planning.miniature import tokenizer as tk
from drift.planning.miniature.dialogs import Dialog
from drift.planning.miniature.world import Expression, Scene, Split

SCENE = Scene((("c", 2), ("a", 3), ("d", 5), ("b", 0)))
CHAIN = world.compute(SCENE, Expression(("c", "a", "b"), ("-", "*")), chain=True)
IMAGE = render.scene_image(SCENE, Split.TEST, [0, 1, 2, 3]).convert("RGB")


@pytest.fixture(scope="module")
def processor() -> Any:
    return tk.build_processor()


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image", "image": IMAGE}, {"type": "text", "text": text}]}


def test_a_chain_survives_encoding_and_decoding(processor: Any):
    ids = processor.tokenizer(CHAIN.answer + tk.END)["input_ids"]
    decoded = processor.tokenizer.decode(ids, skip_special_tokens=True)
    assert decoded == "<think> c 2 - a 3 = 6 ; 6 * b 0 = 0 </think> \\boxed{ 0 }"
    assert measure.final_answer(decoded) == "0"
    assert processor.tokenizer.unk_token_id not in ids


def test_any_text_encodes_with_unknown_words(processor: Any):
    text = "Solve it, step-by-step:\n∫ f(x) dx = \\frac{1}{2} 你好 \\boxed{12}"
    ids = processor.tokenizer(text)["input_ids"]
    assert processor.tokenizer.unk_token_id in ids
    assert processor.tokenizer("")["input_ids"] == []


def test_the_mask_covers_the_assistants_text_and_its_end_token(processor: Any):
    messages = [user(CHAIN.question), {"role": "assistant", "content": CHAIN.answer}]
    inputs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", return_assistant_tokens_mask=True
    )
    masked = inputs["input_ids"][torch.as_tensor(inputs["assistant_masks"]).bool()]
    expected = "<think> c 2 - a 3 = 6 ; 6 * b 0 = 0 </think> \\boxed{ 0 } <|im_end|>"
    assert processor.tokenizer.decode(masked) == expected


@pytest.mark.parametrize("image", [True, False])
def test_training_batches_equal_the_chat_template(processor: Any, image: bool):
    exchanges = [CHAIN, world.read_out(SCENE)]
    first = user(CHAIN.question) if image else {"role": "user", "content": f"[ {SCENE.text} ] {CHAIN.question}"}
    messages = [first, {"role": "assistant", "content": CHAIN.answer}]
    messages += [
        {"role": "user", "content": exchanges[1].question},
        {"role": "assistant", "content": [{"type": "text", "text": exchanges[1].answer}]},
    ]
    template = processor.apply_chat_template if image else processor.tokenizer.apply_chat_template
    inputs = template(messages, tokenize=True, return_dict=True, return_tensors="pt", return_assistant_tokens_mask=True)
    batch = dialogs.dialog_batch([Dialog(SCENE, exchanges, image)], random.Random(0))
    assert torch.equal(batch["input_ids"], inputs["input_ids"])
    assert torch.equal(batch["labels"] != dialogs.IGNORED, torch.as_tensor(inputs["assistant_masks"]).bool())
    assert all(torch.equal(batch[key], inputs[key]) for key in ("mm_token_type_ids", "image_grid_thw") if image)


def test_only_results_of_facts_are_learned():
    batch = dialogs.fact_batch([["3 - 5 = 5", "2 * 3 = 6"]])
    learned = batch["input_ids"][batch["labels"] != dialogs.IGNORED]
    assert dialogs.shared_tokenizer().decode(learned) == "5 6"


def test_a_left_padded_batch_generates_what_each_prompt_generates_alone(processor: Any):
    torch.manual_seed(0)
    model = models.new_vlm(models.new_text_model().state_dict()).eval()
    prompts = [[user("value of c ?")], [user("compute c - a * b")]]

    def generate(messages: list[Any]) -> list[str]:
        inputs = processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
            processor_kwargs={"padding": True},
        )  # fmt: skip
        output = model.generate(**inputs, max_new_tokens=8)[:, inputs["input_ids"].shape[1] :]
        return list(processor.batch_decode(output, skip_special_tokens=True))

    assert generate(prompts) == [generate(prompts[:1])[0], generate(prompts[1:])[0]]
