"""A configuration of a run that fails in its first step, for tests of what goes around the steps."""

from pathlib import Path
from typing import Any

import pytest

from tests.mlflow_store import fresh_store


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A configuration whose pool of problems is broken, so that the first step fails."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("vlm", "expert", "base", "teacher"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    for name in ("Reason.tsv", "Perceive.tsv"):
        (tmp_path / name).write_text(name)
    (tmp_path / "pool.jsonl").write_text("no json\n")
    (tmp_path / "runs").mkdir()
    fresh_store(tmp_path / "runs")
    at = str(tmp_path)
    benchmarks = {"Reason": {"role": "reasoning"}, "Perceive": {"role": "perception"}}
    return {
        "name": "test",
        "runs": f"{at}/runs",
        "models": {"vlm": f"{at}/vlm", "expert": f"{at}/expert", "base": f"{at}/base"},
        "ingest": {"source": f"{at}/pool.jsonl"},
        "generate": {"teacher": {"kind": "local", "model": f"{at}/teacher"}},
        "arms": {"sft": {"train": {}}, "drift": {"train": {}, "delta": "paper"}},
        "evaluate": {"data": at, "benchmarks": benchmarks},
        "gate": {"candidate": "drift"},
        "register": {"model": "test"},
    }
