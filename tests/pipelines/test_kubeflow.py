"""Kubeflow's local runner with a `Chain` in it, on small pipelines of real step processes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import closing
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from kfp import dsl

from drift.config.places import Places
from drift.ground.errors import PipelineError
from drift.tracking.telling.journal import read
from pipelines.local.kubeflow import run_pipeline
from pipelines.local.runner import Chain, StepEvent
from pipelines.local.work import ForkServer
from tests.forked import begin

PARAMETER = '{"config": {"model": "%s"}, "code": "", "inputs": {}}'


@dsl.component(base_image="python", install_kfp_package=False)
def first(step: str, result: dsl.Output[dsl.Artifact], metrics: dsl.Output[dsl.Metrics]):
    from pathlib import Path

    from drift.config.gate import RegisterConfig
    from drift.ground.errors import DataError
    from drift.tracking.steps import run_step

    class Report:
        warnings = ("the value is small",)

        def metrics(self):
            return {"value": 1.0}

    def work(config):
        import os
        import time

        print("working", os.environ["TMPDIR"])
        if config.model == "wrong":
            raise DataError("pool.parquet: no rows; give some")
        if config.model == "crash":
            os.kill(os.getpid(), 9)
        if config.model in ("slow", "brief"):
            Path(os.environ["DRIFT_RUN_DIR"], "working").touch()
            time.sleep(60 if config.model == "slow" else 2)
        Path(result.path).mkdir()
        (Path(result.path) / "text").write_text(config.model)
        return Report()

    run_step("first", step, RegisterConfig, work, record=metrics.path)


@dsl.component(base_image="python", install_kfp_package=False)
def second(step: str, result: dsl.Input[dsl.Artifact], metrics: dsl.Output[dsl.Metrics]):
    from pathlib import Path

    from drift.config.gate import RegisterConfig
    from drift.tracking.steps import arm_of, run_step

    class Report:
        def metrics(self):
            return {"length": float(len((Path(result.path) / "text").read_text()))}

    name = arm_of(step) if '"name"' in step else ""
    if name == "wrong":
        raise ValueError("the arm fails before its step begins")
    config = step.replace('"name"', '"model"')
    run_step("second", config, RegisterConfig, lambda _: Report(), record=metrics.path, arm=name)


@dsl.pipeline(name="two")
def two(one: str, other: str):
    second(step=other, result=first(step=one).outputs["result"])


@dsl.pipeline(name="loop")
def loop(one: str, arms: list[str]):
    made = first(step=one)
    with dsl.ParallelFor(arms) as item:
        second(step=item, result=made.outputs["result"])


@dsl.component(base_image="python", install_kfp_package=False)
def where(step: str, result: dsl.Input[dsl.Artifact], metrics: dsl.Output[dsl.Metrics]) -> str:
    from drift.config.gate import RegisterConfig
    from drift.tracking.steps import run_step

    class Report:
        def metrics(self):
            return {}

    run_step("where", step, RegisterConfig, lambda _: Report(), record=metrics.path)
    return result.uri if "yes" in step else ""


@dsl.component(base_image="python", install_kfp_package=False)
def finalize():
    pass


@dsl.pipeline(name="imports")
def imports(one: str, other: str):
    with dsl.ExitHandler(finalize()):
        found = where(step=other, result=first(step=one).outputs["result"]).outputs["Output"]
        with dsl.If(found != ""):
            again = dsl.importer(artifact_uri=found, artifact_class=dsl.Artifact).output
            second(step=other, result=again)


class Watched:
    """A chain in `folder`, with what it told."""

    def __init__(self, folder: Path, server: ForkServer, arms: list[str] | None = None, run_id: str = "r1") -> None:
        folder.mkdir(exist_ok=True)
        self.events: list[StepEvent] = []
        environment = {"DRIFT_RUN_DIR": str(folder), "DRIFT_RUN_ID": run_id, "TMPDIR": str(folder)}
        self.chain = Chain(folder, run_id, Places(tuple(arms or ())), environment, self.events.append, server)
        self.cache = folder.parent / "cache"

    def run(self, pipeline, *, use_cache: bool = True, **arguments) -> None:
        run_pipeline(pipeline.pipeline_spec, arguments, self.chain, cache_root=self.cache, use_cache=use_cache)

    def told(self) -> list[tuple[str, str, str]]:
        return [(event.step, event.arm, event.state) for event in self.events]


def run_two(folder: Path, server: ForkServer, one: str = "a", **options) -> Watched:
    watched = Watched(folder, server, run_id=folder.name)
    watched.run(two, one=PARAMETER % one, other=PARAMETER % "b", **options)
    return watched


def test_steps_run_in_order_and_say_so(tmp_path: Path, server: ForkServer, capfd: pytest.CaptureFixture[str]):
    before = print
    watched = run_two(tmp_path / "r1", server)
    assert watched.told() == [
        ("first", "", "started"), ("first", "", "finished"), ("second", "", "started"), ("second", "", "finished"),
    ]  # fmt: skip
    assert [one.record["metrics"] for one in watched.chain.done] == [{"value": 1.0}, {"length": 1.0}]
    out, err = capfd.readouterr()
    assert out == "" and err == "", "Kubeflow's chatter goes to a file"
    assert "Executing task 'first'" in (tmp_path / "r1" / "run.log").read_text()
    log = watched.events[1].log
    assert log is not None and "working" in log.read_text()
    assert print is before


def test_a_second_run_takes_every_step_from_the_cache_and_links_to_the_first(tmp_path: Path, server: ForkServer):
    run_two(tmp_path / "r1", server)
    began = time.monotonic()
    watched = run_two(tmp_path / "r2", server)
    assert time.monotonic() - began < 2
    assert watched.told() == [("first", "", "cached"), ("second", "", "cached")]
    assert [event.warnings for event in watched.events] == [("the value is small",), ()]
    links = [(event["event"], event["key"], event["upstream"]) for event, _ in read(tmp_path / "r2")]
    assert links == [("cached", "r2/first", "r1/first"), ("cached", "r2/second", "r1/second")]
    seconds = [event["seconds"] for event, _ in read(tmp_path / "r2")]
    assert seconds == [done.record["seconds"] for done in watched.chain.done]


def test_a_changed_parameter_reruns_its_step_and_what_follows(tmp_path: Path, server: ForkServer):
    run_two(tmp_path / "r1", server)
    watched = run_two(tmp_path / "r2", server, one="changed")
    assert [told[2] for told in watched.told()] == ["started", "finished"] * 2


def test_when_an_old_run_folder_was_deleted_its_steps_run_again(tmp_path: Path, server: ForkServer):
    import shutil

    run_two(tmp_path / "r1", server)
    shutil.rmtree(tmp_path / "r1")
    assert [told[2] for told in run_two(tmp_path / "r2", server).told()] == ["started", "finished"] * 2


def test_a_broken_cache_entry_is_a_miss(tmp_path: Path, server: ForkServer):
    run_two(tmp_path / "r1", server)
    for entry in (tmp_path / "cache").iterdir():
        entry.write_text('{"result": {"__kfp_')
    assert [told[2] for told in run_two(tmp_path / "r2", server).told()] == ["started", "finished"] * 2


def run_alone(folder: Path, one: str) -> None:
    """`run_two` in a process of its own, and what it told in a file."""
    with closing(ForkServer()) as server:
        told = run_two(folder, server, one).told()
    (folder / "told.json").write_text(json.dumps(told))


def begun(folder: Path, one: str) -> ForkServerProcess:
    """`run_alone` as far as its first step is at work."""
    process = begin(run_alone, folder, one)
    while not (folder / "working").exists():
        assert process.is_alive()
        time.sleep(0.01)
    return process


def test_two_runs_at_once_share_their_work(tmp_path: Path, server: ForkServer, caplog: pytest.LogCaptureFixture):
    process = begun(tmp_path / "r1", "brief")
    ours = run_two(tmp_path / "r2", server, "brief").told()
    process.join()
    theirs = json.loads((tmp_path / "r1" / "told.json").read_text())
    assert ours[0] == ("first", "", "cached")
    assert [state for _, _, state in [*ours, *theirs]].count("started") == 2, "each step once"
    assert re.search(r"first: process \d+ on \S+ since .* works at the same; waiting for what it makes", caplog.text)
    assert not list((tmp_path / "cache").glob(".*.lock"))


def test_what_a_killed_run_worked_at_is_worked_at_by_the_next(tmp_path: Path, server: ForkServer):
    process = begun(tmp_path / "r1", "slow")
    process.kill()
    process.join()
    assert len(list((tmp_path / "cache").glob(".*.lock"))) == 1
    process = begun(tmp_path / "r2", "slow")
    process.kill()
    process.join()


def test_without_the_cache_every_step_runs(tmp_path: Path, server: ForkServer):
    run_two(tmp_path / "r1", server)
    watched = run_two(tmp_path / "r2", server, use_cache=False)
    assert [told[2] for told in watched.told()] == ["started", "finished"] * 2


def test_a_step_that_fails_is_named_with_its_own_message_and_nothing_follows(tmp_path: Path, server: ForkServer):
    watched = Watched(tmp_path / "r1", server)
    with pytest.raises(PipelineError, match=r"^step first: pool\.parquet: no rows; give some \(log: .*/log\.txt\)$"):
        watched.run(two, one=PARAMETER % "wrong", other=PARAMETER % "b")
    assert watched.told() == [("first", "", "started"), ("first", "", "failed")]


def test_after_a_failure_the_finished_steps_are_not_repeated(tmp_path: Path, server: ForkServer):
    with pytest.raises(PipelineError):
        Watched(tmp_path / "r1", server).run(two, one=PARAMETER % "a", other="no parameter")
    watched = run_two(tmp_path / "r1", server)
    assert watched.told() == [("first", "", "cached"), ("second", "", "started"), ("second", "", "finished")]
    keys = [event["key"] for event, _ in read(tmp_path / "r1") if event["event"] == "cached"]
    assert keys == [], "the run did the step itself: there is nothing to link"


def test_a_step_ended_by_a_signal_says_which(tmp_path: Path, server: ForkServer):
    watched = Watched(tmp_path / "r1", server)
    with pytest.raises(PipelineError, match=r"its process was ended by SIGKILL|exit code 137"):
        watched.run(two, one=PARAMETER % "crash", other=PARAMETER % "b")
    ends = [event for event, _ in read(tmp_path / "r1") if event["event"] == "ended"]
    assert [(end["step"], end["status"], "SIGKILL" in end["error"]) for end in ends] == [("first", "FAILED", True)]


def test_of_two_attempts_that_fail_the_second_says_its_own_cause(tmp_path: Path, server: ForkServer):
    for value, cause in (("wrong", "no rows; give some"), ("crash", "its process was ended by SIGKILL")):
        with pytest.raises(PipelineError, match=cause):
            Watched(tmp_path / "r1", server).run(two, one=PARAMETER % value, other=PARAMETER % "b")


def test_one_arm_that_fails_stops_the_run_and_is_named(tmp_path: Path, server: ForkServer):
    watched = Watched(tmp_path / "r1", server, arms=["good", "wrong"])
    arms = [(PARAMETER % name).replace("model", "name") for name in ("good", "wrong")]
    with pytest.raises(PipelineError, match=r"^step second of arm 'wrong': its process ended with exit code 1"):
        watched.run(loop, one=PARAMETER % "a", arms=arms)
    assert ("second", "wrong", "failed") in watched.told()
    assert ("second", "good", "finished") in watched.told()


@pytest.mark.parametrize("says", ["yes", "no"])
def test_an_address_is_imported_in_its_branch_and_is_no_step_also_in_a_folder_with_an_apostrophe(
    tmp_path: Path, server: ForkServer, says: str
):
    (tmp_path / "Anne's").mkdir()
    for name in ("r1", "r2"):
        watched = Watched(tmp_path / "Anne's" / name, server, run_id=name)
        watched.run(imports, one=PARAMETER % "a", other=PARAMETER % says)
        steps = [one.record["step"] for one in watched.chain.done]
        assert steps == ["first", "where", *(["second"] if says == "yes" else [])]
        assert "importer" not in [event.step for event in watched.events]
    assert all(one.cached for one in watched.chain.done), "an address that did not change is no new input"
    if says == "yes":
        assert watched.chain.done[-1].record["metrics"] == {"length": 1.0}


def test_a_text_that_names_an_interpreter_reaches_the_step_unchanged(tmp_path: Path, server: ForkServer):
    watched = run_two(tmp_path / "r1", server, one="python3-x")
    written = Path(watched.chain.done[0].outputs["result"].uri) / "text"
    assert written.read_text() == "python3-x", "Kubeflow would have put the interpreter's path into it"


RUNNER = """
import sys, time
from pathlib import Path
from tests.pipelines.test_kubeflow import PARAMETER, ForkServer, Watched, two
Watched(Path(sys.argv[1]), ForkServer()).run(two, one=PARAMETER % "slow", other=PARAMETER % "b")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_when_the_runner_is_killed_no_step_process_goes_on(tmp_path: Path):
    folder = tmp_path / "r1"
    root = Path(__file__).parent.parent.parent
    environment = os.environ | {"PYTHONPATH": str(root)}
    with subprocess.Popen([sys.executable, "-c", RUNNER, str(folder)], cwd=root, env=environment) as runner:
        _until(lambda: (folder / "working").exists())
        step = next(event["pid"] for event, _ in read(folder) if event["event"] == "started")
        runner.send_signal(signal.SIGKILL)
    _until(lambda: not Path(f"/proc/{step}").exists() or "Z" in Path(f"/proc/{step}/stat").read_text().split()[2])


def _until(condition, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
