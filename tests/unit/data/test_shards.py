"""The teacher in shards: a real server and a real tiny model give what they give at once, and folders that do not fit
together are refused."""

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drift.cli.app import main
from drift.config.data import CurateConfig, EndpointTeacher, GenerateConfig, LocalTeacher
from drift.data.chains.distillation import generate
from drift.data.chains.generations import read_generations
from drift.data.chains.shards import Shard
from drift.data.selection.curation import curate
from drift.ground.artifacts import read_json
from drift.ground.errors import ConfigError, DataError, ServiceError
from drift.inference.parts import part_files
from drift.planning.miniature import models
from tests.openai_server import Body, OpenAIServer, question
from tests.pool_rows import ingested

OUTPUTS = ("train.parquet", "rejects.parquet", "funnel.json")


def right(body: Body) -> Body:
    """A right chain for every second draw."""
    answer = int(question(body).split()[1]) + 1 + body["seed"] % 2
    return {"content": f"<think> seed {body['seed']} </think>\n\\boxed{{{answer}}}"}


def endpoint(url: str, **changes) -> GenerateConfig:
    teacher = EndpointTeacher(kind="endpoint", base_url=url, model="served", api_key_env=None, max_retries=0)
    return GenerateConfig(teacher=teacher, **{"samples": 2, "max_failed": 0, **changes})


def shards(count: int) -> list[Shard]:
    return [Shard(number, count) for number in range(1, count + 1)]


def drawn(config: GenerateConfig, problems: Path, out: Path, count: int) -> list[Path]:
    """The folders of so many shards."""
    for shard in shards(count):
        generate(config, problems, out / f"{count}-{shard.number}", shard)
    return [out / f"{count}-{shard.number}" for shard in shards(count)]


def curated(problems: Path, folders: list[Path], out: Path) -> list[bytes]:
    """The bytes of a training set."""
    curate(CurateConfig(min_kept=1, keep=None), problems, folders, out)
    return [(out / name).read_bytes() for name in OUTPUTS]


@given(st.text(), st.integers(1, 50))
def test_every_id_is_in_exactly_one_shard(id: str, count: int):
    assert sum(shard.holds(id) for shard in shards(count)) == 1


def test_a_shard_does_not_depend_on_the_machine():
    # sha256("a") = ca978112 ... ee48bb; its last byte 0xbb = 187 is odd, so mod 2 it is 1: the second shard
    assert [str(shard) for shard in shards(2) if shard.holds("a")] == ["2/2"]
    # sha256("b") ends with 0x5d = 93, odd; sha256("c") ends with 0xa6 = 166, even
    assert [Shard(1, 2).holds(id) for id in "bc"] == [False, True]


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/", "/2", "a/b", "1/2/3", "-1/2", "1/0", " 1/2"])
def test_what_names_no_shard_is_refused(text: str):
    with pytest.raises(ConfigError, match=r"write NUMBER/OF, such as 1/4"):
        Shard.parse(text)


@pytest.mark.parametrize("count", [2, 3, 40])
def test_shards_of_a_server_give_the_bytes_of_one_also_where_some_are_empty(tmp_path: Path, count: int):
    problems = ingested(tmp_path, 12)
    with OpenAIServer(right) as server:
        config = endpoint(server.url)
        one = curated(problems, drawn(config, problems, tmp_path, 1), tmp_path / "one")
        assert len(server.requests) == 24
        folders = drawn(config, problems, tmp_path, count)
        assert len(server.requests) == 48, "every key is drawn in one shard"
    assert curated(problems, folders, tmp_path / "several") == one
    assert curated(problems, folders[::-1], tmp_path / "turned") == one
    rows = [row for folder in folders for row in read_json(folder / "generations.json").items() if row[0] == "shard"]
    assert rows == [("shard", str(shard)) for shard in shards(count)]
    assert pq.read_metadata(tmp_path / "one" / "train.parquet").num_rows > 2


def test_shards_of_a_sampled_checkpoint_give_the_draws_of_one_since_no_batch_is_parted(tmp_path: Path):
    models.save_vlm(models.new_vlm(models.new_text_model().state_dict()), tmp_path / "teacher")
    teacher = LocalTeacher(kind="local", model=str(tmp_path / "teacher"), batch_size=4)
    config = GenerateConfig(teacher=teacher, samples=3, max_new_tokens=6, prompt="{problem}")  # in two batches
    problems = ingested(tmp_path, 9)
    (whole,) = drawn(config, problems, tmp_path, 1)
    folders = drawn(config, problems, tmp_path, 2)
    one, two = (sorted(read_generations(*paths), key=str) for paths in ([whole], folders))
    assert one == two and len(one) == 27
    assert all(part_files(folder) for folder in folders), "both have some, or this shows nothing"


def test_a_killed_shard_goes_on_alone_and_in_no_folder_of_another(tmp_path: Path):
    problems = ingested(tmp_path, 12)
    with OpenAIServer(right) as server:
        first, second = drawn(endpoint(server.url), problems, tmp_path, 2)
        whole = second.rename(tmp_path / "kept")
        lines = part_files(whole)[0].read_bytes().splitlines(keepends=True)
        partial = tmp_path / "2-2.partial"
        partial.mkdir()
        (partial / "part-00000-00000.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:9])
        asked = len(server.requests)
        with pytest.raises(DataError, match=r"2-2\.partial: holds 3 replies that are not of shard 1/2"):
            generate(endpoint(server.url), problems, second, Shard(1, 2))
        report = generate(endpoint(server.url), problems, second, Shard(2, 2))
        assert report.resumed == 3 and len(server.requests) - asked == len(lines) - 3
    assert part_files(second)[0].read_bytes() == part_files(whole)[0].read_bytes()
    assert curated(problems, [first, second], tmp_path / "a") == curated(problems, [first, whole], tmp_path / "b")


def test_shards_keep_their_replies_apart_on_a_claim(tmp_path: Path):
    problems = ingested(tmp_path, 12)
    with OpenAIServer(right, status=lambda number: 500) as server:
        for shard in shards(2):
            with pytest.raises(ServiceError):
                config = endpoint(server.url, checkpoints=str(tmp_path / "claim"))
                generate(config, problems, tmp_path / f"out{shard.number}", shard)
    assert len(list((tmp_path / "claim" / "generations").glob("*/replies"))) == 2


def folders_of(tmp_path: Path) -> dict[str, Path]:
    """Folders as `drift generate --shard` leaves them, by name."""
    problems = ingested(tmp_path, 12)
    with OpenAIServer(right) as server:
        one, two = drawn(endpoint(server.url), problems, tmp_path, 2)
        (other, _) = drawn(endpoint(server.url, seed=1), problems, tmp_path / "other", 2)
        third = drawn(endpoint(server.url), problems, tmp_path, 3)[2]
    return {"one": one, "two": two, "other": other, "third": third}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["one"], "2-1: shard 2/2 is missing; give the folders of all 2"),
        (["third"], "3-3: shard 1/3 and 1 more are missing; give the folders of all 3"),
        (["one", "one"], "2-1: shard 1/2 is given twice, in .*2-1 too"),
        (["two", "other"], "other/2-1: of another model, of other settings or data than .*2-2"),
        (["one", "third"], "3-3: shard 3/3 does not fit shard 1/2"),
    ],
)
def test_folders_that_are_not_all_shards_of_one_work_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str], said: str
):
    known = folders_of(tmp_path)
    given = [option for name in names for option in ("--generations", str(known[name]))]
    command = ["curate", "--problems", str(tmp_path / "problems"), *given, "--out", str(tmp_path / "set")]
    with pytest.raises(SystemExit) as ended:
        main(command)
    error = " ".join(capsys.readouterr().err.split())
    assert ended.value.code == 2
    assert re.search(said, error), error
    assert not (tmp_path / "set").exists()


def test_a_shard_is_a_command_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    problems = ingested(tmp_path, 6)
    with OpenAIServer(right) as server:
        for number in "12":
            teacher = ["--model", "served", "--endpoint", server.url, "teacher.api_key_env=null"]
            out = ["--problems", str(problems), "--out", str(tmp_path / number), "--json"]
            with pytest.raises(SystemExit, match=r"^0$"):
                main(["generate", *teacher, *out, "--shard", f"{number}/2", "samples=2"])
    counts = re.findall(r'"data/generate/generated": (\d+)', capsys.readouterr().out)
    assert sum(map(int, counts)) == 12 and len(counts) == 2
