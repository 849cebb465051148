"""The teacher over all problems: a real server and a real tiny model, killed and resumed, refused and failed."""

import io
import json
import logging
import shutil
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from drift.config.data import EndpointTeacher, GenerateConfig, LocalTeacher
from drift.data.chains.distillation import generate
from drift.data.chains.generations import KEY as COLUMNS
from drift.data.chains.generations import read_generations
from drift.ground.artifacts import content_sha256, read_json
from drift.ground.errors import CheckpointError, ConfigError, DataError, DriftError, ServiceError
from drift.inference.endpoint import HANDED
from drift.inference.parts import ROWS_PER_PART, Parts, part_files, sort_parts
from drift.planning.miniature import models
from drift.planning.miniature import tokenizer as tk
from tests.forked import begin
from tests.openai_server import OpenAIServer, image_of, question
from tests.pool_rows import ingested, png, pool_row

KEY = "sk-very-secret-1234"


def endpoint(url: str, **changes) -> GenerateConfig:
    """A configuration for the server at ``url``."""
    teacher = {"concurrency": 8, "max_retries": 2, "timeout_seconds": 10, "api_key_env": None}
    teacher |= {name: changes.pop(name) for name in list(changes) if name in teacher}
    teacher = EndpointTeacher(kind="endpoint", base_url=url, model="served", **teacher)
    return GenerateConfig(teacher=teacher, **{"samples": 2, "max_failed": 0, **changes})


def local(model: Path, **changes) -> GenerateConfig:
    """A configuration for a checkpoint, with short answers."""
    teacher = LocalTeacher(kind="local", model=str(model), batch_size=changes.pop("batch_size", 4))
    return GenerateConfig(teacher=teacher, **{"samples": 2, "max_new_tokens": 6, "prompt": "{problem}", **changes})


@pytest.fixture(scope="module")
def tiny_teacher(tmp_path_factory) -> Path:
    """A random vision-language model with its processor."""
    folder = tmp_path_factory.mktemp("models") / "teacher"
    torch.manual_seed(0)  # of whose random weights no other test decides whether it ends at once
    models.save_vlm(models.new_vlm(models.new_text_model().state_dict()), folder)
    return folder


def keys(folder: Path) -> list[tuple[str, int]]:
    return [(row["id"], row["sample"]) for row in read_generations(folder)]


# ------------------------------------------------------------------------------------------- a server


def test_every_problem_gets_its_samples_each_with_its_own_seed(tmp_path):
    problems = ingested(tmp_path, 3)
    with OpenAIServer() as server:
        report = generate(endpoint(server.url), problems, tmp_path / "out")
    rows = list(read_generations(tmp_path / "out"))
    assert (report.requested, report.generated, report.failed, report.truncated) == (6, 6, 0, 0)
    assert (report.prompt_tokens, report.completion_tokens) == (60, 30)
    assert [row["sample"] for row in rows] == [0, 1] * 3
    assert len({row["seed"] for row in rows}) == 6
    assert all(row["text"].startswith(f"<think> seed {row['seed']} ") for row in rows)
    assert {(row["finish_reason"], row["model"], row["error"]) for row in rows} == {("stop", "served", None)}
    assert read_json(tmp_path / "out" / "generations.json")["generated"] == 6


def test_the_request_holds_the_sampling_the_prompt_and_the_image_scaled_down(tmp_path):
    problems = ingested(tmp_path, [pool_row(1, image=png(200, 100))])
    config = {"samples": 1, "temperature": 0.3, "top_p": 0.8, "max_new_tokens": 77, "image_max_pixels": 5000}
    with OpenAIServer() as server:
        generate(endpoint(server.url, **config), problems, tmp_path / "out")
        (body,) = server.requests
    assert {name: body[name] for name in ("model", "temperature", "top_p", "max_tokens")} == {
        "model": "served", "temperature": 0.3, "top_p": 0.8, "max_tokens": 77
    }  # fmt: skip
    assert question(body).startswith("compute 1 + 1\nThink step by step")
    assert question(body).endswith("in \\boxed{}.")
    assert Image.open(io.BytesIO(image_of(body))).size == (100, 50)  # 200 x 100 scaled by sqrt(5000 / 20000) = 1/2


def test_options_that_the_question_does_not_show_are_appended(tmp_path):
    problems = ingested(tmp_path, [pool_row(1, answer="A", choices=["30", "45"])], choices_column="choices")
    with OpenAIServer() as server:
        generate(endpoint(server.url, prompt="{problem}"), problems, tmp_path / "out")
        assert question(server.requests[0]) == "compute 1 + 1\nA. 30\nB. 45"


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_that_the_server_parts_from_the_text_is_kept(tmp_path, field):
    message = {"content": "\\boxed{1}", field: "because", "finish_reason": "length"}
    with OpenAIServer(lambda body: message) as server:
        report = generate(endpoint(server.url), ingested(tmp_path, 1), tmp_path / "out")
    row = next(read_generations(tmp_path / "out"))
    assert (row["text"], row["reasoning"], row["finish_reason"]) == ("\\boxed{1}", "because", "length")
    assert report.truncated == 2


def test_busy_answers_are_tried_again_and_no_more_than_the_set_number_is_in_flight(tmp_path):
    busy = {number: 429 if number % 2 else 500 for number in range(1, 21, 3)}
    with OpenAIServer(status=lambda number: busy.get(number, 200), delay_seconds=0.02) as server:
        report = generate(endpoint(server.url, concurrency=4, max_retries=8), ingested(tmp_path, 15), tmp_path / "out")
    assert (report.generated, report.failed) == (30, 0)
    assert len(server.requests) == 30 + len(busy)
    assert 2 <= server.most_in_flight <= 4


def test_failures_below_the_limit_are_counted_and_left_out(tmp_path):
    with OpenAIServer(status=lambda number: 400 if number == 3 else 200) as server:
        report = generate(endpoint(server.url, max_failed=0.1), ingested(tmp_path, 5), tmp_path / "out")
    assert (report.requested, report.generated, report.failed) == (10, 9, 1)
    assert len(keys(tmp_path / "out")) == 9
    (message,) = read_json(tmp_path / "out" / "generations.json")["errors"]
    assert "injected 400" in message


def test_too_many_failures_stop_the_run_and_a_second_one_draws_only_what_is_missing(tmp_path):
    problems = ingested(tmp_path, 5)
    with OpenAIServer(status=lambda number: 200 if number <= 6 else 400) as server:
        with pytest.raises(ServiceError, match=r"generate\.max_failed: 1 requests failed .*injected 400") as raised:
            generate(endpoint(server.url, concurrency=1), problems, tmp_path / "out")
        assert "\n" not in str(raised.value)
    with OpenAIServer() as server:
        report = generate(endpoint(server.url), problems, tmp_path / "out")
        assert len(server.requests) == 4
    assert (report.resumed, report.generated) == (6, 10)


def test_replies_that_were_paid_for_are_found_in_another_place_below_the_path_of_checkpoints(tmp_path):
    """As a step does that is started again in another pod: of the first one's folder nothing is left."""
    problems, kept = ingested(tmp_path, 5), str(tmp_path / "kept")
    with OpenAIServer(status=lambda number: 200 if number <= 6 else 400) as server:
        with pytest.raises(ServiceError, match="1 requests failed"):
            generate(endpoint(server.url, concurrency=1, checkpoints=kept), problems, tmp_path / "lost" / "out")
        assert not (tmp_path / "lost" / "out").exists()
        shutil.rmtree(tmp_path / "lost")
    with OpenAIServer() as server:
        other = generate(endpoint(server.url, checkpoints=kept, seed=1), problems, tmp_path / "other")
        assert other.resumed == 0, "other draws are other work"
        asked = len(server.requests)
        report = generate(endpoint(server.url, checkpoints=kept), problems, tmp_path / "again")
        assert len(server.requests) - asked == 4
        generate(endpoint(server.url), problems, tmp_path / "whole")
    assert (report.resumed, report.generated) == (6, 10)
    assert content_sha256(tmp_path / "again") == content_sha256(tmp_path / "whole")
    assert not list(tmp_path.glob("kept/generations/*/")), "what is complete takes no room there"


def test_a_run_killed_in_the_middle_goes_on_and_every_key_is_there_once(tmp_path):
    problems, out = ingested(tmp_path, 150), tmp_path / "out"
    busy = lambda number: {7: 429, 9: 500}.get(number % 20, 200)  # noqa: E731
    with OpenAIServer(status=busy, delay_seconds=0.02) as server:
        config = endpoint(server.url, concurrency=4, max_retries=8)
        process = begin(generate, config, problems, out)
        _wait_for_lines(out.with_name("out.partial"), 120)
        process.kill()
        process.join()
        answered = sum(busy(number) == 200 for number in range(1, len(server.requests) + 1))
        partial = part_files(out.with_name("out.partial"))
        done = sum(path.read_bytes().count(b"\n") for path in partial)
        with partial[-1].open("ab") as file:
            file.write(b'{"id": "torn in the mid')
        report = generate(config, problems, out)
        lost = answered - done
    assert lost <= 4 + 2 * HANDED
    assert 120 <= report.resumed == done < 300
    assert (len(keys(out)), len(set(keys(out)))) == (300, 300)
    assert len(part_files(out)) == 2  # 300 rows in parts of 200
    with OpenAIServer() as server:
        again = generate(config.model_copy(update={"teacher": endpoint(server.url).teacher}), problems, tmp_path / "b")
    assert again.resumed == 0
    assert content_sha256(out) == content_sha256(tmp_path / "b")


def _wait_for_lines(folder: Path, lines: int) -> None:
    deadline = time.monotonic() + 60
    while sum(path.read_bytes().count(b"\n") for path in part_files(folder)) < lines:
        assert time.monotonic() < deadline, f"fewer than {lines} lines after a minute"
        time.sleep(0.02)


@pytest.mark.parametrize("change", [{"temperature": 0.1}, {"prompt": "{problem}!"}, {"seed": 1}, {"samples": 3}])
def test_a_partial_folder_of_other_settings_is_not_continued(tmp_path, change):
    problems = ingested(tmp_path, 3)
    with OpenAIServer(status=lambda number: 200 if number <= 2 else 400) as server:
        with pytest.raises(ServiceError):
            generate(endpoint(server.url, concurrency=1), problems, tmp_path / "out")
        with pytest.raises(DataError, match="begun with another model, prompt, other limits or data"):
            generate(endpoint(server.url, **change), problems, tmp_path / "out")


def test_an_unreachable_server_is_an_error_within_seconds(tmp_path):
    with OpenAIServer() as server:
        url = server.url
    started = time.monotonic()
    with pytest.raises(ServiceError, match=f"generate.teacher: {url} does not answer"):
        generate(endpoint(url, max_retries=8), ingested(tmp_path, 2), tmp_path / "out")
    assert time.monotonic() - started < 10


def test_a_server_without_a_model_list_is_used_all_the_same(tmp_path):
    with OpenAIServer(models=404) as server:
        assert generate(endpoint(server.url), ingested(tmp_path, 1), tmp_path / "out").generated == 2


def test_the_key_comes_from_the_named_variable_and_is_written_nowhere(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TEACHER_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another")
    problems = ingested(tmp_path, 2)
    with caplog.at_level(logging.DEBUG), OpenAIServer(status=lambda number: 400 if number == 1 else 200) as server:
        generate(endpoint(server.url, api_key_env="TEACHER_KEY", max_failed=0.5), problems, tmp_path / "out")
        generate(endpoint(server.url), problems, tmp_path / "keyless")
    sent = [headers["authorization"] for headers in server.headers]
    assert sent == [f"Bearer {KEY}"] * 4 + ["Bearer none"] * 4
    written = [path.read_text(errors="replace") for path in (tmp_path / "out").iterdir()]
    assert "Bearer ***" in read_json(tmp_path / "out" / "generations.json")["errors"].popitem()[0]
    assert not [text for text in [*written, caplog.text] if KEY in text]


def test_a_refused_key_stops_at_once_and_is_not_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", KEY)
    with OpenAIServer(status=lambda number: 401) as server:
        with pytest.raises(ServiceError, match=r"refuses 'served': AuthenticationError.*check api_key_env") as raised:
            generate(endpoint(server.url, api_key_env="TEACHER_KEY"), ingested(tmp_path, 30), tmp_path / "out")
        assert len(server.requests) <= 8  # of 60
    assert KEY not in str(raised.value)


BAD = {
    "key not set": (endpoint("http://127.0.0.1:9/v1", api_key_env="NO_SUCH_KEY"), ConfigError, "'NO_SUCH_KEY' is not"),
    "no such checkpoint": (local(Path("/nowhere/teacher")), CheckpointError, "/nowhere/teacher"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_one_line(tmp_path, case):
    config, kind, message = BAD[case]
    with pytest.raises(kind, match=message) as raised:
        generate(config, ingested(tmp_path, 1), tmp_path / "out")
    assert "\n" not in str(raised.value)


def test_a_folder_without_problems_is_an_error(tmp_path):
    with pytest.raises(DriftError, match=r"problems\.parquet: no such file"):
        generate(endpoint("http://127.0.0.1:9/v1"), tmp_path, tmp_path / "out")


# -------------------------------------------------------------------------------------- a checkpoint


def test_a_checkpoint_samples_the_same_again_and_otherwise_with_another_seed(tmp_path, tiny_teacher):
    problems = ingested(tmp_path, 5)
    report = generate(local(tiny_teacher), problems, tmp_path / "a")
    generate(local(tiny_teacher), problems, tmp_path / "b")
    generate(local(tiny_teacher, seed=1), problems, tmp_path / "c")
    assert report.generated == 10
    assert content_sha256(tmp_path / "a") == content_sha256(tmp_path / "b")
    texts = [[row["text"] for row in read_generations(tmp_path / name)] for name in "ac"]
    assert texts[0] != texts[1]


def test_a_checkpoint_resumed_in_the_middle_of_a_batch_gives_the_same_bytes(tmp_path, tiny_teacher):
    problems, config = ingested(tmp_path, 5), local(tiny_teacher)
    generate(config, problems, tmp_path / "whole")
    lines = part_files(tmp_path / "whole")[0].read_bytes().splitlines(keepends=True)
    partial = tmp_path / "resumed.partial"
    partial.mkdir()
    (partial / "part-00000-00000.jsonl").write_bytes(b"".join(lines[:6]) + lines[6][:20])  # six of ten: 4 + 2
    report = generate(config, problems, tmp_path / "resumed")
    assert (report.resumed, report.generated) == (6, 10)
    assert content_sha256(tmp_path / "resumed") == content_sha256(tmp_path / "whole")


def test_an_answer_at_the_token_limit_is_of_finish_reason_length(tmp_path, tiny_teacher):
    config = local(tiny_teacher, max_new_tokens=1, temperature=0, samples=1)
    report = generate(config, ingested(tmp_path, 2), tmp_path / "out")
    row = next(read_generations(tmp_path / "out"))
    assert (row["finish_reason"], row["usage"]["completion_tokens"]) == ("length", 1)
    assert report.truncated == 2
    # user turn: <|im_start|>user, vision start, 2 image tokens (56 x 28), vision end, "compute 0 + 1", end, assistant
    assert row["usage"]["prompt_tokens"] == _prompt_tokens("compute 0 + 1", tiles=2)


def _prompt_tokens(text: str, tiles: int) -> int:
    vision = tk.VISION_START + tk.IMAGE * tiles + tk.VISION_END
    prompt = f"{tk.START}user\n{vision}{text}{tk.END}\n{tk.START}assistant\n"
    return len(tk.build_tokenizer()(prompt)["input_ids"])


def test_greedy_samples_do_not_depend_on_the_batch(tmp_path, tiny_teacher):
    problems = ingested(tmp_path, [pool_row(n, problem=f"compute {'a + ' * n}b") for n in range(4)])
    for size in (1, 4):
        generate(local(tiny_teacher, temperature=0, samples=1, batch_size=size), problems, tmp_path / str(size))
    texts = [[row["text"] for row in read_generations(tmp_path / name)] for name in ("1", "4")]
    assert texts[0] == texts[1]


# --------------------------------------------------------------------------------------------- parts


def line(number: int) -> dict:
    return {"id": f"{number:04d}", "sample": 0, "text": "é\n", "fingerprint": "f"}


def test_parts_hold_two_hundred_rows_and_are_continued_where_they_ended(tmp_path):
    for start, end in ((0, 150), (150, 250), (250, 450)):
        parts = Parts(tmp_path, "f", COLUMNS)
        assert len(parts.done) == start
        for number in range(start, end):
            parts.append(line(number))
    sizes = [path.read_bytes().count(b"\n") for path in part_files(tmp_path)]
    assert sizes == [ROWS_PER_PART, ROWS_PER_PART, 50]


def test_sorting_that_was_killed_at_any_point_loses_nothing(tmp_path):
    (tmp_path / "a").mkdir()
    parts = Parts(tmp_path / "a", "f", COLUMNS)
    for number in reversed(range(450)):
        parts.append(line(number))
    shutil.copytree(tmp_path / "a", tmp_path / "killed")
    keys = [(f"{number:04d}", 0) for number in range(500)]
    sort_parts(tmp_path / "a", COLUMNS, keys)
    expected = [path.read_bytes() for path in part_files(tmp_path / "a")]
    for sequence, path in enumerate(part_files(tmp_path / "a")):  # killed after the copies and one deletion
        shutil.copy(path, tmp_path / "killed" / f"part-00000-{3 + sequence:05d}.jsonl")
    part_files(tmp_path / "killed")[0].unlink()
    assert len(Parts(tmp_path / "killed", "f", COLUMNS).done) == 450
    sort_parts(tmp_path / "killed", COLUMNS, keys)
    assert [path.read_bytes() for path in part_files(tmp_path / "killed")] == expected
    assert [json.loads(text)["id"] for text in expected[0].splitlines()[:2]] == ["0000", "0001"]


def test_a_line_that_nobody_asked_for_is_an_error_before_anything_is_removed(tmp_path):
    parts = Parts(tmp_path, "f", COLUMNS)
    for number in range(3):
        parts.append(line(number))
    with pytest.raises(DataError, match="1 replies to what was not asked"):
        sort_parts(tmp_path, COLUMNS, [("0000", 0), ("0002", 0)])
    assert {row["id"] for row in Parts(tmp_path, "f", COLUMNS).rows()} == {"0000", "0001", "0002"}


def test_a_line_is_found_by_its_key_also_when_the_folder_is_opened_again(tmp_path):
    parts = Parts(tmp_path, "f", COLUMNS)
    for number in range(250):
        parts.append(line(number))
    for opened in (parts, Parts(tmp_path, "f", COLUMNS)):
        assert opened.row(("0207", 0)) == line(207)
        assert opened.row(("0207", 1)) is None


def test_a_broken_line_before_the_last_is_an_error_that_names_it(tmp_path):
    (tmp_path / "part-00000-00000.jsonl").write_bytes(b'{"id": 1}\n' + json.dumps(line(1)).encode() + b"\n")
    with pytest.raises(DataError, match="line 1 is no reply"):
        Parts(tmp_path, "f", COLUMNS)
