"""`drift models`, as a person types it: what each command says, and the one line that a wrong one gets."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from drift.cli.app import main
from drift.ground.artifacts import content_sha256
from tests.mlflow_server import impatient
from tests.unit.tracking.test_promoting import Chain, chain
from tests.unit.tracking.test_registry import CONFIG, client, gate

__all__ = ["chain", "client"]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

NAME = CONFIG.model


class Terminal:
    """`drift ARGUMENTS`: its exit code, its output, and what it said was wrong."""

    def __init__(self, captured: pytest.CaptureFixture[str]) -> None:
        self.captured = captured

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        said = self.captured.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    def json(self, *arguments: str) -> dict:
        code, out, err = self(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
def drift(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


def test_versions_are_listed_shown_taken_back_and_promoted_again(drift: Terminal, chain: Chain):
    assert [(one["model"], one["champion"], one["latest"]) for one in drift.json("models", "list")] == [(NAME, "2", 2)]
    newest, before = drift.json("models", "list", NAME)
    assert (newest["version"], newest["aliases"]) == (2, ["best", "candidate", "champion"])
    assert (before["version"], before["aliases"], before["against"]) == (1, ["previous"], "")

    moved = drift.json("models", "rollback", NAME, "--reason", "invents sources")
    assert (moved["champion"], moved["before"], moved["reason"]) == (1, 2, "invents sources")
    shown = drift.json("models", "show", NAME, "2")
    assert shown["compared_with"] == "version 1" and shown["contents"] == content_sha256(chain.model("two"))
    assert shown["against"].startswith("was rolled back by ") and shown["against"].endswith("(invents sources)")
    assert drift.json("models", "show", NAME, "champion")["promoted"].endswith(
        "(version 2 was rolled back: invents sources)"
    )

    code, _, said = drift("models", "promote", NAME, "2")
    assert code == 2 and said.endswith("(invents sources); --yes-again promotes it all the same\n")
    assert drift.json("models", "promote", NAME, "2", "--yes-again")["champion"] == 2
    assert drift.json("models", "reject", NAME, "1", "--reason", "licence")["version"] == 1
    assert drift.json("models", "list", NAME)[1]["against"].startswith("was rejected by ")


def test_a_version_is_downloaded_and_its_card_printed(drift: Terminal, chain: Chain, tmp_path: Path):
    assert drift("models", "download", NAME, "@champion", "--out", str(tmp_path / "out"))[0] == 0
    assert content_sha256(tmp_path / "out") == content_sha256(chain.model("two"))
    code, card, _ = drift("models", "card", NAME, "champion")
    assert code == 0 and "# drift-vlm 2" in card and "vllm serve ./model" in card


def test_a_registration_says_in_one_line_why_the_alias_stays(drift: Terminal, chain: Chain, tmp_path: Path):
    drift("models", "rollback", NAME, "--reason", "bad")
    decision = gate(tmp_path / "again", chain.model("two"), against=chain.model("one"))
    code, said, _ = drift("register", "--model", str(chain.model("two")), "--gate", str(decision), "--name", NAME)
    assert code == 0, "the version is registered; that it does not serve is no error"
    assert "Version 2 was rolled back by" in " ".join(said.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("list", "none"), "none: no such registered model; there is drift-vlm"),
        (("list", ""), "'': no such registered model; there is drift-vlm"),
        (("show", "it's", "1"), "it's: no such registered model; there is drift-vlm"),
        (("card", "none", "champion"), "none: no such registered model; there is drift-vlm"),
        (("rollback", "none", "--reason", "x"), "none: no such registered model; there is drift-vlm"),
        (("show", NAME, "9"), "drift-vlm: no version or alias '9'; there is 1, 2, best, candidate, champion, previous"),
        (("show", NAME, "1.5"), "drift-vlm: no version or alias '1.5'; there is 1, 2, best"),
        (("download", NAME, "best-ever", "--out", "x"), "drift-vlm: no version or alias 'best-ever'; there is 1, 2"),
        (("download", NAME, "1", "--out", "drift"), "drift: exists already; remove it or choose another --out"),
        (("promote", NAME, "1"), "drift-vlm version 1: The gate compared with no champion, and version 2 is"),
        (("rollback", NAME, "--reason", " "), "--reason: is empty; say why"),
        (("rollback", NAME, "--reason", "x", "--to", "2"), "drift-vlm: version 2 is champion already; name another"),
        (("reject", NAME, "champion", "--reason", "x"), "drift-vlm version 2: is champion; `drift models rollback`"),
    ],
)  # fmt: skip
def test_a_wrong_command_gets_one_line(drift: Terminal, chain: Chain, arguments: tuple[str, ...], said: str):
    code, out, error = drift("models", *arguments)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert error.startswith(f"drift: {said}")


def test_where_there_is_no_store_none_is_made(drift: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    code, _, said = drift("models", "list", "--runs", str(tmp_path / "runs"))
    assert code == 2
    remedy = "set MLFLOW_TRACKING_URI, or name the folder of runs with --runs"
    assert said == f"drift: {tmp_path}/runs: no MLflow store there; {remedy}\n"
    assert not (tmp_path / "runs").exists()


def test_a_server_that_does_not_answer_is_said_without_its_clients_words(
    drift: Terminal, monkeypatch: pytest.MonkeyPatch
):
    impatient(monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:secret@127.0.0.1:9")
    code, _, said = drift("models", "list")
    assert code == 2
    assert said == (
        "drift: models: MLflow at http://127.0.0.1:9 does not answer (Failed to "
        "establish a new connection: [Errno 111] Connection refused)\n"
    )


def test_more_models_than_mlflow_hands_out_at_once_are_listed(drift: Terminal, client: MlflowClient):
    for number in range(101):
        client.create_registered_model(f"model-{number:03}")
    assert len(drift.json("models", "list")) == 101
    assert drift("models", "list", "none")[2].endswith("model-009 and 91 more\n")
