"""The registry: a version only for a model that passed, once per model, and `champion` moves last."""

import json
import shutil
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from drift.config.gate import RegisterConfig
from drift.ground.artifacts import content_sha256
from drift.ground.errors import DataError, DriftError, ServiceError
from drift.tracking.models.registration import register
from drift.tracking.models.registry import Champion, Champions, fetch, find_champion, find_champions, parse_champions
from drift.tracking.runs.tracker import Tracker
from tests.mlflow_store import fresh_store

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

CONFIG = RegisterConfig(model="drift-vlm")


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    uri = fresh_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return MlflowClient(uri)


def model(folder: Path, weights: str = "w") -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(weights)
    return folder


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def gate(folder: Path, decided: Path | str, *, passed: bool = True, against: Path | None = None, **more: bool) -> Path:
    """A decision; ``against`` is the champion it compared with."""
    folder.mkdir()
    sha = content_sha256(decided) if isinstance(decided, Path) else decided
    content = {"passed": passed, "winner": "drift" if passed else "", "model_sha256": sha, "reasons": ["Too lossy."]}
    content |= {"promotes": passed, "best_ever": passed, "alias": "Above.", **more}
    content["champion_sha256"] = content_sha256(against) if against else None
    (folder / "gate.json").write_text(json.dumps(content))
    return folder


def versions(client: MlflowClient) -> list[int]:
    return sorted(int(version.version) for version in client.search_model_versions("name = 'drift-vlm'"))


def aliases(client: MlflowClient) -> dict[str, int]:
    return {name: int(number) for name, number in client.get_registered_model("drift-vlm").aliases.items()}


def test_a_model_that_passed_becomes_the_champion_and_comes_back_bit_for_bit(client: MlflowClient, tmp_path: Path):
    made = model(tmp_path / "model")
    report = register(CONFIG, model=str(made), gate=gate(tmp_path / "gate", made), out=tmp_path / "out")
    assert (report.version, report.created, report.champion, report.previous) == (1, True, True, None)
    assert aliases(client) == {"candidate": 1, "champion": 1, "best": 1}
    tags = client.get_model_version("drift-vlm", "1").tags
    assert tags["drift.fingerprint"] == content_sha256(made)
    assert (tags["drift.gate"], tags["drift.arm"], tags["drift.source_uri"]) == ("passed", "drift", str(made))
    loaded = Path(mlflow.artifacts.download_artifacts("models:/drift-vlm@champion", dst_path=str(tmp_path / "loaded")))
    ours, beside = (names(folder) for folder in (made, loaded))
    assert beside - ours == {
        "MLmodel",
        "README.md",
        "requirements.txt",
        "code/drift_decoding.py",
        "code/drift_served.py",
        "registered_model_meta",
    }
    for name in beside - ours:
        (loaded / name).unlink()
    assert content_sha256(loaded) == content_sha256(made)
    assert json.loads((tmp_path / "out" / "registered.json").read_text())["uri"] == "models:/drift-vlm/1"


def test_the_same_model_registered_twice_is_one_version(client: MlflowClient, tmp_path: Path):
    made = model(tmp_path / "model")
    decision = gate(tmp_path / "gate", made)
    first, second = (register(CONFIG, model=str(made), gate=decision) for _ in range(2))
    assert (first.version, second.version) == (1, 1)
    assert (first.created, second.created) == (True, False)
    assert versions(client) == [1]


def test_two_that_register_the_same_model_at_once_make_one_version(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made, create = model(tmp_path / "model"), MlflowClient.create_model_version

    def create_after_another(*arguments: object, **more: object) -> object:
        create(*arguments, **more)
        return create(*arguments, **more)

    monkeypatch.setattr(MlflowClient, "create_model_version", create_after_another)
    report = register(CONFIG, model=str(made), gate=gate(tmp_path / "gate", made))
    assert (report.version, report.created) == (1, False)
    assert versions(client) == [1]
    assert aliases(client) == {"candidate": 1, "champion": 1, "best": 1}


def test_a_better_model_takes_over_and_the_one_before_stays_at_hand(client: MlflowClient, tmp_path: Path):
    before = None
    for number in (1, 2):
        made = model(tmp_path / f"model{number}", weights=str(number))
        report = register(CONFIG, model=str(made), gate=gate(tmp_path / f"gate{number}", made, against=before))
        before = made
    assert (report.version, report.previous, report.alias) == (2, 1, "Above.")
    assert aliases(client) == {"candidate": 2, "champion": 2, "previous": 1, "best": 2}
    assert client.get_model_version("drift-vlm", "2").tags["drift.promoted_from"] == "1"


def test_without_promotion_the_version_is_a_candidate_only(client: MlflowClient, tmp_path: Path):
    made = model(tmp_path / "model")
    config = RegisterConfig(model="drift-vlm", promotion="manual")
    report = register(config, model=str(made), gate=gate(tmp_path / "gate", made))
    assert not report.champion
    assert aliases(client) == {"candidate": 1}


def two_models(tmp_path: Path) -> tuple[Path, Path]:
    """The first one is champion."""
    first, second = (model(tmp_path / name, weights=name) for name in ("first", "second"))
    register(CONFIG, model=str(first), gate=gate(tmp_path / "gate", first))
    return first, second


def test_a_model_that_passed_but_is_not_above_the_champion_is_a_candidate_and_it_is_said_why(
    client: MlflowClient, tmp_path: Path
):
    first, second = two_models(tmp_path)
    decision = gate(tmp_path / "tie", second, against=first, promotes=False)
    report = register(CONFIG, model=str(second), gate=decision)
    assert (report.version, report.champion) == (2, False)
    assert report.alias == "Above. The alias champion stays at version 1."
    assert aliases(client) == {"candidate": 2, "champion": 1, "best": 1}


@pytest.mark.parametrize("seen", ["none", "another"])
def test_the_alias_does_not_move_from_a_champion_that_the_gate_did_not_compare_with(
    client: MlflowClient, tmp_path: Path, seen: str
):
    _, second = two_models(tmp_path)
    decision = gate(tmp_path / "late", second, against=second if seen == "another" else None)
    report = register(CONFIG, model=str(second), gate=decision)
    whom = "version 2" if seen == "another" else "no champion"
    assert report.alias == (
        f"The gate compared with {whom}, and version 1 is champion now; run again. The alias stays."
    )
    assert aliases(client) == {"candidate": 2, "champion": 1, "best": 1}


def test_the_best_champion_ever_keeps_its_title_when_a_lesser_one_takes_over(client: MlflowClient, tmp_path: Path):
    first, second = two_models(tmp_path)
    client.delete_registered_model_alias("drift-vlm", "best")  # registered by an earlier version
    register(CONFIG, model=str(second), gate=gate(tmp_path / "lesser", second, against=first, best_ever=False))
    assert aliases(client) == {"candidate": 2, "champion": 2, "previous": 1, "best": 1}
    best = Champion("drift-vlm", 1, content_sha256(first))
    assert find_champions("drift-vlm") == Champions(Champion("drift-vlm", 2, content_sha256(second)), best)
    third = model(tmp_path / "third", weights="third")
    register(CONFIG, model=str(third), gate=gate(tmp_path / "better", third, against=second))
    found = find_champions("drift-vlm")
    assert found is not None and found.best is None
    assert parse_champions(found.to_json()) == found


def test_a_registration_that_stopped_half_way_is_finished_by_the_next(client: MlflowClient, tmp_path: Path):
    made = model(tmp_path / "model")
    experiment = client.create_experiment("drift", artifact_location=(tmp_path / "artifacts").as_uri())
    left = client.create_logged_model(
        experiment, name="drift-vlm", tags={"drift.fingerprint": content_sha256(made)}, model_type="vlm"
    )
    client.create_registered_model("drift-vlm")
    report = register(CONFIG, model=str(made), gate=gate(tmp_path / "gate", made))
    assert (report.version, report.created) == (1, True)
    assert str(client.get_logged_model(left.model_id).status) == "FAILED", "it was never whole"
    assert client.get_model_version("drift-vlm", "1").source != left.model_uri


def test_a_model_that_the_gate_refused_is_not_registered(client: MlflowClient, tmp_path: Path):
    made = model(tmp_path / "model")
    with pytest.raises(DriftError, match=r"the gate refused it \(Too lossy\.\); nothing is registered"):
        register(CONFIG, model=str(made), gate=gate(tmp_path / "gate", made, passed=False))
    assert client.search_registered_models() == []


def test_a_gate_that_decided_on_another_model_registers_nothing(client: MlflowClient, tmp_path: Path):
    made, other = model(tmp_path / "model"), model(tmp_path / "other", weights="other")
    with pytest.raises(DriftError, match="the gate decided on another model"):
        register(CONFIG, model=str(made), gate=gate(tmp_path / "gate", other))
    assert client.search_registered_models() == []


@pytest.mark.parametrize("address", ["model", "s3://bucket/run/model"])
def test_what_was_evaluated_through_a_server_is_not_registered(client: MlflowClient, tmp_path: Path, address: str):
    made = model(tmp_path / "model")
    with pytest.raises(DataError, match=r"gate\.json names no model_sha256, as for a served model"):
        register(CONFIG, model=str(made) if address == "model" else address, gate=gate(tmp_path / "gate", ""))
    assert client.search_registered_models() == []


def test_a_model_elsewhere_is_copied_into_mlflow_and_outlives_what_it_was_copied_from(
    client: MlflowClient, tmp_path: Path
):
    made = model(tmp_path / "bucket")
    sha, decision = content_sha256(made), gate(tmp_path / "gate", made)
    report = register(CONFIG, model=made.as_uri(), gate=decision)
    assert client.get_model_version("drift-vlm", "1").tags["drift.source_uri"] == made.as_uri()
    assert register(CONFIG, model=made.as_uri(), gate=decision).created is False
    shutil.rmtree(made)
    (tmp_path / "into").mkdir()
    assert content_sha256(fetch(Champion("drift-vlm", report.version, sha), tmp_path / "into")) == sha


def test_other_contents_at_an_address_than_the_gate_decided_on_register_nothing(client: MlflowClient, tmp_path: Path):
    with pytest.raises(DriftError, match="the gate decided on another model"):
        register(CONFIG, model=model(tmp_path / "bucket").as_uri(), gate=gate(tmp_path / "gate", "ab" * 32))
    assert client.search_registered_models() == []


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("minio://mlpipeline/v2/model", r"minio://mlpipeline/v2/model: .*does not know 'minio://'; give the model"),
        ("file:///no/model", r"file:///no/model: cannot be downloaded \("),
        ("models:/none/3", r"models:/none/3: cannot be downloaded \("),
    ],
)
def test_an_address_that_cannot_be_fetched_registers_nothing(
    client: MlflowClient, tmp_path: Path, address: str, said: str
):
    with pytest.raises(ServiceError, match=said):
        register(CONFIG, model=address, gate=gate(tmp_path / "gate", "ab" * 32))
    assert client.search_registered_models() == []


def an_address_only(client: MlflowClient, made: Path, source: str) -> Champion:
    """A champion as earlier versions of drift registered it on a cluster: Kubeflow's address, and no copy."""
    client.create_registered_model("drift-vlm")
    client.create_model_version("drift-vlm", source=source, tags={"drift.fingerprint": content_sha256(made)})
    for alias in ("candidate", "champion", "best"):
        client.set_registered_model_alias("drift-vlm", alias, "1")
    return Champion("drift-vlm", 1, content_sha256(made))


def test_a_champion_whose_address_mlflow_cannot_fetch_is_named_with_the_remedy(client: MlflowClient, tmp_path: Path):
    champion = an_address_only(client, model(tmp_path / "model"), "minio://mlpipeline/v2/artifacts/run/model")
    remedy = r"models:/drift-vlm/1: only its address .* 'minio://'; register its files anew \(`drift register --model"
    with pytest.raises(ServiceError, match=remedy):
        fetch(champion, tmp_path)


def test_registering_the_files_of_such_a_champion_gives_a_version_that_takes_its_place(
    client: MlflowClient, tmp_path: Path
):
    made = model(tmp_path / "model")
    an_address_only(client, made, "s3://bucket/run/model")
    report = register(CONFIG, model=str(made), gate=gate(tmp_path / "gate", made))
    assert (report.version, report.created, report.champion) == (2, True, True)
    assert aliases(client) == {"candidate": 2, "champion": 2, "best": 2}
    (tmp_path / "into").mkdir()
    champion = find_champion("drift-vlm")
    assert champion is not None and content_sha256(fetch(champion, tmp_path / "into")) == content_sha256(made)


def test_on_a_cluster_a_version_knows_the_run_that_it_came_from(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    uri = client.tracking_uri
    tracker = Tracker.open(uri, experiment="drift", run_id="kubeflows-id", name="run")
    monkeypatch.setenv("DRIFT_RUN_ID", "kubeflows-id")
    made = model(tmp_path / "model")
    at = "minio://mlpipeline/v2/artifacts/run/model"
    report = register(CONFIG, model=str(made), gate=gate(tmp_path / "gate", made), source=at)
    version = client.get_model_version("drift-vlm", "1")
    assert (version.run_id, version.tags["drift.source_uri"]) == (tracker.parent, at)
    assert report.run_tags() == {"drift.registered": "models:/drift-vlm/1", "drift.champion": "Above."}


def test_a_model_directory_that_does_not_exist_is_named(client: MlflowClient, tmp_path: Path):
    with pytest.raises(DataError, match="/no/model: no such model directory"):
        register(CONFIG, model="/no/model", gate=gate(tmp_path / "gate", "ab" * 32))


def test_without_a_gate_nothing_is_registered(client: MlflowClient, tmp_path: Path):
    with pytest.raises(DataError, match=r"gate\.json: missing"):
        register(CONFIG, model=str(model(tmp_path / "model")), gate=tmp_path)


def test_a_registry_that_does_not_answer_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = model(tmp_path / "model")
    decision = gate(tmp_path / "gate", made)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ServiceError, match=r"drift-vlm: MLflow at http://127\.0\.0\.1:9 "):
        register(CONFIG, model=str(made), gate=decision)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(ServiceError, match="MLFLOW_TRACKING_URI is not set"):
        register(CONFIG, model=str(made), gate=decision)


def test_the_champion_is_found_with_the_hash_of_its_contents_and_comes_back(client: MlflowClient, tmp_path: Path):
    made = model(tmp_path / "model")
    register(CONFIG, model=str(made), gate=gate(tmp_path / "gate", made))
    champion = find_champion("drift-vlm")
    assert champion == Champion("drift-vlm", 1, content_sha256(made))
    (tmp_path / "into").mkdir()
    assert content_sha256(fetch(champion, tmp_path / "into")) == content_sha256(made)


def test_there_is_no_champion_without_the_model_or_without_the_alias(client: MlflowClient, tmp_path: Path):
    assert find_champion("drift-vlm") is None
    made = model(tmp_path / "model")
    config = RegisterConfig(model="drift-vlm", promotion="manual")
    register(config, model=str(made), gate=gate(tmp_path / "gate", made))
    assert find_champion("drift-vlm") is None


def test_a_champion_of_other_contents_than_were_registered_is_refused(client: MlflowClient, tmp_path: Path):
    made = model(tmp_path / "model")
    register(CONFIG, model=str(made), gate=gate(tmp_path / "gate", made))
    with pytest.raises(DataError, match=r"models:/drift-vlm/1: its contents are \w{12}, not abab"):
        fetch(Champion("drift-vlm", 1, "ab" * 32), tmp_path)
    with pytest.raises(ServiceError, match=r"drift-vlm: MLflow at .* refuses \(.*version=7\) not found"):
        fetch(Champion("drift-vlm", 7, "ab" * 32), tmp_path)


def test_who_is_champion_is_not_guessed_where_no_registry_answers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ServiceError, match=r"drift-vlm: MLflow at http://127\.0\.0\.1:9"):
        find_champion("drift-vlm")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(ServiceError, match="MLFLOW_TRACKING_URI is not set"):
        find_champion("drift-vlm")
