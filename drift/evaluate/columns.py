"""Headline columns of a benchmark: each the mean of a value in [0, 1] over its units.

A unit is a question, or what the benchmark counts as one: a problem of WeMath with all its steps (Qiao et al. 2024),
a figure or a question of HallusionBench over all its rows (Guan et al. 2023). `cluster` is the group of dependent
questions that the unit lies in. The sums are VLMEvalKit's, with the real count of units in place of its constants.

Of k answers to every question (`Sample.sample`), each of the k runs over the benchmark has its values, and a unit's
value is their mean: k answers make a value steadier, and no more of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from drift.config.catalog import columns_of
from drift.evaluate.samples import Sample
from drift.ground.errors import DataError


@dataclass(frozen=True)
class Unit:
    """One summand of a column."""

    cluster: str
    value: float


def columns(name: str, form: str, samples: Sequence[Sample]) -> dict[str, list[Unit]]:
    """The units of each headline column of one benchmark, in the order in which they first occur in `samples`.

    Raises DataError if a problem of WeMath lacks a step.
    """
    every = [_columns(name, form, run) for run in runs(samples)]
    return {
        column: [_mean(units) for units in zip(*(one[column] for one in every), strict=True)] for column in every[0]
    }


def runs(samples: Sequence[Sample]) -> list[list[Sample]]:
    """The first answers to all questions, the second ones, and so on."""
    found: dict[int, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.sample, []).append(sample)
    return list(found.values())


def _mean(units: Sequence[Unit]) -> Unit:
    return units[0] if len(units) == 1 else Unit(units[0].cluster, math.fsum(one.value for one in units) / len(units))


def _columns(name: str, form: str, samples: Sequence[Sample]) -> dict[str, list[Unit]]:
    if form != "WeMath":
        return {name: [Unit(sample.group, float(sample.correct)) for sample in samples]}
    problems = _problems(samples)
    strict, loose = columns_of(name, form)
    return {
        strict: [Unit(group, _strict(steps, final)) for group, (steps, final) in problems.items()],
        loose: [Unit(group, _loose(steps, final)) for group, (steps, final) in problems.items()],
    }


def metrics(form: str, samples: Sequence[Sample]) -> dict[str, float]:
    """What else the benchmark reports, in percent: HallusionBench's three scores, WeMath's four kinds of mastery; the
    means over k runs. Of several answers to a question, `avg@k` and `pass@k`."""
    every = [_metrics(form, run) for run in runs(samples)]
    means = {name: math.fsum(one[name] for one in every) / len(every) for name in every[0]}
    return means | (_passed(samples, len(every)) if len(every) > 1 else {})


def _passed(samples: Sequence[Sample], k: int) -> dict[str, float]:
    """Share of right answers, and of questions with at least one right among k (Chen et al. 2021, with n = k)."""
    solved: dict[str, bool] = {}
    for sample in samples:
        solved[sample.index] = solved.get(sample.index, False) or sample.correct
    return {f"avg@{k}": _percent([sample.correct for sample in samples]), f"pass@{k}": _percent(list(solved.values()))}


def _metrics(form: str, samples: Sequence[Sample]) -> dict[str, float]:
    if form == "HallusionBench":
        return {
            "aAcc": _percent([sample.correct for sample in samples]),
            "qAcc": _percent(_all_right(samples, place=1)),
            "fAcc": _percent(_all_right(samples, place=0)),
        }
    if form == "WeMath":
        return _mastery(list(_problems(samples).values()))
    return {}


def _all_right(samples: Sequence[Sample], place: int) -> list[bool]:
    """Whether all rows of a figure (place 0) or question (place 1) of a set are right."""
    right: dict[tuple[str, str], bool] = {}
    for sample in samples:
        key = sample.group, sample.part.split("/")[place]
        right[key] = right.get(key, True) and sample.correct
    return list(right.values())


Problem = tuple[list[bool], bool]
"""WeMath: which steps are right, and whether the whole problem is."""


def _problems(samples: Sequence[Sample]) -> dict[str, Problem]:
    right: dict[str, dict[str, bool]] = {}
    for sample in samples:
        right.setdefault(sample.group, {})[sample.part] = sample.correct
    return {group: _problem(samples[0].benchmark, group, parts) for group, parts in right.items()}


def _problem(benchmark: str, group: str, parts: dict[str, bool]) -> Problem:
    count = next(iter(parts))[:1]
    steps = [f"{count}steps_{number}" for number in range(1, int(count) + 1)] if count in ("2", "3") else []
    if not steps or parts.keys() != {*steps, f"{count}steps_multi"}:
        raise DataError(
            f"{benchmark}: problem {group} has the parts {', '.join(sorted(parts))}, not all its steps; its scores "
            "need whole problems: leave it out, or set limit to null"
        )
    return [parts[step] for step in steps], parts[f"{count}steps_multi"]


def _strict(steps: list[bool], final: bool) -> float:
    """Complete mastery 1, inadequate generalization (all steps but not the whole) ½; else 0."""
    return (1.0 if final else 0.5) if all(steps) else 0.0


def _loose(steps: list[bool], final: bool) -> float:
    """As strict, but one right step is enough where the whole is right."""
    return float(any(steps)) if final else _strict(steps, final)


def _mastery(problems: Sequence[Problem]) -> dict[str, float]:
    return {
        "insufficient_knowledge": _percent([not all(steps) and not final for steps, final in problems]),
        "inadequate_generalization": _percent([all(steps) and not final for steps, final in problems]),
        "complete_mastery_strict": _percent([all(steps) and final for steps, final in problems]),
        "complete_mastery_loose": _percent([any(steps) and final for steps, final in problems]),
        "rote_memorization_strict": _percent([not all(steps) and final for steps, final in problems]),
        "rote_memorization_loose": _percent([not any(steps) and final for steps, final in problems]),
    }


def _percent(right: Sequence[bool]) -> float:
    return 100 * math.fsum(right) / len(right)
