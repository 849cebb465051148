"""Training on the miniature world: DRIFT and SFT, exact repeats, resuming after a kill, refusals."""

import logging
import re
import shutil
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from drift.config.models import DeltaConfig, MergeConfig
from drift.config.train import TrainConfig
from drift.ground.artifacts import read_json, read_provenance
from drift.ground.errors import CheckpointError, ConfigError, DataError, DriftError, PriorError
from drift.inference.images import conversation, decode_image
from drift.tracking.telling.journal import read
from drift.tracking.telling.live import telling
from drift.training.sft import train
from drift.training.telling import StepProgress
from drift.weights.delta.delta import compute_delta
from drift.weights.merging.merge import merge
from drift.weights.modeling import load_processor, load_vlm
from drift.weights.storage.checkpoints import Checkpoint
from tests.forked import begin
from tests.world import BASE, EXPERT, VLM, training_set

QUICK = {
    "epochs": 1,
    "learning_rate": 1e-3,
    "per_device_batch_size": 8,
    "bf16": False,
    "gradient_checkpointing": False,
    "threads": 1,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return training_set(tmp_path_factory.mktemp("data"), 32)


@pytest.fixture(scope="module")
def delta(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("delta") / "base"
    compute_delta(DeltaConfig(minus="base"), expert=str(EXPERT), vlm=str(VLM), base=str(BASE), out=out)
    return out


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def test_alpha_zero_gives_the_same_weight_bytes_as_plain_sft(data, delta, tmp_path):
    train(TrainConfig(**QUICK), model=str(VLM), training_set=data, out=tmp_path / "sft")
    guided = TrainConfig(**QUICK, prior={"alpha": 0.0})
    report = train(guided, model=str(VLM), training_set=data, delta=delta, out=tmp_path / "drift")
    assert report.guided_parameters > 0
    assert weights(tmp_path / "sft") == weights(tmp_path / "drift")


def test_the_prior_moves_the_model_towards_the_expert_and_twice_the_same_way(data, delta, tmp_path):
    guided = TrainConfig(**QUICK, prior={})
    reports = [train(guided, model=str(VLM), training_set=data, delta=delta, out=tmp_path / n) for n in "ab"]
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert reports[0].history[-1]["projection"] > 0.01
    assert reports[0].metrics()["drift/projection"] == reports[0].history[-1]["projection"]
    assert [row["loss"] for row in reports[0].history] == [row["loss"] for row in reports[1].history]


def test_a_training_tells_its_curves_while_it_goes_on_with_their_times(data, delta, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    spool = tmp_path / "spool"
    spool.mkdir()
    with telling(spool, "r1/arm/drift", "arm", "drift"):
        guided = TrainConfig(**QUICK, prior={})
        report = train(guided, model=str(VLM), training_set=data, delta=delta, out=tmp_path / "drift")
    points = [point for event, _ in read(spool) for point in event["metrics"] if not point[0].startswith("system/")]
    assert {name for name, *_ in points} >= {
        "train/loss",
        "train/learning_rate",
        "train/grad_norm",
        "train/tokens_per_second",
        "train/projection",
        "train/cos_mean",
    }
    losses = [(value, stamp, step) for name, value, stamp, step in points if name == "train/loss"]
    rows = zip(report.history, report.times, strict=True)
    assert losses == [(row["loss"], round(at * 1000), row["step"]) for row, at in rows]
    assert len(set(report.times)) == len(report.history), "each has its own"
    assert f"step {report.steps} of {report.steps}, loss {report.final_loss:.3f}, " in caplog.text


def test_a_log_has_a_line_a_step_where_steps_take_long_though_few_are_logged(caplog, monkeypatch):
    monkeypatch.setattr("drift.training.telling.LINE_SECONDS", -1.0)
    from transformers.trainer_callback import TrainerState  # after our own imports, which mend torchvision's

    caplog.set_level(logging.INFO)
    state = TrainerState(max_steps=9)
    progress = StepProgress()
    progress.on_train_begin(None, state, None)
    for state.global_step in (1, 2):
        progress.on_step_end(None, state, None)
    assert "step 1 of 9, loss nan" in caplog.text and "step 2 of 9" in caplog.text


def test_a_training_of_fewer_steps_than_are_logged_at_once_has_the_loss_of_its_end(data, tmp_path):
    report = train(TrainConfig(**QUICK, logging_steps=50), model=str(VLM), training_set=data, out=tmp_path / "out")
    steps = train(TrainConfig(**QUICK), model=str(VLM), training_set=data, out=tmp_path / "each")
    assert [row["step"] for row in report.history] == [report.steps] == [4]
    assert report.final_loss == pytest.approx(sum(row["loss"] for row in steps.history) / 4, abs=1e-4)


def test_tensorboard_is_told_every_logged_step_beside_the_model(data, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = TrainConfig(**QUICK, report_to=["tensorboard"])
    report = train(config, model=str(VLM), training_set=data, out=tmp_path / "sft")
    board = EventAccumulator(str(tmp_path / "sft.tensorboard"))
    board.Reload()
    losses = [(event.step, event.value) for event in board.Scalars("train/loss")]
    assert losses == [(row["step"], pytest.approx(row["loss"])) for row in report.history]


def test_a_reporter_that_is_not_installed_is_named(data, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^train.report_to: wandb is not installed; pip install wandb, or leave it"):
        train(TrainConfig(**QUICK, report_to=["wandb"]), model=str(VLM), training_set=data, out=tmp_path / "x")


def test_only_the_text_decoder_and_the_head_are_trained(data, delta, tmp_path):
    train(TrainConfig(**QUICK), model=str(VLM), training_set=data, out=tmp_path / "sft")
    before, after = load_file(VLM / "model.safetensors"), load_file(tmp_path / "sft" / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not any("visual" in name for name in changed)
    assert all("visual" in name for name in before.keys() - changed)


def test_the_result_is_a_model_directory_that_answers_with_its_own_processor(data, tmp_path):
    train(TrainConfig(**QUICK), model=str(VLM), training_set=data, out=tmp_path / "sft")
    assert not list(tmp_path.glob("*.partial")) and not (tmp_path / "sft" / "checkpoints").exists()
    assert read_provenance(tmp_path / "sft")["original_vlm_sha256"]
    assert (tmp_path / "sft" / "model.safetensors").stat().st_mode & 0o777 == 0o644
    processor, model = load_processor(tmp_path / "sft"), load_vlm(tmp_path / "sft")
    import pyarrow.parquet as pq

    row = pq.read_table(data / "train.parquet").to_pylist()[0]
    prompt = processor.apply_chat_template(
        conversation(row["messages"][0]["content"], 1), tokenize=False, add_generation_prompt=True
    )
    inputs = processor(text=[prompt], images=[[decode_image(row["images"][0]["bytes"], "row")]], return_tensors="pt")
    answer = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert processor.tokenizer.decode(answer, skip_special_tokens=True).strip()


def test_what_else_lies_beside_the_weights_comes_along_and_no_old_weights_do(data, tmp_path, caplog):
    vlm = Path(shutil.copytree(VLM, tmp_path / "vlm"))
    load_vlm(VLM).save_pretrained(vlm, max_shard_size="100KB")  # and an index, beside the single file
    (vlm / "model.safetensors").unlink()
    came = ["spk_dict.pt", "token2wav/config.json", "token2wav/model.safetensors", "LICENSE"]
    left = ["pytorch_model.bin", "optimizer.pt", "cosines.svg"]
    for name in [*came, *left]:
        (vlm / name).parent.mkdir(exist_ok=True)
        (vlm / name).write_text(name)
    out = tmp_path / "sft"
    train(TrainConfig(**QUICK), model=str(vlm), training_set=data, out=out)
    assert {name: (out / name).read_text() for name in came} == {name: name for name in came}
    assert not [name for name in left if (out / name).exists()]
    assert f"{vlm}: not copied: cosines.svg, optimizer.pt, pytorch_model.bin" in caplog.text
    assert Checkpoint(out).warnings == [], "no index or shard of φ_VL's is left beside the model"
    assert not list(out.rglob("*.partial*"))


def test_a_killed_training_goes_on_from_its_checkpoint_to_the_same_weights(data, delta, tmp_path):
    settings = {**QUICK, "epochs": 6, "save_steps": 4, "prior": {}}
    guided = partial(train, model=str(VLM), training_set=data, delta=delta)
    guided(TrainConfig(**settings), out=tmp_path / "whole")
    killed = tmp_path / "killed"
    process = begin(partial(guided, TrainConfig(**settings), out=killed))
    checkpoint = tmp_path / "killed.partial" / "checkpoints" / "checkpoint-4" / "trainer_state.json"
    while process.is_alive() and not checkpoint.exists():
        time.sleep(0.01)
    process.kill()
    process.join()
    assert checkpoint.exists() and not killed.exists()
    with pytest.raises(
        DataError, match=r"another training \(train.learning_rate: 0.001 there, 0.002 here\); remove it"
    ):
        other = TrainConfig(**{**settings, "learning_rate": 2e-3})
        guided(other, out=killed)
    report = guided(TrainConfig(**settings), out=killed)
    assert report.steps == 24
    assert len(report.times) == 24 and report.times == sorted(report.times) and all(report.times)
    assert weights(killed) == weights(tmp_path / "whole")


def test_lora_trains_adapters_along_delta_and_gives_a_whole_model(data, delta, tmp_path):
    guided = TrainConfig(**QUICK, lora={"rank": 4}, prior={"scale": "grad_norm"})
    report = train(guided, model=str(VLM), training_set=data, delta=delta, out=tmp_path / "lora")
    before, after = load_file(VLM / "model.safetensors"), load_file(tmp_path / "lora" / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert changed and all(re.search(r"layers\.\d\.(self_attn|mlp)\.\w+_proj\.weight$", name) for name in changed)
    assert report.left_out > 0 and report.metrics()["drift/update_cosine"] > 0.05
    load_vlm(tmp_path / "lora")


def logits(model) -> torch.Tensor:
    """Of a few tokens without an image, in float32."""
    ids = torch.arange(3, 19).view(1, -1)
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@pytest.fixture(scope="module")
def adapters(data, tmp_path_factory) -> dict[str, Path]:
    """One training, saved in each of the three ways."""
    folder = tmp_path_factory.mktemp("adapters")
    for save in ("merged", "adapter", "both"):
        config = TrainConfig(**QUICK, lora={"rank": 4, "save": save})
        report = train(config, model=str(VLM), training_set=data, out=folder / save)
        assert report.weights_changed > 0.9
    return {path.name: path for path in folder.iterdir()}


def test_an_adapter_that_is_kept_loads_over_the_vlm_and_says_what_the_merged_model_says(adapters):
    from peft import PeftModel

    whole = logits(load_vlm(adapters["merged"], dtype="float32"))
    assert (whole - logits(load_vlm(VLM, dtype="float32"))).abs().max() > 0.1
    for folder in (adapters["adapter"], adapters["both"] / "adapter"):
        adapted = PeftModel.from_pretrained(load_vlm(VLM, dtype="float32"), folder)
        torch.testing.assert_close(logits(adapted), whole, rtol=0, atol=1e-4)


def test_both_is_the_merged_model_with_the_adapter_in_a_folder_of_its_own(adapters):
    assert weights(adapters["both"]) == weights(adapters["merged"])
    more = {path.name for path in adapters["both"].iterdir()} - {path.name for path in adapters["merged"].iterdir()}
    assert more == {"adapter"}
    assert {path.name for path in (adapters["both"] / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_an_adapter_alone_is_small_has_its_processor_and_its_original(adapters):
    alone = adapters["adapter"]
    assert not list(alone.glob("model*.safetensors"))
    assert read_provenance(alone)["original_vlm_sha256"] == read_provenance(adapters["merged"])["original_vlm_sha256"]
    config = read_json(alone / "adapter_config.json")
    assert Path(config["base_model_name_or_path"]) == VLM and config["target_modules"] == sorted(
        config["target_modules"]
    )
    from transformers import AutoProcessor

    assert AutoProcessor.from_pretrained(alone).chat_template


def test_an_adapter_is_merged_later_by_drift_as_by_the_training(adapters, tmp_path):
    config = MergeConfig(method="linear", weights=(0, 1))
    merge(config, expert=str(adapters["adapter"]), vlm=str(VLM), base=None, out=tmp_path / "later")
    now, later = (load_file(folder / "model.safetensors") for folder in (adapters["merged"], tmp_path / "later"))
    assert now.keys() == later.keys()
    for name, tensor in now.items():
        torch.testing.assert_close(later[name], tensor, rtol=0, atol=1e-6)


def test_an_adapter_alone_is_no_model_to_evaluate_or_to_train_from(adapters, data, tmp_path):
    with pytest.raises(CheckpointError, match=r"only an adapter; merge it .*drift merge --method linear --weights 0,1"):
        load_vlm(adapters["adapter"])
    with pytest.raises(CheckpointError, match="only an adapter"):
        train(TrainConfig(**QUICK), model=str(adapters["adapter"]), training_set=data, out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_the_cosines_of_every_layer_and_step_are_one_picture(data, delta, tmp_path):
    report = train(TrainConfig(**QUICK, prior={}), model=str(VLM), training_set=data, delta=delta, out=tmp_path / "out")
    assert [row["step"] for row in report.cosines] == [1, 2, 3, 4]
    assert {len(row["layers"]) for row in report.cosines} == {3}
    assert (tmp_path / "out" / "cosines.svg").read_text().startswith("<?xml")
    assert "cos(g, Δ)" in (tmp_path / "out" / "cosines.svg").read_text()


def test_every_logged_step_has_what_a_person_looks_for(data, delta, tmp_path):
    report = train(TrainConfig(**QUICK, prior={}), model=str(VLM), training_set=data, delta=delta, out=tmp_path / "out")
    wanted = {"loss", "grad_norm", "learning_rate", "train_tokens_per_second", "cos_mean", "cos_min", "cos_max"}
    for row in report.history:
        assert wanted | {"alpha_mean", "prior_ratio", "projection"} <= row.keys()
        assert not any("layer" in name for name in row)


@pytest.mark.parametrize(("rate", "least", "most"), [(1e-3, 0.9, 1.0), (1e-12, 0.0, 0.01)])
def test_the_share_of_stored_weights_that_changed_is_measured(data, tmp_path, caplog, rate, least, most):
    settings = TrainConfig(**{**QUICK, "learning_rate": rate, "warmup_ratio": 0.0})
    report = train(settings, model=str(VLM), training_set=data, out=tmp_path / "sft")
    assert least <= report.weights_changed <= most
    assert ("the learning rate is too small for the file's dtype" in caplog.text) == (rate < 1e-6)


def test_think_tokens_are_added_when_asked_for(data, tmp_path):
    shutil.copytree(VLM, tmp_path / "vlm")
    tokenizer = read_json(tmp_path / "vlm" / "tokenizer.json")
    assert "<think>" in tokenizer["model"]["vocab"]  # the miniature knows them: adding them changes nothing
    report = train(TrainConfig(**QUICK, add_think_tokens=True), model=str(VLM), training_set=data, out=tmp_path / "out")
    assert report.steps == 4


# ------------------------------------------------------------------------------------------- refusals


def refused(error, match, out, **arguments):
    with pytest.raises(error, match=match) as caught:
        train(out=out, **arguments)
    assert "\n" not in str(caught.value)
    assert not out.exists() and not out.with_name(out.name + ".partial").exists()


def test_a_prior_without_a_delta_is_refused(data, tmp_path):
    config = TrainConfig(**QUICK, prior={})
    refused(PriorError, "go together", tmp_path / "out", config=config, model=str(VLM), training_set=data)


def test_a_delta_that_matches_no_tensor_is_refused(data, delta, tmp_path):
    foreign = tmp_path / "foreign"
    shutil.copytree(delta, foreign)
    renamed = {f"blocks.{name}": tensor for name, tensor in load_file(delta / "delta.safetensors").items()}
    metadata = {"format": "drift-delta"}
    save_file(renamed, foreign / "delta.safetensors", metadata=metadata)
    stats = (delta / "delta_stats.json").read_text().replace('"layers.', '"blocks.layers.')
    (foreign / "delta_stats.json").write_text(stats)
    config = TrainConfig(**QUICK, prior={})
    refused(PriorError, "blocks", tmp_path / "out", config=config, model=str(VLM), training_set=data, delta=foreign)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"model": "/nowhere/vlm"}, "/nowhere/vlm"),
        ({"training_set": Path("/nowhere/data")}, "drift curate"),
        ({"config": TrainConfig(**QUICK, deepspeed="/nowhere.json")}, "train.deepspeed names no file"),
    ],
)
def test_missing_inputs_are_named(data, tmp_path, change, match):
    arguments = {"config": TrainConfig(**QUICK), "model": str(VLM), "training_set": data, **change}
    refused(DriftError, match, tmp_path / "out", **arguments)


def test_liger_without_its_package_is_refused(data, tmp_path):
    config = TrainConfig(**QUICK, liger=True)
    refused(ConfigError, r"train\.liger: true", tmp_path / "out", config=config, model=str(VLM), training_set=data)


def test_an_output_folder_that_holds_something_is_left_alone(data, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("mine")
    with pytest.raises(DataError, match="exists already; remove it or choose another --out"):
        train(TrainConfig(**QUICK), model=str(VLM), training_set=data, out=tmp_path / "out")
    assert (tmp_path / "out" / "precious").read_text() == "mine"
