"""A training set as other trainers read it, and with the tokens that our own trainer has."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from PIL import Image

from drift.config.train import TrainConfig
from drift.data.exports.export import export
from drift.data.tables import TRAINING_SET, read_rows, write_rows
from drift.ground.errors import DataError
from drift.training.batches.collate import AnswerCollator, TrainingRows
from drift.weights.modeling import load_processor, load_vlm
from tests.pool_rows import png
from tests.world import VLM, training_set

TRAINERS = ("llamafactory", "ms-swift", "trl", "verl")


def encoded(image: Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def row(number: int, text: str = "compute", images: list[bytes] | None = None, **changes: Any) -> dict[str, Any]:
    images = [png()] if images is None else images
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": f"\\boxed{{{number}}}"}]
    return {
        "id": f"{number:016x}", "kind": "cot", "images": [{"bytes": image, "path": None} for image in images],
        "messages": messages, "answer": str(number), "source": "geo", "pass_rate": 0.5, "n_tokens": 7, "teacher": "t",
    } | changes  # fmt: skip


def chains(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    write_rows(folder / "train.parquet", rows, TRAINING_SET)
    return folder


@pytest.fixture
def written(tmp_path):
    """A training set with one image, two between words, two before them, and none."""
    rows = [row(0), row(1, "is <image> in <image> ?", [png(shade=9), png()]), row(2, images=[png(), png(shade=9)]),
            row(3, images=[])]  # fmt: skip
    return chains(tmp_path / "set", rows)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# What LLaMA-Factory 0.9.5 reads: src/llamafactory/data/converter.py:135 (roles by their tags), :43 (paths below the
# folder of dataset_info.json), mm_plugin.py:203 (as many `<image>` as images).
def test_llamafactory_gets_sharegpt_messages_with_a_placeholder_for_each_image(tmp_path, written):
    export(written, "llamafactory", tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "train.json").read_text(encoding="utf-8"))
    assert [one["messages"][0]["content"] for one in rows] == [
        "<image>compute", "is <image> in <image> ?", "<image><image>compute", "compute"
    ]  # fmt: skip
    assert rows[0]["messages"][1] == {"role": "assistant", "content": "\\boxed{0}"}
    entry = json.loads((tmp_path / "out" / "dataset_info.json").read_text())["drift"]
    assert entry["formatting"] == "sharegpt" and entry["columns"] == {"messages": "messages", "images": "images"}
    assert (tmp_path / "out" / entry["file_name"]).is_file()
    assert [(tmp_path / "out" / image).read_bytes() for image in rows[1]["images"]] == [png(shade=9), png()]


# ms-swift 4.6: swift/dataset/preprocessor/core.py:87 (paths of images), swift/template/vision_utils.py:112 (below
# ROOT_IMAGE_DIR).
def test_ms_swift_gets_lines_whose_images_lie_once_in_the_folder(tmp_path, written):
    report = export(written, "ms-swift", tmp_path / "out")
    rows = lines(tmp_path / "out" / "train.jsonl")
    assert [len(one["images"]) for one in rows] == [1, 2, 2, 0]
    assert rows[0]["images"][0] == rows[1]["images"][1] == rows[2]["images"][0]
    assert (report.rows, report.image_files, report.converted) == (4, 2, 0)
    assert len(list((tmp_path / "out" / "images").iterdir())) == 2


# verl 0.9.1: verl/utils/dataset/rl_dataset.py:285 and multiturn_sft_dataset.py:220 (`<image>` in a text), and the
# columns of examples/data_preprocess/geo3k.py:68.
def test_verl_gets_a_prompt_with_its_ground_truth_and_the_whole_chat(tmp_path, written):
    export(written, "verl", tmp_path / "out")
    first = next(read_rows(tmp_path / "out" / "train.parquet"))
    assert first["prompt"] == [{"role": "user", "content": "<image>compute"}]
    assert first["reward_model"] == {"style": "rule", "ground_truth": "0"}
    assert (first["data_source"], first["ability"]) == ("geo", "math")
    assert first["extra_info"] == {"split": "train", "index": 0, "id": f"{0:016x}", "answer": "0"}
    assert first["messages"] == [*first["prompt"], {"role": "assistant", "content": "\\boxed{0}"}]
    assert load_dataset(str(tmp_path / "out"), split="train")[1]["images"][0].size == (56, 28)


# TRL 1.16: trl/data_utils.py:32, where blocks of type image are filled from the column `images`.
def test_trl_sees_the_tokens_labels_and_pixels_that_our_trainer_sees(tmp_path):
    from trl import SFTConfig, SFTTrainer

    rows = list(read_rows(training_set(tmp_path / "raw", 6) / "train.parquet"))
    pictures = [picture["bytes"] for one in rows[:2] for picture in one["images"]]
    turned = Image.Exif()
    turned[0x112] = 6
    rows += [row(90, "compute a <image> + b <image> .", pictures), row(91, images=pictures), row(92, images=[])]
    rows += [row(93, images=[encoded(Image.new("RGB", (112, 28), "red"), "JPEG", exif=turned)])]
    rows += [row(94, images=[encoded(Image.new("RGBA", (56, 56), (0, 0, 255, 60)))])]
    folder = chains(tmp_path / "set", [row(0) | one for one in rows])
    export(folder, "trl", tmp_path / "out")
    processor = load_processor(VLM)
    settings = {"bf16": False, "use_cpu": True, "report_to": "none", "activation_checkpointing": False}
    trainer = SFTTrainer(
        model=load_vlm(VLM, dtype="float32"),
        args=SFTConfig(output_dir=str(tmp_path / "trl"), max_length=None, assistant_only_loss=True, **settings),
        train_dataset=load_dataset(str(tmp_path / "out"), split="train"),
        processing_class=processor,
    )
    ours, collate = TrainingRows(folder, processor, TrainConfig(epochs=1)), AnswerCollator(processor)
    assert len(trainer.train_dataset) == len(ours) == 11
    for place in range(len(ours)):
        theirs, mine = trainer.data_collator([trainer.train_dataset[place]]), collate([ours[place]])
        for name in ("input_ids", "labels", *(("pixel_values", "image_grid_thw") if ours[place]["images"] else ())):
            assert theirs[name].tolist() == mine[name].tolist(), f"row {place}: {name}"


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG", "GIF"])
def test_an_image_that_all_see_alike_leaves_as_it_came_with_its_own_extension(tmp_path, kind):
    content = encoded(Image.new("RGB", (64, 40), "green"), kind)
    report = export(chains(tmp_path / "set", [row(0, images=[content])]), "ms-swift", tmp_path / "out")
    (file,) = (tmp_path / "out" / "images").iterdir()
    assert (file.read_bytes(), file.suffix) == (content, {"JPEG": ".jpg"}.get(kind, f".{kind.lower()}"))
    assert report.converted == 0


def test_an_image_that_others_would_see_otherwise_becomes_what_we_see(tmp_path):
    turned = Image.Exif()
    turned[0x112] = 6
    odd = [
        encoded(Image.new("RGB", (64, 40), "green"), "JPEG", exif=turned),
        encoded(Image.new("RGBA", (40, 40), (255, 0, 0, 0))),
        encoded(Image.new("I;16", (40, 40), 30000)),
    ]
    report = export(chains(tmp_path / "set", [row(0, images=odd)]), "ms-swift", tmp_path / "out")
    (line,) = lines(tmp_path / "out" / "train.jsonl")
    seen = [Image.open(tmp_path / "out" / name).convert("RGB") for name in line["images"]]
    assert [image.size for image in seen] == [(40, 64), (40, 40), (40, 40)]
    assert [image.getpixel((3, 3)) for image in seen[1:]] == [(255,) * 3, (117,) * 3]
    assert report.converted == 3


def test_images_can_be_scaled_down_as_the_training_does(tmp_path):
    folder = chains(tmp_path / "set", [row(0, images=[png(200, 100)]), row(1, images=[png(20, 10)])])
    report = export(folder, "trl", tmp_path / "out", image_max_pixels=5000)
    shown = load_dataset(str(tmp_path / "out"), split="train")["images"]
    assert [image[0].size for image in shown] == [(100, 50), (20, 10)]
    assert report.converted == 1


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"text": "a <image> b <image>"}, "1 images, but 2 times '<image>'"),
        ({"text": "what is a <video>?"}, "'<video>' in the user's text"),
        ({"images": [b"no image"]}, "does not decode"),
        ({"messages": [{"role": "user", "content": "?"}]}, "the last must be the assistant's"),
        ({"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "<image>"}]},
         "assistant's text"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("to", TRAINERS)
def test_a_row_that_another_trainer_would_read_otherwise_is_one_line_and_leaves_nothing(tmp_path, to, changes, fault):
    folder = chains(tmp_path / "set", [row(0), row(1, **changes)])
    with pytest.raises(DataError, match="0000000000000001") as raised:
        export(folder, to, tmp_path / "out")
    assert fault in str(raised.value) and "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_llamafactory_would_leave_out_turns_that_do_not_alternate_so_they_are_refused(tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}]
    folder = chains(tmp_path / "set", [row(1, messages=turns, images=[])])
    with pytest.raises(DataError, match="turns of user, user, assistant"):
        export(folder, "llamafactory", tmp_path / "out")


def test_verl_needs_an_answer_to_reward(tmp_path):
    with pytest.raises(DataError, match="no 'answer'"):
        export(chains(tmp_path / "set", [row(1, answer=None)]), "verl", tmp_path / "out")


@pytest.mark.parametrize("to", ["llamafactory", "ms-swift", "trl"])
def test_a_training_set_of_few_columns_leaves_as_well(tmp_path, to):
    assert export(training_set(tmp_path / "old", 3), to, tmp_path / "out").rows == 3


@pytest.mark.parametrize("to", TRAINERS)
def test_the_same_rows_give_the_same_bytes(tmp_path, written, to):
    for name in ("one", "two"):
        export(written, to, tmp_path / name)
    one, two = (
        {file.relative_to(tmp_path / name): file.read_bytes() for file in (tmp_path / name).rglob("*.*")
         if file.is_file() and file.name != "provenance.json"}
        for name in ("one", "two")
    )  # fmt: skip
    assert one == two and one
