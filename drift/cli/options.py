"""The application, and the options that commands share.

A parameter annotated `Annotated[T, Group(build)]` stands for all parameters of `build`: they become options of the
command (see `command`), which gets what `build` returns.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

import typer

from drift.config.chain import Config
from drift.config.file import load, load_section
from drift.config.section import SectionType
from drift.ground.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.cluster.server import Target

EXIT_BAD_INPUT = 2
EXIT_REFUSED = 3
DEFAULT_CONFIG = Path("configs/miniature.yaml")

CHAIN, RUNS, STEPS, DATA, CLUSTER = "Whole chain", "Past runs", "Steps", "Data", "Cluster"
REGISTRY, USE, OTHER = "Registry", "Use", "Other"

app = typer.Typer(
    help="DRIFT: transfer reasoning from a text expert into a multimodal model.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Group:
    """Marks a parameter that stands for the parameters of `build`."""

    build: Callable[..., Any]


def command(panel: str, name: str | None = None, *, of: typer.Typer = app) -> Callable[[Function], Function]:
    """Make a function a command of `of`, its groups spread out into their options."""

    def register(function: Function) -> Function:
        of.command(name, rich_help_panel=panel)(_spread(function))
        return function

    return register


def _spread(function: Callable[..., Any]) -> Callable[..., Any]:
    parameters = inspect.signature(function, eval_str=True).parameters
    groups = {name: build for name, given in parameters.items() if (build := _group(given))}
    members = {name: inspect.signature(build, eval_str=True).parameters for name, build in groups.items()}
    options = [one for name, given in parameters.items() for one in members.get(name, {name: given}).values()]

    @functools.wraps(function)
    def call(**given: Any) -> Any:
        built = {name: build(**{key: given.pop(key) for key in members[name]}) for name, build in groups.items()}
        return function(**given, **built)

    spread = [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options]
    call.__dict__["__signature__"] = inspect.Signature(spread)
    return call


def _group(parameter: inspect.Parameter) -> Callable[..., Any] | None:
    return next((extra.build for extra in get_args(parameter.annotation)[1:] if isinstance(extra, Group)), None)


# ------------------------------------------------------------------------------------ single options

Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Dotted overrides.")]
ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="Configuration file.")]
SectionFile = Annotated[Path | None, typer.Option("--config", "-c", help="Take this step's section from a file.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder to write; must not exist.")]
ShardName = Annotated[str | None, typer.Option("--shard", help="Only this part, such as 1/4; the others elsewhere.")]
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


# ------------------------------------------------------------------------------------------ groups


def _load(overrides: Overrides = None, config: ConfigFile = DEFAULT_CONFIG) -> Config:
    return load(config, overrides or ())


Loaded = Annotated[Config, Group(_load)]
"""The whole configuration: a file with overrides on top."""


Rows = Annotated[int | None, typer.Option(min=1, help="Rows of the training set; default: curate.keep.")]


def _assumed(
    tokens_per_row: Annotated[int | None, typer.Option(help="Mean of a training row; default: the cutoff.")] = None,
    tokens_per_answer: Annotated[int | None, typer.Option(help="Mean of an answer; default: max_new_tokens.")] = None,
    tflops: Annotated[float | None, typer.Option(help="That a GPU reaches; default: 40 % of an H100's 989.")] = None,
    tokens_per_second: Annotated[float | None, typer.Option(help="Answers, of a GPU or of the endpoint.")] = None,
) -> dict[str, Any]:
    given = {
        "tokens_per_row": tokens_per_row,
        "tokens_per_answer": tokens_per_answer,
        "tflops": tflops,
        "tokens_per_second": tokens_per_second,
    }
    return {name: value for name, value in given.items() if value is not None}


Assumed = Annotated[dict[str, Any], Group(_assumed)]
"""What an estimate of costs rests on (`drift.planning.costs.Assumptions`), where it is given."""


def gpus_of_steps(resources: Path | None) -> dict[str, int]:
    """GPUs that a cluster gives its steps; nothing without a profile."""
    if resources is None:
        return {}
    need_kubeflow()
    from pipelines.placement import gpus_of, read_resources

    return gpus_of(read_resources(resources))


def _runs(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Configuration that names the folder.")] = None,
    runs: Annotated[
        Path | None, typer.Option("--runs", help="Folder of runs; a rehearsal's is RUNS/rehearsal.")
    ] = None,
) -> Path:
    return runs or Path(load(config).runs if config else Config.model_fields["runs"].default)


RunsFolder = Annotated[Path, Group(_runs)]
"""The folder of runs: named, or a configuration's, or the default one."""


def about_runs(command: str, runs: Path) -> str:
    """A command over a folder of runs, as it is typed from here."""
    if runs.resolve() == _runs().resolve():
        return command
    near = runs.resolve().is_relative_to(Path.cwd())
    return shlex.join([*command.split(), "--runs", str(runs.resolve().relative_to(Path.cwd()) if near else runs)])


@dataclass(frozen=True)
class StepSection:
    """Where a step's section comes from: a file, overrides, and what the command's own options set."""

    path: Path | None
    overrides: Sequence[str]

    def load(self, section: type[SectionType], key: str, given: dict[str, Any]) -> SectionType:
        """The section `key`. Raises ConfigError."""
        return load_section(section, key, self.path, self.overrides, given)


def _section(overrides: Overrides = None, config: SectionFile = None) -> StepSection:
    return StepSection(config, overrides or ())


SectionOf = Annotated[StepSection, Group(_section)]


@dataclass(frozen=True)
class Output:
    """How a command shows what it did."""

    as_json: bool
    quiet: bool

    @property
    def silent(self) -> bool:
        """Whether no progress is shown."""
        return self.quiet or self.as_json


def _output(as_json: AsJson = False, quiet: Quiet = False) -> Output:
    return Output(as_json, quiet)


Shown = Annotated[Output, Group(_output)]


@dataclass(frozen=True)
class Server:
    """A Kubeflow Pipelines server."""

    host: str
    namespace: str | None
    ca_cert: Path | None

    def target(self, experiment: str | None = None) -> Target:
        """Raises ConfigError without a host."""
        need_kubeflow()
        from pipelines.cluster.server import Target

        return Target(self.host, self.namespace, experiment, ca_cert=self.ca_cert)


def _server(host: Host = "", namespace: Namespace = None, ca_cert: CaCert = None) -> Server:
    return Server(host, namespace, ca_cert)


OnServer = Annotated[Server, Group(_server)]
"""The same options on every command that asks the server something."""


@dataclass(frozen=True)
class Cluster:
    """A Kubeflow Pipelines server, and what the pods of a run get."""

    server: Server
    experiment: str | None
    service_account: str | None
    resources: Path | None
    pipeline_root: str | None

    def target(self) -> Target:
        """Raises ConfigError without a host, or for a profile that cannot be read."""
        target = self.server.target(self.experiment)
        from pipelines.placement import read_resources

        return replace(
            target,
            resources=read_resources(self.resources),
            service_account=self.service_account,
            pipeline_root=self.pipeline_root,
        )


def _cluster(
    host: Host = "",
    namespace: Namespace = None,
    experiment: Experiment = None,
    service_account: ServiceAccount = None,
    ca_cert: CaCert = None,
    resources: ResourcesFile = None,
    pipeline_root: PipelineRoot = None,
) -> Cluster:
    return Cluster(Server(host, namespace, ca_cert), experiment, service_account, resources, pipeline_root)


OnCluster = Annotated[Cluster, Group(_cluster)]
"""The same, and what a run's pods get, on every command that makes runs."""


def need_kubeflow() -> None:
    """Raise ConfigError where Kubeflow's packages are not installed: `pipelines` cannot be imported without them."""
    if not has_kubeflow():
        raise ConfigError("this command needs Kubeflow's packages; pip install 'drift-mllm[cluster]'")


def has_kubeflow() -> bool:
    """Whether Kubeflow's packages are installed."""
    return all(importlib.util.find_spec(name) for name in ("kfp", "pipelines"))
