"""What the report makes of all models' answers: packed to look through, held against each other, counted."""

import base64
import gzip
import io
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from drift.evaluate.samples import Example, Sample, read_samples
from drift.evaluate.scores import read_scores
from drift.gate.comparison import compare
from drift.gate.report.browser import Packed, Questions, clipped, pack, pack_page, questions
from drift.gate.report.contrasts import Contrast, contrasts, in_words
from drift.gate.report.models import Model, read_models
from drift.gate.report.replies import categories, lengths, parts, whole
from tests.score_folders import write_score_folder


@pytest.fixture
def models(tmp_path: Path) -> list[Model]:
    """Of 40 sums the VLM knows 10, `drift` 30, `merged` 28; they name the same colours."""
    right = {"vlm": "1" * 10 + "0" * 30, "drift": "1" * 30 + "0" * 10, "merged": "0" * 2 + "1" * 28 + "0" * 10}
    folders = {
        name: write_score_folder(tmp_path / name, {"Sums": sums, "Colours": "1" * 35 + "0" * 5})
        for name, sums in right.items()
    }
    return read_models(folders["vlm"], {name: (folders[name], None) for name in ("drift", "merged")})


def changed(model: Model, **fields: Any) -> Model:
    return replace(model, samples=[replace(sample, **fields) for sample in model.samples])


def asked(models: Sequence[Model], examples: Sequence[Example] = ()) -> Questions:
    return questions(models, "drift", examples)


def content(packed: Packed) -> dict[str, Any]:
    unpacked: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(packed.text)))
    return unpacked


def picture(size: tuple[int, int] = (256, 192)) -> bytes:
    buffer = io.BytesIO()
    noise = random.Random(0).randbytes(3 * size[0] * size[1])
    Image.frombytes("RGB", size, noise).save(buffer, "PNG")
    return buffer.getvalue()


def test_every_question_is_packed_with_all_models_answers(models: list[Model]) -> None:
    packed = pack(asked(models), 80, 100_000)
    assert (packed.shown, packed.total, packed.clip, packed.whole) == (80, 80, None, True)
    found = content(packed)
    assert (found["models"], found["candidate"], found["benchmarks"]) == (
        ["vlm", "drift", "merged"],
        1,
        ["Sums", "Colours"],
    )
    third = next(one for one in found["questions"] if (one["b"], one["i"]) == (0, "15"))
    assert [samples[0][:2] for samples in third["a"]] == [["incorrect", "4"], ["correct", "5"], ["correct", "5"]]
    assert third["a"][1][0][3:] == ["2 + 3", "<think> … </think> \\boxed{5}", ""], "thinking stands once"


def test_all_samples_of_a_question_are_shown(models: list[Model]) -> None:
    again = [replace(model, samples=[*model.samples, *changed(model, sample=1).samples]) for model in models]
    assert {len(samples) for one in content(pack(asked(again), 80))["questions"] for samples in one["a"]} == {2}


def test_long_replies_lose_their_middle_until_all_fit(models: list[Model]) -> None:
    rng = random.Random(0)
    texts = [" ".join(str(rng.random()) for _ in range(500)) for _ in range(80)]
    long = [
        replace(m, samples=[replace(s, thinking=None, raw=text) for s, text in zip(m.samples, texts, strict=True)])
        for m in models
    ]
    assert pack(asked(long), 80, 3_000_000).clip is None
    packed = pack(asked(long), 80, 120_000)
    assert packed.clip == 2000 and len(packed.text) <= 120_000 and not packed.whole
    reply = content(packed)["questions"][0]["a"][0][0][4]
    assert reply.startswith(texts[0][:100]) and reply.endswith(texts[0][-100:]) and "characters left out" in reply


@pytest.mark.parametrize(
    ("text", "size", "shown"),
    [
        ("abcdef", None, "abcdef"),
        ("abcdef", 6, "abcdef"),
        # a third of 3 from the beginning, the rest from the end
        ("abcdef", 3, "a ⟨… 3 characters left out …⟩ ef"),
    ],
)
def test_a_shortened_text_keeps_its_beginning_and_its_end(text: str, size: int | None, shown: str) -> None:
    assert clipped(text, size) == shown


def test_pictures_shrink_before_they_take_more_than_half(models: list[Model]) -> None:
    examples = [Example("Sums", str(place), picture()) for place in range(20)]
    full = content(pack(asked(models, examples), 80))
    assert base64.b64decode(full["questions"][0]["p"]) == examples[0].image, "as it was kept"
    packed = pack(asked(models, examples), 80, 60_000)
    assert len(packed.text) <= 60_000
    small = [one["p"] for one in content(packed)["questions"] if one["p"]]
    assert len(small) == 20
    assert max(Image.open(io.BytesIO(base64.b64decode(small[0]))).size) < 256


def test_of_many_questions_those_with_pictures_come_first_and_the_rest_is_spread(models: list[Model]) -> None:
    examples = [Example("Sums", index, picture((8, 8))) for index in ("3", "7")]
    # of the 38 others, in their order, those at 0, 9, 19 and 28
    few = asked(models, examples).spread(6)
    assert [index for name, index in few.answers if name == "Sums"] == ["0", "3", "7", "11", "21", "30"]
    assert len([index for name, index in few.answers if name == "Colours"]) == 6


def test_the_page_has_all_questions_where_they_fit_and_else_some_of_each_benchmark(
    models: list[Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drift.gate.report.browser.SHOWN", 30)
    whole = pack_page(asked(models))
    assert whole.whole and whole.shown == 80
    some = pack_page(asked(models), len(whole.text) - 1)
    assert (some.shown, some.total, some.whole) == (60, 80, False)


def test_even_a_budget_that_is_far_too_small_is_kept(models: list[Model]) -> None:
    packed = pack(asked(models), 80, 600)
    assert len(packed.text) <= 600 and 0 < packed.shown < 80


def test_the_difference_of_two_arms_is_the_gates_own_and_its_reverse(models: list[Model], tmp_path: Path) -> None:
    found = contrasts(models)
    assert len(found) == 6
    for one, other in (("drift", "merged"), ("merged", "drift")):
        gates = compare(tmp_path / one, tmp_path / other).reasoning
        assert gates is not None
        mine = found[one, other]["reasoning"]
        assert (mine.points, mine.low, mine.high) == pytest.approx((gates.points, gates.low, gates.high))
    # drift knows two sums that merged does not, of 40
    assert found["drift", "merged"]["reasoning"].points == pytest.approx(5)
    assert found["drift", "merged"]["perception"].points == 0


@pytest.mark.parametrize(
    ("low", "high", "told"), [(0.1, 2.0, "better"), (-2.0, -0.1, "worse"), (0.0, 1.0, ""), (-1.0, 1.0, "")]
)
def test_a_contrast_is_told_only_where_its_interval_does_not_hold_zero(low: float, high: float, told: str) -> None:
    one = Contrast((low + high) / 2, low, high)
    assert one.told == told
    assert one.reversed().told == {"better": "worse", "worse": "better", "": ""}[told]
    found = {("drift", "sft"): {"reasoning": one}}
    said = {"better": "better than", "worse": "worse than", "": "not to be told apart from"}[told]
    assert in_words(found, "drift", "reasoning") == f"In reasoning, drift is {said} sft."
    assert in_words(found, "drift", "perception") == ""


def test_categories_are_those_of_the_tables(models: list[Model]) -> None:
    assert categories(models) == []
    named = [replace(m, samples=[_in_category(sample) for sample in m.samples]) for m in models]
    found = {(one.benchmark, one.name): one for one in categories(named)}
    assert list(found) == [("Sums", "hard"), ("Sums", "light")]
    # 20 sums each, those below 20 light: the VLM knows 10 of them, drift all and 10 of the hard ones
    assert found["Sums", "light"].right == {"vlm": 50, "drift": 100, "merged": 90}
    assert (found["Sums", "hard"].right["drift"], found["Sums", "hard"].n) == (50, 20)


def _in_category(sample: Sample) -> Sample:
    if sample.benchmark != "Sums":
        return sample
    return replace(sample, category="light" if int(sample.index) < 20 else "hard")


def test_lengths_and_what_was_cut_are_counted(models: list[Model]) -> None:
    before = {(one.benchmark, one.model): one for one in lengths(models)}
    # `<think> 2 + 3 </think> \boxed{5}` has 32 characters, `<b>4</b>` 8
    assert (before["Sums", "drift"].median, before["Sums", "vlm"].median) == (32, 8)
    cut = changed(models[1], finish_reason="length", read="none", status="unparsed")
    after = next(one for one in lengths([models[0], cut]) if one.model == "drift")
    assert (after.n, after.cut, after.unread, after.failed) == (40, 100, 100, 0)


@pytest.mark.parametrize(
    ("fields", "said", "together"),
    [
        ({"thinking": "so", "raw": "<think>so</think>5"}, ("so", "<think>…</think>5"), "<think>so</think>5"),
        ({"thinking": "so", "raw": "5"}, ("so", "5"), "so5"),  # a server parted it off
        ({"thinking": None, "raw": "5"}, ("", "5"), "5"),
        ({"thinking": None, "raw": None}, ("", ""), ""),
    ],
)
def test_thinking_is_shown_apart_and_counted_once(
    models: list[Model], fields: Mapping[str, Any], said: tuple[str, str], together: str
) -> None:
    sample = replace(models[0].samples[0], **fields)
    assert (parts(sample), whole(sample)) == (said, together)


def test_models_come_in_the_order_of_the_run(models: list[Model], tmp_path: Path) -> None:
    assert [model.name for model in models] == ["vlm", "drift", "merged"]
    assert models[1].samples == read_samples(tmp_path / "drift")
    assert models[1].scores == read_scores(tmp_path / "drift")
