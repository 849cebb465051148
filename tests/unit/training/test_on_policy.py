"""On-policy distillation on the miniature world: the loss by hand, rollouts and scores in their places, the prior."""

import math
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from drift.config.models import DeltaConfig, ModelsConfig
from drift.config.plan import ArmStep
from drift.config.section import validate
from drift.config.train import OnPolicyConfig, TrainConfig
from drift.data.processed import shown
from drift.data.rows import Chat, read_rows
from drift.ground.artifacts import read_json, read_provenance
from drift.ground.errors import ConfigError, DataError
from drift.training.arm import run_arm
from drift.training.on_policy.divergence import AT_ONCE, reverse_kl
from drift.training.on_policy.prompts import LEARNS, PromptCollator
from drift.training.on_policy.rollouts import Rollouts, parted
from drift.training.on_policy.teacher import Teacher, require_same_vocabulary
from drift.training.sft import train
from drift.weights.delta.delta import compute_delta
from drift.weights.delta.deltafile import projection
from drift.weights.modeling import load_processor, load_vlm
from tests.forked import begin
from tests.world import BASE, EXPERT, TEACHER, VLM, training_set

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

WARM = TEACHER
"""A student that reasons about images already, as after a cold start."""
QUICK = {
    "epochs": 1,
    "learning_rate": 1e-3,
    "per_device_batch_size": 16,
    "bf16": False,
    "gradient_checkpointing": False,
    "threads": 1,
    "method": "on_policy",
    "on_policy": {"max_new_tokens": 40},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return training_set(tmp_path_factory.mktemp("data"), 32)


@pytest.fixture(scope="module")
def processor():
    return load_processor(VLM)


@pytest.fixture(scope="module")
def teacher(processor):
    return Teacher(EXPERT, processor.tokenizer)


@pytest.fixture
def rows(data, processor):
    chat = Chat(processor)
    return [shown(row, chat, None) for row in read_rows(data, processor)[:8]]


@pytest.fixture
def prompts(rows, processor, teacher):
    return PromptCollator(processor, teacher.tokenizer)(rows)


def drawn(prompts, processor, teacher, **settings):
    """The warm student and its rollouts, the same every time."""
    torch.manual_seed(0)
    student = load_vlm(WARM, dtype="float32").train()
    rollouts = Rollouts(OnPolicyConfig(**settings), student, processor, teacher.tokenizer)
    return student, rollouts.drawn(student, prompts)


# Over two ids, π_s = (1/2, 1/2) and π_t = (1/4, 3/4): KL = 1/2 ln 2 + 1/2 ln(2/3) = 1/2 ln(4/3). A second token where
# both agree adds nothing. The gradient by a student's logit is π_s (ln(π_s/π_t) − KL): ± 1/4 ln 3 here.
def test_the_loss_is_the_reverse_kl_and_its_gradient_by_hand():
    student = torch.zeros(2, 2, requires_grad=True)
    teacher = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()
    loss = reverse_kl(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(0.5 * math.log(4 / 3))
    assert student.grad.flatten().tolist() == pytest.approx([0.25 * math.log(3), -0.25 * math.log(3), 0, 0], abs=1e-7)


# At T = 2 the teacher's logits (0, ln 9) are (0, ln 3): its distribution is (1/4, 3/4) again.
def test_the_temperature_divides_both_logits_and_filling_ids_do_not_count():
    student, teacher = torch.zeros(1, 3), torch.tensor([[0.0, math.log(9)]])
    student[0, 2] = 50.0  # an id that the teacher has no row for
    assert reverse_kl(student, teacher, 2.0).item() == pytest.approx(0.5 * math.log(4 / 3))


def test_the_gradient_is_what_the_sampled_advantage_has_in_expectation():
    torch.manual_seed(0)
    student, teacher = torch.randn(1, 5, dtype=torch.float64, requires_grad=True), torch.randn(1, 5).double()
    (whole,) = torch.autograd.grad(reverse_kl(student.float(), teacher.float()), student)
    logs = student.log_softmax(-1)
    advantage = (logs - teacher.log_softmax(-1)).detach()
    (sampled,) = torch.autograd.grad((logs.exp().detach() * advantage * logs).sum(), student)
    assert torch.allclose(whole, sampled, atol=1e-6)


def test_many_tokens_add_up_in_pieces_and_none_are_zero():
    student, teacher = torch.randn(AT_ONCE + 3, 7), torch.randn(AT_ONCE + 3, 7)
    alone = sum(reverse_kl(own[None], other[None]) for own, other in zip(student, teacher, strict=True))
    assert reverse_kl(student, teacher).item() == pytest.approx(alone.item(), rel=1e-4)
    assert reverse_kl(student[:0].requires_grad_(), teacher[:0]).item() == 0.0


# At a temperature near 0 a draw is the most likely token: where the student's logits stand shows in their argmax.
def test_a_drawn_token_is_the_most_likely_where_the_loss_looks(prompts, processor, teacher):
    student, batch = drawn(prompts, processor, teacher, temperature=0.01, max_new_tokens=40)
    own, _ = parted(batch)
    del own["labels"]
    learned = own.pop(LEARNS)
    answered = learned.shape[1]
    logits = student(**own, logits_to_keep=answered + 1).logits[:, -answered - 1 : -1]
    assert (logits.argmax(-1) == own["input_ids"][:, -answered:])[learned].float().mean() > 0.99
    assert student.training and student.generation_config.do_sample is False


def test_a_rollout_ends_with_its_end_token_and_stands_behind_both_prompts(prompts, processor, teacher):
    prompts[LEARNS][1] = False  # a row that only fills its place
    _, batch = drawn(prompts, processor, teacher, max_new_tokens=40)
    own, told = parted(batch)
    learned = own[LEARNS]
    answers = own["input_ids"][:, -learned.shape[1] :]
    assert torch.equal(answers, told["input_ids"][:, -learned.shape[1] :])
    assert own["attention_mask"].sum() - own[LEARNS].sum() > prompts["attention_mask"].sum(), "row 1 is seen"
    assert (own["labels"] != -100).sum() == learned.sum() and not learned[1].any()
    end = processor.tokenizer.eos_token_id
    for answer, ours in zip(answers[learned.any(1)], learned[learned.any(1)], strict=True):
        places = (answer == end).nonzero().flatten().tolist() or [len(answer) - 1]
        assert ours.sum() == places[0] + 1
    assert not torch.isin(answers, torch.tensor(processor.tokenizer.convert_tokens_to_ids(["<|image_pad|>"]))).any()


def test_the_teacher_scores_the_answers_tokens_on_the_words(rows, processor, teacher):
    told = PromptCollator(processor, teacher.tokenizer)(rows)
    gold = [row["turns"][-1].texts[0] + "<|im_end|>" for row in rows]
    teacher.tokenizer.padding_side = "right"
    answers = teacher.tokenizer(gold, add_special_tokens=False, padding=True, return_tensors="pt")
    teacher.tokenizer.padding_side = "left"
    ids = torch.cat([told["teacher_input_ids"], answers["input_ids"]], dim=1)
    mask = torch.cat([told["teacher_attention_mask"], answers["attention_mask"]], dim=1)
    found = teacher.logits(ids, mask, answers["input_ids"].shape[1]).argmax(-1)
    assert (found == answers["input_ids"])[answers["attention_mask"].bool()].float().mean() > 0.97


def means(report, epochs):
    return np.array([row["loss"] for row in report.history]).reshape(epochs, -1).mean(1)


def test_a_few_steps_lower_the_reverse_kl_of_a_warm_student(tmp_path):
    data = training_set(tmp_path / "data", 64)
    config = TrainConfig(**QUICK | {"epochs": 3})
    given = {"model": str(WARM), "training_set": data, "teacher": str(EXPERT)}
    report = train(config, **given, out=tmp_path / "out")
    assert means(report, 3)[-1] < 0.6 * means(report, 3)[0]
    assert 5 < report.history[-1]["rollout_tokens"] < 40
    assert load_vlm(tmp_path / "out").generation_config.do_sample is False, "that of the start"
    inputs = {one["name"] for one in read_provenance(tmp_path / "out")["inputs"]}
    assert inputs == {"model", "training_set", "teacher"}


# At a low temperature both cuts draw the same rollouts; the first step's loss is then over the same tokens.
def test_a_step_s_loss_is_per_token_whatever_its_cut(data, tmp_path):
    cold = QUICK | {"on_policy": {"max_new_tokens": 40, "temperature": 0.1}}
    cuts = ({}, {"per_device_batch_size": 4, "gradient_accumulation": 4})
    given = {"model": str(WARM), "training_set": data, "teacher": str(EXPERT)}
    reports = [train(TrainConfig(**cold | cut), **given, out=tmp_path / str(len(cut))) for cut in cuts]
    whole, cut = (report.history[0]["loss"] for report in reports)
    assert cut == pytest.approx(whole, rel=1e-3)


def test_a_killed_training_goes_on_with_the_draws_it_would_have_had(data, tmp_path):
    config = TrainConfig(**QUICK | {"epochs": 3, "save_steps": 2, "on_policy": {"max_new_tokens": 24}})
    go = partial(train, config, model=str(WARM), training_set=data, teacher=str(EXPERT))
    whole, killed = go(out=tmp_path / "whole"), tmp_path / "killed"
    process = begin(partial(go, out=killed))
    checkpoint = tmp_path / "killed.partial" / "checkpoints" / "checkpoint-2" / "trainer_state.json"
    while process.is_alive() and not checkpoint.exists():
        time.sleep(0.01)
    process.kill()
    process.join()
    assert checkpoint.exists() and not killed.exists()
    assert [row["loss"] for row in go(out=killed).history] == [row["loss"] for row in whole.history]
    assert (killed / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


def cold_losses(data, out, **cut):
    """Of a student that hardly draws."""
    config = TrainConfig(**QUICK | {"on_policy": {"max_new_tokens": 40, "temperature": 0.1}} | cut)
    report = train(config, model=str(WARM), training_set=data, teacher=str(EXPERT), out=out)
    return [row["loss"] for row in report.history]


@pytest.fixture(scope="module")
def of_one_process(data, tmp_path_factory):
    return cold_losses(data, tmp_path_factory.mktemp("cold") / "out")


# Ranks draw with generators of their own: one rollout of 32 is another, and a factor of the ranks would be 100 %.
@pytest.mark.slow
@pytest.mark.parametrize("deepspeed", [None, "configs/deepspeed/zero2.json"], ids=["DDP", "ZeRO-2"])
def test_two_ranks_have_the_loss_of_one_process(data, of_one_process, tmp_path, deepspeed):
    cut = {"per_device_batch_size": 8, "processes": 2, "deepspeed": deepspeed}
    assert cold_losses(data, tmp_path / "out", **cut) == pytest.approx(of_one_process, rel=0.1)


def test_the_prior_biases_the_same_gradients_and_alpha_zero_is_none(data, tmp_path):
    compute_delta(DeltaConfig(minus="base"), expert=str(EXPERT), vlm=str(VLM), base=str(BASE), out=tmp_path / "delta")
    given = {"model": str(VLM), "training_set": data, "teacher": str(EXPERT)}
    train(TrainConfig(**QUICK), **given, out=tmp_path / "plain")
    for name, alpha in (("zero", 0.0), ("one", -1.0)):
        config = TrainConfig(**QUICK, prior={"alpha": alpha})
        assert train(config, **given, delta=tmp_path / "delta", out=tmp_path / name).guided_parameters > 0
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "zero", "one")]
    assert files[0] == files[1], "the same draws, too"
    plain, one = (projection(tmp_path / name, tmp_path / "delta") for name in ("plain", "one"))
    assert one > plain + 0.005


def test_an_arm_asks_the_configuration_s_expert_and_names_it_as_a_parent(data, tmp_path):
    models = ModelsConfig(vlm=str(VLM), expert=str(EXPERT), base=str(BASE), start=str(WARM))
    step = ArmStep(name="opd", models=models, merge=None, train=TrainConfig(**QUICK), delta=None)
    (tmp_path / "deltas").mkdir()
    folders = {"deltas": tmp_path / "deltas", "start": tmp_path / "start"}
    report = run_arm(step, training_set=data, **folders, out=tmp_path / "model", record=tmp_path / "record")
    assert report.train.final_loss == read_json(tmp_path / "record" / "arm.json")["metrics"]["train/final_loss"]
    parents = {one["role"]: one["uri"] for one in read_provenance(tmp_path / "model")["parents"]}
    assert parents == {"vlm": str(VLM), "expert": str(EXPERT), "start": str(WARM)}


def test_rows_without_words_are_counted_and_the_first_is_told_with_a_remedy(data, tmp_path):
    rows = pq.read_table(data / "train.parquet").to_pylist()
    for place in (3, 7):
        rows[place]["text_problem"] = None
    rows[5]["messages"] += rows[5]["messages"]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    said = (
        r"^row 0{15}3: no text_problem, the problem in words.*; add it, or use sft; 2 more rows cannot be used \(0{15}5"
    )
    with pytest.raises(DataError, match=said):
        train(TrainConfig(**QUICK), model=str(VLM), training_set=tmp_path, teacher=str(EXPERT), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_vocabulary_is_refused_with_the_first_token_that_differs(teacher):
    other = teacher.tokenizer.backend_tokenizer.to_str().replace('"compute"', '"reckon"')
    student = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(other))
    place = teacher.tokenizer.convert_tokens_to_ids("compute")
    with pytest.raises(ConfigError, match=rf"^x: token {place} is 'compute' to the expert and 'reckon' to the student"):
        require_same_vocabulary(student, teacher.tokenizer, Path("x"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"packing": True}, "on_policy with packing: rollouts are padded; set packing: false"),
        ({"fsdp": True}, "on_policy with fsdp: rollouts need whole weights"),
        ({"add_think_tokens": True}, "on_policy with add_think_tokens: the expert does not know them"),
        ({"on_policy": {"temperature": 0}}, "on_policy.temperature"),
    ],
)
def test_what_cannot_go_with_rollouts_is_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        validate(TrainConfig, {"method": "on_policy"} | changes)


@pytest.mark.parametrize(("method", "expert"), [("sft", str(EXPERT)), ("on_policy", None)])
def test_the_method_and_the_teacher_go_together(data, tmp_path, method, expert):
    with pytest.raises(ConfigError, match=r"^train.method on_policy and --teacher go together; set both"):
        train(TrainConfig(method=method), model=str(VLM), training_set=data, teacher=expert, out=tmp_path / "out")
