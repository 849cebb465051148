"""`drift ask`, as a person types it: one answer, two side by side, a dialogue, and the one line of a wrong question."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from drift.tracking.models.registration import register
from tests.openai_server import Body, OpenAIServer
from tests.unit.cli.test_models import Terminal, drift
from tests.unit.evaluate.test_asking import IMAGE, PROBLEM
from tests.unit.tracking.test_registry import CONFIG, client, gate
from tests.world import TEACHER, VLM

__all__ = ["client", "drift"]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

SMALL = ("--max-new-tokens", "64", "--dtype", "float32")


@pytest.fixture
def picture(tmp_path: Path) -> str:
    (tmp_path / "scene.png").write_bytes(IMAGE)
    return str(tmp_path / "scene.png")


def test_a_registered_version_and_another_model_answer_side_by_side(
    drift: Terminal, client: MlflowClient, picture: str, tmp_path: Path
):
    made = Path(shutil.copytree(TEACHER, tmp_path / "made"))
    register(CONFIG, model=str(made), gate=gate(tmp_path / "gate", made))
    shutil.rmtree(made)
    name = f"{CONFIG.model}@champion"
    asked = ("ask", "--model", name, "--image", picture, PROBLEM.question, *SMALL)
    answer = drift.json(*asked)
    assert list(answer) == ["model", "thinking", "answer", "seconds", "tokens", "finish_reason"]
    assert (answer["model"], answer["finish_reason"]) == (name, "stop")
    assert answer["answer"].startswith("\\boxed{") and "=" in answer["thinking"]
    both = drift.json(*asked, "--model", str(VLM))
    assert [one["model"] for one in both] == [name, str(VLM)] and both[0]["answer"] == answer["answer"]

    weights = Path(next(Path(tmp_path).rglob("artifacts/model.safetensors")))
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    code, out, error = drift(*asked)
    assert (code, out) == (2, "") and error.startswith("drift: models:/drift-vlm/1: its contents are ")


def served(body: Body) -> Body:
    return {"content": f"<think> I was told {len(body['messages'])} [red]\x1b[2J </think> The [answer] :cat:."}


def test_what_a_model_writes_is_shown_as_it_stands_and_cannot_command_the_terminal(drift: Terminal):
    with OpenAIServer(served) as server:
        code, out, _ = drift("ask", "--url", server.url, "--model", "m", "Well?")
    assert code == 0 and "\x1b" not in out
    assert "thinking" in out and "I was told 1 [red][2J" in out
    assert out.index("[red]") < out.index("The [answer] :cat:.") < out.index("5 tokens in ")


Type = Callable[[str], None]


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Type:
    """Standard input is a terminal, on which these lines have been typed; then it ends."""
    ours, theirs = os.openpty()
    monkeypatch.setattr("sys.stdin", os.fdopen(theirs))
    return lambda text: os.write(ours, f"{text}\n\x04".encode()) and None


def test_without_a_question_a_terminal_gets_a_dialogue_until_its_input_ends(
    drift: Terminal, keyboard: Type, picture: str
):
    keyboard(f"How many?\n\n/image none.png\n/image {picture}\nAnd here?\n/new\nHello")
    with OpenAIServer(served) as server:
        code, out, error = drift("ask", "--url", server.url, "--model", "m", "--image", picture)
    sent = [body["messages"] for body in server.requests]
    assert (code, [len(turns) for turns in sent]) == (0, [1, 3, 1])
    assert [[part["type"] for part in turns[-1]["content"]] for turns in sent] == [
        ["image_url", "text"],
        ["image_url", "text"],
        ["text"],
    ]
    assert out.count("The [answer] :cat:.") == 3
    assert error.count("drift: ") == 1 and "drift: none.png: no such image file; give the path of" in error


def test_ctrl_c_ends_an_answer_and_not_the_dialogue(drift: Terminal, keyboard: Type):
    def interrupted(body: Body) -> Body:
        if body["messages"][-1]["content"][0]["text"] == "Long?":
            os.kill(os.getpid(), signal.SIGINT)
        return served(body)

    keyboard("Long?\nShort?")
    with OpenAIServer(interrupted, delay_seconds=0.1) as server:
        code, out, error = drift("ask", "--url", server.url, "--model", "m")
    assert (code, out.count("The [answer]")) == (0, 1) and "drift: stopped; ask again" in error
    assert "I was told 1 " in out, "what was not answered was not said"


def test_a_question_may_come_from_another_command(drift: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "question").write_text("How\nmany?\n")
    with OpenAIServer(served) as server, (tmp_path / "question").open() as typed:
        monkeypatch.setattr("sys.stdin", typed)
        answer = drift.json("ask", "--url", server.url, "--model", "m")
    assert answer["answer"] == "The [answer] :cat:."
    assert server.requests[0]["messages"][0]["content"] == [{"type": "text", "text": "How\nmany?"}]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "/no/model", "--image", "README.md", "Q"), "README.md: the image does not decode (not a format"),
        (("--model", "/no/model", "--image", "none.png", "Q"), "none.png: no such image file; give the path of a PNG"),
        (("--model", "/no/model", " "), "QUESTION: is empty; ask something"),
        (("--model", "/no/model", "<image> and <image>?"), "QUESTION: 2 times <image>, but 0 images; give as many"),
        (("--model", "/no/model", "Q"), "'/no/model': no such directory; give a model directory or a hub id"),
        (("--model", "README.md", "Q"), "README.md: a file; give the model's directory"),
        (("--model", "drift", "Q"), "drift: not a model directory (no config.json)"),
        (("--model", "m", "--api-key-env", "KEY", "Q"), "--api-key-env: is for a server; give its --url"),
        (("--model", "m", "--url", "http://127.0.0.1:9/v1", "Q"), "evaluate.endpoint: http://127.0.0.1:9/v1 does not"),
        (("--model", "m@champion", "--runs", "/no/runs", "Q"), "m@champion: no such directory; if it is a registered"),
        (("--model", "m", "--temperature", "-1", "Q"), "evaluate.temperature: "),
    ],
)  # fmt: skip
def test_a_wrong_question_gets_one_line(
    drift: Terminal, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    code, out, error = drift("ask", *arguments)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert error.startswith(f"drift: {said}")


def test_it_asks_as_the_file_of_a_run_says(drift: Terminal, tmp_path: Path):
    section = {
        "data": "d",
        "benchmarks": {"MMStar": {}},
        "engine": "vllm",
        "max_new_tokens": 7,
        "instruction": "Brief.",
    }
    (tmp_path / "run.yaml").write_text(json.dumps({"evaluate": section}))
    with OpenAIServer(served) as server:
        drift.json("ask", "-c", str(tmp_path / "run.yaml"), "--url", server.url, "--model", "m", "Q", "--seed", "5")
    (sent,) = server.requests
    assert (sent["max_tokens"], sent["messages"][0]["content"][0]["text"]) == (7, "Q\nBrief.")
