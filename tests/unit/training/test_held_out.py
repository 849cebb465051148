"""Rows held out: how the training goes on them, which step was best, and when it stops."""

import time
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from drift.config.models import DeltaConfig
from drift.config.train import TrainConfig
from drift.ground.errors import ConfigError
from drift.tracking.telling.journal import read
from drift.tracking.telling.live import telling
from drift.training.batches.collate import IGNORE, AnswerCollator, TrainingRows
from drift.training.held_out import _of_row, split
from drift.training.sft import train
from drift.weights.delta.delta import compute_delta
from drift.weights.modeling import load_processor, load_vlm
from tests.forked import begin
from tests.world import BASE, EXPERT, VLM, training_set

QUICK = {
    "epochs": 2,
    "learning_rate": 1e-3,
    "lr_scheduler": "constant",
    "warmup_ratio": 0.0,
    "per_device_batch_size": 8,
    "bf16": False,
    "gradient_checkpointing": False,
    "threads": 1,
}
ROWS, ASIDE = 40, 8
HELD_OUT = {"share": ASIDE / ROWS, "every": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return training_set(tmp_path_factory.mktemp("data"), ROWS)


@pytest.fixture(scope="module")
def processor():
    return load_processor(VLM)


def run(data, out, delta=None, **changes):
    config = TrainConfig(**{**QUICK, **changes})
    return train(config, model=str(VLM), training_set=data, delta=delta, out=out)


def ids(subset):
    return {subset[place]["id"] for place in range(len(subset))}


# ------------------------------------------------------------------------------------------- which rows


def split_of(folder, processor, **held_out):
    config = TrainConfig(held_out=held_out)
    return split(TrainingRows(folder, processor, config), config, processor)


def test_a_share_is_held_out_by_its_ids_and_the_rest_is_trained_on(data, processor):
    sets = split_of(data, processor, share=0.2)
    assert (len(sets.trained), len(sets.held_out)) == (32, 8)
    assert not ids(sets.trained) & ids(sets.held_out)
    assert ids(sets.held_out) == ids(split_of(data, processor, share=0.2).held_out)
    assert 0 < len(sets.perception) < 8 and ids(sets.perception) < ids(sets.held_out)


def test_rows_of_one_id_stay_together(tmp_path, processor):
    rows = pq.read_table(training_set(tmp_path, 8) / "train.parquet").to_pylist()
    pq.write_table(pa.Table.from_pylist([*rows, *rows]), tmp_path / "train.parquet")
    sets = split_of(tmp_path, processor, share=0.25)
    assert len(sets.held_out) == 4 and len(ids(sets.held_out)) == 2
    assert not ids(sets.trained) & ids(sets.held_out)


def test_a_table_of_ones_own_is_looked_at_for_perception(data, tmp_path, processor):
    table = training_set(tmp_path, 5, seed=3)
    sets = split_of(data, processor, share=0.2, table=str(table))
    assert len(sets.perception) == 5 and len(sets.held_out) == 8


def test_a_share_that_leaves_nothing_is_refused(tmp_path, processor):
    with pytest.raises(ConfigError, match=r"train.held_out: leaves none of 1 rows to train on; lower share, or set it"):
        split_of(training_set(tmp_path, 1), processor, share=0.5)


def test_perception_without_a_row_of_it_cannot_be_watched(tmp_path, processor):
    rows = pq.read_table(training_set(tmp_path, 8) / "train.parquet").to_pylist()
    cot = [row for row in rows if row["kind"] == "cot"]
    pq.write_table(pa.Table.from_pylist(cot), tmp_path / "train.parquet")
    with pytest.raises(ConfigError, match="perception_drop: no row held out is of kind 'direct'; give it a table"):
        split_of(tmp_path, processor, share=0.5, perception_drop=0.1)


# ------------------------------------------------------------------------------------------- what a look sees


def test_a_row_is_right_exactly_where_greedy_decoding_says_its_answer(data, processor):
    model, rows = load_vlm(VLM), TrainingRows(data, processor, TrainConfig())
    found = []
    for place in range(24):
        batch = AnswerCollator(processor)([rows[place]])
        labels = batch.pop("labels")
        answer = labels[labels != IGNORE]
        with torch.no_grad():
            _, tokens, right, one = _of_row(model(**batch).logits[0], labels[0])
        start = int((labels[0] != IGNORE).nonzero()[0])
        prompt = {name: value[:, :start] if value.shape == labels.shape else value for name, value in batch.items()}
        said = model.generate(**prompt, max_new_tokens=len(answer), do_sample=False)[0, start:]
        assert (tokens, one) == (len(answer), 1)
        assert bool(right) == (said.tolist() == answer.tolist())
        found.append(bool(right))
    assert 0 < sum(found) < len(found), "some of each"


def test_a_row_without_labels_counts_nothing():
    assert _of_row(torch.zeros(3, 5), torch.full((3,), IGNORE)).tolist() == [0, 0, 0, 0]


def test_looks_are_reported_told_and_at_the_first_and_last_step(data, tmp_path):
    (tmp_path / "spool").mkdir()
    with telling(tmp_path / "spool", "r1/arm/sft", "arm", "sft"):
        report = run(data, tmp_path / "out", held_out={"share": 0.2, "every": 3})
    assert report.samples == ROWS - ASIDE and report.steps == 8
    assert [row["step"] for row in report.held_out] == [0, 3, 6, 8]
    assert report.best_step == min(report.held_out[1:], key=lambda row: row["held_out_loss"])["step"]
    last = report.held_out[-1]
    assert report.metrics()["train/held_out_loss"] == last["held_out_loss"]
    assert report.metrics()["train/perception_right"] == last["perception_right"]
    points = [point for event, _ in read(tmp_path / "spool") for point in event["metrics"]]
    told = [(step, value) for name, value, _, step in points if name == "train/held_out_loss"]
    assert told == [(row["step"], row["held_out_loss"]) for row in report.held_out]


def test_looking_does_not_change_the_weights(data, tmp_path):
    run(data, tmp_path / "rarely", held_out={"share": 0.2, "every": 100})
    run(data, tmp_path / "often", held_out={"share": 0.2, "every": 1})
    rarely, often = (load_file(tmp_path / name / "model.safetensors") for name in ("rarely", "often"))
    assert all(torch.equal(rarely[name], often[name]) for name in rarely)


@pytest.mark.slow
def test_two_ranks_see_what_one_process_sees(data, tmp_path):
    cut = {"processes": 2, "per_device_batch_size": 2, "gradient_accumulation": 2}
    held_out = {"share": 0.17, "every": 2}  # 7 rows, which two ranks do not divide
    one = run(data, tmp_path / "one", held_out=held_out)
    two = run(data, tmp_path / "two", held_out=held_out, **cut)
    for here, there in zip(one.held_out, two.held_out, strict=True):
        assert there["held_out_loss"] == pytest.approx(here["held_out_loss"], rel=1e-4)
        assert there["perception_right"] == here["perception_right"]


# ------------------------------------------------------------------------------------------- best, and early stop

TOO_LONG = {"epochs": 10, "learning_rate": 5e-3, "held_out": {"share": 0.2, "every": 4, "keep": "best"}}
"""Goes through the best on rows held out, and past it."""


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_the_best_weights_are_those_of_a_training_that_ends_there(data, tmp_path, lora):
    report = run(data, tmp_path / "best", lora=lora, **TOO_LONG)
    assert 0 < report.best_step < report.steps == 40
    held_out = {"share": 0.2, "every": 100}
    run(data, tmp_path / "there", **{**TOO_LONG, "lora": lora, "epochs": report.best_step / 4, "held_out": held_out})
    best, there = (load_file(tmp_path / name / "model.safetensors") for name in ("best", "there"))
    assert all(torch.equal(best[name], there[name]) for name in there)


@pytest.mark.slow
def test_a_training_stops_when_the_loss_gets_no_lower(data, tmp_path, caplog):
    held_out = {**TOO_LONG["held_out"], "patience": 2}
    report = run(data, tmp_path / "out", **{**TOO_LONG, "held_out": held_out})
    assert report.steps == report.best_step + 8 < 40
    said = f"no lower loss on the rows held out since step {report.best_step}, in 2 looks"
    assert report.stopped == said and f"stopped early: {said}" in caplog.text


def test_a_training_stops_when_perception_falls(data, tmp_path):
    held_out = {"share": 0.3, "every": 1, "perception_drop": 0.3}
    report = run(data, tmp_path / "out", learning_rate=0.05, epochs=4, held_out=held_out)
    assert report.stopped.startswith("perception fell from ")
    first, last = report.held_out[0], report.held_out[-1]
    assert first["perception_right"] - last["perception_right"] > 0.3
    assert report.steps == last["step"] < 14


def test_a_training_stops_when_it_has_gone_far_enough_towards_the_expert(data, tmp_path):
    delta = tmp_path / "delta"
    compute_delta(DeltaConfig(minus="base"), expert=str(EXPERT), vlm=str(VLM), base=str(BASE), out=delta)
    report = run(data, tmp_path / "out", delta=delta, prior={"stop_at": 0.02}, epochs=8)
    travelled = [row["projection"] for row in report.history]
    assert travelled[-1] >= 0.02 > travelled[-2] and report.steps < 40
    assert report.stopped.endswith(f"at step {report.steps}, train.prior.stop_at is 0.02")


@pytest.mark.slow
def test_a_killed_training_goes_on_with_its_looks_and_keeps_the_same_best(data, tmp_path):
    settings = {**TOO_LONG, "save_steps": 8}
    whole = run(data, tmp_path / "whole", **settings)
    killed = tmp_path / "killed"
    process = begin(partial(run, data, killed, **settings))
    checkpoint = tmp_path / "killed.partial" / "checkpoints" / "checkpoint-16" / "trainer_state.json"
    while process.is_alive() and not checkpoint.exists():
        time.sleep(0.01)
    process.kill()
    process.join()
    assert checkpoint.exists() and not killed.exists()
    again = run(data, killed, **settings)
    numbers = [[(row["step"], row["held_out_loss"]) for row in one.held_out] for one in (again, whole)]
    assert numbers[0] == numbers[1] and again.best_step == whole.best_step
    assert (killed / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
