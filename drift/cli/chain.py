"""The panel `Whole chain`: run it, again only if something changed, and what says beforehand what it will do."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from drift.cli.browser import show_page
from drift.cli.options import (
    CHAIN,
    EXIT_BAD_INPUT,
    AsJson,
    Assumed,
    Cluster,
    Fresh,
    Loaded,
    OnCluster,
    OnServer,
    Output,
    ResourcesFile,
    Rows,
    RunnerKind,
    RunsFolder,
    Server,
    ServiceAccount,
    Shown,
    command,
    gpus_of_steps,
    has_kubeflow,
    need_kubeflow,
)
from drift.cli.plan_view import show_forecast
from drift.cli.run_view import RunView, rehearsal_as_json, show_rehearsal
from drift.cli.show import findings_as_json, show_findings, show_json, show_text, show_unchanged
from drift.config.chain import Config
from drift.config.section import validate
from drift.ground.errors import ConfigError

if TYPE_CHECKING:
    from drift.ground.findings import Finding
    from pipelines.rehearsal import Rehearsal


@command(CHAIN)
def run(config: Loaded, shown: Shown, fresh: Fresh = False, runner: RunnerKind = "subprocess") -> None:
    """Run the chain on this machine, problems to a registered model; goes on where it stopped."""
    need_kubeflow()
    from pipelines.local.run import run as run_locally

    with RunView(quiet=shown.silent) as view:
        result = run_locally(config, on_event=view.event, fresh=fresh, runner=runner)
    view.close(result, as_json=shown.as_json)


@command(CHAIN)
def retrain(
    config: Loaded,
    shown: Shown,
    force: Annotated[bool, typer.Option(help="Run although nothing changed.")] = False,
    fresh: Fresh = False,
    runner: RunnerKind = "subprocess",
) -> None:
    """Run the chain if problems, models, code or configuration changed since its last finished run; else say so."""
    need_kubeflow()
    from pipelines.retrain import unchanged

    same = None if force or fresh else unchanged(config, runner=runner)
    if same:
        show_unchanged(same, shown.as_json)
    else:
        run(config, shown, fresh, runner)


@command(CHAIN, "plan")
def plan_(
    config: Loaded,
    assumed: Assumed,
    samples: Rows = None,
    deltas: Annotated[Path | None, typer.Option(help="Folder with one folder per Δ; default: a sample of Δ.")] = None,
    resources: ResourcesFile = None,
    as_json: AsJson = False,
) -> None:
    """Say what each arm will do, how far Adam can take it along its Δ, and what the run costs; runs nothing."""
    from drift.planning.costs import Assumptions, cost
    from drift.planning.reach import forecast
    from drift.planning.sizing import disk_of, headers, memory_of

    on = validate(Assumptions, assumed)
    gpus = gpus_of_steps(resources)
    arms = forecast(config, samples=samples, deltas=deltas, gpus=gpus.get("arm"))
    models = headers(config.models, allow_pickle=config.allow_pickle)
    phases = cost(config, on, models, samples=samples, gpus=gpus, last=_last_hours(config))
    disk = disk_of(config, models[0] if models else None)
    show_forecast(arms, memory_of(config, models), phases, disk, on, as_json)


def _last_hours(config: Config) -> dict[str, float]:
    """What the last finished run took; nothing where the chain cannot run."""
    with contextlib.suppress(ConfigError):
        need_kubeflow()
        from pipelines.local.folders import measured_hours

        return measured_hours(Path(config.runs), config.name)
    return {}


@command(CHAIN)
def rehearse(
    config: Loaded,
    cluster: OnCluster,
    shown: Shown,
    runner: Annotated[
        Literal["subprocess", "docker", "kubeflow"],
        typer.Option("--runner", help="docker: each step in its image (`make images`); kubeflow: on the cluster."),
    ] = "subprocess",
    only_checks: Annotated[bool, typer.Option("--only-checks", help="Check; run nothing.")] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Rehearse in spite of problems; still ends with 2.")] = False,
) -> None:
    """Check a configuration, then run all its steps small: wiring and permissions, before the GPUs are spent.

    Exit code 0 if no check found a problem and every planned step ran; 2 otherwise.
    """
    need_kubeflow()
    from pipelines.preflight import preflight

    target = cluster.target() if runner == "kubeflow" else None
    here: Literal["subprocess", "docker"] = "docker" if runner == "docker" else "subprocess"
    findings = preflight(
        config, runner=here, resources=cluster.resources, namespace=cluster.server.namespace, target=target
    )
    problems = any(finding.is_problem for finding in findings)
    if not shown.as_json:
        show_findings(findings)
    rehearsal = None if only_checks or (problems and not anyway) else _rehearsed(config, runner, cluster, shown)
    if shown.as_json:
        show_json(rehearsal_as_json(findings, rehearsal))
    elif rehearsal:
        show_rehearsal(rehearsal)
    if problems:
        raise typer.Exit(EXIT_BAD_INPUT)


def _rehearsed(
    config: Config, runner: Literal["subprocess", "docker", "kubeflow"], cluster: Cluster, shown: Output
) -> Rehearsal:
    from pipelines.rehearsal import rehearse as rehearse_

    with RunView(quiet=shown.silent) as view:
        if runner == "kubeflow":
            return rehearse_(config, target=cluster.target(), on_event=view.event, on_note=view.note)
        return rehearse_(config, runner=runner, on_event=view.event)


@command(CHAIN)
def doctor(
    config: Loaded,
    server: OnServer,
    resources: ResourcesFile = None,
    pod: Annotated[
        list[str] | None,
        typer.Option(metavar="ROLE", help="Also look from a pod of this role, made for a moment; may be repeated."),
    ] = None,
    service_account: ServiceAccount = None,
    inside: Annotated[str | None, typer.Option(metavar="ROLE", hidden=True)] = None,
    folder: Annotated[list[Path] | None, typer.Option(hidden=True)] = None,
    writable: Annotated[list[Path] | None, typer.Option(hidden=True)] = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine: versions, GPU, disk, Docker, MLflow, Kubeflow; with --resources, the cluster's namespace.

    Exit code 2 if something needed is missing. Without Kubeflow's packages, what the library needs.
    """
    if inside:  # in the pod of another doctor's --pod
        from drift.planning.inside import examine as look_around

        findings = look_around(config, inside, tuple(folder or ()), tuple(writable or ()))
    else:
        findings = _examined(config, server, resources, tuple(pod or ()), service_account)
    if as_json:
        show_json(findings_as_json(findings))
    else:
        show_findings(findings)
    if any(finding.is_problem for finding in findings):
        raise typer.Exit(EXIT_BAD_INPUT)


def _examined(
    config: Config, server: Server, resources: Path | None, pods: tuple[str, ...], account: str | None
) -> list[Finding]:
    if not (resources or pods or has_kubeflow()):
        from drift.planning import doctor as library

        return library.examine(config)
    need_kubeflow()
    from pipelines.doctor import examine

    return examine(
        config,
        resources=resources,
        namespace=server.namespace,
        pods=pods,
        service_account=account,
        host=server.host,
        ca_cert=server.ca_cert,
    )


@command(CHAIN)
def ui(
    runs: RunsFolder,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="On 127.0.0.1; default: 5000, or one that is free.")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open it in the browser.")] = True,
) -> None:
    """Open MLflow over the runs of this machine (Ctrl-C stops it), or the server that MLFLOW_TRACKING_URI names."""
    from drift.tracking.ui import free_port, served, ui_address, until_stopped

    if address := ui_address(runs):
        show_text(f"MLflow on {address}")
        if browser:
            show_page(address)
        return
    chosen = free_port(port)
    with until_stopped(), served(runs.resolve(), chosen) as server:
        address = f"http://127.0.0.1:{chosen}"
        show_text(f"MLflow on {address} (Ctrl-C stops it)")
        if browser:
            show_page(address)
        server.wait()
