"""What `drift plan` shows: arms, memory, cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from drift.cli.show import out, show_json, show_text

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
    out.print(_arms(arms))
    if memory:
        out.print(_memory(memory))
    out.print(_cost(cost, sums, assumed))
    show_text(str(disk))


def _arms(arms: Sequence[Any]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in ("arm", "does", "steps", "sum of rates", ""):
        table.add_column(head, justify="right" if head in ("steps", "sum of rates") else "left")
    for arm in arms:
        trains = (str(arm.steps), f"{arm.sum_of_rates:.3g}") if arm.steps else ("", "")
        table.add_row(arm.arm, arm.does, *trains, arm.remark)
    return table


def _memory(memory: Sequence[Memory]) -> Table:
    caption = "GB per GPU of a full fine-tuning in bf16: weights, gradients, optimizer; activations come on top"
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    table.add_column("")
    for ranks in memory[0].bytes_per_rank:
        table.add_column(f"{ranks} GPU{'s' if ranks > 1 else ''}", justify="right")
    for stage in memory:
        table.add_row(f"ZeRO-{stage.stage}", *(f"{size / 1e9:.3g}" for size in stage.bytes_per_rank.values()))
    return table


def _cost(phases: Sequence[Phase], sums: Mapping[str, Total], assumed: Assumptions) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=_assumptions(assumed), caption_justify="left")
    for head in ("phase", "what", "M tokens", "PFLOP", "GPUs", "hours"):
        table.add_column(head, justify="left" if head in ("phase", "what") else "right", no_wrap=True)
    if any(phase.last_hours is not None for phase in phases):
        table.add_column("last run", justify="right", no_wrap=True)
    for phase in phases:
        table.add_row(*_phase(phase)[: len(table.columns)])
    tokens, flop, hours = summed(sums["tokens"], 1e6), summed(sums["training_flop"], 1e15), summed(sums["hours"])
    tokens = _bound(tokens, any(phase.at_most for phase in phases))
    table.add_row("total", "", tokens, flop, "", hours, style="bold")
    return table


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
