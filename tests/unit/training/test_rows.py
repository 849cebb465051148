"""Rows as people have them: several turns, a system's word, images anywhere or nowhere; a bad one is one line."""

import base64
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from drift.config.train import TrainConfig
from drift.data.rows import Chat, read_rows
from drift.ground.errors import DataError
from drift.inference.images import conversation
from drift.training.batches.collate import IGNORE, AnswerCollator, TrainingRows
from drift.training.fit import Job, fit
from drift.weights.modeling import load_processor, load_vlm
from tests.pool_rows import png
from tests.world import VLM

PAD = "<|vision_start|><|image_pad|><|vision_end|>"
EXCHANGE = [("user", "read all"), ("assistant", "a1 b2")]
ANSWER = ("assistant", "a1")


@pytest.fixture
def processor():
    return load_processor(VLM)


def turns(*said):
    return [{"role": role, "content": content} for role, content in said]


def row(*said, id="one", **more):
    return {"id": id, "messages": turns(*(said or EXCHANGE)), **more}


def write(folder, *rows):
    pq.write_table(pa.Table.from_pylist(list(rows)), folder / "train.parquet")
    return folder


def batch_of(folder, processor):
    rows = TrainingRows(folder, processor, TrainConfig())
    return AnswerCollator(processor)([rows[place] for place in range(len(rows))])


def learned(batch, processor, place=0):
    labels = batch["labels"][place]
    return processor.tokenizer.decode(labels[labels != IGNORE])


def chat(folder, processor):
    (only,) = read_rows(folder, processor)
    return "".join(piece.text for piece in Chat(processor).rendered(only)["pieces"])


def test_a_row_of_text_alone_is_a_row(tmp_path, processor):
    batch = batch_of(write(tmp_path, row()), processor)
    assert "pixel_values" not in batch
    assert learned(batch, processor) == "a1 b2 <|im_end|>"


@pytest.mark.parametrize("none", [None, []])
def test_rows_with_images_and_without_are_one_set(tmp_path, processor, none):
    folder = write(tmp_path, row(images=[{"bytes": png(), "path": None}]), row(id="two", images=none))
    rows = TrainingRows(folder, processor, TrainConfig())
    assert rows.pictured and [len(one["images"]) for one in rows.rows] == [1, 0]
    batch = AnswerCollator(processor)([rows[0], rows[1]])
    assert [learned(batch, processor, place) for place in (0, 1)] == ["a1 b2 <|im_end|>"] * 2
    assert batch["image_grid_thw"].shape == (1, 3)


def test_every_answer_of_several_turns_is_learned_and_nothing_else(tmp_path, processor):
    folder = write(tmp_path, row(*EXCHANGE, ("user", "value of a"), ("assistant", "1"), *EXCHANGE))
    batch = batch_of(folder, processor)
    assert learned(batch, processor) == "a1 b2 <|im_end|> 1 <|im_end|> a1 b2 <|im_end|>"
    assert int((batch["labels"] != IGNORE).sum()) == 8 < batch["labels"].shape[1]


def test_a_system_s_message_comes_first_and_is_not_learned(tmp_path, processor):
    folder = write(tmp_path, row(("system", "compute"), *EXCHANGE))
    assert chat(folder, processor).startswith("<|im_start|>system\ncompute<|im_end|>\n<|im_start|>user\nread all")
    assert learned(batch_of(folder, processor), processor) == "a1 b2 <|im_end|>"


def test_without_a_placeholder_images_stand_before_the_first_user_s_text(tmp_path, processor):
    folder = write(tmp_path, row(("system", "compute"), *EXCHANGE, *EXCHANGE, images=[png(), png()]))
    prompt = processor.apply_chat_template(conversation("read all", 2), tokenize=False)
    assert chat(folder, processor).startswith("<|im_start|>system\ncompute<|im_end|>\n" + prompt)
    assert chat(folder, processor).count(PAD) == 2


def test_images_stand_where_the_placeholders_do(tmp_path, processor):
    said = [
        ("user", "read <image> value of <image> ?"),
        ("assistant", "a1"),
        ("user", "<image>all"),
        ("assistant", "b2"),
    ]
    folder = write(tmp_path, row(*said, images=[png()] * 3))
    assert chat(folder, processor) == (
        f"<|im_start|>user\nread {PAD}value of {PAD}?<|im_end|>\n<|im_start|>assistant\na1<|im_end|>\n"
        f"<|im_start|>user\n{PAD}all<|im_end|>\n<|im_start|>assistant\nb2<|im_end|>\n"
    )


def test_blocks_say_the_same_as_placeholders_and_their_text_is_taken_as_it_is(tmp_path, processor):
    asked = [{"type": "text", "text": "read"}, {"type": "image", "text": None}, {"type": "text", "text": "all"}]
    answered = ("assistant", [{"type": "text", "text": "a1"}])
    folder = write(tmp_path, row(("user", asked), answered, images=[png()]))
    assert f"read {PAD}all" in chat(folder, processor)
    asked[1] = {"type": "text", "text": "<image>"}
    assert "read <image> all" in chat(write(tmp_path, row(("user", asked), answered)), processor)


def test_the_loss_is_placed_right_where_later_turns_have_images_of_other_sizes(tmp_path, processor):
    said = [*EXCHANGE, ("user", "<image> all <image>"), ("assistant", "a1"), ("user", "<image>"), ("assistant", "b2")]
    images = [png(28, 28), png(112, 28), png(56, 56)]
    batch = batch_of(write(tmp_path, row(*said, images=images), row(id="two")), processor)
    assert learned(batch, processor) == "a1 b2 <|im_end|> a1 <|im_end|> b2 <|im_end|>"
    pads = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert (batch["input_ids"][0] == pads).sum() == 1 + 4 + 4
    assert not (batch["labels"] == pads).any()


def test_an_image_may_be_a_path_or_bytes_or_text(tmp_path, processor):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(png(56, 28, shade=7))
    cells = [
        [{"bytes": png(56, 28, shade=7), "path": None}],
        [{"bytes": None, "path": "pictures/a.png"}],
        [str(tmp_path / "pictures" / "a.png")],
        [png(56, 28, shade=7)],
        base64.b64encode(png(56, 28, shade=7)).decode(),
    ]
    seen = [batch_of(write(tmp_path, row(images=cell)), processor)["pixel_values"] for cell in cells]
    assert all(torch.equal(one, seen[0]) for one in seen)


def test_a_file_that_went_away_since_the_rows_were_read_is_a_line_with_the_row(tmp_path, processor):
    (tmp_path / "a.png").write_bytes(png())
    rows = TrainingRows(write(tmp_path, row(images=["a.png"])), processor, TrainConfig())
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"^row one: the image does not decode \(FileNotFoundError: .*a.png"):
        rows[0]


def test_a_row_without_an_id_is_called_by_its_number(tmp_path, processor):
    rows = [{"messages": turns(*EXCHANGE)}, {"messages": turns(("user", "read all"))}]
    with pytest.raises(DataError, match=r"^row number 1: messages\[0\]: the last is the user's"):
        read_rows(write(tmp_path, *rows), processor)


FAULTS = {
    "no messages": ({"messages": None}, "messages: no list of turns; it needs a user's and the"),
    "only an answer": (row(ANSWER), "messages: no user's turn before the answer"),
    "no answer": (row(("user", "read")), r"messages\[0\]: the last is the user's; the assistant must answer"),
    "a role": (row(("tool", "x"), *EXCHANGE), r"messages\[0\].role: 'tool'; use one of system, user, assistant"),
    "no file": (row(images=[{"bytes": None, "path": "a.png"}]), r"images\[0\]: no file 'a.png' in "),
    "a file with a break in its name": (row(images=["a\nb"]), r"images\[0\]: no file 'a\\nb' in "),
    "turns as text": ({"messages": "read all"}, "messages: no list of turns; it needs"),
    "an address": (row(images=["http://a/b.png"]), r"images\[0\]: 'http://a/b.png' is an address; download the file"),
    "nothing": (row(images=[{"bytes": None, "path": None}]), r"images\[0\]: neither bytes nor a path"),
    "too few images": (
        row(("user", "<image> <image>"), ANSWER, images=[png()]),
        "images: 1, but the messages have places for 2; write <image> for each, or nowhere",
    ),
    "too many images": (row(("user", "<image>"), ANSWER, images=[png()] * 2), "images: 2, but .* places for 1"),
    "no image": (row(("user", "<image>"), ANSWER), "images: 0, but the messages have places for 1"),
    "a token": (row(("user", "<|image_pad|>"), ANSWER), r"'<\|image_pad\|>' in a text would be read as an image"),
    "a token in the answer": (row(*EXCHANGE[:1], ("assistant", "<|video_pad|>")), r"'<\|video_pad\|>' in a text would"),
    "a video": (
        row(("user", [{"type": "video", "text": None}]), ("assistant", [{"type": "text", "text": "a1"}])),
        r"messages\[0\].content\[0\]: \{.*'video'.*\}; a block is \{type: text, text: ...\} or \{type: image\}",
    ),
    "a text without text": (
        row(("user", [{"type": "text", "text": None}]), ("assistant", [{"type": "text", "text": "a1"}])),
        r"messages\[0\].content\[0\]: \{'.*\}; a block is",
    ),
    "an image in the answer": (
        row(("user", [{"type": "image"}]), ("assistant", [{"type": "image"}]), images=[png()]),
        r"messages\[1\]: an image in the assistant's turn",
    ),
    "a number": (
        row(("user", 3), ("assistant", 4)),
        r"messages\[0\].content: 3 is neither a text nor a list of blocks",
    ),
    "too long a strip": (
        row(images=[png(1, 300)]),
        r"the model's processor refuses it \(ValueError: absolute aspect ra",
    ),
    "no picture": (row(images=[b"no image"]), "the image does not decode"),
}


@pytest.mark.parametrize(("bad", "message"), FAULTS.values(), ids=FAULTS)
def test_what_is_wrong_with_a_row_is_one_line_with_its_id(tmp_path, processor, bad, message):
    with pytest.raises(DataError, match=f"^row bad: {message}") as caught:
        TrainingRows(write(tmp_path, {**bad, "id": "bad"}), processor, TrainConfig())
    assert "\n" not in str(caught.value)


def test_of_several_bad_rows_the_first_is_told_and_the_others_are_named(tmp_path, processor):
    rows = [row(id="right"), *(row(("user", "read"), id=f"bad{number}") for number in range(8))]
    with pytest.raises(
        DataError,
        match=r"^row bad0: .* must answer; 7 more rows cannot be used \(bad1, bad2, bad3, bad4, bad5 \.\.\.\)$",
    ):
        read_rows(write(tmp_path, *rows), processor)


def test_a_bad_row_is_found_before_the_model_is_loaded(tmp_path):
    shutil.copytree(VLM, tmp_path / "vlm", ignore=shutil.ignore_patterns("*.safetensors"))
    folder = write(tmp_path, row(("user", "read"), id="bad"))
    with pytest.raises(DataError, match=r"^row bad: messages"):
        fit(Job(TrainConfig(bf16=False), tmp_path / "vlm", folder, None, tmp_path / "out"))


BLOCKS_ONLY = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for block in message.content %}"
    "{% if block.type == 'image' %}<|image_pad|>{% elif block.type == 'text' %}{{ block.text }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LAST_ANSWER_ONLY = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% if message.role == 'user' %}"
    "{{ message.content[0].text }}{% elif loop.last %}{{ message.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = (
    "{% for message in messages %}{% if message.role == 'user' %}{{ message.content[0].text }} "
    "{% elif message.role == 'assistant' %}{{ message.content }}{% endif %}{% endfor %}"
)
REFUSING = "{{ raise_exception('roles must alternate') }}"


def test_a_template_that_takes_blocks_alone_gets_the_answer_too(tmp_path, processor):
    processor.chat_template = BLOCKS_ONLY
    batch = batch_of(write(tmp_path, row(*EXCHANGE, *EXCHANGE)), processor)
    assert learned(batch, processor) == "a1 b2 <|im_end|> a1 b2 <|im_end|>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            LAST_ANSWER_ONLY,
            "the chat template renders the turns before an answer differently .*; make a row of each answer",
        ),
        (NO_SYSTEM, r"the chat template leaves out what the system says \('compute'\)"),
        (REFUSING, r"the chat template refuses the messages \(\w+: roles must alternate\)"),
    ],
    ids=["forgets answers", "no system", "refuses"],
)
def test_a_template_that_cannot_say_the_row_is_told_with_the_row(tmp_path, processor, template, message):
    processor.chat_template = template
    folder = write(tmp_path, row(("system", "compute"), *EXCHANGE, *EXCHANGE))
    with pytest.raises(DataError, match=f"^row one: {message}"):
        TrainingRows(folder, processor, TrainConfig())


def test_an_image_that_nothing_sees_changes_no_token_and_no_loss(tmp_path, processor):
    folder = write(tmp_path, row(("user", "compute 1 + 2 ?"), ("assistant", "3")), row(*EXCHANGE, *EXCHANGE, id="two"))
    rows = TrainingRows(folder, processor, TrainConfig())
    plain, beside = (AnswerCollator(processor, stand_in=unseen)([rows[0], rows[1]]) for unseen in (False, True))
    tokens = plain["input_ids"].shape[1]
    assert beside["pixel_values"].shape[0] > 0 and beside["input_ids"].shape[1] > tokens
    for name in ("input_ids", "labels", "attention_mask"):
        assert torch.equal(beside[name][:, :tokens], plain[name])
    assert not beside["attention_mask"][:, tokens:].any() and (beside["labels"][:, tokens:] == IGNORE).all()
    model = load_vlm(VLM, dtype="float32")
    with torch.no_grad():
        assert float(model(**beside).loss) == pytest.approx(float(model(**plain).loss), rel=1e-6)


def test_a_batch_with_an_image_needs_none_that_nothing_sees(tmp_path, processor):
    rows = TrainingRows(write(tmp_path, row(images=[png()])), processor, TrainConfig())
    plain, beside = (AnswerCollator(processor, stand_in=stand_in)([rows[0]]) for stand_in in (False, True))
    assert plain.keys() == beside.keys() and all(torch.equal(plain[name], beside[name]) for name in plain)
