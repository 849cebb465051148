"""Requests that failed are asked again by the same command, and adaptive samples are drawn only while none is right."""

import gc
from collections import defaultdict

import pytest

from drift.config.data import EndpointTeacher, GenerateConfig, LocalTeacher
from drift.data.chains.distillation import _fingerprint, generate
from drift.data.chains.generations import read_generations
from drift.ground.artifacts import content_sha256, read_json
from drift.ground.errors import ConfigError, DataError, ServiceError
from tests.openai_server import Body, OpenAIServer, question
from tests.pool_rows import ingested
from tests.unit.data.test_generate import endpoint, keys


def refusing(*numbers: int):
    """400 for requests of these numbers."""
    return lambda number: 400 if number in numbers else 200


# ------------------------------------------------------------------------------------------------ gaps


def test_the_same_command_asks_for_the_failed_keys_alone(tmp_path):
    problems, out = ingested(tmp_path, 5), tmp_path / "out"
    with OpenAIServer(status=refusing(3, 4)) as server:
        config = endpoint(server.url, max_failed=0.2, concurrency=1)
        first = generate(config, problems, out)
        told = read_json(out / "generations.json")
    failed = [tuple(key) for key in told["failed_keys"]]
    assert (first.failed, told["failed"], len(failed)) == (2, 2, 2)
    assert not set(failed) & set(keys(out))
    with OpenAIServer() as server:
        second = generate(endpoint(server.url), problems, out)
        whole = generate(endpoint(server.url), problems, tmp_path / "whole")
        assert len(server.requests) == 2 + 10
    assert (second.requested, second.generated, second.resumed, second.failed) == (10, 10, 8, 0)
    assert read_json(out / "generations.json")["failed_keys"] == []
    assert content_sha256(out) == content_sha256(tmp_path / "whole") and whole.generated == 10
    assert sorted(path.name for path in tmp_path.iterdir() if "out" in path.name and path.suffix != ".lock") == ["out"]


def test_work_without_gaps_is_left_alone_and_so_is_that_of_other_settings(tmp_path):
    problems, out = ingested(tmp_path, 5), tmp_path / "out"
    with OpenAIServer(status=refusing(3)) as server:
        generate(endpoint(server.url, max_failed=0.2), problems, out)
        with pytest.raises(DataError, match="exists already"):
            generate(endpoint(server.url, max_failed=0.2, seed=1), problems, out)
        generate(endpoint(server.url), problems, out)
        with pytest.raises(DataError, match="exists already"):
            generate(endpoint(server.url), problems, out)
        assert len(server.requests) == 11


def test_what_is_there_stays_until_the_gaps_are_filled_and_nothing_is_drawn_twice(tmp_path):
    problems, out = ingested(tmp_path, 5), tmp_path / "out"
    with OpenAIServer(status=refusing(1, 2, 3)) as server:
        generate(endpoint(server.url, max_failed=0.3), problems, out)
    before = content_sha256(out)
    with (
        OpenAIServer(status=refusing(2, 3)) as server,
        pytest.raises(ServiceError, match="run again to go on"),
    ):
        generate(endpoint(server.url, concurrency=1), problems, out)
    assert content_sha256(out) == before
    with OpenAIServer() as server:
        report = generate(endpoint(server.url), problems, out)
        assert len(server.requests) == 2
    assert (report.resumed, report.generated) == (8, 10)
    assert len(set(keys(out))) == len(keys(out)) == 10


def test_gaps_are_filled_on_a_claim_too(tmp_path):
    problems, out, kept = ingested(tmp_path, 5), tmp_path / "out", str(tmp_path / "kept")
    with OpenAIServer(status=refusing(1)) as server:
        generate(endpoint(server.url, max_failed=0.3, checkpoints=kept), problems, out)
        report = generate(endpoint(server.url, checkpoints=kept), problems, out)
        assert len(server.requests) == 11
    assert (report.resumed, report.generated, len(keys(out))) == (9, 10, 10)


# ------------------------------------------------------------------------------------------------ cost


def test_the_cost_is_told_and_a_run_that_its_price_has_stopped_goes_on_with_a_higher_one(tmp_path):
    problems = ingested(tmp_path, 5)
    price = {"price_per_million": {"prompt": 0, "completion": 1e6}}  # 5 a reply
    with OpenAIServer() as server:
        config = endpoint(server.url, max_new_tokens=5)
        dear = {"teacher": EndpointTeacher(**(config.teacher.model_dump() | price | {"max_price": 32}))}
        with pytest.raises(ConfigError, match=r"generate\.teacher\.max_price: 30 of 32 is spent"):
            generate(config.model_copy(update=dear), problems, tmp_path / "out")
        assert len(server.requests) == 6
        more = {"teacher": EndpointTeacher(**(config.teacher.model_dump() | price | {"max_price": 50}))}
        report = generate(config.model_copy(update=more), problems, tmp_path / "out")
        assert len(server.requests) == 10
    assert (report.resumed, report.cost, report.metrics()["data/generate/cost"]) == (6, 50, 50)
    assert read_json(tmp_path / "out" / "generations.json")["cost"] == 50


# ------------------------------------------------------------------------------------------- adaptive


def right_when(is_right):
    """Answers `compute n + 1` rightly where ``is_right(n, seed)``."""

    def answer(body: Body) -> Body:
        number = int(question(body).split()[1])
        return {"content": f"<think>s{body['seed']}</think> \\boxed{{{number + is_right(number, body['seed'])}}}"}

    return answer


by_seed = right_when(lambda number, seed: seed % 3 == 0)


def drawn(folder) -> dict[str, list[bool]]:
    """Of each problem, whether its answers are right, in their order."""
    answers = defaultdict(list)
    for row in read_generations(folder):
        seed = int(row["text"].split("</think>")[0].removeprefix("<think>s"))
        answers[row["id"]].append(seed % 3 == 0)
    return answers


def test_a_problem_gets_one_more_sample_only_while_none_is_right(tmp_path):
    problems = ingested(tmp_path, 30)
    with OpenAIServer(by_seed) as server:
        report = generate(endpoint(server.url, samples=4, adaptive=True), problems, tmp_path / "out")
        assert len(server.requests) == report.requested == report.generated < 120
    answers = drawn(tmp_path / "out")
    assert len(answers) == 30 and {len(one) for one in answers.values()} == {1, 2, 3, 4}
    assert not any(any(one[:-1]) for one in answers.values()), "none goes on after a right one"
    assert all(one[-1] or len(one) == 4 for one in answers.values()), "each goes on until one is right"


def test_adaptive_rows_do_not_depend_on_where_a_run_was_stopped_or_what_failed(tmp_path):
    problems = ingested(tmp_path, 30)
    with OpenAIServer(by_seed) as server:
        config = endpoint(server.url, samples=4, adaptive=True)
        whole = generate(config, problems, tmp_path / "whole")
    for stop in (5, 35, 60):
        later = lambda number, stop=stop: 400 if number > stop else 200  # noqa: E731
        with OpenAIServer(by_seed, status=later) as server, pytest.raises(ServiceError):
            generate(endpoint(server.url, samples=4, adaptive=True), problems, tmp_path / f"stopped {stop}")
        with OpenAIServer(by_seed) as server:
            report = generate(endpoint(server.url, samples=4, adaptive=True), problems, tmp_path / f"stopped {stop}")
            assert len(server.requests) == whole.requested - report.resumed
        assert content_sha256(tmp_path / f"stopped {stop}") == content_sha256(tmp_path / "whole")
    with OpenAIServer(by_seed, status=refusing(2, 33)) as server:
        gaps = generate(endpoint(server.url, samples=4, adaptive=True, max_failed=0.5), problems, tmp_path / "gaps")
        assert gaps.failed == 2
        generate(endpoint(server.url, samples=4, adaptive=True), problems, tmp_path / "gaps")
    assert content_sha256(tmp_path / "gaps") == content_sha256(tmp_path / "whole")
    gc.collect()


# ---------------------------------------------------------------------------------------- fingerprint


def test_new_settings_at_their_defaults_leave_the_fingerprint_of_older_work(tmp_path):
    table = tmp_path / "problems.parquet"
    table.write_bytes(b"problems")
    served = {"kind": "endpoint", "base_url": "http://x/v1", "model": "served"}
    before = GenerateConfig(teacher=EndpointTeacher(**served))
    assert _fingerprint(before, table) == "ffc7e6571922030a"
    local = GenerateConfig(teacher=LocalTeacher(kind="local", model="/nowhere"), samples=2, seed=3)
    assert _fingerprint(local, table) == "ddee44b1eb663357"
    same = {"base_url": ["http://a", "http://b"], "tokens_per_minute": 1, "token_limit": "max_completion_tokens"}
    same |= {"price_per_million": {"prompt": 1, "completion": 1}, "max_price": 1, "requests_per_minute": 9}
    assert _fingerprint(GenerateConfig(teacher=EndpointTeacher(**(served | same))), table) == "ffc7e6571922030a"
    for other in ({"system": ""}, {"omit": ["top_p"]}, {"extra_body": {"top_k": 1}}):
        changed = GenerateConfig(teacher=EndpointTeacher(**(served | other)))
        assert _fingerprint(changed, table) != "ffc7e6571922030a"
    adaptive = before.model_copy(update={"adaptive": True})
    assert _fingerprint(adaptive, table) != "ffc7e6571922030a"
