"""What `drift plan` shows: arms, memory, cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from drift.cli.show import out, show_json, show_table, show_text

if TYPE_CHECKING:
    from drift.planning.costs import Assumptions, Phase, Total
    from drift.planning.sizing import Disk, Memory


def show_forecast(
    arms: Sequence[Any],
    memory: Sequence[Memory],
    cost: Sequence[Phase],
    disk: Disk,
    assumed: Assumptions,
    as_json: bool,
) -> None:
    """What each arm will do, how far it can go, what its training takes of each GPU, and what the run costs."""
    from drift.planning.costs import total  # torch, which other commands do not need

    sums = total(cost)
    if as_json:
        lists = {"arms": arms, "memory": memory, "cost": cost}
        listed = {name: [asdict(entry) for entry in entries] for name, entries in lists.items()}
        totals = {name: asdict(one) for name, one in sums.items()}
        more = {"total": totals, "assumed": assumed.model_dump(mode="json"), "disk": asdict(disk)}
        show_json(json.dumps(listed | more))
        return
    show_table(
        ("arm", "does", "steps", "sum of rates", ""), [_arm(arm) for arm in arms], right=("steps", "sum of rates")
    )
    if memory:
        _show_memory(memory)
    _show_cost(cost, sums, assumed)
    show_text(str(disk))
    show_text(_together(cost, sums))


def _arm(arm: Any) -> list[str]:
    trains = (str(arm.steps), f"{arm.sum_of_rates:.3g}") if arm.steps else ("", "")
    return [arm.arm, arm.does, *trains, arm.remark]


def _show_memory(memory: Sequence[Memory]) -> None:
    heads = ["", *(f"{ranks} GPU{'s' if ranks > 1 else ''}" for ranks in memory[0].bytes_per_rank)]
    sizes = [[f"ZeRO-{one.stage}", *(f"{size / 1e9:.3g}" for size in one.bytes_per_rank.values())] for one in memory]
    show_table(heads, sizes, right=heads[1:])
    out.print("GB per GPU of a full fine-tuning in bf16: weights, gradients, optimizer; activations come on top")


def _show_cost(phases: Sequence[Phase], sums: Mapping[str, Total], assumed: Assumptions) -> None:
    heads = ["phase", "what", "M tokens", "PFLOP", "GPUs", "hours"]
    if any(phase.last_hours is not None for phase in phases):
        heads.append("last run")
    total = ["total", "", _tokens(phases, sums), summed(sums["training_flop"], 1e15), "", summed(sums["hours"]), ""]
    rows = [cells[: len(heads)] for cells in (*map(_phase, phases), total)]
    show_table(heads, rows, right=heads[2:], bold=lambda cells: cells[0] == "total")
    out.print(_assumptions(assumed))


def _tokens(phases: Sequence[Phase], sums: Mapping[str, Total]) -> str:
    return _bound(summed(sums["tokens"], 1e6), any(phase.at_most for phase in phases))


def _together(phases: Sequence[Phase], sums: Mapping[str, Total]) -> str:
    """What the run costs, on a line; `?` is what no option said."""
    flop, hours = summed(sums["training_flop"], 1e15), summed(sums["hours"])
    return f"together: {_tokens(phases, sums)} M tokens, {flop} PFLOP of training, {hours} hours"


def _phase(phase: Phase) -> list[str]:
    tokens = _bound(_short(phase.tokens, 1e6), phase.at_most and phase.tokens is not None)
    flop = "" if phase.training_flop == 0 else _short(phase.training_flop, 1e15)
    last = "" if phase.last_hours is None else _short(phase.last_hours)
    return [phase.phase, phase.what, tokens, flop, str(phase.gpus or ""), _short(phase.hours), last]


def _bound(number: str, at_most: bool) -> str:
    return f"≤ {number.removeprefix('< ')}" if at_most else number


def summed(total: Total, unit: float = 1.0) -> str:
    """What is known of a sum, in multiples of ``unit``, and whether that is all."""
    known = _short(total.known or None, unit)
    return known if total.complete or not total.known else f"{known} + ?"


def _assumptions(assumed: Assumptions) -> str:
    row, answer, rate = assumed.tokens_per_row, assumed.tokens_per_answer, assumed.tokens_per_second
    return (
        f"A row has {row or 'train.cutoff_tokens'} tokens (--tokens-per-row), an answer {answer or 'max_new_tokens'} "
        f"(--tokens-per-answer); ≤: no mean was given. PFLOP: of training, without attention over the sequence and a "
        f"frozen vision tower. Hours: trainings at {assumed.tflops:g} TFLOP/s a GPU (--tflops; default: 40 % of an "
        f"H100's dense bf16 989), answers at {f'{rate:g}' if rate else '?'} tokens/s of a GPU or server "
        f"(--tokens-per-second), one phase after the other. Last run: what the last finished run of this name took. "
        f"Not counted: Δ, merges, a judge; a champion is one model more to evaluate."
    )


def _short(value: float | None, unit: float = 1.0) -> str:
    """Three digits, in multiples of ``unit``; whole from 100 on, and no less than a hundredth."""
    if value is None:
        return "?"
    if 0 < value < 0.01 * unit:
        return "< 0.01"
    return f"{value / unit:,.0f}" if value >= 100 * unit else f"{value / unit:.3g}"
