"""How often the gate passes whom, by simulation at the published benchmarks' sizes; `docs/gate.md` holds the table.

The rules are the gate's own, on simulated pairs. 400 models in the cells that are claims, 100 in the others; all seeds
are fixed. `make golden` writes the table.
"""

import functools
import gc
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from drift.config.catalog import SUITES
from drift.config.gate import GateConfig
from drift.gate.operating import chance
from drift.gate.rules import against_baseline, of_role
from drift.gate.statistics import Comparison, compare_pairs
from drift.ground.errors import ConfigError
from tests.simulated_pairs import simulate

DOCUMENT = Path(__file__).parents[3] / "docs" / "gate.md"
BEGIN, END = "<!-- written by tests/unit/gate/test_gate_rates.py -->\n", "<!-- end -->\n"
MARGINS = (2.0, 3.0)
DISCORDANCES = (0.15, 0.20, 0.25)

BETTER = dict.fromkeys(SUITES["reasoning"], 0.029)  # +3.0 on the suite mean: WeMath's loose column moves more


def lost(points: float, *benchmarks: str) -> dict[str, float]:
    return BETTER | dict.fromkeys(benchmarks or SUITES["perception"], -points / 100)


SCENARIOS = {
    "equal to the baseline": {},
    "reasoning +3, perception as it was": BETTER,
    "reasoning +3, perception −2 everywhere": lost(2),
    "reasoning +3, perception −4 everywhere": lost(4),
    "reasoning +3, HallusionBench −2": lost(2, "HallusionBench"),
    "reasoning +3, RealWorldQA −2": lost(2, "RealWorldQA"),
    "reasoning +3, MMStar −2": lost(2, "MMStar"),
    "reasoning +3, HallusionBench −5": lost(5, "HallusionBench"),
    "reasoning +3, RealWorldQA −5": lost(5, "RealWorldQA"),
    "reasoning +3, MMStar −5": lost(5, "MMStar"),
}
EQUAL, KEPT, LOST_2, LOST_4, *_ = SCENARIOS
CLAIMED = {(EQUAL, 0.15), (KEPT, 0.15), (LOST_4, 0.15)}


@pytest.fixture(autouse=True, scope="module")
def cheap_collections() -> Iterator[None]:
    """statsmodels' multipletests collects garbage at every call; what is alive by now it need not look at."""
    outcome(next(models(EQUAL, 0.15)), 3.0)
    gc.freeze()
    yield
    gc.unfreeze()


def models(scenario: str, discordance: float) -> Iterator[Comparison]:
    count = 400 if (scenario, discordance) in CLAIMED else 100
    rng = np.random.default_rng([list(SCENARIOS).index(scenario), int(100 * discordance)])
    for number in range(count):
        yield compare_pairs(simulate(rng, discordance, SCENARIOS[scenario]), resamples=1000, seed=number)


def outcome(comparison: Comparison, margin: float) -> str:
    config = GateConfig(candidate="candidate", max_perception_loss=margin)
    try:
        return "passed" if all(check.passed for check in against_baseline(config, comparison)) else "refused"
    except ConfigError:
        return "narrow"


@functools.cache
def outcomes(scenario: str, discordance: float) -> list[dict[float, str]]:
    """Of each model, by margin."""
    return [{margin: outcome(one, margin) for margin in MARGINS} for one in models(scenario, discordance)]


def rate(what: str, scenario: str, discordance: float, margin: float = 2.0) -> float:
    seen = [by_margin[margin] for by_margin in outcomes(scenario, discordance)]
    return seen.count(what) / len(seen)


def test_the_simulated_models_are_as_good_as_they_are_said_to_be() -> None:
    some = list(itertools.islice(models(LOST_4, 0.15), 100))
    assert np.mean([of_role(one, "reasoning").points for one in some]) == pytest.approx(3.0, abs=0.15)
    assert np.mean([of_role(one, "perception").points for one in some]) == pytest.approx(-4.0, abs=0.15)


def test_a_model_without_a_gain_passes_in_at_most_5_percent() -> None:
    assert rate("passed", EQUAL, 0.15) <= 0.05


def test_a_model_at_plus_3_that_keeps_perception_passes_in_at_least_80_percent_at_a_discordance_of_15() -> None:
    assert rate("passed", KEPT, 0.15) >= 0.80


def test_a_model_that_lost_4_points_of_perception_passes_in_at_most_5_percent_whatever_the_discordance() -> None:
    assert all(rate("passed", LOST_4, discordance) <= 0.05 for discordance in DISCORDANCES)


def test_at_a_discordance_of_25_the_margin_of_2_is_refused_as_too_narrow_for_these_benchmarks() -> None:
    assert rate("narrow", KEPT, 0.25) > 0.9
    assert rate("passed", KEPT, 0.25, margin=3.0) >= 0.80


@pytest.mark.parametrize(("scenario", "gain"), [(EQUAL, 0.0), (KEPT, 3.0)])
def test_the_gates_own_forecast_agrees_with_the_simulation(scenario: str, gain: float) -> None:
    config = GateConfig(candidate="candidate", max_perception_loss=3.0)
    some = itertools.islice(models(scenario, 0.15), 40)
    forecasts = [chance(config, one, dict.fromkeys(one.columns_of("reasoning"), gain)) for one in some]
    assert np.mean(forecasts) == pytest.approx(rate("passed", scenario, 0.15, margin=3.0), abs=0.03)


def test_the_documented_table_is_what_the_rules_do() -> None:
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    text = before + BEGIN + table() + END + after
    if os.environ.get("DRIFT_UPDATE_GOLDEN"):
        DOCUMENT.write_text(text)
    assert DOCUMENT.read_text() == text, "make golden, and look at the diff"


def table() -> str:
    columns = [(discordance, margin) for margin in MARGINS for discordance in DISCORDANCES]
    heads = [f"δ = {discordance:.0%}, margin {margin:g}" for discordance, margin in columns]
    lines = [f"| true difference | {' | '.join(heads)} |", "|---" + "|---:" * len(heads) + "|"]
    for scenario in SCENARIOS:
        cells = [cell(scenario, discordance, margin) for discordance, margin in columns]
        lines.append(f"| {scenario} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cell(scenario: str, discordance: float, margin: float) -> str:
    passed, narrow = (rate(what, scenario, discordance, margin) for what in ("passed", "narrow"))
    return f"{passed:.0%}" + (f" ({narrow:.0%})" if narrow else "")
