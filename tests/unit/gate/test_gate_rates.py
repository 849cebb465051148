"""How often the gate passes whom, by simulation at the published benchmarks' sizes; `docs/gate.md` holds the tables.

The rules are the gate's own, on simulated models; all seeds are fixed. `make gate-tables` writes the tables, in many
minutes. What is claimed is tested on the tables as they are written, and that a few models drawn anew agree.
"""

import functools
import gc
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from drift.config.catalog import KNOWN, SUITES
from drift.config.gate import GateConfig
from drift.gate.operating import chance
from drift.gate.resolution import samples_needed
from drift.gate.rules import gain, of_role, perception
from drift.gate.statistics import Comparison
from tests.simulated_pairs import child, compared, first, replies
from tests.simulated_years import Champion, every, gains, reign

DOCUMENT = Path(__file__).parents[3] / "docs" / "gate.md"
BEGIN, END = "<!-- written by tests/unit/gate/test_gate_rates.py: {} -->\n", "<!-- end -->\n"

CONFIG = GateConfig(candidate="candidate")
MARGIN = CONFIG.max_perception_loss
ASKED = {0.10: 1, 0.15: 2, 0.20: 3, 0.25: 6}
"""δ → samples of each question, as the gate asks for: `test_the_samples_are_those_that_the_gate_asks_for`."""
COLUMNS = [(discordance, samples) for discordance, asked in ASKED.items() for samples in sorted({1, asked})]
ROWS = sum(known.rows for known in KNOWN.values())

EQUAL, KEPT, LOST_2, LOST_4, MMSTAR_5 = (
    "equal to the baseline",
    "reasoning +3, perception as it was",
    "reasoning +3, perception −2 everywhere",
    "reasoning +3, perception −4 everywhere",
    "reasoning +3, MMStar −5",
)
EFFECTS = {
    EQUAL: {},
    KEPT: every(3),
    LOST_2: every(3) | dict.fromkeys(SUITES["perception"], -0.02),
    LOST_4: every(3) | dict.fromkeys(SUITES["perception"], -0.04),
    MMSTAR_5: every(3) | {"MMStar": -0.05},
}
CLAIMED = (EQUAL, KEPT, LOST_2)

HISTORIES, LOOKS, WEEKS = 60, 50, 26
RULES = {
    "no worse than the reigning one": {"champion": "not_worse", "to_best": False},
    "`not_worse`": {"champion": "not_worse", "to_best": True},
    "`better`": {"champion": "better", "to_best": True},
}
STEPS = (-0.5, 0.0, 0.5)


@pytest.fixture(autouse=True, scope="module")
def cheap_collections() -> Iterator[None]:
    """statsmodels' multipletests collects garbage at every call; what is alive by now it need not look at."""
    passes(model(np.random.default_rng(0), EQUAL, 0.15, 1, 0))
    gc.freeze()
    yield
    gc.unfreeze()


def model(rng: np.random.Generator, scenario: str, discordance: float, samples: int, seed: int) -> Comparison:
    vlm = first(rng, discordance)
    candidate = child(rng, vlm, discordance, EFFECTS[scenario])
    return compared(replies(rng, candidate, samples), replies(rng, vlm, samples), seed)


def models(scenario: str, discordance: float, samples: int, count: int, seed: int = 0) -> Iterator[Comparison]:
    rng = np.random.default_rng([seed, list(EFFECTS).index(scenario), int(100 * discordance), samples])
    return (model(rng, scenario, discordance, samples, number) for number in range(count))


def passes(comparison: Comparison) -> bool:
    return all(check.passed for check in (gain(comparison, CONFIG), *perception(comparison, CONFIG)))


# ------------------------------------------------------------------------------------------ one look


def rate(scenario: str, discordance: float, samples: int) -> float:
    claimed = scenario in CLAIMED and ASKED[discordance] == samples
    found = [passes(one) for one in models(scenario, discordance, samples, 400 if claimed else 200)]
    return float(np.mean(found))


def looks_table() -> str:
    heads = [f"δ = {discordance:.0%}, k = {samples}" for discordance, samples in COLUMNS]
    lines = [f"| true difference | {' | '.join(heads)} |", "|---" + "|---:" * len(heads) + "|"]
    lines.append(f"| *replies of each model* | {' | '.join(f'{ROWS * samples:,}' for _, samples in COLUMNS)} |")
    for scenario in EFFECTS:
        cells = [f"{rate(scenario, discordance, samples):.1%}" for discordance, samples in COLUMNS]
        lines.append(f"| {scenario} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------------------------------ many looks


def false_passes(discordance: float, looks: int) -> float:
    """Share of histories in which one of `LOOKS` models without a gain shows one, with α spent over so many looks."""
    config = CONFIG.model_copy(update={"looks": looks})
    found = [any(gain(one, config).passed for one in history) for history in equal_histories(discordance)]
    return float(np.mean(found))


@functools.cache
def equal_histories(discordance: float) -> list[list[Comparison]]:
    return [
        list(gains(np.random.default_rng([n, int(100 * discordance)]), discordance, LOOKS)) for n in range(HISTORIES)
    ]


def spent_table() -> str:
    lines = [
        "| | " + " | ".join(f"δ = {discordance:.0%}" for discordance in ASKED) + " |",
        "|---" + "|---:" * len(ASKED) + "|",
    ]
    for looks, said in ((1, "every look at 95%"), (CONFIG.looks, f"`looks: {CONFIG.looks}`")):
        cells = [f"{false_passes(discordance, looks):.1%}" for discordance in ASKED]
        lines.append(f"| {said} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def reigns(rule: str, step: float, histories: int = HISTORIES, seed: int = 0) -> list[list[Champion]]:
    config = CONFIG.model_copy(update={"champion": RULES[rule]["champion"]})
    to_best = bool(RULES[rule]["to_best"])
    return [
        reign(np.random.default_rng([seed, n]), config, step=step, weeks=WEEKS, to_best=to_best)
        for n in range(histories)
    ]


def fall(history: list[Champion]) -> float:
    """How far the champion's true points were ever below the best champion's before."""
    points = np.array([8.0, *(one.points for one in history)])
    return float(np.max(np.maximum.accumulate(points) - points))


def moves(history: list[Champion]) -> int:
    return sum(one is not other for one, other in zip(history[1:], history, strict=False)) + (history[0].points != 8.0)


def years_table() -> str:
    heads = [
        "each retraining",
        "rule",
        "alias moves",
        "champion at the end",
        "furthest below its best",
        f"below by more than {MARGIN:g}",
    ]
    lines = [f"| {' | '.join(heads)} |", "|---|---|---:|---:|---:|---:|"]
    for step in STEPS:
        for rule in RULES:
            found = reigns(rule, step)
            falls = [fall(history) for history in found]
            cells = [
                f"{step:+.1f}".replace("-", "−"),
                rule,
                f"{np.mean([moves(history) for history in found]):.1f}",
                f"{np.mean([history[-1].points for history in found]):+.1f}",
                f"{np.max(falls):.1f}",
                f"{np.mean([one > MARGIN for one in falls]):.0%}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------------------------------ the document

TABLES: dict[str, Callable[[], str]] = {"one look": looks_table, "many looks": spent_table, "half a year": years_table}


def table(name: str) -> list[list[str]]:
    """The rows of a table as it is written."""
    text = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN.format(name))[2].partition(END)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def written(name: str, row: str, column: int) -> float:
    """A percentage of a table."""
    (cells,) = [cells for cells in table(name) if cells[0] == row]
    return float(re.sub("[^0-9.]", "", cells[column])) / 100


def written_rate(scenario: str, discordance: float, samples: int) -> float:
    return written("one look", scenario, 1 + COLUMNS.index((discordance, samples)))


@pytest.mark.parametrize(
    ("scenario", "discordance", "samples"), [(EQUAL, 0.10, 1), (KEPT, 0.15, 2), (LOST_2, 0.20, 1), (KEPT, 0.25, 1)]
)
def test_models_drawn_anew_pass_as_often_as_is_written(scenario: str, discordance: float, samples: int) -> None:
    count = 30
    passed = sum(passes(one) for one in models(scenario, discordance, samples, count, seed=1))
    expected = written_rate(scenario, discordance, samples)
    assert abs(passed - count * expected) <= 1 + 4 * (count * max(0.01, expected * (1 - expected))) ** 0.5


def test_a_model_without_a_gain_passes_in_at_most_5_percent_at_one_look_and_over_50() -> None:
    for column, (discordance, samples) in enumerate(ASKED.items(), 1):
        assert written_rate(EQUAL, discordance, samples) <= 0.05
        assert written("many looks", f"`looks: {CONFIG.looks}`", column) <= 0.05


@pytest.mark.parametrize("discordance", ASKED)
def test_a_model_at_plus_3_that_keeps_perception_passes_in_at_least_80_percent(discordance: float) -> None:
    assert written_rate(KEPT, discordance, ASKED[discordance]) >= 0.80


def test_a_model_that_lost_2_points_of_perception_passes_in_at_most_5_percent() -> None:
    assert all(written_rate(LOST_2, discordance, samples) <= 0.05 for discordance, samples in COLUMNS)


def test_no_champion_falls_further_below_its_best_than_the_margin_but_by_the_noise_of_5_percent() -> None:
    for rule, share in (("`better`", 0.0), ("`not_worse`", 0.05)):
        rows = [cells for cells in table("half a year") if cells[1] == rule]
        assert len(rows) == len(STEPS)
        assert all(float(cells[5].rstrip("%")) <= 100 * share for cells in rows)


def test_champions_drawn_anew_do_not_sink_either() -> None:
    assert all(fall(history) <= MARGIN for history in reigns("`better`", -0.5, histories=3, seed=1))


@pytest.mark.parametrize("discordance", ASKED)
def test_the_samples_are_those_that_the_gate_asks_for(discordance: float) -> None:
    asked = [
        samples_needed(of_role(one, "perception"), MARGIN, CONFIG.confidence) or 99
        for one in models(EQUAL, discordance, 1, 9)
    ]
    assert abs(np.median(asked) - ASKED[discordance]) <= ASKED[discordance] / 3


def test_the_simulated_models_are_as_good_as_they_are_said_to_be() -> None:
    some = list(models(LOST_4, 0.15, 2, 20))
    assert np.mean([of_role(one, "reasoning").points for one in some]) == pytest.approx(3.0, abs=0.5)
    assert np.mean([of_role(one, "perception").points for one in some]) == pytest.approx(-4.0, abs=0.5)


def test_the_gates_own_forecast_agrees_with_the_table() -> None:
    forecasts = [
        chance(CONFIG, one, dict.fromkeys(one.columns_of("reasoning"), 3.0)) for one in models(KEPT, 0.15, 1, 10)
    ]
    assert np.mean(forecasts) == pytest.approx(written_rate(KEPT, 0.15, 1), abs=0.06)


def write(name: str) -> None:
    """One table into the document, simulated anew."""
    before, begin, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN.format(name))
    assert begin
    DOCUMENT.write_text(before + begin + TABLES[name]() + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    for table_name in TABLES:
        write(table_name)
