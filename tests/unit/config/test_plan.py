"""From a configuration to the parameters of a run: what changes what."""

import json
from pathlib import Path

import pytest

from drift.config.chain import Config
from drift.config.plan import ArmStep, plan
from drift.config.section import from_json, validate
from drift.ground.errors import ConfigError
from drift.planning.outside import models_of


@pytest.fixture
def raw(tmp_path: Path) -> dict:
    for name in ("vlm", "expert", "base", "teacher"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(f'"{name}"')
    for name in ("pool.parquet", "Reason.tsv", "Perceive.tsv"):
        (tmp_path / name).write_text(name)
    at = str(tmp_path)
    return {
        "name": "test",
        "models": {"vlm": f"{at}/vlm", "expert": f"{at}/expert", "base": f"{at}/base"},
        "ingest": {"source": f"{at}/pool.parquet"},
        "generate": {"teacher": {"kind": "local", "model": f"{at}/teacher"}},
        "deltas": {"paper": {}, "other": {"minus": "base"}},
        "arms": {
            "sft": {"train": {"learning_rate": 2e-5}},
            "drift": {"train": {}, "delta": "paper"},
            "merged": {"merge": {"method": "ties"}},
        },
        "evaluate": {
            "data": at,
            "benchmarks": {"Reason": {"role": "reasoning"}, "Perceive": {"role": "perception"}},
        },
        "gate": {"candidate": "drift"},
        "register": {"model": "test"},
    }


def changed(before: dict, after: dict) -> set[str]:
    """Names of the parameters that differ, arms as `arm/<name>`."""
    one, other = (plan(validate(Config, raw)) for raw in (before, after))
    steps = {name for name in one.steps if one.steps[name] != other.steps[name]}
    return steps | {f"arm/{name}" for name in one.arms if one.arms[name] != other.arms.get(name)}


def test_every_expert_of_a_mixed_delta_is_an_input(raw: dict, tmp_path: Path):
    code = str(tmp_path / "code")
    raw["deltas"] = {"mixed": {"experts": [{"weight": 2}, {"model": code, "weight": 1, "minus": "base"}]}}
    with pytest.raises(ConfigError, match=r"deltas\.mixed:.*/code: '.*/code' does not exist"):
        plan(validate(Config, {**raw, "arms": {**raw["arms"], "drift": {"train": {}, "delta": "mixed"}}}))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "config.json").write_text("{}")
    raw["arms"]["drift"]["delta"] = "mixed"
    inputs = json.loads(plan(validate(Config, raw)).steps["deltas"])["inputs"]
    assert set(inputs) == {"models.vlm", "models.expert", "models.base", f"deltas.mixed:{code}"}
    raw["models"].pop("base")
    raw["arms"].pop("merged")
    with pytest.raises(ConfigError, match=r"deltas\.mixed\.minus: 'base' needs models\.base"):
        validate(Config, raw)


def test_every_expert_of_a_merge_is_an_input_and_looked_at_from_outside(raw: dict, tmp_path: Path):
    code = str(tmp_path / "code")
    raw["arms"]["merged"]["merge"] |= {"experts": [None, code], "weights": [1, 0.3, 0.2]}
    with pytest.raises(ConfigError, match=r"arms\.merged\.merge\.experts:.*/code: '.*/code' does not exist"):
        plan(validate(Config, raw))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "config.json").write_text("{}")
    config = validate(Config, raw)
    inputs = json.loads(plan(config).arms["merged"])["inputs"]
    assert set(inputs) == {"models.vlm", "models.expert", "models.base", f"arms.merged.merge.experts:{code}"}
    assert json.loads(plan(config).steps["inputs"])["config"]["experts"] == [code]
    assert ("arms.merged.merge.experts", code) in models_of(config)


def test_every_step_gets_its_section_its_code_and_the_contents_it_reads(raw: dict):
    planned = plan(validate(Config, raw))
    assert list(planned.steps) == [
        "inputs", "ingest", "generate", "curate", "deltas", "evaluate_vlm", "evaluate_arm", "champion", "start",
        "evaluate_champion", "gate", "register", "report",
    ]  # fmt: skip
    ingest = json.loads(planned.steps["ingest"])
    assert ingest["config"]["source"] == raw["ingest"]["source"]
    assert len(ingest["code"]) == 64
    assert list(ingest["inputs"]) == ["ingest.source"]
    assert set(json.loads(planned.steps["deltas"])["inputs"]) == {"models.vlm", "models.expert", "models.base"}
    assert set(json.loads(planned.arms["sft"])["inputs"]) == {"models.vlm"}
    assert set(json.loads(planned.arms["merged"])["inputs"]) == {"models.vlm", "models.expert", "models.base"}


def test_an_arm_carries_everything_it_needs(raw: dict):
    planned = plan(validate(Config, raw))
    assert list(planned.arms) == ["sft", "drift", "merged"]
    sft, drift, merged = (from_json(ArmStep, json.dumps(json.loads(text)["config"])) for text in planned.arms.values())
    assert sft.train is not None and sft.train.learning_rate == 2e-5 and sft.train.prior is None and sft.delta is None
    assert drift.train is not None and drift.train.prior is not None and drift.delta == "paper"
    assert merged.merge is not None and merged.merge.method == "ties" and merged.train is None


def test_curate_counts_lengths_with_the_student_of_the_chain_and_reruns_when_it_changes(raw: dict, tmp_path: Path):
    assert json.loads(plan(validate(Config, raw)).steps["curate"])["inputs"] == {}
    with_length = raw | {"curate": {"length": {"max_tokens": 9}}, "train": {"image_max_pixels": 1000}}
    planned = json.loads(plan(validate(Config, with_length)).steps["curate"])
    assert planned["config"]["length"] == {
        "max_tokens": 9, "processor": raw["models"]["vlm"], "image_max_pixels": 1000,
    }  # fmt: skip
    assert list(planned["inputs"]) == ["curate.length.processor"]
    own = {"max_tokens": 9, "processor": f"{tmp_path}/base", "image_max_pixels": None}
    assert (
        json.loads(plan(validate(Config, raw | {"curate": {"length": own}})).steps["curate"])["config"]["length"] == own
    )
    before = plan(validate(Config, with_length)).steps["curate"]
    (tmp_path / "vlm" / "config.json").write_text('"another"')
    assert plan(validate(Config, with_length)).steps["curate"] != before


def test_the_same_configuration_gives_the_same_parameters(raw: dict):
    assert changed(raw, raw) == set()
    assert plan(validate(Config, raw)).sha256() == plan(validate(Config, raw)).sha256()


@pytest.mark.parametrize(
    ("change", "reruns"),
    [
        ({"gate": {"candidate": "drift", "max_perception_loss": 3.0}}, {"gate"}),
        ({"register": {"model": "other"}}, {"register", "champion", "gate", "report"}),
        ({"curate": {"keep": 10}}, {"curate"}),
        ({"train": {"epochs": 1.0}}, {"arm/sft", "arm/drift"}),
        ({"deltas": {"paper": {"layers": "0-1"}, "other": {"minus": "base"}}}, {"deltas", "inputs"}),
        ({"runs": "elsewhere"}, set()),
        ({"models": {"start": "champion"}}, {"arm/sft", "arm/drift", "champion"}),
        ({"models": {"start": "org/trained"}}, {"arm/sft", "arm/drift", "inputs"}),
        ({"tracking": {"experiment": "other"}}, set()),
    ],
)
def test_a_changed_key_changes_the_parameters_of_the_steps_that_read_it_and_no_others(raw, change, reruns):
    assert changed(raw, raw | change | {"models": raw["models"] | change.get("models", {})}) == reruns


def test_changed_contents_of_an_input_change_the_steps_that_read_it(raw: dict, tmp_path: Path):
    before = plan(validate(Config, raw))
    (tmp_path / "Reason.tsv").write_text("other")
    (tmp_path / "base" / "config.json").write_text('"other"')
    after = plan(validate(Config, raw))
    assert {name for name in before.steps if before.steps[name] != after.steps[name]} == {
        "evaluate_vlm", "evaluate_arm", "evaluate_champion", "deltas",
    }  # fmt: skip
    assert {name for name in before.arms if before.arms[name] != after.arms[name]} == {"merged"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ingest": {"source": "no/such/file.parquet"}}, r"^ingest\.source: 'no/such/file\.parquet' does not exist"),
        ({"models": {"vlm": "/no/vlm", "expert": "/no/expert", "base": "/no/base"}}, r"^models\.vlm: '/no/vlm'"),
        (
            {"models": {"vlm": "a/b", "expert": "a/c", "base": "a/d", "start": "/no/start"}},
            r"^models\.start: '/no/start'",
        ),
        ({"generate": {"teacher": {"kind": "local", "model": "./none"}}}, r"^generate\.teacher\.model: '\./none'"),
    ],
)
def test_a_missing_input_is_named_before_anything_starts(raw: dict, change: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        plan(validate(Config, raw | change))


def test_a_deepspeed_configuration_that_contradicts_is_refused_before_anything_starts(raw: dict, tmp_path: Path):
    (tmp_path / "zero.json").write_text("{}")
    config = validate(Config, raw | {"train": {"deepspeed": str(tmp_path / "zero.json"), "prior": {}}})
    with pytest.raises(ConfigError, match=r"zero\.json: train_micro_batch_size_per_gpu is None, but train"):
        plan(config)
    plan(config, local=False)


def test_to_decontaminate_curate_is_given_the_tables_that_are_evaluated_with_their_hashes(raw: dict, tmp_path: Path):
    (tmp_path / "Mine.tsv").write_text("mine")
    raw["curate"] = {"decontaminate": True, "against": [str(tmp_path / "Mine.tsv")]}
    before = plan(validate(Config, raw))
    step = json.loads(before.steps["curate"])
    tables = [str(tmp_path / f"{name}.tsv") for name in ("Mine", *raw["evaluate"]["benchmarks"])]
    assert step["config"]["against"] == tables
    assert list(step["inputs"]) == sorted(f"curate.against {table}" for table in tables)
    (tmp_path / "Reason.tsv").write_text("other")
    assert plan(validate(Config, raw)).steps["curate"] != before.steps["curate"]
    (tmp_path / "Mine.tsv").unlink()
    with pytest.raises(ConfigError, match=r"^curate\.against .*Mine\.tsv: '.*Mine\.tsv' does not exist"):
        plan(validate(Config, raw))


def test_a_missing_benchmark_file_is_named_before_anything_starts(raw: dict, tmp_path: Path):
    (tmp_path / "Perceive.tsv").unlink()
    with pytest.raises(ConfigError, match=r"evaluate\.benchmarks\.Perceive: .*Perceive\.tsv does not exist"):
        plan(validate(Config, raw))


def test_hub_ids_are_left_to_the_hub(raw: dict):
    raw["models"] |= {"vlm": "Qwen/Qwen2.5-VL-7B-Instruct"}
    inputs = json.loads(plan(validate(Config, raw)).arms["sft"])["inputs"]
    assert inputs == {}


def test_for_a_cluster_the_image_stands_for_code_and_inputs(raw: dict):
    raw["models"] = {"vlm": "/mnt/vlm", "expert": "/mnt/expert", "base": "/mnt/base"}
    planned = plan(validate(Config, raw), local=False)
    payloads = [json.loads(text) for text in [*planned.steps.values(), *planned.arms.values()]]
    assert all(payload["code"] == "" and payload["inputs"] == {} for payload in payloads)


def test_a_model_registered_in_one_store_is_not_registered_in_another(raw: dict):
    config = validate(Config, raw)
    one, other = plan(config, store="a"), plan(config, store="b")
    assert {name for name in one.steps if one.steps[name] != other.steps[name]} == {"register"}


def test_the_expected_tasks_are_every_step_once_and_the_loop_per_arm(raw: dict):
    planned = plan(validate(Config, raw))
    tasks = planned.tasks(registers=True)
    assert len(tasks) == 12 + 2 * 3
    assert ("arm", "drift") in tasks and ("evaluate_arm", "merged") in tasks and ("register", "") in tasks
    assert ("register", "") not in planned.tasks(registers=False)
    assert planned.parameter("arm", "sft") == planned.arms["sft"]
    assert planned.parameter("evaluate_arm", "sft") == planned.steps["evaluate_arm"]
