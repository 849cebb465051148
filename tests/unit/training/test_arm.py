"""An arm over many cycles: training starts from the champion before it, and everything is measured from φ_VL."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from drift.config.gate import RegisterConfig
from drift.config.models import DeltaConfig, MergeConfig, ModelsConfig
from drift.config.plan import ArmStep
from drift.config.train import TrainConfig
from drift.gate.champion import resolve
from drift.ground.artifacts import content_sha256, read_json, read_provenance, write_provenance
from drift.ground.errors import ConfigError, DataError, PriorError
from drift.tracking.models.registration import register
from drift.tracking.models.registry import find_champion
from drift.training.arm import ArmReport, run_arm
from drift.training.start import fetch_start
from drift.weights.delta.delta import compute_delta
from drift.weights.delta.deltafile import load_delta
from drift.weights.storage.checkpoints import fingerprint
from tests.mlflow_store import fresh_store
from tests.tiny_models import tiny_vlm
from tests.world import BASE, EXPERT, VLM, training_set

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

TARGET = 0.2
TRAIN = {
    "epochs": 1,
    "learning_rate": 2e-3,
    "per_device_batch_size": 8,
    "bf16": False,
    "gradient_checkpointing": False,
    "threads": 1,
    "processes": 1,
}
GUIDED = {**TRAIN, "prior": {"schedule": {"kind": "projection", "target": TARGET}}}


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", fresh_store(tmp_path))


@pytest.fixture(scope="module")
def deltas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deltas")
    compute_delta(DeltaConfig(), expert=str(EXPERT), vlm=str(VLM), base=str(BASE), out=folder / "paper")
    return folder


def an_arm(start: str | None, train: dict, delta: str | None = "paper") -> ArmStep:
    models = ModelsConfig(vlm=str(VLM), expert=str(EXPERT), base=str(BASE), start=start)
    return ArmStep(name="drift", models=models, merge=None, train=TrainConfig(**train), delta=delta)


def make(step: ArmStep, deltas: Path, folder: Path, seed: int = 0) -> ArmReport:
    """The arm's model in ``folder``/model, from whoever is champion, on 32 chains of this seed."""
    _, champion = resolve("cycles", starts=step.models.start_at_champion).outputs()
    fetch_start(champion=champion, out=folder / "start")
    data = training_set(folder / "data", 32, seed)
    out, record = folder / "model", folder / "record"
    return run_arm(step, training_set=data, deltas=deltas, start=folder / "start", out=out, record=record)


def crown(model: Path, folder: Path) -> None:
    """Register the model, as a gate that passed lets the chain do."""
    (folder / "gate").mkdir()
    decision = {"passed": True, "winner": "drift", "model_sha256": content_sha256(model), "reasons": []}
    reigning = find_champion("cycles")
    decision |= {"promotes": True, "champion_sha256": reigning and reigning.fingerprint}
    (folder / "gate" / "gate.json").write_text(json.dumps(decision))
    register(RegisterConfig(model="cycles"), model=str(model), gate=folder / "gate")


def travelled(model: Path, deltas: Path) -> float:
    """⟨φ_t − φ_VL, Δ⟩/‖Δ‖², from the two models' files."""
    delta, after, before = load_delta(deltas / "paper"), *(load_file(m / "model.safetensors") for m in (model, VLM))
    own = {name: next(key for key in before if key.endswith(name) and "visual" not in key) for name in delta.names}
    pairs = [((after[own[name]] - before[own[name]]).double(), delta.tensor(name).double()) for name in delta.names]
    return float(sum((moved * d).sum() for moved, d in pairs) / sum((d * d).sum() for _, d in pairs))


@pytest.mark.parametrize("adapters", [{}, {"lora": {"rank": 8}, "learning_rate": 2e-2}])
@pytest.mark.slow
def test_over_five_cycles_projection_and_provenance_stay_those_of_the_original_vlm(
    deltas: Path, tmp_path: Path, adapters: dict
):
    step, before, strength = an_arm("champion", GUIDED | adapters), 0.0, []
    for cycle in range(5):
        folder = tmp_path / f"cycle-{cycle}"
        report = make(step, deltas, folder, seed=cycle)
        model, (first, *_, last) = folder / "model", report.train.history
        champion = read_json(folder / "start" / "start.json")["champion"]
        assert (champion["version"] if champion else 0) == cycle, "each cycle starts from the one before"
        assert read_provenance(model)["original_vlm_sha256"] == fingerprint(VLM)
        assert report.projection["paper"] == pytest.approx(travelled(model, deltas), abs=1e-5)
        # adapters train, and count, the matrices alone: Δ's biases are a hundredth of it
        assert last["projection"] == pytest.approx(report.projection["paper"], rel=0.05 if adapters else 1e-3)
        assert abs(first["projection"] - before) < abs(first["projection"]) or cycle == 0, "it goes on, not from 0"
        before = report.projection["paper"]
        strength.append(abs(first["alpha_mean"]))
        crown(model, folder)
    assert TARGET / 2 < before < TARGET * 1.25, "five cycles together stop where one would"
    assert strength[-1] < strength[0] / 2, "the schedule counts what the cycles before have gone"


def test_without_a_champion_training_starts_from_the_vlm(deltas: Path, tmp_path: Path):
    make(an_arm("champion", TRAIN, delta=None), deltas, tmp_path / "asked")
    make(an_arm(None, TRAIN, delta=None), deltas, tmp_path / "plain")
    made = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("asked", "plain")]
    assert made[0] == made[1]
    parents = [read_provenance(tmp_path / name / "model")["parents"] for name in ("asked", "plain")]
    assert parents[0] == parents[1] == [{"role": "vlm", "uri": str(VLM), "licence": ""}], "no expert took part"


def test_a_champion_is_no_start_unless_it_is_asked_for(deltas: Path, tmp_path: Path):
    make(an_arm(None, TRAIN, delta=None), deltas, tmp_path / "first")
    crown(tmp_path / "first" / "model", tmp_path / "first")
    make(an_arm(None, TRAIN, delta=None), deltas, tmp_path / "second")
    made = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("first", "second")]
    assert made[0] == made[1]
    assert not (tmp_path / "second" / "start" / "model").exists()


@pytest.mark.parametrize("delta", ["paper", None])
def test_a_start_from_another_original_is_refused_before_anything_is_trained(
    deltas: Path, tmp_path: Path, delta: str | None
):
    other = tiny_vlm(tmp_path / "other")
    write_provenance(other, "train", config={}, inputs={}, original_vlm_sha256="f00d" * 16)
    step = an_arm(str(other), GUIDED if delta else TRAIN, delta)
    ours = fingerprint(VLM)[:12]
    with pytest.raises(
        PriorError, match=rf"^{other}: made from another φ_VL \(f00df00df00d\) than .*paper \({ours}\);"
    ) as error:
        make(step, deltas, tmp_path / "refused")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "refused").glob("model*"))


def test_what_is_no_answer_of_the_registry_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"^champion: '\[\]' is not what the step champion returned"):
        fetch_start(champion="[]", out=tmp_path / "start")
    assert not (tmp_path / "start").exists()


def test_an_arm_that_adds_a_share_of_delta_went_so_far(deltas: Path, tmp_path: Path) -> None:
    models = ModelsConfig(vlm=str(VLM), expert=str(EXPERT))
    merge = MergeConfig(method="delta", delta="paper", weights=(1, 0.4))
    step = ArmStep(name="two_fifths", models=models, merge=merge, train=None, delta=None)
    nowhere = {"training_set": tmp_path, "start": tmp_path}
    report = run_arm(step, deltas=deltas, out=tmp_path / "model", record=tmp_path / "record", **nowhere)
    assert report.projection["paper"] == pytest.approx(0.4, abs=1e-3)
    unknown = step.model_copy(update={"merge": merge.model_copy(update={"delta": "other"})})
    with pytest.raises(DataError, match="arm 'two_fifths': no delta 'other' among paper"):
        run_arm(unknown, deltas=deltas, out=tmp_path / "none", record=tmp_path / "other", **nowhere)
