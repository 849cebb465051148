"""`drift init`: what it writes is planned, whatever columns are called; what it cannot use is one line and no file."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from drift.cli.app import main
from drift.config.chain import Config
from drift.config.file import load
from drift.planning.beginning.examples import EXAMPLES, SHIPPED
from drift.planning.rehearsal import ASSETS
from pipelines.placement import read_resources
from tests.end_to_end.chain import DRIFT
from tests.hub_server import COMMIT, hub_server
from tests.tiny_models import Family, tiny_family, tiny_llm
from tests.unit.cli.test_models import Terminal

FLAGS = ("--where", "machine", "--benchmarks", "tables", "--perception", "Sight")


@pytest.fixture
def drift(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return tiny_family(tmp_path_factory.mktemp("family"))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with thirty photographs, two tables and nothing else."""
    monkeypatch.chdir(tmp_path)
    Path("tables").mkdir()
    for name in ("Sums", "Sight"):
        Path("tables", f"{name}.tsv").write_text("index\tquestion\tanswer\timage\n0\tHow many?\t3\taGk=\n")
    Path("photos").mkdir()
    for number in range(30):
        Image.new("RGB", (40 + number, 40)).save(f"photos/{number}.png")
    return tmp_path


def rows(**names: str) -> list[dict[str, Any]]:
    return [
        {names["question"]: f"{n} + {n} = ?", names["answer"]: str(2 * n), names["image"]: f"photos/{n}.png"}
        for n in range(30)
    ]


def written(entries: list[dict[str, Any]], name: str = "mine.jsonl") -> str:
    Path(name).write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return name


def models(family: Family) -> tuple[str, ...]:
    return ("--vlm", str(family.vlm), "--expert", str(family.expert))


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (("problem", "answer", "image"), {}),
        (("Query", "label", "photo"), {"problem_column": "Query", "answer_column": "label", "image_column": "photo"}),
        (("question", "answer", "picture"), {"image_column": "picture"}),  # VLMEvalKit's columns but for one
    ],
)
def test_what_it_writes_is_planned(
    drift: Terminal, family: Family, names: tuple[str, str, str], keys: dict[str, str]
) -> None:
    data = written(rows(**dict(zip(("question", "answer", "image"), names, strict=True))))
    code, said, error = drift("init", *models(family), "--data", data, *FLAGS, "--out", "mine.yaml")
    assert code == 0, error
    assert "of the first 30 rows 30 are problems" in said and said.endswith("drift run -c mine.yaml\n")
    config = load("mine.yaml")
    assert config.ingest.model_dump(exclude_unset=True) == {"source": data} | keys
    assert config.curate.keep == 30 and {n: b.role for n, b in config.evaluate.benchmarks.items()} == {
        "Sums": "reasoning",
        "Sight": "perception",
    }
    planned = drift.json("plan", "-c", "mine.yaml")
    assert [(arm["arm"], arm["steps"]) for arm in planned["arms"]] == [("sft", 90), ("drift", 90)]
    assert planned["arms"][1]["reach"] > 0 and planned["memory"]


@pytest.mark.parametrize("where", ["gpu", "cluster"])
def test_of_any_place_the_plan_takes_the_file_and_its_profile(drift: Terminal, family: Family, where: str) -> None:
    data = written(rows(question="problem", answer="answer", image="image"))
    code, said, error = drift("init", *models(family), "--data", data, *FLAGS, "--where", where)
    assert code == 0, error
    command = next(line.split()[1:] for line in said.splitlines() if line.startswith("    drift plan"))
    assert command[1:] == ["-c", "drift.yaml", *(["--resources", "drift.pods.yaml"] if where == "cluster" else [])]
    assert drift(*command)[0] == 0
    assert load("drift.yaml").train.bf16 and load("drift.yaml").name == "drift"


@pytest.mark.parametrize(("served", "gpus"), [((), 1), (("--url", "http://teacher:8000/v1"), 0)])
def test_on_a_cluster_a_teacher_has_a_gpu_unless_it_is_a_server(
    drift: Terminal, family: Family, served: tuple[str, ...], gpus: int
) -> None:
    data = written(rows(question="problem", answer="answer", image="image"))
    assert drift("init", *models(family), "--data", data, *FLAGS, "--where", "cluster", *served)[0] == 0
    assert read_resources(Path("drift.pods.yaml")).of("generate").gpus == gpus


def test_rows_that_bring_chains_need_no_teacher(drift: Terminal, family: Family) -> None:
    chains = [
        {"messages": [{"role": "user", "content": f"<image>{n} + 1?"},
                      {"role": "assistant", "content": f"<think> {n} and 1 </think> \\boxed{{{n + 1}}}"}],
         "images": [f"photos/{n}.png"]}
        for n in range(30)
    ]  # fmt: skip
    code, _, error = drift("init", *models(family), "--data", written(chains), *FLAGS)
    assert code == 0, error
    config = load("drift.yaml")
    assert (config.curate.ready, config.generate.teacher.kind) == ("mine.jsonl", "ready")
    assert drift("plan", "-c", "drift.yaml")[0] == 0


def test_a_served_teacher_is_an_endpoint(drift: Terminal, family: Family) -> None:
    data = written(rows(question="problem", answer="answer", image="image"))
    served = ("--teacher", "big: one", "--url", "http://127.0.0.1:8000/v1")
    assert drift("init", *models(family), "--data", data, *FLAGS, *served)[0] == 0
    teacher = load("drift.yaml").generate.teacher
    assert (teacher.kind, teacher.model) == ("endpoint", "big: one")


def test_in_a_terminal_it_asks_for_what_is_not_given(
    drift: Terminal, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = written(rows(question="problem", answer="answer", image="image"))
    ours, theirs = os.openpty()
    os.write(ours, f"{family.expert}\n{data}\n\n".encode())
    with os.fdopen(theirs) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        code, _, asked = drift("init", "--vlm", str(family.vlm), *FLAGS[2:])
    os.close(ours)
    assert code == 0
    assert asked.count("The text model that reasons") == 1 and "multimodal" not in asked
    assert load("drift.yaml").models.expert == str(family.expert) and not load("drift.yaml").train.bf16


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("--vlm", ""), "--vlm: not given, and there is no terminal to ask in."),
        (("--vlm", "/no/where"), "models.vlm: '/no/where' does not exist"),
        (("--data", "none.csv"), "--data: none.csv: no such file"),
        (("--data", "odd.jsonl"), "ingest.answer_column: no column of 'odd.jsonl' is called answer, gold, "),
        (
            ("--answer", "foto"),
            "ingest.answer_column: 'mine.jsonl' has no column 'foto'; it has problem, ",
        ),
        (("--data", "gone.jsonl"), "--data: 'gone.jsonl': none of 30 rows can be used (missing_image 30); the first: "),
        (("--benchmarks", "photos"), "--benchmarks: photos has no table of reasoning (no .tsv file); add one"),
        (("--perception", "Sigth"), "--perception: 'Sigth' is no table of tables; it has Sight, Sums"),
        (("--from", "paper"), "--from: an example brings its own vlm; leave --vlm out"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_no_file(
    drift: Terminal, family: Family, changed: tuple[str, str], said: str
) -> None:
    data = written(rows(question="problem", answer="answer", image="image"))
    written(rows(question="problem", answer="ratio", image="image"), "odd.jsonl")
    gone = [{**row, "image": "elsewhere.png"} for row in rows(question="problem", answer="answer", image="image")]
    written(gone, "gone.jsonl")
    code, out, error = drift("init", *models(family), "--data", data, *FLAGS, *changed)
    last = error.splitlines()[-1]
    assert (code, out) == (2, "") and last.startswith(f"drift: {said}"), last
    assert not Path("drift.yaml").exists()


def test_of_a_folder_of_pictures_its_table_and_all_columns_that_are_missing_are_named_at_once(
    drift: Terminal, family: Family
) -> None:
    Path("photos/rows.json").write_text(json.dumps(rows(question="frage", answer="antwort", image="image")))
    code, _, error = drift("init", *models(family), "--data", "photos", *FLAGS)
    last = error.splitlines()[-1]
    assert code == 2 and last.startswith("drift: ingest.problem_column: no column of 'photos' is called problem, ")
    assert last.endswith("it has image: say --question COLUMN --answer COLUMN, or give a file of it: rows.json")


def test_rows_that_would_stop_a_run_are_told_with_the_limit(drift: Terminal, family: Family) -> None:
    entries = rows(question="problem", answer="answer", image="image")
    data = written(entries + entries[:9])
    said = drift("init", *models(family), "--data", data, *FLAGS)[1]
    assert "9 rejected (duplicate); a run stops at more than ingest.max_rejected: 0.1" in said


def test_models_that_do_not_fit_are_refused_before_anything_is_written(
    drift: Terminal, family: Family, tmp_path: Path
) -> None:
    other = tiny_llm(tmp_path / "other", num_hidden_layers=3)
    data = written(rows(question="problem", answer="answer", image="image"))
    code, _, error = drift("init", "--vlm", str(family.vlm), "--expert", str(other), "--data", data, *FLAGS)
    assert code == 2 and "layers" in error and not Path("drift.yaml").exists()


def test_of_models_on_the_hub_it_reads_headers_and_not_the_weights(tmp_path: Path) -> None:
    for name in ("vlm", "expert"):
        shutil.copytree(ASSETS / name, tmp_path / "hub" / "tiny" / name)
    cached = tmp_path / "cache" / "hub" / "models--tiny--vlm"  # a download that was broken off
    for place, content in (("refs/main", COMMIT), (f"snapshots/{COMMIT}/model-00001-of-00002.safetensors", "")):
        (cached / place).parent.mkdir(parents=True)
        (cached / place).write_text(content)
    data = written(rows(question="problem", answer="answer", image="image"))
    with hub_server(tmp_path / "hub") as (address, sent):
        hub = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
        begun, swapped = (
            subprocess.run(
                [*DRIFT, "init", "--vlm", vlm, "--expert", expert, "--data", data, *FLAGS, "--out", f"{out}.yaml"],
                env=hub, capture_output=True, text=True, timeout=120,
            )
            for vlm, expert, out in (("tiny/vlm", "tiny/expert", "right"), ("tiny/expert", "tiny/vlm", "wrong"))
        )  # fmt: skip
    assert begun.returncode == 0 and "models: they fit; 139,200 of 292,240 weights train" in begun.stdout, begun.stderr
    assert swapped.returncode == 2 and not Path("wrong.yaml").exists()
    assert swapped.stderr.splitlines()[-1].startswith("drift: tiny/expert: given as the VLM, but a text model")
    assert sent["model.safetensors"] == 4 * 100_001, "the first 100 kB of two files, twice"
    assert load("right.yaml").models.vlm == "tiny/vlm"


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_what_the_repository_has(drift: Terminal, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code, said, error = drift("init", "--from", name, "--out", "mine/first.yaml")
    assert code == 0 and said.endswith("drift run -c mine/first.yaml\n"), error
    copied = load("mine/first.yaml")
    assert copied.train.deepspeed is None or Path(copied.train.deepspeed).is_file()
    monkeypatch.chdir(SHIPPED.parent)
    shipped = load(SHIPPED / EXAMPLES[name])
    for path in (copied.models.vlm, copied.evaluate.data) if name == "miniature" else ():
        assert Path(path).is_dir()
    assert same_but_for_places(copied) == same_but_for_places(shipped)


def same_but_for_places(config: Config) -> Any:
    text = config.model_dump_json().replace("mine/zero2.json", "configs/deepspeed/zero2.json")
    return json.loads(text.replace(f"{SHIPPED.parent}/", ""))


def test_nothing_is_overwritten_unless_it_is_asked_for(drift: Terminal) -> None:
    assert drift("init", "--from", "2b", "--out", "mine.yaml")[0] == 0
    assert drift("init", "--from", "2b", "--out", "mine.yaml")[0] == 0, "the same once more"
    Path("paper_equation.yaml").write_text("mine\n")
    Path("mine.yaml").unlink()
    code, _, error = drift("init", "--from", "2b", "--out", "mine.yaml")
    assert (code, Path("mine.yaml").exists()) == (2, False)
    assert error == "drift: paper_equation.yaml: exists already; choose another --out, or --force overwrites it\n"
    assert drift("init", "--from", "2b", "--out", "mine.yaml", "--force")[0] == 0
    assert load("mine.yaml").train.gradient_accumulation == 8


def test_an_unknown_example_is_told_with_a_near_one() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["init", "--from", "papper"])
    assert ended.value.code == 2
