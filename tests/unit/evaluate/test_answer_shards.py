"""A model's evaluation in shards: a real server and a real tiny model give the scores that they give at once."""

import shutil
from pathlib import Path

import pytest
import torch

from drift.cli.app import main
from drift.config.evaluate import EvaluateConfig
from drift.data.chains.shards import Shard
from drift.evaluate.evaluation import evaluate
from drift.evaluate.samples import read_samples
from drift.evaluate.shards import answer, score_answers
from drift.ground.artifacts import read_json
from drift.ground.errors import DataError, ServiceError
from drift.inference.parts import part_files
from drift.planning.miniature import models
from tests.openai_server import Body, OpenAIServer, question
from tests.unit.evaluate.test_benchmarks import png, table

FILES = ("scores.json", "samples.parquet", "examples.parquet")
COUNTS = {"Sums": 9, "Colours": 3}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions of different lengths; the answer to number n is n. One of the colours has no picture."""
    folder = tmp_path_factory.mktemp("benchmarks")
    for name, count in COUNTS.items():
        rows = [f"{n}\t{png('red', (112, 56))}\tcompute {'a + ' * (n % 4)}b of {n}\t{n}" for n in range(count)]
        broken = ["9\t77\tno picture of 9\t9"] if name == "Colours" else []
        (folder / f"{name}.tsv").write_text(table(*rows, *broken))
    return folder


def settings(data: Path, url: str = "", **more: object) -> EvaluateConfig:
    benchmarks = {"Sums": {"role": "reasoning"}, "Colours": {"role": "perception"}}
    server = {"base_url": url, "api_key_env": None, "max_retries": 0, "concurrency": 2} if url else None
    given = {"batch_size": 2, "max_new_tokens": 6, "max_failed": 0.5, "threads": 1, "processes": 1, **more}
    return EvaluateConfig(data=str(data), benchmarks=benchmarks, endpoint=server, **given)


def says(body: Body) -> Body:
    """The right answer, but to the first and the last sum."""
    number = int(question(body).split()[-1])
    return {"content": f"\\boxed{{{number if 0 < number < 8 else 77}}}"}


class Refusing(OpenAIServer):
    """Refuses the questions of these numbers, whenever they are asked."""

    def __init__(self, *numbers: int) -> None:
        super().__init__(says)
        self.numbers = numbers

    def complete(self, body: Body, headers: dict[str, str]) -> tuple[int, Body | str]:
        if int(question(body).split()[-1]) in self.numbers:
            return 400, {"error": {"message": "too long"}}
        return super().complete(body, headers)


def answered(config: EvaluateConfig, out: Path, count: int = 2, label: str = "m", model: str = "m") -> list[Path]:
    """The folders of so many shards."""
    folders = [out / f"{number}-of-{count}" for number in range(1, count + 1)]
    for number, folder in enumerate(folders, start=1):
        answer(config, model=model, label=label, shard=Shard(number, count), out=folder)
    return folders


def contents(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


@pytest.mark.parametrize("count", [2, 30])
def test_shards_of_a_server_give_the_bytes_of_one_also_with_requests_that_failed(
    tmp_path: Path, data: Path, count: int
) -> None:
    with Refusing(5) as server:
        config = settings(data, server.url)
        evaluate(config, model="m", label="m", out=tmp_path / "one")
        folders = answered(config, tmp_path, count)
        asked = len(server.requests)
        score_answers(config, answers=folders[::-1], out=tmp_path / "shards")
        assert len(server.requests) == asked, "nothing is asked where all are judged"
    assert contents(tmp_path / "shards") == contents(tmp_path / "one")
    samples = {(one.benchmark, one.index): one for one in read_samples(tmp_path / "shards")}
    assert samples["Sums", "5"].status == samples["Colours", "9"].status == "failed"
    assert samples["Sums", "1"].correct and not samples["Sums", "8"].correct


def test_shards_of_a_checkpoint_draw_what_one_draws_since_no_batch_is_parted(tmp_path: Path, data: Path) -> None:
    torch.manual_seed(0)
    models.save_vlm(models.new_vlm(models.new_text_model().state_dict()), tmp_path / "vlm")
    model = str(tmp_path / "vlm")
    config = settings(data, samples=2, temperature=1.0)
    evaluate(config, model=model, label="tiny", out=tmp_path / "one")
    folders = answered(config, tmp_path, label="tiny", model=model)
    assert all(part_files(folder) for folder in folders), "both have some, or this shows nothing"
    score_answers(config, answers=folders, out=tmp_path / "shards")
    assert contents(tmp_path / "shards") == contents(tmp_path / "one")


def test_a_killed_shard_goes_on_alone(tmp_path: Path, data: Path) -> None:
    with OpenAIServer(says) as server:
        config = settings(data, server.url)
        first, second = answered(config, tmp_path)
        kept = part_files(second)[0].read_bytes().splitlines(keepends=True)
        shutil.rmtree(second)
        partial = tmp_path / "2-of-2.partial"
        partial.mkdir()
        (partial / "part-00000-00000.jsonl").write_bytes(kept[0] + kept[1][:7])
        before = len(server.requests)
        answer(config, model="m", label="m", shard=Shard(2, 2), out=second)
        assert len(server.requests) - before == len(kept) - 1
        score_answers(config, answers=[first, second], out=tmp_path / "scores")


def test_more_failures_than_allowed_stop_where_all_are_counted(tmp_path: Path, data: Path) -> None:
    with Refusing(3, 4, 5, 7) as server:
        config = settings(data, server.url, max_failed=0.4)
        folders = answered(config, tmp_path)
        with pytest.raises(ServiceError, match=r"evaluate\.max_failed: Sums: 4 requests failed"):
            score_answers(config, answers=folders, out=tmp_path / "scores")
    assert not (tmp_path / "scores").exists()


def test_replies_to_other_questions_are_not_judged(tmp_path: Path, data: Path) -> None:
    with OpenAIServer(says) as server:
        folders = answered(settings(data, server.url), tmp_path)
        with pytest.raises(DataError, match="1-of-2: asked other questions, or asked otherwise"):
            score_answers(settings(data, server.url, limit=2), answers=folders, out=tmp_path / "scores")
        part_files(folders[0])[0].unlink()
        with pytest.raises(DataError, match=r"no reply, as of \d questions"):
            score_answers(settings(data, server.url), answers=folders, out=tmp_path / "scores")


def test_a_shard_and_the_whole_are_commands_and_what_does_not_fit_is_one_line(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def drift(*words: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", *words])
        said = capsys.readouterr()
        assert ended.value.code == code, said.err
        return " ".join((said.err if code else said.out).split())

    with OpenAIServer(says) as server:
        whole = ["--model", "m", "--endpoint", server.url, "--data", str(data), "endpoint.api_key_env=null"]
        whole += ["benchmarks.Sums.role=reasoning", "benchmarks.Colours.role=perception", "max_failed=0.5"]
        folders = [str(tmp_path / number) for number in "12"]
        for number, folder in enumerate(folders, start=1):
            drift(*whole, "--shard", f"{number}/2", "--out", folder)
        out = ["--out", str(tmp_path / "scores")]
        assert "shard 2/2 is missing" in drift("--replies", folders[0], *out, code=2)
        assert "--model: nothing is asked with --replies" in drift("--replies", folders[0], *whole, *out, code=2)
        drift(*whole, "--label", "n", "--shard", "2/2", "--out", str(tmp_path / "n"))
        other = drift("--replies", folders[0], "--replies", str(tmp_path / "n"), *out, code=2)
        assert "n: replies of 'n', not of 'm'" in other
        assert not (tmp_path / "scores").exists()
        drift("--replies", folders[0], "--replies", folders[1], *out)
        drift(*whole, "--out", str(tmp_path / "one"))
    assert contents(tmp_path / "scores") == contents(tmp_path / "one")
    assert [row["name"] for row in read_json(tmp_path / "scores" / "provenance.json")["inputs"]][:3] == [
        "model", "answers 1", "answers 2"
    ]  # fmt: skip
