"""The report in a browser, at the published size: eight benchmarks, nine arms, 200 questions each.

Runs with `make test-services`; needs Debian's `chromium`.
"""

import base64
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from drift.gate.report.page import make_report
from tests.browser import READY, Page, browser
from tests.mlflow_server import mlflow_server
from tests.report_inputs import ARMS, BENCHMARKS, published

PAPER = 1047
"""CSS pixels of an A4 sheet's width, upright on its side, without the margins of 10 mm."""

FADED = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, place) => sum + c * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (element) => { for (let one = element; one; one = one.parentElement) {
    const colour = rgba(getComputedStyle(one).backgroundColor); if (colour[3] === 255) return colour; }
    return [255, 255, 255]; };
  const own = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  return [...document.querySelectorAll("body *")].filter((one) => own(one) && one.getClientRects().length
      && !one.closest("script, noscript, defs")).flatMap((one) => {
    const style = getComputedStyle(one), ink = light(rgba(one.closest("svg") ? style.fill : style.color));
    const paper = light(behind(one));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    return ratio < 4.5 ? [`${one.tagName} ${one.className} ${ratio.toFixed(2)} ${one.textContent.slice(0, 30)}`] : [];
  });
})()"""
"""Texts whose contrast is below 4.5 (WCAG 2.2, 1.4.3)."""

SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
SEEN = """((selector) => [...document.querySelectorAll(selector)].filter((one) => {
  const box = one.getBoundingClientRect(), around = one.closest(".wide").getBoundingClientRect();
  return box.width > 0 && box.left >= around.left - 1 && box.right <= around.right + 1;
}).map((one) => one.textContent.trim()))"""
OUTSIDE = """[...document.querySelectorAll("th, td, figure")].filter((one) =>
  one.getBoundingClientRect().right > innerWidth || getComputedStyle(one).display === "none")
  .map((one) => one.textContent)"""
COUNT = "document.getElementById('count').textContent"
FOCUS = "document.activeElement.id"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    make_report(**published(folder), out=folder / "report")
    return folder / "report"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


def shots(page: Page, name: str) -> None:
    """What it looks like, for people, where DRIFT_SHOTS names a folder."""
    if folder := os.environ.get("DRIFT_SHOTS"):
        Path(folder, f"{name}.png").write_bytes(page.picture())


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_asks_for_nothing_says_no_error_and_is_never_wider_than_its_window(
    report: Path, tab: Page, width: int, dark: bool
) -> None:
    tab.show((report / "report.html").as_uri(), width, dark=dark)
    shots(tab, f"report-{width}-{'dark' if dark else 'light'}")
    assert tab.run(SIDEWAYS) == 0
    assert tab.run(FADED) == []
    assert (tab.requests, tab.faults) == ([], [])
    assert tab.run("getComputedStyle(document.body).backgroundColor") == (
        "rgb(20, 24, 29)" if dark else "rgb(246, 247, 249)"
    )


@pytest.mark.parametrize("width", [1280, 390])
def test_means_and_who_retained_perception_are_seen_without_scrolling_sideways(
    report: Path, tab: Page, width: int
) -> None:
    tab.show((report / "report.html").as_uri(), width)
    heads = tab.run(f"{SEEN}('#means thead th')")
    assert [" ".join(head.split()) for head in heads[:4]] == ["model", "retainedperception", "reasoning", "perception"]
    assert len(tab.run(f"{SEEN}('#means tbody td:nth-child(2) span')")) == len(ARMS)
    if width == 1280:
        assert len(tab.run(f"{SEEN}('#benchmarks thead th')")) == 1 + len(BENCHMARKS)
        assert len(tab.run(f"{SEEN}('.against thead th')")) == 2 * (2 + len(ARMS))
    tab.run("document.querySelector('#benchmarks').closest('.wide').scrollLeft = 1e6")
    assert len(tab.run(f"{SEEN}('#benchmarks tbody th')")) == 1 + len(ARMS), "the first column stays"


def test_the_answers_are_found_by_keyboard_alone(report: Path, tab: Page) -> None:
    tab.show((report / "report.html").as_uri(), 1280)
    assert tab.run(COUNT).startswith("1600 of 1600 match")
    tab.press("/")
    assert tab.run(FOCUS) == "search"
    tab.press(*"figure 17 ")
    found = tab.run(COUNT)
    assert 0 < int(found.split()[0]) < 1600
    tab.press("Tab", "ArrowDown")
    assert (tab.run(FOCUS), tab.run("document.activeElement.value")) == ("benchmark", "0")
    tab.press("Tab", "Tab", "Tab", *"won")
    assert (tab.run(FOCUS), tab.run("document.activeElement.value")) == ("outcome", "won")
    won = int(tab.run(COUNT).split()[0])
    assert won <= int(found.split()[0]) and tab.run(COUNT).endswith(f"{won} won, 0 lost")
    tab.press("Tab", "Enter")
    assert tab.run(COUNT).startswith("1600 of 1600 match"), "cleared"
    tab.press("Tab")
    assert tab.run(FOCUS) == "list"


def test_the_list_has_only_what_is_in_sight_and_its_answers_open_by_keyboard(report: Path, tab: Page) -> None:
    tab.show((report / "report.html").as_uri(), 1280)
    tab.run("document.getElementById('list').focus()")
    tab.press("End")
    chosen = tab.run("document.querySelector('[aria-selected=true]').getAttribute('aria-posinset')")
    assert (chosen, tab.run("document.getElementById('list').getAttribute('aria-activedescendant')")) == (
        "1600",
        "row-1599",
    )
    assert tab.run("document.querySelectorAll('[role=option]').length") < 30
    tab.press("Home", "ArrowDown", "Enter")
    assert tab.run(FOCUS) == "one"
    shown: Any = tab.run("document.getElementById('one').textContent")
    assert all(name in shown for name in ["vlm", *ARMS]) and "gold" in shown
    assert tab.run("document.querySelector('#one img').decode().then(() => true)")
    shots(tab, "answers")
    tab.press("Escape")
    assert tab.run(FOCUS) == "list"


def test_the_switch_turns_the_colours_round(report: Path, tab: Page) -> None:
    tab.show((report / "report.html").as_uri(), 1280)
    before = tab.run("getComputedStyle(document.body).backgroundColor")
    tab.run("document.getElementById('theme').focus()")
    tab.press("Enter")
    assert tab.run("getComputedStyle(document.body).backgroundColor") != before
    assert tab.run(FADED) == []


def test_a_refusal_in_a_frame_of_no_origin_as_mlflow_shows_it_works_alike(tmp_path: Path, tab: Page) -> None:
    make_report(**published(tmp_path, questions=5, words=20), out=tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_bytes()
    tab.show(f"data:text/html;base64,{base64.b64encode(page).decode()}", 1280)
    shots(tab, "refused")
    assert tab.run("origin") == "null"
    assert tab.run(COUNT).startswith("40 of 40 match")
    assert "was refused by the gate" in tab.run("document.querySelector('#verdict').textContent")
    assert tab.run(FADED) == []
    assert (tab.requests, tab.faults) == ([], [])


def test_mlflow_shows_it_at_its_run_with_answers_to_look_through(tmp_path: Path) -> None:
    make_report(**published(tmp_path, questions=5, words=20), out=tmp_path / "report")
    (tmp_path / "server").mkdir()
    with mlflow_server(tmp_path / "server") as address, browser(tmp_path / "profile") as tab:
        client = MlflowClient(address)
        experiment = client.create_experiment("reports")
        run = client.create_run(experiment).info.run_id
        client.log_artifact(run, str(tmp_path / "report" / "report.html"))
        tab.send("Page.navigate", url=f"{address}/#/experiments/{experiment}/runs/{run}/artifacts/report.html")
        with contextlib.closing(tab.frame()) as frame:
            frame.until(READY)
            assert "was refused by the gate" in frame.run("document.querySelector('#verdict').textContent")
            assert frame.run(COUNT).startswith("40 of 40 match")
            assert frame.run(SIDEWAYS) == 0
        shots(tab, "mlflow")


def test_every_column_is_on_paper(report: Path, tab: Page) -> None:
    tab.show((report / "report.html").as_uri(), PAPER)
    tab.send("Emulation.setEmulatedMedia", media="print")
    assert tab.run(OUTSIDE) == []
    assert tab.run(
        "[...document.querySelectorAll('.wide')].every((one) => getComputedStyle(one).overflow === 'visible')"
    )
    tab.send("Emulation.setEmulatedMedia", media="")
    printed = tab.pdf()
    assert printed.startswith(b"%PDF") and b"/MediaBox [0 0 841" in printed, "A4, on its side"


def test_the_pages_of_whole_answers_work_alike(report: Path, tab: Page) -> None:
    assert (report / "report.html").stat().st_size < 8_000_000
    pages = sorted((report / "answers").iterdir())
    assert len(pages) == len(BENCHMARKS)
    tab.show(pages[0].as_uri(), 390)
    assert tab.run(COUNT).startswith("200 of 200 match")
    assert tab.run(SIDEWAYS) == 0
    assert tab.run(FADED) == []
    assert (tab.requests, tab.faults) == ([], [])
