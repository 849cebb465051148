"""Each filter of one chain: what it leaves out, and what it must not."""

import ast
import importlib
import inspect
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drift.config.data import CurateConfig
from drift.config.section import validate
from drift.data.filters.candidates import Candidate
from drift.data.filters.single import (
    chain_filters,
    in_other_scripts,
    leaking,
    repeated_share,
    repetitive,
    script_counts,
    solved_outside,
    unfinished,
)
from drift.ground.errors import ConfigError
from drift.verdicts.extract import SPECIAL_TOKEN
from tests.unit.data.test_curate import candidate

FAMILIES = (
    "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava", "llava_next", "llava_onevision", "idefics2", "idefics3", "smolvlm",
    "internvl", "mistral3", "pixtral", "gemma3", "paligemma", "glm4v", "qwen3_5", "llama", "gemma", "qwen2",
)  # fmt: skip
"""Of docs/families.md, and of their text models: transformers' folders."""
TOKEN = re.compile(r"[<\[][^\s<>\[\]]+[>\]]")


def reasons_of(config: CurateConfig, text: str, **changes: Any) -> dict[str, str]:
    """Every filter's reason, by stage."""
    one = candidate(text, **changes)
    return {stage: found for stage, reason in chain_filters(config) if (found := reason(one))}


def test_the_filters_have_a_fixed_order_and_the_default_is_the_papers_with_faults_left_out():
    everything = CurateConfig(scripts=("Latin",))
    stages = ["finish", "format", "correct", "pass_rate", "repetition", "leak", "language"]
    assert [stage for stage, _ in chain_filters(everything)] == stages
    assert [stage for stage, _ in chain_filters(CurateConfig())] == stages[:-1]
    off = CurateConfig(require_format=False, require_correct=False, max_repeated=1, drop_leaks=False)
    assert [stage for stage, _ in chain_filters(off)] == ["finish", "pass_rate"]


def test_every_filter_has_a_row_in_the_documentation_and_every_reason_too():
    page = (Path(__file__).parents[3] / "docs" / "filters.md").read_text(encoding="utf-8")
    for stage, _ in chain_filters(CurateConfig(scripts=("Latin",))):
        assert f"| `{stage}` |" in page
    for reason in ("truncated", "empty", "special_token", "too_easy", "too_hard", "loop", "gold_leak", "other_script"):
        assert f"`{reason}`" in page


# ------------------------------------------------------------------------------------ special tokens


def named_in(folder: str) -> set[str]:
    """Texts in transformers' processors and tokenizers of a family that look like a token."""
    package = importlib.import_module(f"transformers.models.{folder}")
    where = Path(inspect.getfile(package)).parent
    files = [path for path in where.glob("*.py") if path.name.startswith(("processing_", "tokenization_"))]
    constants = [node for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    texts = {node.value for node in constants if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {text for text in texts if TOKEN.fullmatch(text)}


def test_every_token_that_transformers_names_for_a_promised_family_is_found():
    found = {folder: named_in(folder) for folder in FAMILIES}
    assert sum(map(len, found.values())) > 20
    missed = {
        (folder, token) for folder, tokens in found.items() for token in tokens if not SPECIAL_TOKEN.search(token)
    }
    assert missed == set()


@pytest.mark.parametrize(
    "token",
    [
        "<|im_end|>",
        "<|image_pad|>",
        "<｜end▁of▁sentence｜>",
        "<s>",
        "</s>",
        "<unk>",
        "<image>",
        "<img>",
        "<IMG_CONTEXT>",
        "<start_of_turn>",
        "<end_of_image>",
        "<image_soft_token>",
        "<loc0123>",
        "<seg012>",
        "<unused7>",
        "<row_1_col_2>",
        "<global-img>",
        "<end_of_utterance>",
        "[INST]",
        "[/INST]",
        "[IMG_BREAK]",
        "[gMASK]",
        "<sop>",
        "</box>",
        "<tool_call>",
    ],
)
def test_a_control_token_of_any_family_is_found_in_the_middle_of_a_text(token):
    assert unfinished(candidate(f"<think> first{token}then </think> \\boxed{{1}}")) == "special_token"


@pytest.mark.parametrize(
    "text",
    ["a < s > b", "so p <s and s> q", "x<y>z", "<S> = 5 and <x> = 2", "[A] or [I]", "[0, 1]", "|x| < 3 and |y| > 2",
     "<|x|", "a <| b |> c", "<think> a </think>", "[THINK] a [/THINK]", "<answer>7</answer>", "\\langle s \\rangle",
     "the set <a, b>", "f[i][j]", "<b>bold</b>", "[MIDDLE", "< image >"],
)  # fmt: skip
def test_mathematics_and_thinking_hold_no_control_token(text):
    assert SPECIAL_TOKEN.search(text) is None


# ------------------------------------------------------------------------------------------ pass rate


@pytest.mark.parametrize(
    ("rate", "reason"), [(0.0, "too_hard"), (0.24, "too_hard"), (0.25, None), (0.75, None), (0.76, "too_easy")]
)
def test_pass_rates_are_bounded_both_ways_and_the_bounds_belong_to_them(rate, reason):
    assert solved_outside(0.25, 0.75)(candidate(pass_rate=rate)) == reason


def test_bounds_that_leave_nothing_are_refused():
    with pytest.raises(ConfigError, match=r"curate: min_pass_rate: 0\.5 is above max_pass_rate, 0\.4") as raised:
        validate(CurateConfig, {"min_pass_rate": 0.5, "max_pass_rate": 0.4}, where="curate")
    assert "\n" not in str(raised.value)


# ----------------------------------------------------------------------------------------- repetition

STEPS = [
    f"Step {n}: the side has {n * n + 3} units, so with the angle of {7 * n % 90} degrees we get {n * 17 % 101} for it."
    for n in range(60)
]
LOOPS = {
    "a word": "loop " * 4000,
    "a sentence": "First the area. " + "We can see that the answer is 12. " * 80,
    "a formula": "So " + r"\geq \sum_{k=200}^{299} \binom{n}{k} 0.25^{n} 0.75^{n} " * 40,
    "two lines in turn": "\n".join(["Wait, is that right?", "Let me compute it again: 3 + 4 = 7."] * 60),
    "Chinese": "首先计算面积。" + "我们可以看到答案是十二,让我再检查一遍这个结果。" * 60,
    "after a good half": " ".join(STEPS[:20]) + " so it is 12." * 700,
}
SOUND = {
    "steps of one form": " ".join(STEPS),
    "a truth table": "\n".join(f"| {n >> 2 & 1} | {n >> 1 & 1} | {n & 1} | {(n * 5 + 1) % 2} |" for n in range(8)),
    "powers of two": ", ".join(" + ".join(str(2**k) for k in range(n)) + f" = {2**n - 1}" for n in range(1, 14)),
    "a check of all that": " ".join([*STEPS[:15], "Let me check that once more.", *STEPS[:15]]),
    "one short line": "7 + 7 + 7 = 21",
    "nothing": "",
}


@pytest.mark.parametrize("case", LOOPS)
def test_a_chain_that_goes_round_in_circles_is_left_out(case):
    assert repetitive(0.5)(candidate(LOOPS[case])) == "loop"


@pytest.mark.parametrize("case", SOUND)
def test_a_chain_that_repeats_what_mathematics_repeats_is_kept(case):
    assert repetitive(0.5)(candidate(SOUND[case])) is None


def test_the_share_that_repeats_is_counted_in_tokens():
    words = [f"w{n}" for n in range(60)]
    assert repeated_share(" ".join(words)) == 0
    assert repeated_share(" ".join(words + words[:30])) == 30 / 90
    assert repeated_share(" ".join(words + words[:19])) == 0  # shorter than a run


@given(st.integers(1, 400), st.integers(0, 2**32))
def test_text_without_a_repeated_run_is_never_a_loop(count, seed):
    generator = random.Random(seed)
    text = " ".join(f"{generator.randrange(10**6)}" for _ in range(count))
    assert repetitive(0.0)(candidate(text)) is None


# ----------------------------------------------------------------------------------------------- leak


@pytest.mark.parametrize(
    "said",
    [
        "The standard answer given is 7, so I should reach it.",
        "Hmm, but according to the reference answer it is 7.",
        "The given answer is 7. Let me work backwards.",
        "As the answer is known to be \\(7\\), the side must be 3.",
        "The ground truth answer is B, so",
        "the gold answer says 7",
        "This matches the provided answer.",
        "which agrees with the answer key",
        "The answer key says 7.",
        "Given that the answer is 7, x must be 3.",
        "Knowing that the correct answer is $\\frac{1}{2}$ we go on",
        "根据参考答案,结果是7。",
        "标准答案是7",
        "the  reference\nanswer is 7",
    ],
)
def test_who_speaks_of_an_answer_it_was_told_is_left_out(said):
    assert leaking(candidate(f"<think> 3 + 4. {said} </think> \\boxed{{7}}")) == "gold_leak"


@pytest.mark.parametrize(
    "said",
    [
        "The answer is 7.",
        "So the final answer is 7, and the correct answer is (B).",
        "None of the given answer choices fits, so I look again.",
        "It matches the given answer options.",
        "The expected answer is probably an integer.",
        "Given that the answer is an integer, x is even.",
        "Given that the answer is positive, we take the root.",
        "The answer should be given as a fraction.",
        "In the reference frame of the train the answer is 7.",
        "The standard solution of 0.1 mol/L is diluted; the official length is 7 m.",
        "The key is to see that the angles are equal, so the answer is 7.",
        "The reference solution has a concentration of 2 mol/L.",
        "We know that the answer must be below 10.",
        "所以正确答案是7。",
        "根据给定的条件,答案为7。",
    ],
)
def test_who_works_the_answer_out_is_kept(said):
    assert leaking(candidate(f"<think> 3 + 4. {said} </think> \\boxed{{7}}")) is None


def test_words_of_the_problem_itself_are_no_leak():
    told = "<think> The given answer is 7, but 3 + 5 = 8. </think> \\boxed{no}"
    assert leaking(candidate(told, problem="Tom adds 3 and 5. The given answer\nis 7. Is that right?")) is None
    assert leaking(candidate(told, problem="Tom adds 3 and 5. Is the sum 7?")) == "gold_leak"


# ------------------------------------------------------------------------------------------- language


@pytest.mark.parametrize(
    ("text", "scripts", "reason"),
    [
        ("The area of triangle ABC is \\frac{1}{2} \\pi r^2 with α = 30°.", ("Latin",), None),
        ("The area is 面积等于底乘以高除以二 so twelve.", ("Latin",), "other_script"),
        ("Both sides are equal, and therefore their common length must be twelve (十二) units.", ("Latin",), None),
        ("因为 AB = CD, sin x = 1, 所以面积是 12 cm", ("Han",), None),
        ("因为 the triangle 所以 is isosceles", ("Han",), "other_script"),
        ("面積は底辺かける高さです", ("Han", "Hiragana", "Katakana"), None),
        ("Площадь равна двенадцати", ("Latin",), "other_script"),
        ("３ + 4 = 7 $\\boxed{7}$", ("Latin",), None),
        ("Die Fläche beträgt zwölf", ("Latin",), None),
    ],
)
def test_letters_of_other_scripts_count_and_mathematics_does_not(text, scripts, reason):
    assert in_other_scripts(scripts, 0.05)(candidate(text)) == reason


def test_scripts_are_those_of_unicode():
    counts = script_counts("area Fläche 面积 ひら カタ 한국 плошадь \\alpha α 𝑥 x1 ①")
    assert counts == {"Latin": 10, "Han": 2, "Hiragana": 2, "Katakana": 2, "Hangul": 2, "Cyrillic": 7}


def test_an_unknown_script_is_named():
    with pytest.raises(ConfigError, match=r"curate\.scripts\.0: .*'Latin'.*\(got 'latin'\)"):
        validate(CurateConfig, {"scripts": ["latin"]}, where="curate")


# --------------------------------------------------------------------------------------------- funnel


def test_each_fault_is_found_by_its_own_filter_and_a_sound_chain_by_none():
    sound = "<think> 3 + 4 = 7 </think> \\boxed{7}"
    config = CurateConfig(scripts=("Latin",), min_pass_rate=0.25, max_pass_rate=0.75)
    assert reasons_of(config, sound, pass_rate=0.5) == {}
    loop = f"<think> {'We see that it is seven. ' * 99}</think> \\boxed{{7}}"
    assert reasons_of(config, loop, pass_rate=0.5) == {"repetition": "loop"}
    leak = sound.replace("7 <", "7, as the standard answer given is 7 <")
    assert reasons_of(config, leak, pass_rate=0.5) == {"leak": "gold_leak"}
    assert reasons_of(config, sound, pass_rate=1.0) == {"pass_rate": "too_easy"}
    assert reasons_of(config, sound, pass_rate=0.0, status="incorrect") == {
        "correct": "incorrect",
        "pass_rate": "too_hard",
    }
    assert reasons_of(config, sound.replace("3 +", "三加四等于七 3 +"), pass_rate=0.5) == {"language": "other_script"}


def test_a_candidate_needs_nothing_of_its_problem():
    bare = Candidate("a", 0, "text", "stop", 1, "t", "correct", 1.0)
    assert (bare.source, bare.answer_kind, bare.choices) == ("", "text", None)
