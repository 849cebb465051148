"""The panel `Steps`: each step of the chain by itself, on local paths."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from drift.cli.options import EXIT_REFUSED, STEPS, AsJson, DryRun, Out, RunsFolder, SectionOf, command
from drift.cli.runs import scores_named
from drift.cli.show import show_comparison, show_judged, show_plan, show_record, show_report, show_scores, show_text
from drift.config.catalog import KNOWN, SUITES, expand
from drift.config.data import CurateConfig, GenerateConfig, IngestConfig
from drift.config.evaluate import EvaluateConfig
from drift.config.file import load_section, read_yaml
from drift.config.gate import GateConfig, RegisterConfig
from drift.config.models import DeltaConfig, MergeConfig, merge_preset
from drift.config.published import ROWS
from drift.config.section import suggest
from drift.config.train import PriorConfig, TrainConfig
from drift.ground.errors import ConfigError

if TYPE_CHECKING:
    from drift.evaluate.evaluation import EvaluateReport

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
    as_json: AsJson = False,
) -> None:
    """Let a teacher write chains of thought. Goes on where it stopped."""
    from drift.data.chains.distillation import generate as step

    kind = "ready" if ready else "endpoint" if endpoint else "local" if model else None
    given = {"teacher": {"kind": kind, "model": model, "base_url": endpoint}}
    section = section_from.load(GenerateConfig, "generate", given)
    show_report(step(section, problems, out), out, as_json)


@command(STEPS)
def curate(
    section_from: SectionOf,
    problems: Annotated[Path, typer.Option(help="Folder written by `drift ingest`.")],
    generations: Annotated[Path, typer.Option(help="Folder written by `drift generate`.")],
    out: Out,
    as_json: AsJson = False,
) -> None:
    """Keep chains with the right format and answer: the training set."""
    from drift.data.selection.curation import curate as step

    show_report(step(section_from.load(CurateConfig, "curate", {}), problems, generations, out), out, as_json)


@command(STEPS)
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines: gold, response; optional choices, kind.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File for the verdicts; default: standard output.")
    ] = None,
    timeout_seconds: Annotated[float, typer.Option(min=0.1, help="Limit of one expression.")] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Judge pairs of answers as curate and evaluate would: status, extracted, method, as JSON lines."""
    from drift.verdicts.table import as_lines, verify_file

    report = verify_file(file, timeout_seconds)
    show_judged(as_lines(report.rows), report.metrics(), out, as_json)


@command(STEPS)
def delta(
    section_from: SectionOf,
    expert: Annotated[list[str], typer.Option(help="φ_reason: directory or hub id; of several: EXPERT=WEIGHT.")],
    vlm: Annotated[str, typer.Option(help="φ_VL: directory or hub id.")],
    out: Out,
    base: Annotated[str | None, typer.Option(help="φ_base, for --minus base.")] = None,
    minus: Annotated[str | None, typer.Option(help="What is subtracted: vlm, base, or a checkpoint.")] = None,
    modules: Annotated[str | None, typer.Option(help="attn,mlp,norm,head,embed or re:PATTERN.")] = None,
    layers: Annotated[str | None, typer.Option(help="Such as 0-27 or 4,8-11.")] = None,
    force: Annotated[bool | None, typer.Option(help="Go on with checkpoints that look unrelated.")] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Compute the prior Δ = expert − vlm, or a weighted mean of several experts', streamed."""
    from drift.weights.delta import compute_delta
    from drift.weights.pairing import plan

    experts = [_weighted(text) for text in expert]
    given = {
        "experts": experts if len(experts) > 1 or "weight" in experts[0] else None,
        "minus": minus,
        "modules": modules.split(",") if modules else None,
        "layers": layers,
        "force": force,
    }
    section = section_from.load(DeltaConfig, "delta", given)
    first = experts[0]["model"]
    if dry_run:
        show_plan(plan(section, expert=first, vlm=vlm, base=base).summary(), as_json)
    else:
        show_report(compute_delta(section, expert=first, vlm=vlm, base=base, out=out), out, as_json)


def _weighted(text: str) -> dict[str, str]:
    """`EXPERT=0.5` as a section; a path may hold an equals sign itself."""
    model, _, weight = text.rpartition("=")
    return {"model": model, "weight": weight} if model and _NUMBER.match(weight) else {"model": text}


@command(STEPS)
def merge(
    section_from: SectionOf,
    method: Annotated[str, typer.Option(help="linear, task_arithmetic, ties, dare_ties, dare_linear, layer_swap.")],
    expert: Annotated[str, typer.Option(help="φ_reason: directory or hub id.")],
    vlm: Annotated[str, typer.Option(help="φ_VL: directory or hub id.")],
    out: Out,
    base: Annotated[str | None, typer.Option(help="φ_base: directory or hub id.")] = None,
    weights: Annotated[str | None, typer.Option(help="Of φ_VL and φ_reason, such as 0.9,0.1.")] = None,
    density: Annotated[float | None, typer.Option(help="Share kept by TIES and DARE.")] = None,
    keep_first: Annotated[int | None, typer.Option(help="Layer swap: first layers that stay the VLM's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of DARE's mask.")] = None,
    preset: Annotated[str | None, typer.Option(help="br2v: the published baselines' settings, bugs included.")] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Merge the expert into the VLM: the baselines, streamed."""
    from drift.weights.merging import merge as step
    from drift.weights.merging import plan_merge

    given = {
        "method": method,
        "weights": weights.split(",") if weights else None,
        "density": density,
        "keep_first": keep_first,
        "seed": seed,
    }
    settings = merge_preset(preset, method) if preset else {}
    settings |= {key: value for key, value in given.items() if value is not None}
    section = section_from.load(MergeConfig, "merge", settings)
    if dry_run:
        show_plan(plan_merge(section, expert=expert, vlm=vlm, base=base).summary(), as_json)
    else:
        show_report(step(section, expert=expert, vlm=vlm, base=base, out=out), out, as_json)


@command(STEPS)
def train(
    section_from: SectionOf,
    model: Annotated[str, typer.Option(help="The multimodal model to fine-tune.")],
    data: Annotated[Path, typer.Option(help="Folder written by `drift curate`.")],
    out: Out,
    delta: Annotated[Path | None, typer.Option(help="Folder written by `drift delta`; without, plain SFT.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune: DRIFT with --delta, plain SFT without."""
    from drift.training.ranks import is_first_rank
    from drift.training.sft import train as step

    section = section_from.load(TrainConfig, "train", {})
    if delta is not None and section.prior is None:
        section = section.model_copy(update={"prior": PriorConfig()})
    elif delta is None and not any(override.startswith("prior") for override in section_from.overrides):
        section = section.model_copy(update={"prior": None})  # the file's prior is for its DRIFT arms
    report = step(section, model=model, training_set=data, delta=delta, out=out)
    if is_first_rank():
        show_report(report, out, as_json)


@command(STEPS)
def evaluate(
    section_from: SectionOf,
    out: Out,
    model: Annotated[
        str | None, typer.Option(help="Directory, hub id, or with --endpoint the served model's name.")
    ] = None,
    published: Annotated[
        str | None, typer.Option(help="Row of the paper's tables beside ours; its checkpoint is the default --model.")
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="Base URL of an OpenAI-compatible server.")] = None,
    data: Annotated[str | None, typer.Option(help="Folder of the benchmarks' TSV files.")] = None,
    suite: Annotated[str | None, typer.Option(help="reasoning, perception or names, by comma; default: all.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first rows of each benchmark.")] = None,
    label: Annotated[str | None, typer.Option(help="Name of the model in tables; its folder's name.")] = None,
    judge: Annotated[str | None, typer.Option(help="Base URL of a judge: VLMEvalKit judges, not the rules.")] = None,
    judge_model: Annotated[str | None, typer.Option(help="Name of the judge's model.")] = None,
    rescore: Annotated[
        Path | None, typer.Option(help="Scores whose replies are judged again, by today's rules or --judge.")
    ] = None,
    training_set: Annotated[
        Path | None, typer.Option(help="What it was trained on (`drift curate`), to look for the questions in.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Answer and score benchmarks (VLMEvalKit TSV), by rule or with a judge. Goes on where it stopped."""
    judged = {"base_url": judge, "model": judge_model} if judge or judge_model else None
    given: dict[str, Any] = {"data": data, "published": published, "judge": judged}
    if rescore:
        asks = {
            "--model": model,
            "--endpoint": endpoint,
            "--suite": suite,
            "--limit": limit,
            "--config": section_from.path,
        }
        show_scores(_rescored(rescore, section_from.overrides, given, asks, out, label, training_set), out, as_json)
        return
    from drift.evaluate.evaluation import evaluate as step

    given |= {"limit": limit, "endpoint": {"base_url": endpoint} if endpoint else None}
    given["benchmarks"] = {name: {"format": name} for name in KNOWN} if suite else {}
    section = section_from.load(EvaluateConfig, "evaluate", given)
    chosen = _chosen(section, suite) if suite else section
    asked = model or _published_model(published)
    named = label or published or Path(asked).name
    show_scores(step(chosen, model=asked, label=named, out=out, training_set=training_set), out, as_json)


def _rescored(
    replies: Path,
    overrides: Sequence[str],
    given: dict[str, Any],
    asks: dict[str, Any],
    out: Path,
    label: str | None,
    training_set: Path | None,
) -> EvaluateReport:
    from drift.evaluate.rescoring import rescore, stored_section

    if option := next((name for name, value in asks.items() if value is not None), None):
        raise ConfigError(f"{option}: nothing is asked with --rescore; leave it out")
    section = stored_section(replies, given, overrides)
    return rescore(section, replies=replies, out=out, label=label, training_set=training_set)


def _published_model(row: str | None) -> str:
    if row is None or (model := ROWS[row].model) is None:
        with_model = ", ".join(name for name, known in ROWS.items() if known.model)
        raise ConfigError(f"--model: which one? Give a directory or hub id, or --published: {with_model}")
    return model


def _chosen(section: EvaluateConfig, suite: str) -> EvaluateConfig:
    """The section with the suite's benchmarks alone."""
    names = expand(suite)
    for name in names:
        if name not in section.benchmarks:
            raise ConfigError(f"--suite: no benchmark '{name}'{suggest(name, [*SUITES, *section.benchmarks])}")
    return section.model_copy(update={"benchmarks": {name: section.benchmarks[name] for name in names}})


@command(STEPS)
def compare(
    candidate: Annotated[str, typer.Argument(metavar="A", help="Scores of a model: a folder, or RUN:ARM.")],
    baseline: Annotated[str, typer.Argument(metavar="B", help="The same of the model it is compared with.")],
    runs: RunsFolder,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write; must not exist.")] = None,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999, help="Of intervals and detectable effects.")] = 0.95,
    as_json: AsJson = False,
) -> None:
    """How much better A is than B on the same questions, column by column, and how sure that is."""
    from drift.gate.comparison import compare as step
    from drift.gate.comparison import write_comparison

    ours, theirs = (scores_named(text, runs) for text in (candidate, baseline))
    comparison = step(ours, theirs, confidence=confidence)
    if out:
        write_comparison(comparison, candidate=ours, baseline=theirs, out=out)
    show_comparison(comparison, as_json)


@command(STEPS)
def gate(
    section_from: SectionOf,
    baseline: Annotated[Path, typer.Option(help="Scores of the unmodified VLM.")],
    candidate: Annotated[str, typer.Option(help="Scores of the model that may be registered, or NAME=SCORES.")],
    out: Out,
    champion: Annotated[Path | None, typer.Option(help="Scores of the registry's champion.")] = None,
    best: Annotated[Path | None, typer.Option(help="Scores of the best champion ever, if another.")] = None,
    arm: Annotated[list[str] | None, typer.Option(help="Scores of another model, or NAME=SCORES.")] = None,
    name: Annotated[str | None, typer.Option(help="Registered model whose looks are counted.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the embedded MLflow store, or of looks.jsonl.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Decide whether a candidate may be registered. Exit code 3 means no."""
    from drift.gate.champion import ChampionScores
    from drift.gate.decision import decide as step
    from drift.tracking.models.ledger import open_ledger

    arms = _labelled([candidate, *(arm or ())])
    labels = {"candidate": next(iter(arms))}
    section = section_from.load(GateConfig, "gate", labels)
    ledger = open_ledger(name or _registered(section_from.path) or section.candidate, runs)
    champions = ChampionScores(champion, best)
    report = step(section, baseline=baseline, arms=arms, champions=champions, ledger=ledger, out=out)
    show_report(report, out, as_json)
    if not report.passed:
        raise typer.Exit(EXIT_REFUSED)


def _registered(path: Path | None) -> str | None:
    """The name that a configuration gives its registered model; None without a configuration, or a name in it."""
    written = path and read_yaml(path).get("register")
    return load_section(RegisterConfig, "register", path, (), {}).model if written else None


def _labelled(texts: list[str]) -> dict[str, Path]:
    """NAME=SCORES, or a folder of scores, whose label is the name. Raises ConfigError for a name given twice."""
    arms: dict[str, Path] = {}
    for text in texts:
        name, path = _named_scores(text)
        if name in arms:
            raise ConfigError(f"{text}: '{name}' is named twice; write NAME=SCORES with a name of its own")
        arms[name] = path
    return arms


def _named_scores(text: str) -> tuple[str, Path]:
    from drift.evaluate.scores import read_scores

    if "=" in text and not Path(text).is_dir():
        name, path = _named(text)
        return name, Path(path)
    return read_scores(Path(text)).label, Path(text)


@command(STEPS)
def register(
    section_from: SectionOf,
    model: Annotated[str, typer.Option(help="The model directory, or an address that MLflow can fetch (s3://...).")],
    gate: Annotated[Path, typer.Option(help="Folder written by `drift gate`.")],
    name: Annotated[str | None, typer.Option(help="Name of the registered model.")] = None,
    promotion: Annotated[
        Literal["auto", "manual"] | None, typer.Option(help="Who moves the alias champion to it: the gate or a person.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the embedded MLflow store.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Put a model that passed the gate into MLflow's registry."""
    from drift.tracking.models.registration import register as step
    from drift.tracking.store import use_store

    use_store(runs)
    section = section_from.load(RegisterConfig, "register", {"model": name, "promotion": promotion})
    show_record(step(section, model=model, gate=gate), as_json)


@command(STEPS)
def report(
    baseline: Annotated[Path, typer.Option(help="Scores of the unmodified VLM.")],
    arm: Annotated[list[str], typer.Option(help="NAME=SCORES, or NAME=SCORES,RECORD.")],
    gate: Annotated[Path, typer.Option(help="Folder written by `drift gate`.")],
    out: Out,
    training_set: Annotated[Path | None, typer.Option(help="Folder written by `drift curate`.")] = None,
    deltas: Annotated[Path | None, typer.Option(help="Folder with one folder per Δ.")] = None,
) -> None:
    """Write the HTML report from score folders."""
    from drift.gate.report.page import summarize, write_report

    arms = {name: _scores_and_record(paths) for name, paths in map(_named, arm)}
    summary = summarize(baseline, arms, gate)
    write_report(out, summary, baseline=baseline, arms=arms, gate=gate, training_set=training_set, deltas=deltas)
    show_text(str(out / "report.html"))


def _named(text: str) -> tuple[str, str]:
    name, equals, rest = text.partition("=")
    if not (name and equals and rest):
        raise ConfigError(f"'{text}': write it as NAME=FOLDER")
    return name, rest


def _scores_and_record(paths: str) -> tuple[Path, Path | None]:
    scores, _, record = paths.partition(",")
    return Path(scores), Path(record) if record else None
