"""The one command, `drift`: parses, calls one library function, shows what it did.

Heavy imports stay inside the commands, so that `drift --help` is quick. This is the only file of the library
that may import `pipelines`, and only inside the commands that run the whole chain.
"""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from drift import __version__
from drift.config import (
    CurateConfig,
    DeltaConfig,
    EvaluateConfig,
    GateConfig,
    GenerateConfig,
    IngestConfig,
    MergeConfig,
    PriorConfig,
    RegisterConfig,
    TrainConfig,
    merge_preset,
)
from drift.configfile import load, load_section, schema
from drift.display import RunView, show_forecast, show_json, show_plan, show_report, show_text
from drift.errors import ConfigError, DriftError
from drift.validation import to_json

EXIT_BAD_INPUT = 2
EXIT_REFUSED = 3
DEFAULT_CONFIG = Path("configs/miniature.yaml")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE)

CHAIN, STEPS, CLUSTER, OTHER = "Whole chain", "Steps", "Cluster", "Other"

app = typer.Typer(
    help="DRIFT: transfer reasoning from a text expert into a multimodal model.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Show a configuration, or the schema of its keys.", no_args_is_help=True)
miniature_app = typer.Typer(help="The tiny model family and its problems.", no_args_is_help=True)
app.add_typer(config_app, name="config", rich_help_panel=OTHER)
app.add_typer(miniature_app, name="miniature", rich_help_panel=OTHER)

Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Dotted overrides.")]
ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="Configuration file.")]
SectionFile = Annotated[Path | None, typer.Option("--config", "-c", help="Take this step's section from a file.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder to write; must not exist.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, from the headers; write nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and the result.")]


def _version(value: bool) -> None:
    if value:
        show_text(f"drift {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what the library does.")] = False,
) -> None:
    """DRIFT: transfer reasoning from a text expert into a multimodal model."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )


def _need_checkout() -> None:
    """Make `pipelines` importable: it stands beside the library in a checkout, and is no part of the wheel."""
    root = Path(__file__).parent.parent
    if not (root / "pipelines" / "drift_sft.py").is_file():
        raise ConfigError("this command runs from a checkout: clone the repository then `pip install -e .[cluster]`")
    sys.path.insert(0, str(root))


# ---------------------------------------------------------------------------------------- whole chain


@app.command(rich_help_panel=CHAIN)
def run(
    overrides: Overrides = None,
    config: ConfigFile = DEFAULT_CONFIG,
    fresh: Annotated[bool, typer.Option(help="Use no cached step and continue no unfinished run.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run the chain on this machine, problems to a registered model; goes on where it stopped."""
    _need_checkout()
    from pipelines.local import run as run_locally

    loaded = load(config, overrides or ())
    with RunView(quiet=quiet or as_json) as view:
        result = run_locally(loaded, on_event=view.event, fresh=fresh)
    view.close(result, as_json=as_json)


@app.command("plan", rich_help_panel=CHAIN)
def plan_(
    overrides: Overrides = None,
    config: ConfigFile = DEFAULT_CONFIG,
    samples: Annotated[int | None, typer.Option(min=1, help="Rows of the training set; default: curate.keep.")] = None,
    deltas: Annotated[Path | None, typer.Option(help="Folder with one folder per Δ; default: a sample of Δ.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what each arm will do, and how far Adam can take it along its Δ; runs nothing."""
    from drift.forecast import forecast

    show_forecast(forecast(load(config, overrides or ()), samples=samples, deltas=deltas), as_json)


@app.command(rich_help_panel=CHAIN)
def ui(
    config: ConfigFile = DEFAULT_CONFIG,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 5000,
) -> None:
    """Open MLflow over the runs of this machine (Ctrl-C stops it)."""
    import subprocess

    from drift.tracking import ui_command

    command = ui_command(Path(load(config).runs), port=port)
    show_text(f"MLflow on http://127.0.0.1:{port} (Ctrl-C stops it)")
    raise typer.Exit(subprocess.call(command))


# ---------------------------------------------------------------------------------------------- steps


@app.command(rich_help_panel=STEPS)
def ingest(
    out: Out,
    source: Annotated[str | None, typer.Option(help="Parquet or JSON-lines file, or a dataset id.")] = None,
    overrides: Overrides = None,
    config: SectionFile = None,
    as_json: AsJson = False,
) -> None:
    """Read a pool of problems and check every row."""
    from drift.data.ingest import ingest as step

    section = load_section(IngestConfig, "ingest", config, overrides or (), {"source": source})
    show_report(step(section, out), out, as_json)


@app.command(rich_help_panel=STEPS)
def generate(
    problems: Annotated[Path, typer.Option(help="Folder written by `drift ingest`.")],
    out: Out,
    model: Annotated[str | None, typer.Option(help="Teacher: a checkpoint, or the served model's name.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Base URL of an OpenAI-compatible server.")] = None,
    overrides: Overrides = None,
    config: SectionFile = None,
    as_json: AsJson = False,
) -> None:
    """Let a teacher write chains of thought. Goes on where it stopped."""
    from drift.data.generate import generate as step

    kind = "endpoint" if endpoint else "local" if model else None
    given = {"teacher": {"kind": kind, "model": model, "base_url": endpoint}}
    section = load_section(GenerateConfig, "generate", config, overrides or (), given)
    show_report(step(section, problems, out), out, as_json)


@app.command(rich_help_panel=STEPS)
def curate(
    problems: Annotated[Path, typer.Option(help="Folder written by `drift ingest`.")],
    generations: Annotated[Path, typer.Option(help="Folder written by `drift generate`.")],
    out: Out,
    overrides: Overrides = None,
    config: SectionFile = None,
    as_json: AsJson = False,
) -> None:
    """Keep chains with the right format and answer: the training set."""
    from drift.data.curate import curate as step

    section = load_section(CurateConfig, "curate", config, overrides or (), {})
    show_report(step(section, problems, generations, out), out, as_json)


@app.command(rich_help_panel=STEPS)
def delta(
    expert: Annotated[list[str], typer.Option(help="φ_reason: directory or hub id; of several: EXPERT=WEIGHT.")],
    vlm: Annotated[str, typer.Option(help="φ_VL: directory or hub id.")],
    out: Out,
    base: Annotated[str | None, typer.Option(help="φ_base, for --minus base.")] = None,
    minus: Annotated[str | None, typer.Option(help="What is subtracted: vlm, base, or a checkpoint.")] = None,
    modules: Annotated[str | None, typer.Option(help="attn,mlp,norm,head,embed or re:PATTERN.")] = None,
    layers: Annotated[str | None, typer.Option(help="Such as 0-27 or 4,8-11.")] = None,
    force: Annotated[bool | None, typer.Option(help="Go on with checkpoints that look unrelated.")] = None,
    dry_run: DryRun = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Compute the prior Δ = expert − vlm, or a weighted mean of several experts', streamed."""
    from drift.delta import compute_delta
    from drift.pairing import plan

    experts = [_weighted(text) for text in expert]
    given = {
        "experts": experts if len(experts) > 1 or "weight" in experts[0] else None,
        "minus": minus,
        "modules": modules.split(",") if modules else None,
        "layers": layers,
        "force": force,
    }
    section = load_section(DeltaConfig, "delta", None, overrides or (), given)
    first = experts[0]["model"]
    if dry_run:
        show_plan(plan(section, expert=first, vlm=vlm, base=base).summary(), as_json)
    else:
        show_report(compute_delta(section, expert=first, vlm=vlm, base=base, out=out), out, as_json)


def _weighted(text: str) -> dict[str, str]:
    """`EXPERT=0.5` as a section; a path may hold an equals sign itself."""
    model, _, weight = text.rpartition("=")
    return {"model": model, "weight": weight} if model and _NUMBER.match(weight) else {"model": text}


@app.command(rich_help_panel=STEPS)
def merge(
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
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Merge the expert into the VLM: the baselines, streamed."""
    from drift.merge import merge as step
    from drift.merge import plan_merge

    given = {
        "method": method,
        "weights": weights.split(",") if weights else None,
        "density": density,
        "keep_first": keep_first,
        "seed": seed,
    }
    settings = merge_preset(preset, method) if preset else {}
    settings |= {key: value for key, value in given.items() if value is not None}
    section = load_section(MergeConfig, "merge", None, overrides or (), settings)
    if dry_run:
        show_plan(plan_merge(section, expert=expert, vlm=vlm, base=base).summary(), as_json)
    else:
        show_report(step(section, expert=expert, vlm=vlm, base=base, out=out), out, as_json)


@app.command(rich_help_panel=STEPS)
def train(
    model: Annotated[str, typer.Option(help="The multimodal model to fine-tune.")],
    data: Annotated[Path, typer.Option(help="Folder written by `drift curate`.")],
    out: Out,
    delta: Annotated[Path | None, typer.Option(help="Folder written by `drift delta`; without, plain SFT.")] = None,
    overrides: Overrides = None,
    config: SectionFile = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune: DRIFT with --delta, plain SFT without."""
    from drift.train import train as step

    section = load_section(TrainConfig, "train", config, overrides or (), {})
    if delta is not None and section.prior is None:
        section = section.model_copy(update={"prior": PriorConfig()})
    elif delta is None and not any(override.startswith("prior") for override in overrides or ()):
        section = section.model_copy(update={"prior": None})  # the file's prior is for its DRIFT arms
    show_report(step(section, model=model, training_set=data, delta=delta, out=out), out, as_json)


@app.command(rich_help_panel=STEPS)
def evaluate(
    model: Annotated[str, typer.Option(help="The model to evaluate: directory or hub id.")],
    out: Out,
    data: Annotated[str | None, typer.Option(help="Folder of the benchmarks' TSV files.")] = None,
    reasoning: Annotated[str | None, typer.Option(help="Benchmarks with this role, by comma.")] = None,
    perception: Annotated[str | None, typer.Option(help="Benchmarks with this role, by comma.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first rows of each benchmark.")] = None,
    label: Annotated[str | None, typer.Option(help="Name of the model in tables; its folder's name.")] = None,
    judge: Annotated[str | None, typer.Option(help="Base URL of a judge: VLMEvalKit judges, not the rules.")] = None,
    judge_model: Annotated[str | None, typer.Option(help="Name of the judge's model.")] = None,
    overrides: Overrides = None,
    config: SectionFile = None,
    as_json: AsJson = False,
) -> None:
    """Answer and score benchmarks (VLMEvalKit TSV), by rule or with a judge."""
    from drift.evaluate import evaluate as step

    roles = {"reasoning": reasoning, "perception": perception}
    chosen = {name: {"role": role} for role, names in roles.items() if names for name in names.split(",")}
    given = {
        "data": data,
        "limit": limit,
        "benchmarks": chosen,
        "judge": {"base_url": judge, "model": judge_model} if judge or judge_model else None,
    }
    section = load_section(EvaluateConfig, "evaluate", config, overrides or (), given)
    show_report(step(section, model=model, label=label or Path(model).name, out=out), out, as_json)


@app.command(rich_help_panel=STEPS)
def gate(
    baseline: Annotated[Path, typer.Option(help="Scores of the unmodified VLM.")],
    candidate: Annotated[str, typer.Option(help="NAME=SCORES of the model that may be registered.")],
    out: Out,
    arm: Annotated[list[str] | None, typer.Option(help="NAME=SCORES of another model to compare with.")] = None,
    overrides: Overrides = None,
    config: SectionFile = None,
    as_json: AsJson = False,
) -> None:
    """Decide whether a candidate may be registered. Exit code 3 means no."""
    from drift.gate import gate as step

    arms = dict(_named_path(text) for text in [candidate, *(arm or ())])
    given = {"candidate": next(iter(arms))}
    section = load_section(GateConfig, "gate", config, overrides or (), given)
    report = step(section, baseline=baseline, arms=arms, out=out)
    show_report(report, out, as_json)
    if not report.passed:
        raise typer.Exit(EXIT_REFUSED)


@app.command(rich_help_panel=STEPS)
def register(
    model: Annotated[Path, typer.Option(help="The model directory.")],
    gate: Annotated[Path, typer.Option(help="Folder written by `drift gate`.")],
    name: Annotated[str | None, typer.Option(help="Name of the registered model.")] = None,
    promote: Annotated[bool | None, typer.Option(help="Move the alias champion to it.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the embedded MLflow store.")] = Path("runs"),
    overrides: Overrides = None,
    config: SectionFile = None,
    as_json: AsJson = False,
) -> None:
    """Put a model that passed the gate into MLflow's registry."""
    from drift.registry import register as step
    from drift.tracking import use_store

    use_store(runs)
    section = load_section(RegisterConfig, "register", config, overrides or (), {"model": name, "promote": promote})
    show_report(step(section, model=str(model), gate=gate), model, as_json)


@app.command(rich_help_panel=STEPS)
def report(
    baseline: Annotated[Path, typer.Option(help="Scores of the unmodified VLM.")],
    arm: Annotated[list[str], typer.Option(help="NAME=SCORES, or NAME=SCORES,RECORD.")],
    gate: Annotated[Path, typer.Option(help="Folder written by `drift gate`.")],
    out: Out,
    training_set: Annotated[Path | None, typer.Option(help="Folder written by `drift curate`.")] = None,
    deltas: Annotated[Path | None, typer.Option(help="Folder with one folder per Δ.")] = None,
) -> None:
    """Write the HTML report from score folders."""
    from drift.report import summarize, write_report

    arms = {name: _scores_and_record(paths) for name, paths in map(_named, arm)}
    summary = summarize(baseline, arms, gate)
    write_report(out, summary, baseline=baseline, arms=arms, gate=gate, training_set=training_set, deltas=deltas)
    show_text(str(out / "report.html"))


def _named(text: str) -> tuple[str, str]:
    name, equals, rest = text.partition("=")
    if not (name and equals and rest):
        raise ConfigError(f"'{text}': write it as NAME=FOLDER")
    return name, rest


def _named_path(text: str) -> tuple[str, Path]:
    name, path = _named(text)
    return name, Path(path)


def _scores_and_record(paths: str) -> tuple[Path, Path | None]:
    scores, _, record = paths.partition(",")
    return Path(scores), Path(record) if record else None


# ---------------------------------------------------------------------------------- cluster and other


@app.command("compile", rich_help_panel=CLUSTER)
def compile_(
    out: Annotated[Path, typer.Option("--out", "-o", help="YAML file to write.")],
    overrides: Overrides = None,
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Compile the pipeline for a Kubeflow cluster, strictly checked."""
    _need_checkout()
    from pipelines.compile import compile_pipeline

    compile_pipeline(load(config, overrides or ()), out)
    show_text(str(out))


@config_app.command()
def show(overrides: Overrides = None, config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Print a configuration as it is understood, defaults filled in."""
    show_json(to_json(load(config, overrides or ())))


@config_app.command("schema")
def schema_() -> None:
    """Print the JSON schema of the configuration file, for editors."""
    import json

    show_json(json.dumps(schema()))


@miniature_app.command()
def build(
    out: Out,
    seed: Annotated[int, typer.Option(help="Of everything: weights, problems, renderings.")] = 0,
    steps_scale: Annotated[float, typer.Option(help="Scale of all training lengths; 1 is the recipe.")] = 1.0,
) -> None:
    """Train the tiny model family from scratch and render its problems (about 3 minutes)."""
    from drift.miniature.build import build as step

    show_report(step(out, seed, steps_scale=steps_scale), out, False)


def main(arguments: list[str] | None = None) -> Any:
    """Entry point: errors of the input are one line and exit code 2."""
    try:
        return app(arguments)
    except DriftError as error:
        sys.stderr.write(f"drift: {' '.join(str(error).split())}\n")
        sys.exit(EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        sys.stderr.write("drift: interrupted; the same command goes on from the last finished step\n")
        sys.exit(130)
