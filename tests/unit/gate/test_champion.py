"""The champion in a run: evaluated from the registry under the run's own protocol, or said to be missing."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from drift.config.evaluate import EvaluateConfig
from drift.config.gate import RegisterConfig
from drift.config.section import validate
from drift.evaluate.scores import read_scores
from drift.gate.champion import ChampionScores, champion_scores, evaluate_champion, resolve
from drift.ground.artifacts import content_sha256
from drift.ground.errors import ConfigError
from drift.tracking.models.registration import register
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
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def registered(model: Path, **decided: object) -> None:
    """The model as a version that the gate passed and made champion."""
    gate = Path(tempfile.mkdtemp(dir=os.environ["TMPDIR"]))
    decision = {"passed": True, "winner": "drift", "model_sha256": content_sha256(model), "reasons": [], "alias": "."}
    decision |= {"promotes": True, "best_ever": True, "champion_sha256": None, **decided}
    (gate / "gate.json").write_text(json.dumps(decision))
    register(RegisterConfig(model="drift-vlm"), model=str(model), gate=gate)


def test_without_a_champion_a_marker_says_so(tmp_path: Path) -> None:
    found = resolve("drift-vlm")
    assert (found.outputs(), found.metrics()) == (("", ""), {"champion/version": 0, "champion/best_version": 0})
    report = evaluate_champion(CONFIG, champion="", out=tmp_path / "champion")
    assert report.metrics() == {"champion/evaluated": 0}
    assert champion_scores(tmp_path / "champion") == ChampionScores()


def test_the_champion_is_evaluated_under_the_protocol_at_hand(tmp_path: Path) -> None:
    registered(VLM)
    report = evaluate_champion(CONFIG, champion=resolve("drift-vlm").outputs()[0], out=tmp_path / "champion")
    assert report.metrics()["evaluate/n"] == 6
    folders = champion_scores(tmp_path / "champion")
    assert folders.reigning is not None and folders.best is None
    scores = read_scores(folders.reigning)
    assert (scores.label, scores.model_sha256) == ("champion", content_sha256(VLM))


def test_the_best_champion_ever_is_evaluated_beside_the_reigning_one(tmp_path: Path) -> None:
    registered(VLM)
    later = tmp_path / "later"
    shutil.copytree(VLM, later)
    (later / "note.txt").write_text("not better than the first")
    registered(later, champion_sha256=content_sha256(VLM), best_ever=False)
    found = resolve("drift-vlm", starts=True)
    assert found.metrics() == {"champion/version": 2, "champion/best_version": 1}
    champion, start = found.outputs()
    assert json.loads(start)["version"] == 2
    evaluate_champion(CONFIG, champion=champion, out=tmp_path / "champion")
    folders = champion_scores(tmp_path / "champion")
    assert folders.reigning is not None and folders.best is not None
    hashes = [read_scores(folder).model_sha256 for folder in (folders.reigning, folders.best)]
    assert hashes == [content_sha256(later), content_sha256(VLM)]


def test_a_champion_that_is_no_answer_of_the_registry_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^champion: '\[\]' is not what the step champion returned"):
        evaluate_champion(CONFIG, champion="[]", out=tmp_path / "champion")
    assert not (tmp_path / "champion").exists()
