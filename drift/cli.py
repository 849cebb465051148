"""The one command, `drift`: parses, calls one library function, shows what it did.

Heavy imports stay inside the commands, so that `drift --help` is quick. This is the only file of the library
that may import `pipelines`, and only inside the commands that run the whole chain.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from drift import __version__
from drift.catalog import KNOWN, SUITES, expand
from drift.config import (
    Config,
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
from drift.display import (
    RunView,
    findings_as_json,
    rehearsal_as_json,
    show_comparison,
    show_findings,
    show_forecast,
    show_json,
    show_plan,
    show_record,
    show_records,
    show_rehearsal,
    show_report,
    show_scores,
    show_text,
    show_unchanged,
)
from drift.errors import ConfigError, DriftError
from drift.published import ROWS
from drift.validation import suggest, to_json, validate

EXIT_BAD_INPUT = 2
EXIT_REFUSED = 3
ROOT = Path(__file__).parent.parent
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
schedule_app = typer.Typer(help="Scheduled runs on a Kubeflow cluster.", no_args_is_help=True)
app.add_typer(schedule_app, name="schedule", rich_help_panel=CLUSTER)
app.add_typer(config_app, name="config", rich_help_panel=OTHER)
app.add_typer(miniature_app, name="miniature", rich_help_panel=OTHER)

Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Dotted overrides.")]
ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="Configuration file.")]
SectionFile = Annotated[Path | None, typer.Option("--config", "-c", help="Take this step's section from a file.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder to write; must not exist.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, from the headers; write nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and the result.")]
Fresh = Annotated[bool, typer.Option(help="Use no cached step and continue no unfinished run.")]
RunnerKind = Annotated[
    Literal["subprocess", "docker"], typer.Option("--runner", help="docker: each step in its image (`make images`).")
]


Host = Annotated[str, typer.Option("--host", envvar="KF_PIPELINES_ENDPOINT", help="URL of Kubeflow Pipelines.")]
Namespace = Annotated[str | None, typer.Option(envvar="KFP_NAMESPACE", help="Namespace, on a multi-user cluster.")]
Experiment = Annotated[str | None, typer.Option(help="Experiment; default: the configuration's.")]
ServiceAccount = Annotated[str | None, typer.Option(help="Kubernetes service account of the steps.")]
CaCert = Annotated[Path | None, typer.Option(help="CA certificates of the server.")]
ResourcesFile = Annotated[
    Path | None, typer.Option("--resources", help="What the steps' pods get; see configs/resources/.")
]
PipelineRoot = Annotated[str | None, typer.Option(help="Where artifacts go, such as s3://bucket/drift.")]
Timezone = Annotated[str, typer.Option(help="The server's time zone (its CRON_SCHEDULE_TIMEZONE).")]
ScheduleId = Annotated[str, typer.Argument(metavar="ID", help="As `drift schedule list` shows it.")]


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
    if not _in_checkout():
        raise ConfigError("this command runs from a checkout: clone the repository then `pip install -e .[cluster]`")
    sys.path.insert(0, str(ROOT))


def _in_checkout() -> bool:
    return (ROOT / "pipelines" / "drift_sft.py").is_file()


# ---------------------------------------------------------------------------------------- whole chain


@app.command(rich_help_panel=CHAIN)
def run(
    overrides: Overrides = None,
    config: ConfigFile = DEFAULT_CONFIG,
    fresh: Fresh = False,
    runner: RunnerKind = "subprocess",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run the chain on this machine, problems to a registered model; goes on where it stopped."""
    _need_checkout()
    from pipelines.local import run as run_locally

    loaded = load(config, overrides or ())
    with RunView(quiet=quiet or as_json) as view:
        result = run_locally(loaded, on_event=view.event, fresh=fresh, runner=runner)
    view.close(result, as_json=as_json)


@app.command(rich_help_panel=CHAIN)
def retrain(
    overrides: Overrides = None,
    config: ConfigFile = DEFAULT_CONFIG,
    force: Annotated[bool, typer.Option(help="Run although nothing changed.")] = False,
    fresh: Fresh = False,
    runner: RunnerKind = "subprocess",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run the chain if problems, models, code or configuration changed since its last finished run; else say so."""
    _need_checkout()
    from pipelines.retrain import unchanged

    same = None if force or fresh else unchanged(load(config, overrides or ()), runner=runner)
    if same:
        show_unchanged(same, as_json)
    else:
        run(overrides, config, fresh, runner, as_json, quiet)


@app.command("plan", rich_help_panel=CHAIN)
def plan_(
    overrides: Overrides = None,
    config: ConfigFile = DEFAULT_CONFIG,
    samples: Annotated[int | None, typer.Option(min=1, help="Rows of the training set; default: curate.keep.")] = None,
    deltas: Annotated[Path | None, typer.Option(help="Folder with one folder per Δ; default: a sample of Δ.")] = None,
    tokens_per_row: Annotated[int | None, typer.Option(help="Mean of a training row; default: the cutoff.")] = None,
    tokens_per_answer: Annotated[int | None, typer.Option(help="Mean of an answer; default: max_new_tokens.")] = None,
    tflops: Annotated[float | None, typer.Option(help="That a GPU reaches; default: 40 % of an H100's 989.")] = None,
    tokens_per_second: Annotated[float | None, typer.Option(help="Answers, of a GPU or of the endpoint.")] = None,
    resources: ResourcesFile = None,
    as_json: AsJson = False,
) -> None:
    """Say what each arm will do, how far Adam can take it along its Δ, and what the run costs; runs nothing."""
    from drift.cost import Assumptions, cost
    from drift.forecast import forecast
    from drift.sizing import disk_of, headers, memory_of

    loaded = load(config, overrides or ())
    given = {
        "tokens_per_row": tokens_per_row,
        "tokens_per_answer": tokens_per_answer,
        "tflops": tflops,
        "tokens_per_second": tokens_per_second,
    }
    assumed = validate(Assumptions, {name: value for name, value in given.items() if value is not None})
    gpus = _gpus(resources)
    arms = forecast(loaded, samples=samples, deltas=deltas, gpus=gpus.get("arm"))
    models = headers(loaded)
    phases = cost(loaded, assumed, models, samples=samples, gpus=gpus, last=_last_hours(loaded))
    disk = disk_of(loaded, models[0] if models else None)
    show_forecast(arms, memory_of(loaded, models), phases, disk, assumed, as_json)


def _gpus(resources: Path | None) -> dict[str, int]:
    """GPUs that a cluster gives its steps; nothing without a profile."""
    if resources is None:
        return {}
    _need_checkout()
    from pipelines.placement import gpus_of, read_resources

    return gpus_of(read_resources(resources))


def _last_hours(config: Config) -> dict[str, float]:
    """What the last finished run took; nothing where the chain cannot run, without a checkout."""
    with contextlib.suppress(ConfigError):
        _need_checkout()
        from pipelines.folders import measured_hours

        return measured_hours(Path(config.runs), config.name)
    return {}


@app.command(rich_help_panel=CHAIN)
def rehearse(
    overrides: Overrides = None,
    config: ConfigFile = DEFAULT_CONFIG,
    runner: Annotated[
        Literal["subprocess", "docker", "kubeflow"],
        typer.Option("--runner", help="docker: each step in its image (`make images`); kubeflow: on the cluster."),
    ] = "subprocess",
    host: Host = "",
    namespace: Namespace = None,
    experiment: Experiment = None,
    service_account: ServiceAccount = None,
    ca_cert: CaCert = None,
    resources: ResourcesFile = None,
    pipeline_root: PipelineRoot = None,
    only_checks: Annotated[bool, typer.Option("--only-checks", help="Check; run nothing.")] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Rehearse in spite of problems; still ends with 2.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Check a configuration, then run all its steps small: wiring and permissions, before the GPUs are spent.

    Exit code 0 if no check found a problem and every planned step ran; 2 otherwise.
    """
    _need_checkout()
    from pipelines.cluster import Target
    from pipelines.placement import read_resources
    from pipelines.preflight import preflight
    from pipelines.rehearsal import rehearse as rehearse_

    loaded = load(config, overrides or ())
    here: Literal["subprocess", "docker"] = "docker" if runner == "docker" else "subprocess"
    target = None
    if runner == "kubeflow":
        profile = read_resources(resources)
        target = Target(host, namespace, experiment, service_account, ca_cert, profile, pipeline_root)
    findings = preflight(loaded, runner=here, resources=resources, namespace=namespace, target=target)
    problems = any(finding.is_problem for finding in findings)
    if not as_json:
        show_findings(findings)
    rehearsal = None
    if not only_checks and (anyway or not problems):
        with RunView(quiet=quiet or as_json) as view:
            rehearsal = rehearse_(loaded, runner=here, target=target, on_event=view.event)
    if as_json:
        show_json(rehearsal_as_json(findings, rehearsal))
    elif rehearsal:
        show_rehearsal(rehearsal)
    if problems:
        raise typer.Exit(EXIT_BAD_INPUT)


@app.command(rich_help_panel=CHAIN)
def doctor(
    overrides: Overrides = None,
    config: ConfigFile = DEFAULT_CONFIG,
    resources: ResourcesFile = None,
    pod: Annotated[
        list[str] | None,
        typer.Option(metavar="ROLE", help="Also look from a pod of this role, made for a moment; may be repeated."),
    ] = None,
    namespace: Namespace = None,
    service_account: ServiceAccount = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine: versions, GPU, disk, Docker, MLflow, Kubeflow; with --resources, the cluster's namespace.

    Exit code 2 if something needed is missing. In an image, which holds the library alone, what the library needs.
    """
    loaded = load(config, overrides or ())
    if resources or pod or _in_checkout():
        _need_checkout()
        from pipelines.doctor import examine

        roles = tuple(pod or ())
        findings = examine(
            loaded, resources=resources, namespace=namespace, pods=roles, service_account=service_account
        )
    else:
        from drift import doctor as library

        findings = library.examine(loaded)
    if as_json:
        show_json(findings_as_json(findings))
    else:
        show_findings(findings)
    if any(finding.is_problem for finding in findings):
        raise typer.Exit(EXIT_BAD_INPUT)


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
    overrides: Overrides = None,
    config: SectionFile = None,
    as_json: AsJson = False,
) -> None:
    """Answer and score benchmarks (VLMEvalKit TSV), by rule or with a judge. Goes on where it stopped."""
    from drift.evaluate import evaluate as step

    given = {
        "data": data,
        "limit": limit,
        "endpoint": {"base_url": endpoint} if endpoint else None,
        "benchmarks": {name: {"format": name} for name in KNOWN} if suite else {},
        "published": published,
        "judge": {"base_url": judge, "model": judge_model} if judge or judge_model else None,
    }
    section = load_section(EvaluateConfig, "evaluate", config, overrides or (), given)
    chosen = _chosen(section, suite) if suite else section
    asked = model or _published_model(published)
    show_scores(step(chosen, model=asked, label=label or published or Path(asked).name, out=out), out, as_json)


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


@app.command(rich_help_panel=STEPS)
def compare(
    candidate: Annotated[Path, typer.Argument(metavar="A", help="Scores of a model.")],
    baseline: Annotated[Path, typer.Argument(metavar="B", help="Scores of the model it is compared with.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write; must not exist.")] = None,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999, help="Of intervals and detectable effects.")] = 0.95,
    as_json: AsJson = False,
) -> None:
    """How much better A is than B on the same questions, column by column, and how sure that is."""
    from drift.comparison import compare as step
    from drift.comparison import write_comparison

    comparison = step(candidate, baseline, confidence=confidence)
    if out:
        write_comparison(comparison, candidate=candidate, baseline=baseline, out=out)
    show_comparison(comparison, as_json)


@app.command(rich_help_panel=STEPS)
def gate(
    baseline: Annotated[Path, typer.Option(help="Scores of the unmodified VLM.")],
    candidate: Annotated[str, typer.Option(help="Scores of the model that may be registered, or NAME=SCORES.")],
    out: Out,
    champion: Annotated[Path | None, typer.Option(help="Scores of the registry's champion.")] = None,
    arm: Annotated[list[str] | None, typer.Option(help="Scores of another model, or NAME=SCORES.")] = None,
    overrides: Overrides = None,
    config: SectionFile = None,
    as_json: AsJson = False,
) -> None:
    """Decide whether a candidate may be registered. Exit code 3 means no."""
    from drift.gate import gate as step

    arms = _labelled([candidate, *(arm or ())])
    given = {"candidate": next(iter(arms))}
    section = load_section(GateConfig, "gate", config, overrides or (), given)
    report = step(section, baseline=baseline, arms=arms, champion=champion, out=out)
    show_report(report, out, as_json)
    if not report.passed:
        raise typer.Exit(EXIT_REFUSED)


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


def _scores_and_record(paths: str) -> tuple[Path, Path | None]:
    scores, _, record = paths.partition(",")
    return Path(scores), Path(record) if record else None


# ---------------------------------------------------------------------------------- cluster and other


@app.command("compile", rich_help_panel=CLUSTER)
def compile_(
    out: Annotated[Path, typer.Option("--out", "-o", help="YAML file to write; with --components, a new folder.")],
    overrides: Overrides = None,
    config: ConfigFile = DEFAULT_CONFIG,
    resources: ResourcesFile = None,
    components: Annotated[bool, typer.Option("--components", help="Each step alone, for pipelines of others.")] = False,
) -> None:
    """Compile the pipeline for a Kubeflow cluster, strictly checked."""
    _need_checkout()
    from pipelines.compile import compile_components, compile_pipeline
    from pipelines.placement import read_resources

    if components:
        for path in compile_components(out):
            show_text(str(path))
        return
    compile_pipeline(load(config, overrides or ()), out, read_resources(resources))
    show_text(str(out))


@app.command(rich_help_panel=CLUSTER)
def submit(
    overrides: Overrides = None,
    config: ConfigFile = DEFAULT_CONFIG,
    host: Host = "",
    namespace: Namespace = None,
    experiment: Experiment = None,
    service_account: ServiceAccount = None,
    ca_cert: CaCert = None,
    resources: ResourcesFile = None,
    pipeline_root: PipelineRoot = None,
    run_name: Annotated[str | None, typer.Option(help="Default: the configuration's name and the time.")] = None,
    wait: Annotated[bool, typer.Option(help="Follow the steps until the run has ended.")] = True,
    fresh: Annotated[bool, typer.Option(help="Use no cached step.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compile, check and run the chain on a Kubeflow cluster. The token comes from KFP_EXISTING_TOKEN."""
    _need_checkout()
    from pipelines.cluster import Target
    from pipelines.cluster import submit as submit_
    from pipelines.placement import read_resources

    target = Target(host, namespace, experiment, service_account, ca_cert, read_resources(resources), pipeline_root)
    loaded = load(config, overrides or ())
    with RunView(quiet=quiet or as_json) as view:
        run = submit_(loaded, target, run_name=run_name, wait=wait, caching=not fresh, on_event=view.event)
    show_record(run, as_json)


@schedule_app.command("create")
def schedule_create(
    cron: Annotated[str, typer.Option(help="Such as '0 0 3 * * MON': second minute hour day month weekday.")],
    overrides: Overrides = None,
    config: ConfigFile = DEFAULT_CONFIG,
    host: Host = "",
    namespace: Namespace = None,
    experiment: Experiment = None,
    service_account: ServiceAccount = None,
    ca_cert: CaCert = None,
    resources: ResourcesFile = None,
    pipeline_root: PipelineRoot = None,
    name: Annotated[str | None, typer.Option(help="Default: the configuration's name.")] = None,
    timezone: Timezone = "UTC",
    as_json: AsJson = False,
) -> None:
    """Run the chain at set times: one run at a time, none for times that have passed."""
    _need_checkout()
    from pipelines.cluster import Target
    from pipelines.placement import read_resources
    from pipelines.schedule import create

    target = Target(host, namespace, experiment, service_account, ca_cert, read_resources(resources), pipeline_root)
    show_record(create(load(config, overrides or ()), target, cron=cron, name=name, timezone=timezone), as_json)


@schedule_app.command("list")
def schedule_list(
    overrides: Overrides = None,
    config: ConfigFile = DEFAULT_CONFIG,
    host: Host = "",
    namespace: Namespace = None,
    experiment: Experiment = None,
    ca_cert: CaCert = None,
    timezone: Timezone = "UTC",
    as_json: AsJson = False,
) -> None:
    """The experiment's schedules, and when they run next."""
    _need_checkout()
    from pipelines.cluster import Target
    from pipelines.schedule import schedules

    target = Target(host, namespace, experiment, ca_cert=ca_cert)
    show_records(schedules(load(config, overrides or ()), target, timezone=timezone), as_json)


@schedule_app.command("pause")
def schedule_pause(id: ScheduleId, host: Host = "", ca_cert: CaCert = None) -> None:
    """Let a schedule start no more runs; those at work go on."""
    _on_schedule("pause", id, host, ca_cert)


@schedule_app.command("resume")
def schedule_resume(id: ScheduleId, host: Host = "", ca_cert: CaCert = None) -> None:
    """Let a paused schedule start runs again."""
    _on_schedule("resume", id, host, ca_cert)


@schedule_app.command("delete")
def schedule_delete(id: ScheduleId, host: Host = "", ca_cert: CaCert = None) -> None:
    """Remove a schedule; runs at work go on."""
    _on_schedule("delete", id, host, ca_cert)


def _on_schedule(action: str, id: str, host: str, ca_cert: Path | None) -> None:
    _need_checkout()
    from pipelines import schedule
    from pipelines.cluster import Target

    getattr(schedule, action)(Target(host, ca_cert=ca_cert), id)
    show_text(f"{id}: {action}d")


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
