"""What `drift plan` says a run costs: tokens, operations and hours worked by hand, and `?` for what is not known."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from drift.cli.app import main
from drift.config.chain import Config
from drift.config.section import validate
from drift.config.train import LoraConfig, TrainConfig
from drift.planning.costs import Assumptions, Phase, Total, cost, flop_per_token, total
from drift.planning.sizing import adapters, count, headers
from drift.tracking.telling.journal import append
from drift.training.network import trainable_network
from drift.weights.modeling import load_processor
from drift.weights.storage.checkpoints import Checkpoint
from pipelines.local.folders import create_run
from tests.pool_rows import pool_row, write_pool
from tests.tiny_models import Family, tiny_family
from tests.world import EXPERT, VLM

EXAMPLE = "configs/resources/one_node.yaml"


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return tiny_family(tmp_path_factory.mktemp("family"))


@pytest.fixture
def raw(family: Family, tmp_path: Path) -> dict[str, Any]:
    """10 problems, 100 rows, 6 questions of one's own and 1,500 of a published benchmark, two trainings."""
    pool = write_pool(tmp_path / "pool.parquet", [pool_row(number) for number in range(10)])
    rows = "".join(f"{number}\tx\tq\ta\n" for number in range(6))
    (tmp_path / "Mine.tsv").write_text(f"index\timage\tquestion\tanswer\n{rows}")
    return {
        "name": "test",
        "runs": str(tmp_path / "runs"),
        "models": family.references,
        "ingest": {"source": str(pool)},
        "generate": {"teacher": {"kind": "local", "model": "teacher"}, "samples": 4, "max_new_tokens": 50},
        "curate": {"keep": 90, "replay": {"source": "pool", "fraction": 0.1}},
        "train": {"epochs": 2, "cutoff_tokens": 300, "processes": 2},
        "arms": {
            "sft": {"train": {}},
            "merged": {"merge": {"method": "ties"}},
            "drift": {"train": {}, "delta": "paper"},
        },
        "evaluate": {
            "data": str(tmp_path),
            "benchmarks": {"Mine": {"role": "reasoning"}, "MMStar": {}},
            "max_new_tokens": 20,
            "processes": 2,
        },
        "gate": {"candidate": "drift"},
        "register": {"model": "test"},
    }


def phases(raw: dict[str, Any], gpus: dict[str, int] | None = None, **assumed: float) -> dict[str, Phase]:
    config = validate(Config, raw)
    return {one.phase: one for one in cost(config, Assumptions(**assumed), headers(config.models), gpus=gpus)}


def test_tokens_are_counted_at_their_bound(raw: dict[str, Any]) -> None:
    found = phases(raw)
    assert list(found) == ["generate", "arm sft", "arm drift", "evaluate"]
    # 10 problems · 4 samples · 50; 100 rows · 2 epochs · 300; 1,506 questions · (φ_VL and 3 arms) · 20
    assert [one.tokens for one in found.values()] == [2000, 60_000, 60_000, 120_480]
    assert all(one.at_most for one in found.values())
    assert found["evaluate"].what == "1,506 questions × 4"


def test_means_take_the_place_of_the_bounds_where_they_are_smaller(raw: dict[str, Any]) -> None:
    # answers of 30 tokens: the teacher may write 50, the evaluated models 20
    found = phases(raw, tokens_per_row=120, tokens_per_answer=30)
    assert [one.tokens for one in found.values()] == [1200, 24_000, 24_000, 120_480]
    assert [one.at_most for one in found.values()] == [False, False, False, True]


def test_a_limit_holds_for_problems_and_for_each_benchmark(raw: dict[str, Any]) -> None:
    raw["ingest"]["limit"] = 3
    raw["evaluate"]["limit"] = 5
    found = phases(raw)
    assert (found["generate"].what, found["evaluate"].what) == ("3 problems × 4", "10 questions × 4")


def test_lines_of_json_are_counted_too(raw: dict[str, Any], tmp_path: Path) -> None:
    row = json.dumps({"problem": "p", "answer": "1", "image": "i.png"})
    (tmp_path / "pool.jsonl").write_text(f"{row}\n\n{row}\n")
    raw["ingest"]["source"] = str(tmp_path / "pool.jsonl")
    assert phases(raw)["generate"].tokens == 2 * 4 * 50


def test_what_is_not_here_is_not_made_up(raw: dict[str, Any]) -> None:
    raw["ingest"]["source"] = "owner/dataset"
    raw["evaluate"]["benchmarks"]["Absent"] = {"role": "reasoning"}
    raw["models"] = {"vlm": "/no/vlm", "expert": "/no/expert"}
    raw["arms"].pop("merged")
    found = phases(raw, tokens_per_second=10)
    assert (found["generate"].tokens, found["generate"].hours) == (None, None)
    assert (found["evaluate"].what, found["evaluate"].tokens) == ("? questions × 3", None)
    assert (found["arm sft"].tokens, found["arm sft"].training_flop, found["arm sft"].hours) == (60_000, None, None)
    assert total(list(found.values()))["tokens"] == Total(120_000, complete=False)


def test_without_a_training_no_rows_need_be_known(raw: dict[str, Any]) -> None:
    raw["curate"] = {"keep": None}
    raw["arms"] = {"merged": raw["arms"]["merged"]}
    raw["gate"] = {"candidate": "merged"}
    assert list(phases(raw)) == ["generate", "evaluate"]


@pytest.mark.parametrize(("train", "times"), [({}, 8), ({"gradient_checkpointing": False}, 6)])
def test_a_token_takes_six_operations_a_weight_and_two_more_where_activations_are_recomputed(
    family: Family, train: dict[str, Any], times: int
) -> None:
    vlm, expert = Checkpoint(family.vlm), Checkpoint(family.expert)
    decoder = sum(p.numel() for p in text_weights(family))
    assert flop_per_token(vlm, expert, TrainConfig(**train)) == times * decoder
    everything = count(vlm, expert, freeze_vision=False).total
    assert flop_per_token(vlm, expert, TrainConfig(freeze_vision=False, **train)) == times * everything
    lora = LoraConfig(rank=4)
    small = 2 * adapters(vlm, expert, lora)
    assert flop_per_token(vlm, expert, TrainConfig(lora=lora, **train)) == (times - 2) * decoder + small


def text_weights(family: Family) -> list[torch.nn.Parameter]:
    from drift.weights.modeling import load_vlm

    network = load_vlm(family.vlm)
    return [*network.get_decoder().parameters(), *network.get_output_embeddings().parameters()]


@pytest.mark.parametrize("modules", [["attn"], ["attn", "mlp"]])
def test_the_adapters_counted_from_headers_are_pefts(modules: list[str]) -> None:
    lora = LoraConfig(rank=4, modules=modules)
    network = trainable_network(TrainConfig(lora=lora), VLM, load_processor(VLM))
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert adapters(Checkpoint(VLM), Checkpoint(EXPERT), lora) == trained


def test_hours_are_work_by_gpus_and_rate(raw: dict[str, Any], family: Family) -> None:
    flop = 60_000 * flop_per_token(Checkpoint(family.vlm), Checkpoint(family.expert), TrainConfig())
    found = phases(raw, tflops=0.5, tokens_per_second=100)
    assert found["arm sft"].training_flop == flop
    assert found["arm sft"].hours == pytest.approx(flop / (2 * 0.5e12) / 3600)
    assert found["generate"].hours == pytest.approx(2000 / 100 / 3600)  # one GPU, whatever there is
    assert found["evaluate"].hours == pytest.approx(120_480 / (2 * 100) / 3600)
    assert phases(raw)["generate"].hours is None
    raw["generate"]["teacher"] = {"kind": "endpoint", "base_url": "http://x/v1", "model": "m"}
    served = phases(raw, tokens_per_second=100)["generate"]
    assert (served.gpus, served.hours) == (0, pytest.approx(2000 / 100 / 3600))


def test_the_gpus_are_those_of_each_steps_machine_unless_the_configuration_says_how_many(raw: dict[str, Any]) -> None:
    gpus = {"arm": 8, "evaluate_arm": 0}
    assert [one.gpus for one in phases(raw, gpus).values()] == [1, 2, 2, 2]
    raw["train"].pop("processes")
    raw["evaluate"].pop("processes")
    assert [one.gpus for one in phases(raw, gpus).values()] == [1, 8, 8, 1]
    here = max(1, torch.cuda.device_count())
    assert [one.gpus for one in phases(raw).values()] == [1, here, here, here]


# -------------------------------------------------------------------------------------------- the command


def planned(capsys: pytest.CaptureFixture[str], raw: dict[str, Any], tmp_path: Path, *options: str) -> str:
    (tmp_path / "c.yaml").write_text(json.dumps(raw))
    with pytest.raises(SystemExit) as end:
        main(["plan", "-c", str(tmp_path / "c.yaml"), *options])
    assert end.value.code == 0
    return capsys.readouterr().out


def test_the_plan_carries_it_all_as_json(
    raw: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw["train"].pop("processes")
    plan = json.loads(planned(capsys, raw, tmp_path, "--json", "--resources", EXAMPLE, "--tokens-per-row", "30"))
    assert [arm["steps"] for arm in plan["arms"]] == [26, 0, 26]
    assert [one["gpus"] for one in plan["cost"]] == [1, 8, 8, 2]
    assert plan["total"]["tokens"] == {"known": 2000 + 2 * 6000 + 120_480, "complete": True}
    assert plan["total"]["hours"]["complete"] is False
    assert plan["assumed"] == {
        "tokens_per_row": 30, "tokens_per_answer": None, "tflops": 0.4 * 989, "tokens_per_second": None,
    }  # fmt: skip
    assert plan["disk"]["writes"] > 0 and plan["disk"]["free"] > 0


def test_the_plan_of_models_that_are_not_here_still_counts_tokens(
    raw: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    raw["models"] = {name: f"/no/{name}" for name in raw["models"]}
    text = planned(capsys, raw, tmp_path)
    assert "≤ 0.06" in text and "DRIFT along 'paper'" in text and "the run writes about ? GB" in text
    assert {record.message.split(" (")[0] for record in caplog.records} == {
        "reach: not known", "memory per GPU, FLOPs and disk: not known",
    }  # fmt: skip


def test_the_last_finished_run_stands_beside_the_estimate(
    raw: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    run = create_run(tmp_path / "runs", "test", "abc")
    for step, arm, seconds in [("arm", "sft", 1.0), ("arm", "sft", 7200.0), ("evaluate_vlm", "", 1800.0)]:
        append(run.path, {"step": step, "arm": arm, "event": "ended", "seconds": seconds})
    append(run.path, {"step": "evaluate_arm", "arm": "sft", "event": "cached", "seconds": 900.0})
    assert [one["last_hours"] for one in json.loads(planned(capsys, raw, tmp_path, "--json"))["cost"]] == [None] * 4
    run.mark("finished")
    last = [one["last_hours"] for one in json.loads(planned(capsys, raw, tmp_path, "--json"))["cost"]]
    assert last == [None, 2.0, None, 0.75]


@pytest.mark.parametrize("option", ["tokens-per-row", "tokens-per-answer", "tflops", "tokens-per-second"])
def test_an_assumption_that_cannot_be_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["plan", "-c", "configs/miniature.yaml", f"--{option}", "0"])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"drift: {option.replace('-', '_')}: input should be greater than") and "(got 0" in error


def test_vllm_works_on_all_gpus_of_its_machine_or_on_those_of_its_copies(raw: dict[str, Any]):
    raw["generate"]["teacher"] = {"kind": "vllm", "model": "teacher", "tensor_parallel": 2}
    raw["evaluate"] |= {"engine": "vllm", "vllm": {"tensor_parallel": 2, "data_parallel": 1}}
    phases = {
        one.phase: one.gpus
        for one in cost(validate(Config, raw), Assumptions(), None, gpus={"generate": 8, "evaluate_arm": 4})
    }
    assert (phases["generate"], phases["evaluate"]) == (8, 2)
