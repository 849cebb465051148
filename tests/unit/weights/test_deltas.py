"""Every named Δ of a run in one folder."""

from pathlib import Path

import pytest

from drift.config.models import DeltaConfig, ModelsConfig
from drift.config.plan import DeltasStep
from drift.ground.errors import DriftError
from drift.weights.delta.deltafile import load_delta
from drift.weights.delta.deltas import compute_deltas
from tests.tiny_models import tiny_family


def test_each_delta_gets_a_folder_of_its_name(tmp_path: Path):
    family = tiny_family(tmp_path)
    models = ModelsConfig(vlm=str(family.vlm), expert=str(family.expert), base=str(family.base))
    deltas = {"paper": DeltaConfig(), "base": DeltaConfig(minus="base", modules=("attn",))}
    report = compute_deltas(DeltasStep(models=models, deltas=deltas), tmp_path / "deltas", tmp_path / "statistics")
    assert sorted(path.name for path in (tmp_path / "deltas").iterdir()) == ["base", "paper"]
    assert len(load_delta(tmp_path / "deltas" / "base").names) < len(load_delta(tmp_path / "deltas" / "paper").names)
    assert {name.split("/")[0] for name in report.metrics()} == {"paper", "base"}
    told = {path.relative_to(tmp_path / "statistics") for path in (tmp_path / "statistics").glob("*/*")}
    assert {str(path) for path in told} == {
        f"{delta}/{file}" for delta in ("paper", "base") for file in ("delta_stats.json", "provenance.json")
    }, "what is known of each without its weights"
    assert all((tmp_path / "statistics" / p).read_bytes() == (tmp_path / "deltas" / p).read_bytes() for p in told)


def test_when_one_delta_fails_nothing_is_left(tmp_path: Path):
    family = tiny_family(tmp_path)
    models = ModelsConfig(vlm=str(family.vlm), expert=str(family.expert))
    deltas = {"paper": DeltaConfig(), "wrong": DeltaConfig(minus=str(tmp_path / "none"))}
    with pytest.raises(DriftError):
        compute_deltas(DeltasStep(models=models, deltas=deltas), tmp_path / "deltas")
    assert not (tmp_path / "deltas").exists()
