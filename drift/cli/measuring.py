"""The panel `Steps`, from a model's evaluation on: each step of the chain by itself, on local paths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from drift.cli.options import EXIT_REFUSED, STEPS, AsJson, Out, RunsFolder, SectionOf, ShardName, command
from drift.cli.runs import scores_named
from drift.cli.show import show_comparison, show_gate, show_record, show_report, show_scores, show_text
from drift.config.catalog import KNOWN, SUITES, expand
from drift.config.evaluate import EvaluateConfig
from drift.config.file import load_section, read_yaml
from drift.config.gate import GateConfig, RegisterConfig
from drift.config.published import ROWS
from drift.config.section import suggest
from drift.ground.errors import ConfigError

if TYPE_CHECKING:
    from drift.evaluate.evaluation import EvaluateReport
    from drift.evaluate.shards import AnswerReport


_Judging = Callable[[Sequence[str], dict[str, Any], Path, Path | None], "EvaluateReport"]
"""Judges replies that are there, by overrides and options, into a folder."""


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
    shard: ShardName = None,
    replies: Annotated[
        list[Path] | None, typer.Option(help="What --shard wrote, of every shard: judged together, nothing is asked.")
    ] = None,
    training_set: Annotated[
        Path | None, typer.Option(help="What it was trained on (`drift curate`), to look for the questions in.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Answer and score benchmarks (VLMEvalKit TSV), by rule or with a judge. Goes on where it stopped."""
    judged = {"base_url": judge, "model": judge_model} if judge or judge_model else None
    given: dict[str, Any] = {"data": data, "published": published, "judge": judged}
    if rescore or replies:
        asks = {"--model": model, "--endpoint": endpoint, "--suite": suite, "--limit": limit, "--shard": shard}
        _ask_nothing("--rescore" if rescore else "--replies", asks | {"--config": section_from.path})
        judge_again = _rescored(rescore, label, replies) if rescore else _together(replies or [], label)
        show_scores(judge_again(section_from.overrides, given, out, training_set), out, as_json)
        return
    given |= {"limit": limit, "endpoint": {"base_url": endpoint} if endpoint else None}
    given["benchmarks"] = {name: {"format": name} for name in KNOWN} if suite else {}
    section = section_from.load(EvaluateConfig, "evaluate", given)
    chosen = _chosen(section, suite) if suite else section
    asked = model or _published_model(published)
    named = label or published or Path(asked).name
    if shard:
        show_report(_answered(chosen, asked, named, shard, out, training_set), out, as_json)
        return
    from drift.evaluate.evaluation import evaluate as step

    show_scores(step(chosen, model=asked, label=named, out=out, training_set=training_set), out, as_json)


def _ask_nothing(instead: str, asks: dict[str, Any]) -> None:
    if option := next((name for name, value in asks.items() if value is not None), None):
        raise ConfigError(f"{option}: nothing is asked with {instead}; leave it out")


def _answered(
    section: EvaluateConfig, model: str, label: str, shard: str, out: Path, training_set: Path | None
) -> AnswerReport:
    from drift.data.chains.shards import Shard
    from drift.evaluate.shards import answer

    if training_set:
        raise ConfigError("--training-set: a shard only asks; give it with --replies, where all are judged")
    return answer(section, model=model, label=label, shard=Shard.parse(shard), out=out)


def _together(replies: list[Path], label: str | None) -> _Judging:
    from drift.evaluate.rescoring import stored_section
    from drift.evaluate.shards import score_answers

    if label:
        raise ConfigError("--label: the replies have one; leave it out with --replies")

    def judge(overrides: Sequence[str], given: dict[str, Any], out: Path, training_set: Path | None) -> EvaluateReport:
        section = stored_section(replies[0], given, overrides)
        return score_answers(section, answers=replies, out=out, training_set=training_set)

    return judge


def _rescored(stored: Path, label: str | None, replies: list[Path] | None) -> _Judging:
    from drift.evaluate.rescoring import rescore, stored_section

    if replies:
        raise ConfigError("--replies: nothing is asked with --rescore; leave it out")

    def judge(overrides: Sequence[str], given: dict[str, Any], out: Path, training_set: Path | None) -> EvaluateReport:
        section = stored_section(stored, given, overrides)
        return rescore(section, replies=stored, out=out, label=label, training_set=training_set)

    return judge


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
    if out and not as_json:
        show_text(f"written to {out}")


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
    show_gate(report, out, as_json)
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
