"""The training set: a funnel counted by hand, selection, replay, and everything that must stop it."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from drift.config.data import CurateConfig, ReplayConfig
from drift.data.filters.candidates import Candidate
from drift.data.filters.capping import at_most, one_per_problem
from drift.data.filters.single import malformed, normalised, unfinished
from drift.data.selection.curation import curate
from drift.data.tables import TRAINING_SET, read_rows
from drift.ground.artifacts import content_sha256, read_json
from drift.ground.errors import DataError
from tests.pool_rows import ingested, png, pool_row, write_pool


def cot(answer: int | str, reasoning: str = "because") -> str:
    return f"<think> {reasoning} </think> \\boxed{{ {answer} }}"


# Problem n is "compute n + 1" with gold n + 1. Three samples each:
TEXTS = [
    [cot(1), cot(1, "much longer reasoning"), cot(1, "some reasoning")],  # 3 of 3 correct
    [cot(2), cot(3), "2"],  # 1 of 3 correct: wrong answer, no format
    [cot(3), f"{cot(3)} or so", "\\boxed{3}"],  # 3 of 3 answers correct, two of them badly formed
    [cot(9), cot("no idea"), ("<think> on and on", "length")],  # 0 of 3
]


def generations(folder: Path, problems: Path, texts: list[list[Any]] = TEXTS, **changes: Any) -> Path:
    """A folder of generations; an entry is a text, or a text with its finish reason."""
    ids = [row["id"] for row in read_rows(problems / "problems.parquet")]
    rows = []
    for id, samples in zip(ids, texts, strict=False):
        for number, entry in enumerate(samples):
            text, finish_reason = entry if isinstance(entry, tuple) else (entry, "stop")
            usage = {"prompt_tokens": 3, "completion_tokens": len(text.split())}
            row = {"id": id, "sample": number, "text": text, "finish_reason": finish_reason, "usage": usage}
            rows.append({**row, "reasoning": None, "model": "teacher", **changes})
    folder.mkdir()
    (folder / "part-00000-00000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def data(tmp_path) -> tuple[Path, Path]:
    """Four problems and their twelve generations."""
    problems = ingested(tmp_path, 4)
    return problems, generations(tmp_path / "generations", problems)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return list(read_rows(folder / "train.parquet"))


def test_the_funnel_is_what_counting_by_hand_gives(tmp_path, data):
    report = curate(CurateConfig(), *data, tmp_path / "out")
    # 12 generations: 1 truncated -> 11; format: '2', '... or so', '\boxed{3}' -> 8; correct: 3, 9, 'no idea' wrong -> 5
    # (three of problem 0, one each of 1 and 2); one trace per problem -> 3
    assert report.funnel == [
        {"stage": "finish", "in": 12, "out": 11, "reasons": {"truncated": 1}},
        {"stage": "format", "in": 11, "out": 8, "reasons": {"text_around_answer": 1, "think_tags": 2}},
        {"stage": "correct", "in": 8, "out": 5, "reasons": {"incorrect": 3}},
        {"stage": "pass_rate", "in": 5, "out": 5, "reasons": {}},
        {"stage": "repetition", "in": 5, "out": 5, "reasons": {}},
        {"stage": "leak", "in": 5, "out": 5, "reasons": {}},
        {"stage": "trace", "in": 5, "out": 3, "reasons": {"other_trace": 2}},
        {"stage": "keep", "in": 3, "out": 3, "reasons": {}},
        {"stage": "replay", "in": 3, "out": 3, "reasons": {}},
    ]
    assert read_json(tmp_path / "out" / "funnel.json") == report.funnel
    assert (report.problems, report.generations, report.kept, report.replay) == (4, 12, 3, 0)
    # '2' alone has no box: problem 1 is solved once in three; 0 and 2 always; 3 never
    assert report.pass_rates == {"0": 1, "0.333333": 1, "1": 2}
    assert report.metrics()["data/yield"] == 3 / 4
    assert report.metrics()["data/pass_rate"] == pytest.approx((0 + 1 / 3 + 2) / 4, abs=1e-6)


def test_every_generation_is_either_in_the_training_set_or_among_the_rejects(tmp_path, data):
    report = curate(CurateConfig(), *data, tmp_path / "out")
    rejects = list(read_rows(tmp_path / "out" / "rejects.parquet"))
    assert len(rejects) + report.kept == 12
    stages = {stage["stage"]: stage["in"] - stage["out"] for stage in report.funnel if stage["in"] != stage["out"]}
    assert Counter(row["stage"] for row in rejects) == stages
    assert {"sample": 2, "stage": "finish", "reason": "truncated", "text": "<think> on and on"}.items() <= next(
        row for row in rejects if row["stage"] == "finish"
    ).items()


def test_a_row_of_the_training_set_holds_the_contract_s_columns(tmp_path, data):
    curate(CurateConfig(prompt="Q: {problem}"), *data, tmp_path / "out")
    row = next(row for row in rows_of(tmp_path / "out") if row["answer"] == "2")
    assert row["messages"] == [
        {"role": "user", "content": "Q: compute 1 + 1"},
        {"role": "assistant", "content": "<think>\nbecause\n</think>\n\n\\boxed{2}"},
    ]
    assert row["images"] == [{"bytes": png(shade=100), "path": None}]
    assert (row["kind"], row["teacher"], row["source"], row["n_tokens"]) == ("cot", "teacher", "pool", 6)
    assert row["pass_rate"] == pytest.approx(1 / 3)
    file = str(tmp_path / "out" / "train.parquet")
    dataset = load_dataset("parquet", data_files=file, split="train", cache_dir=str(tmp_path / "cache"))
    assert dataset.features == TRAINING_SET


def test_reasoning_that_came_apart_from_the_text_is_put_inside_the_tags(tmp_path):
    problems = ingested(tmp_path, 1)
    folder = generations(tmp_path / "generations", problems, [["\\boxed{1}"]], reasoning="one\n")
    curate(CurateConfig(), problems, folder, tmp_path / "out")
    assert rows_of(tmp_path / "out")[0]["messages"][1]["content"] == "<think>\none\n</think>\n\n\\boxed{1}"


def test_faults_have_a_stage_each_and_a_reason_each(tmp_path):
    problems = ingested(tmp_path, 6)
    loop, leak = "we see that it is so. " * 200, "the standard answer given is 3, so"
    folder = generations(
        tmp_path / "generations",
        problems,
        [[cot(1)], [cot(2, loop)], [cot(3, leak)], [cot(4, "<image> shows")], [cot(5, "所以答案是这个数字")], [cot(6)]],
    )
    report = curate(CurateConfig(scripts=("Latin",)), problems, folder, tmp_path / "out")
    assert {stage["stage"]: stage["reasons"] for stage in report.funnel if stage["reasons"]} == {
        "finish": {"special_token": 1},
        "repetition": {"loop": 1},
        "leak": {"gold_leak": 1},
        "language": {"other_script": 1},
    }
    assert report.kept == 2


def test_keep_in_equal_shares_and_the_noisy_split_are_rows_of_their_own(tmp_path):
    rows = [pool_row(n, source="a" if n < 12 else "b") for n in range(16)]
    problems = ingested(tmp_path, rows)
    texts = [[cot(n + 1)] if n % 4 != 3 else [cot("wrong"), "no format"] for n in range(16)]
    folder = generations(tmp_path / "generations", problems, texts)
    config = CurateConfig(keep=6, keep_per=("source",), noisy=3)
    report = curate(config, problems, folder, tmp_path / "out")
    kinds = Counter((row["kind"], row["source"]) for row in rows_of(tmp_path / "out"))
    assert (kinds["cot", "a"], kinds["cot", "b"]) == (3, 3)
    assert report.funnel[-2:] == [
        {"stage": "noisy", "in": 6, "out": 9, "reasons": {}},
        {"stage": "replay", "in": 9, "out": 9, "reasons": {}},
    ]
    noisy = [row for row in rows_of(tmp_path / "out") if row["kind"] == "noisy"]
    assert len({row["id"] for row in noisy}) == 3
    assert {row["messages"][1]["content"] for row in noisy} <= {
        "no format",
        "<think>\nbecause\n</think>\n\n\\boxed{wrong}",
    }
    assert len(list(read_rows(tmp_path / "out" / "rejects.parquet"))) + report.kept == 20


@pytest.mark.parametrize(
    ("settings", "answers"),
    [
        ({"max_pass_rate": 0.5}, ["2"]),
        ({"keep": 2}, None),
        ({"require_correct": False}, ["1", "2", "3", "4"]),
        ({"require_format": False}, ["1", "2", "3"]),
    ],
)
def test_each_filter_can_be_set(tmp_path, data, settings, answers):
    report = curate(CurateConfig(**settings), *data, tmp_path / "out")
    kept = sorted(row["answer"] for row in rows_of(tmp_path / "out"))
    assert kept == answers or (answers is None and report.kept == len(kept) == 2)


def test_replay_is_its_share_of_the_whole_with_the_gold_answer_alone(tmp_path, data):
    source = write_pool(tmp_path / "replay.parquet", [pool_row(100 + number, answer="red") for number in range(9)])
    config = CurateConfig(replay=ReplayConfig(source=str(source), fraction=0.4))
    report = curate(config, *data, tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    # 3 chains are 0.6 of the whole, so 0.4 / 0.6 * 3 = 2 rows are replay
    assert (report.kept, report.replay, len(rows)) == (3, 2, 5)
    direct = [row for row in rows if row["kind"] == "direct"]
    assert [row["messages"][1]["content"] for row in direct] == ["red", "red"]
    assert {(row["pass_rate"], row["n_tokens"], row["teacher"]) for row in direct} == {(None, None, None)}
    assert report.funnel[-1] == {"stage": "replay", "in": 3, "out": 5, "reasons": {}}


def test_the_same_seed_gives_the_same_bytes_and_another_another_order(tmp_path):
    problems = ingested(tmp_path, 12)
    folder = generations(tmp_path / "generations", problems, [[cot(n + 1), cot(n + 1, "more")] for n in range(12)])
    source = write_pool(tmp_path / "replay.parquet", [pool_row(100 + number) for number in range(30)])
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        config = CurateConfig(seed=seed, keep=6, trace="random", replay=ReplayConfig(source=str(source)))
        curate(config, problems, folder, tmp_path / name)
    assert content_sha256(tmp_path / "a") == content_sha256(tmp_path / "b")
    first, other = ([row["id"] for row in rows_of(tmp_path / name)] for name in "ac")
    assert first != other


BAD = {
    "generations of other problems": (
        {"ids": "f" * 16}, {}, DataError, r"4 of 4 generations are of other problems \(id 'f{16}'\)",
    ),
    "too few kept": ({}, {"min_kept": 4}, DataError, r"curate\.min_kept: 3 chains left, fewer than 4 .*correct 5"),
    "replay too small": (
        {}, {"replay": {"source": "{folder}/pool.parquet", "fraction": 0.9}}, DataError,
        r"curate\.replay\.fraction: 0\.9 beside 3 chains needs 27 replay rows, but '.*' has 4",
    ),
    "no replay": (
        {}, {"replay": {"source": "{folder}/none.parquet"}}, DataError, r"curate\.replay\.source: .* no such file",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_makes_no_training_set_is_one_line_and_leaves_nothing(tmp_path, data, case):
    changes, settings, kind, message = BAD[case]
    problems, folder = data
    if changes:
        folder = generations(tmp_path / "foreign", problems, [[cot(1)]] * 4, id=changes["ids"])
    settings = json.loads(json.dumps(settings).replace("{folder}", str(tmp_path)))
    with pytest.raises(kind, match=message) as raised:
        curate(CurateConfig(**settings), problems, folder, tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.glob("out*"))


def test_too_many_answers_that_cannot_be_verified_stop_the_run(tmp_path):
    problems = ingested(tmp_path, [pool_row(0, answer="x^2"), pool_row(1)])
    folder = generations(tmp_path / "generations", problems, [[cot(r"\sqrt{x^4}+9^{9^{9^9}}")], [cot(2)]])
    config = CurateConfig(verify_timeout_seconds=1, max_undetermined=0.4)
    with pytest.raises(DataError, match=r"curate\.max_undetermined: 1 of 2 answers .*gold 'x\^2'"):
        curate(config, problems, folder, tmp_path / "out")
    report = curate(config.model_copy(update={"max_undetermined": 0.5}), problems, folder, tmp_path / "out")
    assert (report.undetermined, report.kept) == (1, 1)
    assert report.funnel[2]["reasons"] == {"undetermined": 1}


@pytest.mark.parametrize("missing", ["problems", "generations"])
def test_a_missing_folder_is_named(tmp_path, data, missing):
    folders = dict(zip(("problems", "generations"), data, strict=True)) | {missing: tmp_path / "nothing"}
    with pytest.raises(DataError, match="nothing"):
        curate(CurateConfig(), folders["problems"], folders["generations"], tmp_path / "out")


# ------------------------------------------------------------------------------------------- filters


def candidate(text: str = cot(1), **changes: Any) -> Candidate:
    fields = {"id": "a", "sample": 0, "finish_reason": "stop", "tokens": 1, "teacher": "t", "status": "correct"}
    return Candidate(**{**fields, "text": text, "pass_rate": 1.0, **changes})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (r"<think>a</think>\boxed{3}", None),
        ("\n<think>\na\n</think>\n\n\\boxed{ 3 }\n", None),
        (r"< think > a </ think > $\boxed{\frac{1}{2}}$.", None),
        (r"<think> so \boxed{2}? no </think> \boxed{3}", None),
        (r"\boxed{3}", "think_tags"),
        (r"<think> a \boxed{3}", "think_tags"),
        (r"<think> a <think> b </think> \boxed{3}", "think_tags"),
        (r"<think> a </think> b </think> \boxed{3}", "think_tags"),
        (r"</think> a <think> \boxed{3}", "think_order"),
        (r"Well, <think> a </think> \boxed{3}", "think_order"),
        (r"<think>  </think> \boxed{3}", "empty_reasoning"),
        (r"<think> a </think> 3", "boxed"),
        (r"<think> a </think> \boxed{}", "boxed"),
        (r"<think> a </think> \boxed{3", "boxed"),
        (r"<think> a </think> \boxed{3} \boxed{4}", "boxed"),
        (r"<think> a </think> The answer is \boxed{3}", "text_around_answer"),
    ],
)
def test_the_format_is_one_reasoning_and_one_box(text, reason):
    assert malformed(candidate(text)) == reason


def test_unfinished_texts_and_control_tokens_are_no_training_text():
    assert unfinished(candidate(finish_reason="length")) == "truncated"
    assert unfinished(candidate(" ")) == "empty"
    assert unfinished(candidate(cot(1, "see <|im_end|>"))) == "special_token"
    assert unfinished(candidate(finish_reason=None)) is None


@pytest.mark.parametrize(("trace", "sample"), [("shortest", 2), ("median", 0), ("longest", 1)])
def test_a_trace_is_chosen_by_its_length(trace, sample):
    texts = ["xx", "xxxx", "x", "xxx"]  # by length: sample 2, 0, 3, 1; of the middle two the shorter is 0
    kept, rejected = one_per_problem([candidate(text, sample=n) for n, text in enumerate(texts)], trace, seed=0)
    assert ([one.sample for one in kept], len(rejected)) == ([sample], 3)


def test_a_random_trace_and_the_kept_problems_depend_on_the_seed_alone():
    group = [candidate(id=str(n // 5), sample=n % 5) for n in range(100)]
    draws = {seed: tuple(one.sample for one in one_per_problem(group, "random", seed)[0]) for seed in range(3)}
    assert len(set(draws.values())) == 3
    assert draws[0] == tuple(one.sample for one in one_per_problem(group[::-1], "random", 0)[0][::-1])


def test_a_larger_pool_keeps_of_the_old_problems_only_those_kept_before():
    problems = [candidate(id=str(n)) for n in range(50)]
    before = {one.id for one in at_most(problems[:30], 10, seed=4)[0]}
    after = {one.id for one in at_most(problems, 10, seed=4)[0]}
    assert len(before) == len(after) == 10
    assert after & {str(n) for n in range(30)} <= before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>  a\n b </think> \\boxed{ 3 }.", "<think>\na\n b\n</think>\n\n\\boxed{3}"),
        (r"< think >x < y</think>\boxed{\frac{1}{2}}", "<think>\nx < y\n</think>\n\n\\boxed{\\frac{1}{2}}"),
        ("  3 ", "3"),
    ],
)
def test_only_whitespace_around_the_tags_is_made_equal(text, expected):
    assert normalised(text) == expected


def test_the_problem_in_words_is_asked_as_the_question_is_and_older_problems_have_none(tmp_path):
    problems = ingested(tmp_path, [pool_row(0, told="a square: compute 0 + 1")], text_column="told")
    folder = generations(tmp_path / "generations", problems, [[cot(1)]])
    curate(CurateConfig(prompt="Q: {problem}"), problems, folder, tmp_path / "out")
    assert rows_of(tmp_path / "out")[0]["text_problem"] == "Q: a square: compute 0 + 1"
    file = problems / "problems.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["text_problem"]), file)
    curate(CurateConfig(), problems, folder, tmp_path / "again")
    assert rows_of(tmp_path / "again")[0]["text_problem"] is None
