"""The champion in a run: evaluated from the registry under the run's own protocol, or said to be missing."""

import json
from pathlib import Path

import pytest

from drift.config.evaluate import EvaluateConfig
from drift.config.gate import RegisterConfig
from drift.config.section import validate
from drift.evaluate.scores import read_scores
from drift.gate.champion import champion_scores, evaluate_champion, resolve
from drift.ground.artifacts import content_sha256
from drift.ground.errors import ConfigError
from drift.tracking.registry import register
from tests.mlflow_store import fresh_store
from tests.world import ASSETS, VLM

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

CONFIG = validate(
    EvaluateConfig,
    {
        "data": str(ASSETS / "benchmarks"),
        "benchmarks": {"MiniMath2": {"role": "reasoning"}, "MiniRead": {"role": "perception"}},
        "limit": 3,
        "max_new_tokens": 2,
    },
)


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", fresh_store(tmp_path))


def test_without_a_champion_a_marker_says_so(tmp_path: Path) -> None:
    found = resolve("drift-vlm")
    assert (found.outputs(), found.metrics()) == (("", ""), {"champion/version": 0})
    report = evaluate_champion(CONFIG, champion="", out=tmp_path / "champion")
    assert report.metrics() == {"champion/evaluated": 0}
    assert champion_scores(tmp_path / "champion") is None


def test_the_champion_is_evaluated_under_the_protocol_at_hand(tmp_path: Path) -> None:
    (tmp_path / "gate").mkdir()
    decision = {"passed": True, "winner": "drift", "model_sha256": content_sha256(VLM), "reasons": []}
    (tmp_path / "gate" / "gate.json").write_text(json.dumps(decision))
    register(RegisterConfig(model="drift-vlm"), model=str(VLM), gate=tmp_path / "gate")
    report = evaluate_champion(CONFIG, champion=resolve("drift-vlm").outputs()[0], out=tmp_path / "champion")
    assert report.metrics()["evaluate/n"] == 6
    folder = champion_scores(tmp_path / "champion")
    assert folder is not None
    scores = read_scores(folder)
    assert (scores.label, scores.model_sha256) == ("champion", content_sha256(VLM))


def test_a_champion_that_is_no_answer_of_the_registry_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^champion: '\[\]' is not what the step champion returned"):
        evaluate_champion(CONFIG, champion="[]", out=tmp_path / "champion")
    assert not (tmp_path / "champion").exists()
