"""The panel `Steps`, up to a model: each step of the chain by itself, on local paths."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Annotated

import typer

from drift.cli.options import STEPS, AsJson, DryRun, Out, SectionOf, ShardName, app, command
from drift.cli.show import show_delta, show_judged, show_plan, show_report
from drift.config.data import CurateConfig, GenerateConfig, IngestConfig
from drift.config.models import DeltaConfig, MergeConfig, merge_preset
from drift.config.train import PriorConfig, TrainConfig

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE)


@command(STEPS)
def ingest(
    section_from: SectionOf,
    out: Out,
    source: Annotated[str | None, typer.Option(help="File, glob, folder, or a dataset id.")] = None,
    ready: Annotated[str | None, typer.Option(help="The same, of finished chains: for `generate --ready`.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read a pool of problems and check every row."""
    from drift.data.problems.ingestion import ingest as step

    given = {"source": ready or source, "ready": bool(ready) or None}
    show_report(step(section_from.load(IngestConfig, "ingest", given), out), out, as_json)


@command(STEPS)
def generate(
    section_from: SectionOf,
    problems: Annotated[Path, typer.Option(help="Folder written by `drift ingest`.")],
    out: Out,
    model: Annotated[str | None, typer.Option(help="Teacher: a checkpoint, or the served model's name.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Base URL of an OpenAI-compatible server.")] = None,
    ready: Annotated[bool, typer.Option("--ready", help="No teacher: the chains came with the problems.")] = False,
    shard: ShardName = None,
    as_json: AsJson = False,
) -> None:
    """Let a teacher write chains of thought. Goes on where it stopped."""
    from drift.data.chains.distillation import generate as step
    from drift.data.chains.shards import WHOLE, Shard

    kind = "ready" if ready else "endpoint" if endpoint else "local" if model else None
    given = {"teacher": {"kind": kind, "model": model, "base_url": endpoint}}
    section = section_from.load(GenerateConfig, "generate", given)
    part = Shard.parse(shard) if shard else WHOLE
    show_report(step(section, problems, out, part), out, as_json)


@command(STEPS)
def curate(
    section_from: SectionOf,
    problems: Annotated[Path, typer.Option(help="Folder written by `drift ingest`.")],
    generations: Annotated[list[Path], typer.Option(help="Folder written by `drift generate`; of shards, each.")],
    out: Out,
    ray: Annotated[
        str | None, typer.Option(help="Ray cluster that decides expressions: its address, auto, or local.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Keep chains with the right format and answer: the training set."""
    from drift.data.selection.curation import curate as step
    from drift.data.selection.distributed import on_ray
    from drift.data.selection.verdicts import HERE

    section = section_from.load(CurateConfig, "curate", {})
    with on_ray(ray) if ray else contextlib.nullcontext(HERE) as deciding:
        show_report(step(section, problems, generations, out, deciding), out, as_json)


@command(STEPS)
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines: gold, response; optional choices, kind.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File for the verdicts; default: standard output.")
    ] = None,
    timeout_seconds: Annotated[float, typer.Option(min=0.1, help="Limit of one expression, on a core.")] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Judge pairs of answers as curate and evaluate would: status, extracted, method, as JSON lines."""
    from drift.verdicts.table import as_lines, verify_file

    report = verify_file(file, timeout_seconds)
    show_judged(as_lines(report.rows), report.metrics(), out, as_json)


@command(STEPS)
def delta(
    section_from: SectionOf,
    expert: Annotated[list[str], typer.Option(help="φ_reason: directory, hub id or BASE+LORA; several: X=WEIGHT.")],
    vlm: Annotated[str, typer.Option(help="φ_VL: directory or hub id.")],
    out: Out,
    base: Annotated[str | None, typer.Option(help="φ_base, for --minus base.")] = None,
    minus: Annotated[str | None, typer.Option(help="What is subtracted: vlm, base, or a checkpoint.")] = None,
    modules: Annotated[str | None, typer.Option(help="attn,mlp,norm,head,embed or re:PATTERN.")] = None,
    layers: Annotated[str | None, typer.Option(help="Such as 0-27 or 4,8-11.")] = None,
    rank: Annotated[int | None, typer.Option(help="Each matrix as two factors of this rank.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Each matrix in int8 or float8_e4m3fn, a scale per row.")] = None,
    force: Annotated[bool | None, typer.Option(help="Go on with checkpoints that look unrelated.")] = None,
    allow_pickle: Annotated[bool | None, typer.Option(help="Read an expert or base in pytorch_model.bin.")] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Compute the prior Δ = expert − vlm, or a weighted mean of several experts', streamed."""
    from drift.weights.delta.delta import compute_delta
    from drift.weights.pairing import plan

    experts = [_weighted(text) for text in expert]
    given = {
        "experts": experts if len(experts) > 1 or "weight" in experts[0] else None,
        "minus": minus,
        "modules": modules.split(",") if modules else None,
        "layers": layers,
        "rank": rank,
        "dtype": dtype,
        "force": force,
        "allow_pickle": allow_pickle,
    }
    section = section_from.load(DeltaConfig, "delta", given)
    first = experts[0]["model"]
    if dry_run:
        show_plan(plan(section, expert=first, vlm=vlm, base=base).summary(), as_json)
    else:
        show_report(compute_delta(section, expert=first, vlm=vlm, base=base, out=out), out, as_json)


deltas_app = typer.Typer(help="A Δ to look at.", no_args_is_help=True)
app.add_typer(deltas_app, name="deltas", rich_help_panel=STEPS)


@command(STEPS, "show", of=deltas_app)
def deltas_show(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Written by `drift delta`.")], as_json: AsJson = False
) -> None:
    """What a Δ is made of: models, form, norms and sparsity, by layer and module."""
    from drift.weights.delta.about import describe
    from drift.weights.delta.deltafile import layer_table, load_delta

    prior = load_delta(folder)
    show_delta(describe(prior), layer_table(prior.stats), as_json)


def _weighted(text: str) -> dict[str, str]:
    """`EXPERT=0.5` as a section; a path may hold an equals sign itself."""
    model, _, weight = text.rpartition("=")
    return {"model": model, "weight": weight} if model and _NUMBER.match(weight) else {"model": text}


@command(STEPS)
def merge(
    section_from: SectionOf,
    method: Annotated[str, typer.Option(help="linear, task_arithmetic, ties, della, frank, ...: docs/merging.md.")],
    vlm: Annotated[str, typer.Option(help="φ_VL: directory or hub id.")],
    out: Out,
    expert: Annotated[
        list[str] | None, typer.Option(help="φ_reason: directory or hub id; several times for several.")
    ] = None,
    delta: Annotated[Path | None, typer.Option(help="Method delta: folder written by `drift delta`.")] = None,
    base: Annotated[str | None, typer.Option(help="φ_base: directory or hub id.")] = None,
    weights: Annotated[str | None, typer.Option(help="Of φ_VL and each expert, such as 0.9,0.1.")] = None,
    density: Annotated[float | None, typer.Option(help="Share kept by TIES, DARE and DELLA.")] = None,
    keep_first: Annotated[int | None, typer.Option(help="Layer swap: first layers that stay the VLM's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of DARE's and DELLA's masks.")] = None,
    preset: Annotated[str | None, typer.Option(help="br2v: the published baselines' settings, bugs included.")] = None,
    as_adapter: Annotated[
        bool, typer.Option("--as-adapter", help="Method delta, a Δ of a rank: a LoRA adapter (peft) of φ_VL.")
    ] = False,
    force: Annotated[bool | None, typer.Option(help="Go on with checkpoints that look unrelated.")] = None,
    allow_pickle: Annotated[bool | None, typer.Option(help="Read an expert or base in pytorch_model.bin.")] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Merge the expert into the VLM: the baselines, streamed."""
    from drift.weights.merging.adapter import merge_as_adapter
    from drift.weights.merging.merge import merge as step
    from drift.weights.merging.plan import plan_merge

    given = {
        "method": method,
        "experts": expert if expert and len(expert) > 1 else None,
        "weights": weights.split(",") if weights else None,
        "density": density,
        "keep_first": keep_first,
        "seed": seed,
        "force": force,
        "allow_pickle": allow_pickle,
    }
    settings = merge_preset(preset, method) if preset else {}
    settings |= {key: value for key, value in given.items() if value is not None}
    section = section_from.load(MergeConfig, "merge", settings)
    first = expert[0] if expert else None
    if dry_run:
        show_plan(plan_merge(section, expert=first, vlm=vlm, base=base, delta=delta).summary(), as_json)
    elif as_adapter:
        show_report(merge_as_adapter(section, vlm=vlm, delta=delta, out=out), out, as_json)
    else:
        show_report(step(section, expert=first, vlm=vlm, base=base, out=out, delta=delta), out, as_json)


@command(STEPS)
def train(
    section_from: SectionOf,
    model: Annotated[str, typer.Option(help="The multimodal model to fine-tune.")],
    data: Annotated[Path, typer.Option(help="Folder written by `drift curate`.")],
    out: Out,
    delta: Annotated[Path | None, typer.Option(help="Folder written by `drift delta`; without, plain SFT.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Method on_policy: the text expert, directory or hub id.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune: DRIFT with --delta, plain SFT without; with --teacher by on-policy distillation."""
    from drift.training.ranks import is_first_rank
    from drift.training.sft import train as step

    section = section_from.load(TrainConfig, "train", {})
    if delta is not None and section.prior is None:
        section = section.model_copy(update={"prior": PriorConfig()})
    elif delta is None and not any(override.startswith("prior") for override in section_from.overrides):
        section = section.model_copy(update={"prior": None})  # the file's prior is for its DRIFT arms
    report = step(section, model=model, training_set=data, delta=delta, teacher=teacher, out=out)
    if is_first_rank():
        show_report(report, out, as_json)
