"""Benchmark tables: VLMEvalKit's format and its traps."""

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from drift.config.evaluate import EvaluateConfig
from drift.evaluate.benchmarks import Benchmark, examples, read_benchmark
from drift.ground.errors import DataError


def png(colour: str = "red", size: tuple[int, int] = (30, 40)) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def read(folder: Path, text: str, **settings: object) -> Benchmark:
    (folder / "Table.tsv").write_text(text, encoding="utf-8")
    return read_benchmark("Table", config(folder, **settings))


def config(folder: Path, **settings: object) -> EvaluateConfig:
    return EvaluateConfig(data=str(folder), benchmarks={"Table": {"role": "reasoning"}}, **settings)


def table(*rows: str, header: str = "index\timage\tquestion\tanswer") -> str:
    return "\n".join([header, *rows]) + "\n"


def test_a_row_becomes_an_item_with_its_image_and_gold_answer(tmp_path: Path) -> None:
    benchmark = read(tmp_path, table(f"7\t{png()}\tHow many?\t3"))
    (item,) = benchmark.items
    assert (item.index, item.text, item.gold, item.choices) == ("7", "How many?", "3", ())
    assert item.size == (30, 40)
    assert item.fault is None


def test_a_short_image_cell_is_the_index_of_the_row_that_has_the_image_even_a_later_one(tmp_path: Path) -> None:
    first, second, third = read(tmp_path, table(f"1\t{png()}\tq\t3", "2\t1\tq\t3", "3\t1\tq\t3")).items
    assert first.image == second.image == third.image
    assert first.group == second.group == third.group
    backwards = read(tmp_path, table("1\t2\tq\t3", f"2\t{png()}\tq\t3"), limit=1).items
    assert backwards[0].fault is None


def test_rows_with_different_images_are_of_different_groups_unless_the_table_says_so(tmp_path: Path) -> None:
    rows = (f"1\t{png('red')}\tq\t3\tx", f"2\t{png('blue')}\tq\t3\tx")
    apart = read(tmp_path, table(*rows, header="index\timage\tquestion\tanswer\tcategory")).items
    together = read(tmp_path, table(*rows, header="index\timage\tquestion\tanswer\tgroup")).items
    assert apart[0].group != apart[1].group
    assert [item.group for item in together] == ["x", "x"]


def test_missing_options_at_the_end_are_left_out_and_in_the_middle_keep_their_letter(tmp_path: Path) -> None:
    header = "index\timage\tquestion\tanswer\tA\tB\tC\tD"
    items = read(tmp_path, table(f"1\t{png()}\tq\tA\tx\ty\t\t", f"2\t{png()}\tq\tA\tx\t\tz\t", header=header)).items
    assert [item.choices for item in items] == [("x", "y"), ("x", "", "z")]


def test_the_words_none_and_na_stay_answers(tmp_path: Path) -> None:
    items = read(tmp_path, table(f"1\t{png()}\tq\tNone", f"2\t{png()}\tq\tNA")).items
    assert [item.gold for item in items] == ["None", "NA"]


def test_images_longer_than_csvs_own_limit_and_quoted_line_breaks_are_read(tmp_path: Path) -> None:
    noise = Image.effect_noise((400, 400), 90).convert("RGB")
    buffer = io.BytesIO()
    noise.save(buffer, "PNG")
    cell = base64.b64encode(buffer.getvalue()).decode()
    assert len(cell) > 131072
    (item,) = read(tmp_path, table(f'1\t{cell}\t"two\nlines with ""quotes"""\t3')).items
    assert item.text == 'two\nlines with "quotes"'
    assert item.size == (400, 400)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("2\tbm90IGFuIGltYWdlIGJ1dCBsb25nIGVub3VnaCB0byBiZSBubyByZWZlcmVuY2UgdG8gb25l\tq\t3", "undecodable image"),
        ("2\t99\tq\t3", "no image"),
        ("2\t\tq\t3", "no image"),
        (f"2\t['{png()}', '{png()}']\tq\t3", "several images in one row"),
        (f"2\t{png()}\tq\t", "no answer"),
        (f"2\t{png()}\t\t3", "no question"),
        (f"2\t{png()}\tlook <|image_pad|> here\t3", "the question holds the special token <|image_pad|>"),
        (f"2\t{png(size=(201, 1))}\tq\t3", "image of 201 x 1 px"),
    ],
)
def test_a_row_that_cannot_be_asked_is_kept_with_its_fault(tmp_path: Path, row: str, fault: str) -> None:
    benchmark = read(tmp_path, table(f"1\t{png()}\tq\t3", row), max_failed=0.5)
    assert [item.fault for item in benchmark.items] == [None, fault]
    assert benchmark.items[1].image is None


def test_more_faults_than_max_failed_are_an_error_that_names_the_first(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 of 2 rows cannot be asked \(index 2: no answer\).*evaluate.max_failed"):
        read(tmp_path, table(f"1\t{png()}\tq\t3", f"2\t{png()}\tq\t"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index\timage\tquestion\tAnswer\n", r"no column 'answer'; did you mean 'Answer'\?"),
        ("index\timage\tquestion\tanswer\n", "no rows"),
        ("", "no column 'index'"),
        (f"index\timage\tquestion\tanswer\n1\t{png()}\tq\n", "line 2 has not as many fields as the header"),
        (f"index\timage\tquestion\tanswer\n1\t{png()}\tq\t3\textra\n", "line 2 has not as many fields"),
        (f"index\timage\tquestion\tanswer\n1\t{png()}\tq\t3\n1\t{png()}\tq\t4\n", "the same index twice"),
    ],
)
def test_a_table_that_is_none_is_an_error_of_one_line_with_its_path(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path, text)
    assert str(error.value).startswith(str(tmp_path / "Table.tsv"))
    assert "\n" not in str(error.value)


def test_a_missing_or_binary_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Table\.tsv: no such file; set evaluate\.data"):
        read_benchmark("Table", config(tmp_path))
    (tmp_path / "Table.tsv").write_bytes(b"\xff\xfe\x00index")
    with pytest.raises(DataError, match="not readable as a tab-separated table"):
        read_benchmark("Table", config(tmp_path))


def test_the_limit_takes_the_first_rows_and_only_their_faults_count(tmp_path: Path) -> None:
    benchmark = read(tmp_path, table(f"1\t{png()}\tq\t3", f"2\t{png()}\tq\t"), limit=1)
    assert [item.index for item in benchmark.items] == ["1"]


def test_examples_are_limited_small_and_spread_over_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drift.evaluate.benchmarks.EXAMPLES", 3)
    rows = [f"{place}\t{png(size=(900, 300))}\tq\t3" for place in range(9)]
    chosen = examples(read(tmp_path, table(*rows)))
    assert [example.index for example in chosen] == ["0", "3", "6"]
    assert Image.open(io.BytesIO(chosen[0].image)).size == (256, 85)
