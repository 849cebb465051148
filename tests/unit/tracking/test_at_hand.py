"""A registered version by its name: which one is meant, and its files here without a copy, or fetched from a server."""

import os
from pathlib import Path

import pytest
from mlflow import MlflowClient

from drift.ground.artifacts import content_sha256
from drift.ground.errors import ConfigError, DataError
from drift.tracking.models.at_hand import directory_of, find, named
from drift.tracking.models.by_hand import roll_back
from tests.mlflow_server import mlflow_server
from tests.unit.tracking.test_promoting import Chain, chain
from tests.unit.tracking.test_registry import CONFIG, client, names

__all__ = ["chain", "client"]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

NAME = CONFIG.model
NOWHERE = Path("/no/runs")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (NAME, (NAME, "champion")),
        (f"{NAME}@best", (NAME, "best")),
        (f"{NAME}/12", (NAME, "12")),
        (f"models:/{NAME}@previous", (NAME, "previous")),
        (f"models:/{NAME}/3", (NAME, "3")),
        ("main.models.vlm@champion", ("main.models.vlm", "champion")),
        *((text, None) for text in ("owner/name", "owner/name@main", "drift", "./2", "../2", "~/2", "/a", "", "s3://b/2")),
    ],
)  # fmt: skip
def test_a_registered_name_is_told_from_a_path_and_from_a_hub_id(text: str, meant: tuple[str, str] | None):
    assert named(text) == meant


def test_files_in_a_folder_of_this_machine_are_linked_without_what_lies_beside_them(chain: Chain):
    champion, first = (find(text, NOWHERE) for text in (NAME, f"{NAME}@previous"))
    assert champion and first and (champion.address, first.address) == (f"models:/{NAME}/2", f"models:/{NAME}/1")
    with directory_of(champion) as folder:
        assert names(folder) == {"config.json", "model.safetensors"}
        assert all(path.is_symlink() for path in folder.iterdir())
        assert content_sha256(folder) == content_sha256(chain.model("two"))
    assert not folder.exists() and champion.folder and (champion.folder / "MLmodel").is_file()


def test_what_a_person_said_against_a_version_is_said_to_who_asks_for_it(
    chain: Chain, caplog: pytest.LogCaptureFixture
):
    assert find(NAME, NOWHERE) and caplog.messages == []
    roll_back(NAME, reason="invents sources")
    assert find(f"{NAME}/2", NOWHERE)
    (said,) = caplog.messages
    assert said.startswith(f"models:/{NAME}/2 was rolled back by ") and said.endswith("(invents sources)")


def test_files_that_were_changed_or_are_gone_are_refused(chain: Chain):
    found = find(NAME, NOWHERE)
    assert found and found.folder
    (found.folder / "model.safetensors").write_text("tow")
    said = r"^models:/drift-vlm/2: its contents are \w{12}, not \w{12} as registered"
    with pytest.raises(DataError, match=said), directory_of(found):
        pass
    for path in found.folder.rglob("*"):
        if path.is_file():
            path.unlink()
    with (
        pytest.raises(DataError, match="no files; `drift register` with that model"),
        directory_of(found),
    ):
        pass


def test_what_is_not_there_is_said(client: MlflowClient, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(DataError, match=r"^none: no such registered model; there is none$"):
        find("none", NOWHERE)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(
        ConfigError, match=r"^none: no such directory; if it is a registered model: /no/runs: no MLflow"
    ):
        find("none", NOWHERE)


def test_files_that_a_server_hands_out_are_fetched_for_as_long_as_they_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "server").mkdir()
    with mlflow_server(tmp_path / "server") as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        made = Chain(tmp_path)
        made.run("one")
        found = find(f"{NAME}/1", NOWHERE)
        assert found and found.folder is None and found.location.startswith("mlflow-artifacts:/")
        with directory_of(found) as folder:
            assert content_sha256(folder) == content_sha256(made.model("one"))
            assert names(folder) == {"config.json", "model.safetensors"}
        assert not os.path.lexists(folder)
