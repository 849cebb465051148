"""The configuration: the shipped files are whole, and every mistake is one line with key, value and remedy."""

import json
import re
from pathlib import Path

import pytest

from drift.config.chain import Config
from drift.config.file import load, load_section, schema
from drift.config.models import parse_layers
from drift.config.section import from_json, to_json
from drift.config.train import TrainConfig
from drift.ground.errors import ConfigError

CONFIGS = sorted(Path("configs").glob("*.yaml"))
MINIATURE = Path("configs/miniature.yaml")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_is_valid_and_survives_json(path):
    config = load(path)
    assert from_json(Config, to_json(config)) == config


def test_the_papers_configuration_is_the_papers_recipe():
    config = load("configs/paper_equation.yaml")
    train = config.arm_train("drift")
    assert (train.epochs, train.learning_rate, train.lr_scheduler, train.warmup_ratio) == (3, 1e-6, "cosine", 0.05)
    assert (train.prior.scale, train.prior.alpha, train.prior.apply, train.prior.clip) == (
        "adaptive",
        -1,
        "step",
        "before",
    )
    assert (train.per_device_batch_size, train.gradient_accumulation, train.cutoff_tokens) == (1, 1, 32768)
    assert train.image_max_pixels == 262144 and train.bf16
    assert config.deltas["paper"].modules == ("attn", "mlp") and config.deltas["paper"].minus == "vlm"
    assert config.curate.keep == 4000


def test_the_released_codes_configuration_differs_in_place_of_the_bias_loss_and_tokens_only():
    equation, code = (load(f"configs/{name}.yaml").arm_train("drift") for name in ("paper_equation", "reference_code"))
    assert (code.prior.apply, code.loss, code.add_think_tokens) == ("backward", "micro_batch", True)
    prior = code.prior.model_copy(update={"apply": "step"})
    same = {"prior": prior, "loss": "token", "add_think_tokens": False}
    assert code.model_copy(update=same) == equation


def test_an_arm_takes_the_common_training_with_its_own_overrides():
    config = load(
        MINIATURE, ["train.learning_rate=0.5", "arms.sft.train.epochs=7", "arms.sft.train.learning_rate=0.25"]
    )
    assert (config.arm_train("sft").learning_rate, config.arm_train("sft").epochs) == (0.25, 7)
    assert config.arm_train("drift").learning_rate == 0.5
    assert config.arm_train("task_arithmetic") is None


def test_an_arm_without_a_delta_is_plain_sft_although_the_common_section_has_a_prior():
    config = load("configs/paper_equation.yaml")
    assert config.arm_train("sft").prior is None and config.arm_train("drift").prior is not None


def test_the_seed_reaches_every_section_that_has_none_of_its_own():
    config = load(MINIATURE, ["seed=11", "train.seed=3"])
    assert (config.generate.seed, config.curate.seed, config.gate.seed, config.train.seed) == (11, 11, 11, 3)


def test_a_section_with_another_kind_replaces_the_one_it_extends():
    assert load("configs/qwen2_vl_2b.yaml").generate.teacher.kind == "local"


@pytest.mark.parametrize(("text", "layers"), [("0-2,5", {0, 1, 2, 5}), ("7", {7}), ("3-3", {3})])
def test_layer_ranges_include_both_ends(text, layers):
    assert parse_layers(text) == layers


def test_the_schema_describes_every_field_of_the_first_level():
    properties = schema()["properties"]
    assert {"models", "train", "arms", "register"} <= set(properties)
    json.dumps(schema())


def test_a_single_step_takes_options_over_the_file_and_overrides_over_options():
    overrides = ["train.epochs=2"]  # with its section, as in a whole configuration and in messages, or without
    section = load_section(TrainConfig, "train", MINIATURE, overrides, {"epochs": 5, "learning_rate": 0.125})
    assert load_section(TrainConfig, "train", None, ["epochs=2"], {}).epochs == 2
    assert (section.epochs, section.learning_rate, section.per_device_batch_size) == (2, 0.125, 16)


MISTAKES = [
    ("models.vml=x", "models.vml: unknown key; did you mean 'vlm'?"),
    ("learning_rate=1", "learning_rate: unknown key; did you mean 'train.learning_rate'?"),
    ("rank=4", "rank: unknown key; did you mean 'deltas.NAME.rank' or 'train.lora.rank'?"),
    ("train.rank=4", "train.rank: unknown key; did you mean 'train.lora.rank'?"),
    ("arms.sft.learning_rate=1", "arms.sft.learning_rate: unknown key; did you mean 'arms.sft.train.learning_rate'?"),
    ("trian.epochs=3", "trian: unknown key; did you mean 'train'?"),
    ("train.prior.aplha=1", "train.prior.aplha: unknown key; did you mean 'alpha'?"),
    ("arms.sft.train.learning_rat=1", "arms.sft.train.learning_rat: unknown key; did you mean 'learning_rate'?"),
    ("evaluate.benchmarks.MiniRead.rule=x", "evaluate.benchmarks.MiniRead.rule: unknown key; did you mean 'role'?"),
    ("evaluate.endpoint.base_url=x", "evaluate.endpoint: the chain evaluates checkpoints that it makes; remove it"),
    (
        "evaluate.judge={base_url: http://judge/v1, model: judge}",
        "evaluate: benchmarks.MiniMath2.format: VLMEvalKit does not know 'plain'; set judge: null",
    ),
    ("generate.teacher.modle=x", "generate.teacher.modle: unknown key; did you mean 'model'?"),
    (
        "train.epochs=many",
        "train.epochs: input should be a valid number, unable to parse string as a number (got 'many')",
    ),
    ("train.learning_rate=-1", "train.learning_rate: input should be greater than 0 (got -1)"),
    ("train.prior.scale=huge", "train.prior.scale: input should be 'absolute'"),
    ("curate.keep=0", "curate.keep: input should be greater than or equal to 1 (got 0)"),
    ("deltas.paper.modules=[atn]", "deltas.paper.modules.0: "),
    ("deltas.paper.experts=[{modle: x}]", "deltas.paper.experts.0.modle: unknown key; did you mean 'model'?"),
    ("deltas.paper.experts=[{weight: 0}]", "deltas.paper.experts.0.weight: an expert of weight 0 takes no part"),
    ("deltas.paper.experts=[{weight: .inf}]", "deltas.paper.experts.0.weight: "),
    ("train.learning_rate=.inf", "train.learning_rate: input should be a finite number (got inf)"),
    ("train.prior.alpha=.nan", "train.prior.alpha: input should be a finite number (got nan)"),
    ("deltas.paper.layers=5-2", "deltas.paper.layers: '5-2' is no layer or range"),
    ("arms.drift.delta=papr", "arms.drift.delta: no delta 'papr'; did you mean 'paper'?"),
    (
        "arms.task_arithmetic.delta=base",
        "arms.task_arithmetic.delta: 'base' guides a training, but the arm has no train",
    ),
    (
        "arms.half={merge: {method: delta, weights: [1, 0.5]}}",
        "arms.half.merge.delta: required for method 'delta'; known: ",
    ),
    (
        "arms.half={merge: {method: delta, delta: papr, weights: [1, 0.5]}}",
        "arms.half.merge.delta: no delta 'papr'; did you mean 'paper'?",
    ),
    (
        "arms.sft.train={lora: {save: adaptor}}",
        "arms.sft.train.lora.save: input should be 'merged', 'ad",
    ),
    (
        "train={lora: {save: adapter}}",
        "arms.sft.train.lora.save: adapter, but projection, evaluation, ga",
    ),
    (
        "arms.merged={merge: {method: linear}, train: {lora: {save: both}}}",
        "arms.merged.train.lora.save: both, but the adapter's base, the arm's merge, is not kept; set merged",
    ),
    ("arms.nothing={}", "arms.nothing: neither merge nor train"),
    ("gate.candidate=drfit", "gate.candidate: no arm 'drfit'; did you mean 'drift'?"),
    ("gate.beats=[sff]", "gate.beats: no arm 'sff'; did you mean 'sft'?"),
    ("models.base=null", "arms.task_arithmetic.merge.method: 'task_arithmetic' needs models.base, which is not set"),
    ("curate.prompt='{problem} {gold}'", "curate.prompt: only {problem} is replaced; write other braces double"),
    ("generate.prompt=hello", "generate.prompt: must contain '{problem}'"),
    ("generate.teacher.kind=remote", "generate.teacher: "),
    ("train.prior.rescale_to_weight=true", "train.prior: rescale_to_weight only changes scale 'absolute'"),
    ("train.prior={apply: backward, clip: after}", "train.prior: apply 'backward' acts before clipping"),
    ("name=a b", "name: string should match pattern"),
    ("ingest=null", "ingest: "),
    ("noequals", "override 'noequals': write it as key=value"),
    ("train.epochs=[1", "override 'train.epochs=[1': "),
]


@pytest.mark.parametrize(("override", "message"), MISTAKES, ids=[override for override, _ in MISTAKES])
def test_a_mistake_is_one_line_that_names_key_value_and_remedy(override, message):
    with pytest.raises(ConfigError) as caught:
        load(MINIATURE, [override])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["ingest.text_column=null"], "ingest.text_column"),
        (
            ["ingest={source: null, sources: [{source: a.csv, text_column: told}, {source: b.csv}]}"],
            "ingest.sources[1].text_column",
        ),
        (["ingest={source: null}", "curate.ready=a.json", "generate=null"], "ingest.text_column"),
    ],
)
def test_an_arm_that_asks_the_expert_in_words_needs_a_column_of_them(overrides, key):
    asking = "arms.sft.train.method=on_policy"
    load(MINIATURE, [asking])
    with pytest.raises(
        ConfigError, match=r"^arms\.sft\.train\.method: on_policy asks the expert .*; set " + re.escape(key)
    ):
        load(MINIATURE, [asking, "ingest.text_column=null", *overrides])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "not a mapping of sections"),
        ("a: [1\n", "not readable as YAML"),
        ("extends: nowhere.yaml\n", "no such file"),
        ("extends: 3\n", "must name another file"),
        ("name: a\nname: b\n", "not readable as YAML"),
        ("name: ${nowhere}\n", "nowhere"),
        ("", "required, but not set"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path, text, message):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(path)


def test_a_missing_file_points_at_the_command_that_writes_one(tmp_path):
    with pytest.raises(ConfigError, match="no such file; `drift init` writes one"):
        load(tmp_path / "none.yaml")


@pytest.mark.parametrize("override", ["arms.layer_swap=null", "~arms.layer_swap"])
def test_an_arm_that_a_file_inherits_is_taken_out_by_an_override(override):
    whole, less = load("configs/qwen2_vl_2b.yaml"), load("configs/qwen2_vl_2b.yaml", [override])
    assert [name for name in whole.arms if name not in less.arms] == ["layer_swap"]


def test_what_a_file_inherits_is_taken_out_by_null_and_may_come_back_in_the_next_file(tmp_path):
    (tmp_path / "less.yaml").write_text(
        f"extends: {MINIATURE.resolve()}\narms: {{drift_paper: null}}\nevaluate: {{benchmarks: {{MiniRead: null}}}}\n"
    )
    (tmp_path / "again.yaml").write_text("extends: less.yaml\narms: {drift_paper: {train: {}, delta: paper}}\n")
    less, again = (load(tmp_path / name) for name in ("less.yaml", "again.yaml"))
    assert "drift_paper" not in less.arms and "MiniRead" not in less.evaluate.benchmarks
    assert again.arms["drift_paper"].delta == "paper"


def test_taking_out_what_is_not_there_is_one_line(tmp_path):
    (tmp_path / "typo.yaml").write_text(f"extends: {MINIATURE.resolve()}\narms: {{drift_papr: null}}\n")
    with pytest.raises(ConfigError, match=r"arms.drift_papr: null takes out .*did you mean 'drift_paper'\?"):
        load(tmp_path / "typo.yaml")
    with pytest.raises(ConfigError, match=r"override '~arms.sfd': there is no .*did you mean 'sft'\?"):
        load(MINIATURE, ["~arms.sfd"])


def test_a_key_that_is_taken_out_has_its_default_again():
    assert load(MINIATURE, ["~train.epochs"]).train.epochs == TrainConfig().epochs
