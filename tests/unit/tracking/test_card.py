"""A version's page: its card, its scores, and that MLflow itself loads what was registered."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from drift.gate.report.summary import registered_at
from drift.ground.artifacts import content_sha256, write_json
from drift.tracking.models.packaging import package
from drift.tracking.models.registration import register
from drift.tracking.models.versions import card_of, details_of, download, models, versions_of
from drift.tracking.runs.tracker import Tracker
from drift.weights.licences import licence_of, name_parents
from tests.unit.tracking.test_registry import CONFIG, client, gate, model
from tests.world import VLM

__all__ = ["client"]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

NAME = CONFIG.model


def mean(value: float) -> dict[str, float]:
    return {"mean": value, "low": value - 1, "high": value + 2}


def measured() -> dict:
    """As the gate keeps it."""
    models = {
        "drift": {"reasoning": mean(50.0), "perception": mean(80.0), "columns": {"MathVista": mean(50.0)}},
        "vlm": {"reasoning": mean(40.0), "perception": mean(81.0), "columns": {"MathVista": mean(40.0)}},
    }
    fingerprints = {"protocol_fingerprint": "p" * 64, "data_fingerprint": "d" * 64}
    said = {"name": "rule", "version": 3, "decoding": "greedy", "max_new_tokens": 64}
    return {"protocol": said, "confidence": 0.95, "models": models, **fingerprints}


@pytest.fixture(params=["here", "on a cluster"])
def registered(
    request: pytest.FixtureRequest, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A model with provenance, whose gate kept its scores. A pod knows Kubeflow's run alone, not MLflow's."""
    tracker = Tracker.open(client.tracking_uri, experiment="drift", run_id="r", name="r")
    known = {"here": ("DRIFT_MLFLOW_RUN_ID", tracker.parent), "on a cluster": ("DRIFT_RUN_ID", "r")}
    monkeypatch.setenv(*known[request.param])
    made, parents = model(tmp_path / "model"), {}
    for role, said in (("vlm", "license: apache-2.0"), ("expert", "license: other\nlicense_name: research-only")):
        parents[role] = tmp_path / role
        parents[role].mkdir()
        (parents[role] / "README.md").write_text(f"---\n{said}\n---\n# A model\n")
    config = {"epochs": 2.0, "prior": {"alpha": -1.0}}
    write_json(made / "provenance.json", {"step": "train", "config": config, "created": "2026", "drift_version": "1"})
    name_parents(made, "drift", {role: str(path) for role, path in parents.items()})
    decision = gate(tmp_path / "gate", made)
    content = json.loads((decision / "gate.json").read_text()) | {"measured": measured()}
    content["comparisons"] = {"drift": {"reasoning": {"points": 10.0}, "perception": {"points": -1.0}}}
    content["checks"] = [{"passed": True, "detail": "Reasoning rose by 10.0 points."}]
    write_json(decision / "gate.json", content)
    register(CONFIG, model=str(made), gate=decision)
    return made


def test_a_versions_description_is_its_card(registered: Path):
    card = card_of(NAME, "champion")
    for said in (
        "# drift-vlm 1",
        "gradients biased towards a text model that reasons (DRIFT, arXiv 2510.15050)",
        f"| vlm | `{registered.parent / 'vlm'}` | apache-2.0 |",
        f"| expert | `{registered.parent / 'expert'}` | research-only |",
        "| reasoning | 50.0 (49.0 to 52.0) | 40.0 (39.0 to 42.0) |",
        "Protocol: name rule, version 3, decoding greedy, max_new_tokens 64; fingerprint pppppppppppp",
        "- passed: Reasoning rose by 10.0 points.",
        "drift models download drift-vlm 1 --out model",
        "vllm serve ./model",
    ):
        assert said in card


def test_what_a_person_wrote_on_a_versions_page_stays(client: MlflowClient, registered: Path):
    client.update_model_version(NAME, "1", "Ours.")
    register(CONFIG, model=str(registered), gate=registered.parent / "gate")
    assert card_of(NAME, "1") == "Ours."


def test_mlflows_page_of_the_model_has_its_scores_its_parameters_and_its_run(client: MlflowClient, registered: Path):
    version = client.get_model_version(NAME, "1")
    copy = client.get_logged_model(version.tags["drift.model_id"])
    assert {one.key: one.value for one in copy.metrics} == {
        "score/reasoning": 50.0,
        "score/perception": 80.0,
        "score/MathVista": 50.0,
        "gain/reasoning": 10.0,
        "gain/perception": -1.0,
    }
    assert copy.params == {"made.epochs": "2.0", "made.prior.alpha": "-1.0"}
    assert copy.source_run_id == version.run_id != ""


def test_models_and_versions_are_listed_and_downloaded(registered: Path, tmp_path: Path):
    (listed,) = models()
    assert (listed.model, listed.champion, listed.latest) == (NAME, "1", 1)
    (version,) = versions_of(NAME)
    assert (version.aliases, version.reasoning, version.gate) == (
        ["best", "candidate", "champion"],
        "50.0 (49.0 to 52.0)",
        "passed",
    )
    assert details_of(NAME, "champion").contents == content_sha256(registered)
    out = download(NAME, "1", tmp_path / "out")
    assert content_sha256(out) == content_sha256(registered)
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors", "provenance.json"]


LOAD = """
import sys, mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
asked = [{"question": "1 + 1 = ?", "image": sys.argv[2]}, {"question": "2 + 2 = ?", "image": None}]
print(len(model.predict(pandas.DataFrame(asked), params={"max_new_tokens": 4})), "replies")
"""


def test_mlflows_pyfunc_loads_a_registered_model_in_a_process_of_its_own_and_answers(
    client: MlflowClient, tmp_path: Path
):
    register(CONFIG, model=str(VLM), gate=gate(tmp_path / "gate", VLM))
    Image.new("RGB", (56, 56), "white").save(tmp_path / "image.png")
    command = [sys.executable, "-c", LOAD, f"models:/{NAME}@champion", str(tmp_path / "image.png")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.stdout.splitlines()[-1:] == ["2 replies"], ended.stderr
    assert len(list((tmp_path / "mlartifacts").rglob("*.safetensors"))) == len(list(VLM.glob("*.safetensors"))), "once"


WITHOUT_DRIFT = """
import sys
sys.modules["drift"] = None
sys.path.insert(0, sys.argv[1])
import drift_served
print(drift_served._opened(sys.argv[2]).size)
"""


def test_the_code_beside_a_registered_model_shows_it_an_image_upright_without_drift(tmp_path: Path):
    (tmp_path / "beside").mkdir()
    package(tmp_path / "beside", VLM, "card", "m-1")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30), "white").save(tmp_path / "image.jpg", exif=exif)
    command = [sys.executable, "-c", WITHOUT_DRIFT, str(tmp_path / "beside" / "code"), str(tmp_path / "image.jpg")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.stdout == "(30, 40)\n", ended.stderr


def test_a_licence_that_no_card_states_is_not_guessed(tmp_path: Path):
    assert licence_of(str(tmp_path)) == ""
    (tmp_path / "README.md").write_text("---\nlicense: [broken\n---\n")
    assert licence_of(str(tmp_path)) == ""
    assert licence_of("nobody/nothing@main") == ""


def test_a_run_whose_registration_is_cached_finds_its_version_by_the_gates_contents(
    registered: Path, monkeypatch: pytest.MonkeyPatch
):
    decision = registered.parent / "gate"
    assert registered_at(NAME, decision) == "models:/drift-vlm/1"
    assert registered_at("another", decision) == registered_at(None, decision) == ""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert registered_at(NAME, decision) == ""
