"""The eight published benchmarks: what their rows say, and the sums of their scores."""

from pathlib import Path

import pytest

from drift.config.catalog import KNOWN, SUITES, columns_of
from drift.config.evaluate import BenchmarkConfig, EvaluateConfig
from drift.config.section import validate
from drift.evaluate.benchmarks import Benchmark, read_benchmark, read_benchmarks
from drift.evaluate.columns import columns, metrics
from drift.evaluate.rule import judge
from drift.evaluate.samples import Sample
from drift.evaluate.scores import role_mean, score_benchmarks
from drift.ground.errors import ConfigError, DataError
from drift.inference.reply import Reply
from drift.planning.tables import SUFFIX, TABLES, write_table, write_tables


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Benchmark]:
    config = EvaluateConfig(data=str(tmp_path), benchmarks=write_tables(tmp_path))
    return {table.config.format: table for table in read_benchmarks(config)}


def samples_of(table: Benchmark, right: str) -> list[Sample]:
    """`1` for a right answer, `0` for a wrong one, in the table's order."""
    marked = zip(table.items, right, strict=True)
    replies = {item.index: Reply(item.gold if mark == "1" else "none of it", "stop") for item, mark in marked}
    return judge(table, replies)


def test_the_suites_are_the_papers_and_wemath_counts_twice() -> None:
    assert [len(SUITES[role]) for role in ("reasoning", "perception")] == [5, 3]
    names = [column for name in SUITES["reasoning"] for column in columns_of(name, name)]
    assert names[3:5] == ["WeMath-strict", "WeMath-loose"]
    assert len(names) == 6


def test_a_published_benchmark_needs_no_more_than_its_name() -> None:
    config = validate(EvaluateConfig, {"data": "x", "benchmarks": {"WeMath": {}, "MMStar": None}}, where="evaluate")
    assert config.benchmarks["WeMath"] == BenchmarkConfig(role="reasoning", format="WeMath")
    assert config.benchmarks["MMStar"].role == "perception"


@pytest.mark.parametrize(
    ("benchmarks", "message"),
    [
        ({"Mine": {}}, "benchmarks.Mine.role"),
        ({"Mine": {"format": "WeMth"}}, "no benchmark 'WeMth'; did you mean 'WeMath'"),
        ({"Mine": 3}, "benchmarks.Mine"),
    ],
)
def test_a_benchmark_of_ones_own_needs_a_role_and_a_form_that_exists(benchmarks: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(EvaluateConfig, {"data": "x", "benchmarks": benchmarks}, where="evaluate")


@pytest.mark.parametrize(
    ("form", "change", "gold"),
    [
        ("LogicVista", {"answer": "3"}, ("3", "open")),  # row v1_20, whose options are numbers
        ("LogicVista", {"answer": "c, a"}, ("AC", "letters")),
        ("MathVerse_MINI_Vision_Only", {"answer": "b"}, ("B", "letters")),
        ("MathVista_MINI", {"answer_option": "b"}, ("B", "option")),
        ("MathVision", {"answer": "c", "choices": "['A', 'B', 'C']"}, ("C", "option")),
        ("MathVision", {"answer": "c", "choices": "[]"}, ("c", "open")),
        ("WeMath", {"answer": "d"}, ("D", "option")),
        ("MMStar", {"answer": "b"}, ("B", "option")),
    ],
)
def test_small_letters_and_options_that_are_numbers_are_golds_too(
    tmp_path: Path, form: str, change: dict[str, str], gold: tuple[str, str]
) -> None:
    write_table(tmp_path / "Mine.tsv", [{**TABLES[form][0], **change}])
    config = EvaluateConfig(data=str(tmp_path), benchmarks={"Mine": {"format": form}}, limit=1)
    benchmark = read_benchmark("Mine", config)
    (item,) = benchmark.items
    assert (item.gold, item.form, item.fault) == (*gold, None)
    assert [one.status for one in judge(benchmark, {item.index: Reply(gold[0])})] == ["correct"]


def test_a_hint_that_is_nan_is_none(tmp_path: Path) -> None:
    write_table(tmp_path / "Mine.tsv", [{**TABLES["MMStar"][0], "hint": "nan"}])
    config = EvaluateConfig(data=str(tmp_path), benchmarks={"Mine": {"format": "MMStar"}})
    assert read_benchmark("Mine", config).items[0].text.startswith("Question: ")


def test_every_form_is_read_and_every_row_can_be_asked(tables: dict[str, Benchmark]) -> None:
    assert tables.keys() == KNOWN.keys()
    assert not [item for table in tables.values() for item in table.items if item.fault]
    assert all(len(table.items) == len(TABLES[form]) for form, table in tables.items())


def test_questions_are_asked_as_vlmevalkit_asks_them(tables: dict[str, Benchmark]) -> None:
    options = "Options:\nA. a red cube\nB. a blue ball\nC. nothing\n"
    assert tables["MMStar"].items[0].text == (
        f"Question: What is shown?\n{options}Please select the correct answer from the options above. \n"
    )
    assert tables["WeMath"].items[0].text.endswith("A. 3\nB. 4\nC. 5\nD. No correct answer\n")
    assert tables["MathVision"].items[0].text == "What is the sum? <image1>"


def test_gold_answers_are_letters_where_there_are_options(tables: dict[str, Benchmark]) -> None:
    gold = {form: [(item.gold, item.form) for item in table.items] for form, table in tables.items()}
    assert gold["MathVista_MINI"] == [("B", "option"), ("7", "open"), ("2.5", "open")]
    assert gold["MathVision"][1:] == [("C", "option"), (r"\frac{1}{2}", "open")]
    assert gold["MathVerse_MINI_Vision_Only"] == [("B", "letters"), ("12", "open")]
    assert [answer for answer, _ in gold["LogicVista"]] == ["A", "B", "AC", "D", "BC"]
    assert {form for _, form in gold["HallusionBench"]} == {"yes_no"}


@pytest.mark.parametrize(
    ("form", "place", "reply", "status"),
    [
        ("LogicVista", 2, "The answers are C and A.", "correct"),
        ("LogicVista", 2, "A", "incorrect"),
        ("LogicVista", 0, "A, C", "incorrect"),
        ("MathVision", 0, "A", "incorrect"),  # VLMEvalKit takes a letter for right on numeric questions
        ("MathVision", 0, "__import__('os').getpid() or 17", "incorrect"),  # and runs what a model writes
        ("MathVision", 2, r"<think>...</think> \boxed{0.5}", "correct"),
        ("MathVista_MINI", 0, "5", "correct"),
        ("MathVista_MINI", 2, "2.50", "correct"),
        ("MathVerse_MINI_Vision_Only", 0, "<think>A or C</think>B:60", "correct"),
        ("RealWorldQA", 0, "<think>B, B, B</think> The answer is A", "correct"),
        ("RealWorldQA", 0, "<think>so it must be A", "unparsed"),
        ("HallusionBench", 0, "<think>no</think>Yes", "correct"),
    ],
)
def test_replies_are_judged_by_the_benchmarks_own_rules(
    tables: dict[str, Benchmark], form: str, place: int, reply: str, status: str
) -> None:
    index = tables[form].items[place].index
    (sample,) = [one for one in judge(tables[form], {index: Reply(reply, "stop")}) if one.index == index]
    assert sample.status == status


@pytest.mark.parametrize(
    ("right", "strict", "loose"),
    [("111" + "1111", 100, 100), ("101" + "1110", 25, 75), ("001" + "0001", 0, 0), ("110" + "1101", 25, 75)],
)
def test_wemath_counts_whole_problems(tables: dict[str, Benchmark], right: str, strict: float, loose: float) -> None:
    samples = samples_of(tables["WeMath"], right)
    values = {name: [unit.value for unit in units] for name, units in columns("WeMath", "WeMath", samples).items()}
    assert {name: 100 * sum(own) / len(own) for name, own in values.items()} == {
        "WeMath-strict": strict,
        "WeMath-loose": loose,
    }


def test_wemath_on_a_part_of_a_problem_is_refused(tmp_path: Path) -> None:
    config = EvaluateConfig(data=str(tmp_path), benchmarks=write_tables(tmp_path), limit=5)
    samples = samples_of(read_benchmark(f"WeMath{SUFFIX}", config), "11111")
    with pytest.raises(DataError, match="WeMath_Tiny: problem 2 has the parts 3steps_1, 3steps_2, not all its steps"):
        score_benchmarks(samples, config.benchmarks, 0.95)


def test_hallusionbench_reports_its_three_scores(tables: dict[str, Benchmark]) -> None:
    samples = samples_of(tables["HallusionBench"], "110111")
    assert metrics("HallusionBench", samples) == pytest.approx({"aAcc": 500 / 6, "qAcc": 200 / 3, "fAcc": 75})
    assert len({sample.group for sample in samples}) == 2


def test_the_suite_mean_is_over_columns(tables: dict[str, Benchmark]) -> None:
    samples = [*samples_of(tables["WeMath"], "1011111"), *samples_of(tables["MathVision"], "001")]
    configs = {table.name: table.config for table in tables.values()}
    scores = score_benchmarks(samples, configs, 0.95)
    mean = role_mean(scores, "reasoning")
    assert mean is not None
    assert mean.mean == pytest.approx((50 + 100 + 100 / 3) / 3)


def test_a_table_under_a_published_name_must_be_the_published_one(tmp_path: Path) -> None:
    write_table(tmp_path / "MMStar.tsv", TABLES["MMStar"])
    config = EvaluateConfig(data=str(tmp_path), benchmarks={"MMStar": {}})
    with pytest.raises(DataError, match=r"MMStar\.tsv: MD5 \w+, but the published MMStar has e1ec.* format: MMStar"):
        read_benchmark("MMStar", config)


@pytest.mark.parametrize("form", list(KNOWN))
def test_a_table_without_a_column_of_its_form_is_an_error_that_names_it(tmp_path: Path, form: str) -> None:
    config = EvaluateConfig(data=str(tmp_path), benchmarks=write_tables(tmp_path))
    for column in KNOWN[form].required:
        rows = [{key: value for key, value in row.items() if key != column} for row in TABLES[form]]
        write_table(tmp_path / f"{form}{SUFFIX}.tsv", rows)
        with pytest.raises(DataError, match=f"no column '{column}'"):
            read_benchmark(f"{form}{SUFFIX}", config)


@pytest.mark.parametrize(
    ("form", "column", "cell", "fault"),
    [
        ("MathVision", "choices", "[1, __import__('os')]", "choices is no list"),
        ("MathVision", "choices", "{}", "choices is no list"),
        ("MathVerse_MINI_Vision_Only", "metadata", "{}", "metadata has no subject"),
        ("HallusionBench", "index", "VD_1", "the index 'VD_1' does not end in set, figure and question"),
    ],
)
def test_a_cell_that_is_not_what_it_should_be_is_a_fault_of_its_row(
    tmp_path: Path, form: str, column: str, cell: str, fault: str
) -> None:
    config = EvaluateConfig(data=str(tmp_path), benchmarks=write_tables(tmp_path), max_failed=1)
    write_table(tmp_path / f"{form}{SUFFIX}.tsv", [{**TABLES[form][0], column: cell}])
    assert [item.fault for item in read_benchmark(f"{form}{SUFFIX}", config).items] == [fault]
