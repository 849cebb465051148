"""A data folder as a page: what it shows of what, that nothing in it runs or is fetched, and old folders."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from drift.config.data import CurateConfig
from drift.data.exports.page import write_page
from drift.data.selection.curation import curate
from drift.ground.artifacts import write_provenance
from drift.ground.errors import DataError
from tests.pool_rows import ingested, pool_row
from tests.unit.data.test_curate import generations
from tests.world import training_set

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


class Page(HTMLParser):
    """The elements of a page, as a browser would make them of it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def where(self, **data: str) -> list[dict[str, str | None]]:
        wanted = {f"data-{name}": value for name, value in data.items()}
        return [one for one in self.of("article") if wanted.items() <= one.items()]


@pytest.fixture
def data(tmp_path) -> tuple[Path, Path, Path]:
    """Problems, their generations, and the training set made of both."""
    problems = ingested(tmp_path, 4)
    chains = generations(tmp_path / "generations", problems)
    write_provenance(chains, "generate", config={}, inputs={"problems": problems})
    curate(CurateConfig(), problems, chains, tmp_path / "set")
    return problems, chains, tmp_path / "set"


def test_a_training_set_shows_its_rows_and_every_reject_with_its_reason_and_picture(tmp_path, data):
    shown = write_page(data[2], tmp_path / "page.html")
    assert shown == "3 of 3 training rows, 9 of 9 rejects"
    page = Page(tmp_path / "page.html")
    assert len(page.where(section="training rows")) == 3 and len(page.where(section="rejects")) == 9
    assert len(page.where(reason="incorrect")) == 3
    assert len([one for one in page.of("img") if "image/jpeg" in str(one["src"])]) == 12, "the rejects' problems too"


def test_chains_are_shown_with_the_verdict_on_each(tmp_path, data):
    assert write_page(data[1], tmp_path / "page.html") == "12 of 12 chains"
    page = Page(tmp_path / "page.html")
    right = len(page.where(reason="correct"))
    assert right == 7 and len(page.where(reason="")) == 0
    (tmp_path / "problems").rename(tmp_path / "elsewhere")
    write_page(data[1], tmp_path / "page.html")
    assert len(Page(tmp_path / "page.html").where(reason="")) == 12, "without problems nothing is judged"
    write_page(data[1], tmp_path / "page.html", problems=tmp_path / "elsewhere")
    assert len(Page(tmp_path / "page.html").where(reason="correct")) == right


def test_problems_are_shown_with_the_rows_that_were_rejected(tmp_path):
    problems = ingested(tmp_path, [pool_row(1), pool_row(2), pool_row(3, answer="proof")], max_rejected=0.5)
    assert write_page(problems, tmp_path / "page.html") == "2 of 2 problems, 1 of 1 rejects"
    assert len(Page(tmp_path / "page.html").where(reason="sentinel_answer")) == 1


def test_a_draw_says_of_how_many_and_takes_every_reason_alike(tmp_path, data):
    assert write_page(data[2], tmp_path / "page.html", limit=4) == "3 of 3 training rows, 4 of 9 rejects"
    reasons = [one["data-reason"] for one in Page(tmp_path / "page.html").where(section="rejects")]
    assert len(set(reasons)) == 4


def test_another_seed_draws_others_and_the_same_seed_the_same(tmp_path, data):
    pages = {}
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        write_page(data[1], tmp_path / f"{name}.html", limit=4, seed=seed)
        pages[name] = (tmp_path / f"{name}.html").read_bytes()
    assert pages["one"] == pages["again"] != pages["other"]


def test_nothing_that_a_model_or_a_source_wrote_runs_or_is_fetched(tmp_path):
    problems = ingested(tmp_path, [pool_row(0, problem=EVIL, source=EVIL), pool_row(1)])
    chains = generations(tmp_path / "generations", problems, [[f"<think>{EVIL}</think> \\boxed{{1}}", EVIL]])
    curate(CurateConfig(require_format=False), problems, chains, tmp_path / "set")
    for folder in (problems, chains, tmp_path / "set"):
        write_page(folder, tmp_path / "page.html", problems=problems)
        page = Page(tmp_path / "page.html")
        assert len(page.of("script")) == 1 and "alert(1)&lt;/script&gt;" in page.text
        assert all(str(one["src"]).startswith("data:") for one in page.of("img"))
        assert not page.of("link") and not any("href" in given or "onerror" in given for _, given in page.elements)


def test_the_pages_policy_allows_its_own_script_and_no_other(tmp_path, data):
    write_page(data[2], tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    (script,) = re.findall(r"<script>(.*)</script>", page.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(one["content"] for one in page.of("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in str(policy) and f"script-src 'sha256-{digest}'" in str(policy)


def test_long_texts_are_cut_and_odd_characters_do_not_end_the_page(tmp_path, data):
    part = data[1] / "part-00000-00000.jsonl"
    rows = [json.loads(line) for line in part.read_text().splitlines()]
    rows[0]["text"], rows[1]["text"], rows[2]["text"] = "loop " * 5000, "half \ud800 a pair", None
    part.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_page(data[1], tmp_path / "page.html")
    assert "(17,000 characters more)" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_an_old_folder_of_few_columns_is_shown_too(tmp_path):
    assert write_page(training_set(tmp_path / "old", 3), tmp_path / "page.html") == "3 of 3 training rows"


def test_a_folder_without_data_is_one_line(tmp_path):
    with pytest.raises(DataError, match="no data to show"):
        write_page(tmp_path, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_page_that_cannot_be_written_is_one_line(tmp_path, data):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="choose another --out"):
        write_page(data[2], tmp_path / "file" / "page.html")
