"""Schedules and the versions they stand on, with Kubeflow's real client against a server on loopback."""

import threading
import time
from pathlib import Path

import pytest

from drift.cli.app import main
from drift.config.chain import Config
from drift.config.file import load
from drift.ground.errors import ConfigError, ServiceError
from pipelines.cluster.cron import next_times, six_fields
from pipelines.cluster.follow import follow
from pipelines.cluster.schedule import create, delete, pause, resume, schedules, update, versions_of
from pipelines.cluster.server import Server, Target
from tests.kfp_server import KubeflowServer

ROOT = Path(__file__).parents[2]
MINIATURE = ROOT / "configs" / "miniature.yaml"


@pytest.fixture(scope="module")
def config() -> Config:
    return load(MINIATURE)


@pytest.fixture(scope="module")
def changed() -> Config:
    return load(MINIATURE, ["train.learning_rate=0.5"])


def at_work(server: KubeflowServer, schedule: str, state: str = "RUNNING") -> str:
    """A run that the schedule has started."""
    name = f"fired-{len(server.runs)}"
    server.runs[name] = {"run_id": name, "recurring_run_id": schedule, "display_name": name}
    server.change(name, state)
    return name


def test_a_schedule_is_made_listed_paused_resumed_and_deleted(config: Config) -> None:
    with KubeflowServer() as server:
        target = Target(server.url)
        made = create(config, target, cron="0 3 * * MON", timezone="Europe/Berlin")
        (sent,) = server.recurring.values()
        assert sent["trigger"]["cron_schedule"]["cron"] == made.cron == "0 0 3 * * MON"
        assert (sent["max_concurrency"], sent["no_catchup"]) == (1, True)
        assert len(made.next_times) == 3 and made.next_times[0].endswith(("03:00+01:00", "03:00+02:00"))
        assert [one.name for one in schedules(config, target)] == [config.name]
        assert pause(target, made.id) == []
        assert [(one.enabled, one.next_times) for one in schedules(config, target)] == [(False, ())]
        resume(target, config.name)
        assert schedules(config, target)[0].enabled
        with pytest.raises(ConfigError, match="a schedule 'miniature' exists already"):
            create(config, target, cron="0 3 * * MON")
        delete(target, made.id)
        assert schedules(config, target) == []
        with pytest.raises(ConfigError, match="'s1' is no schedule"):
            delete(target, made.id)


def test_a_list_makes_nothing(config: Config) -> None:
    with KubeflowServer() as server:
        assert schedules(config, Target(server.url)) == []
        assert not server.experiments
        assert {method for method, _ in server.calls} == {"GET"}


def test_a_list_has_all_pages_and_the_last_runs_with_their_states(config: Config) -> None:
    with KubeflowServer() as server:
        target = Target(server.url)
        made = create(config, target, cron="0 3 * * *")
        first = at_work(server, made.id, "SUCCEEDED")
        last = at_work(server, made.id)
        (listed,) = schedules(config, target)
        assert listed.runs == (f"{last} RUNNING", f"{first} SUCCEEDED")
        assert listed.version == made.version
        for number in range(230):
            server.recurring[f"x{number}"] = server.recurring["s1"] | {"recurring_run_id": f"x{number}"}
        assert len(schedules(config, target)) == 231


def test_a_schedule_is_on_a_version_of_a_pipeline_of_the_configurations_name(config: Config) -> None:
    with KubeflowServer() as server:
        made = create(config, Target(server.url), cron="0 3 * * *")
        (pipeline,), (version,), (sent,) = (
            kept.values() for kept in (server.pipelines, server.versions, server.recurring)
        )
    assert pipeline["display_name"] == config.name
    assert sent["pipeline_version_reference"] == {
        "pipeline_id": pipeline["pipeline_id"], "pipeline_version_id": version["pipeline_version_id"],
    }  # fmt: skip
    assert made.version == version["display_name"]


def test_an_update_says_what_changes_keeps_the_times_and_can_be_rolled_back(config: Config, changed: Config) -> None:
    with KubeflowServer() as server:
        target = Target(server.url)
        made = create(config, target, cron="0 3 * * *")
        updated = update(changed, target, made.id)
        assert updated.schedule.cron == made.cron and updated.schedule.version != made.version
        assert [one.name for one in schedules(config, target)] == [config.name]
        assert any(line.startswith("+arms.drift.train.learning_rate: 0.5") for line in updated.changes)
        assert all(line[0] in " +-…" for line in updated.changes)
        back = update(changed, target, config.name, version=made.version)
        assert back.schedule.version == made.version
        assert any(line.startswith("-arms.drift.train.learning_rate: 0.5") for line in back.changes)
        assert [one.name for one in versions_of(target, config.name)] == [updated.schedule.version, made.version]
        with pytest.raises(ConfigError, match="nothing changed"):
            update(config, target, config.name)
        with pytest.raises(ConfigError, match=r"--version: 'none' fits 0 versions; there are"):
            update(config, target, config.name, version="none")


def test_a_paused_schedule_stays_paused_when_updated_and_keeps_its_account(config: Config, changed: Config) -> None:
    with KubeflowServer() as server:
        made = create(config, Target(server.url, service_account="trainer"), cron="0 3 * * *")
        pause(Target(server.url), made.id)
        update(changed, Target(server.url), made.id)
        (kept,) = server.recurring.values()
    assert (kept["status"], kept["service_account"]) == ("DISABLED", "trainer")


def test_what_would_kill_a_run_at_work_is_refused_with_the_ways_out(config: Config, changed: Config) -> None:
    with KubeflowServer() as server:
        target = Target(server.url)
        made = create(config, target, cron="0 3 * * *")
        run = at_work(server, made.id)
        with pytest.raises(ConfigError, match=rf"deleting it would kill its run {run}, which is at work; --when-idle"):
            delete(target, made.id)
        with pytest.raises(ConfigError, match=rf"updating it would kill its run {run}"):
            update(changed, target, made.id)
        assert pause(target, made.id) == [run]
        assert len(server.recurring) == 1
        delete(target, made.id, kill=True)
        assert not server.recurring


def test_a_schedule_is_deleted_when_it_is_idle(config: Config) -> None:
    notes: list[str] = []
    with KubeflowServer() as server:
        target = Target(server.url)
        made = create(config, target, cron="0 3 * * *")
        run = at_work(server, made.id)

        def end() -> None:
            while not notes:
                time.sleep(0.01)
            assert server.recurring[made.id]["status"] == "DISABLED"
            server.change(run, "SUCCEEDED")

        thread = threading.Thread(target=end)
        thread.start()
        delete(target, made.id, when_idle=True, on_note=notes.append, poll_seconds=0.01)
        thread.join()
        assert not server.recurring
    assert notes == [f"paused; waiting for its run {run}"]


def test_a_run_of_a_schedule_is_watched_by_the_names_of_its_arms(
    config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its arguments are those of the version that it refers to."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none.yaml"))
    tasks = {f"arm/{arm}": ("SUCCEEDED",) for arm in config.arms}
    with KubeflowServer(tasks=tasks) as server:
        create(config, Target(server.url), cron="0 3 * * *")
        (recurring,) = server.recurring.values()
        name = at_work(server, recurring["recurring_run_id"])
        server.runs[name]["pipeline_version_reference"] = recurring["pipeline_version_reference"]
        run = follow(Target(server.url), name, poll_seconds=0.0)
    assert {(step.step, step.arm) for step in run.steps} == {("arm", arm) for arm in config.arms}


def test_the_server_itself_refuses_a_wrong_cron_expression() -> None:
    body = {
        "display_name": "x", "max_concurrency": "1", "mode": "ENABLE", "trigger": {"cron_schedule": {"cron": "bad"}},
    }  # fmt: skip
    with KubeflowServer() as server, pytest.raises(ServiceError, match=r"400: .*Expected 5 to 6 fields, found 1: bad"):
        Server(Target(server.url)).ask("POST", "/recurringruns", body=body)


@pytest.mark.parametrize(
    ("cron", "message"),
    [
        ("bad", "'bad' has no meaning"),
        ("0 0 3 * *  * *", "has no meaning"),
        ("0 3 * * 7", "has no meaning"),  # croniter's Sunday, and nothing to Kubeflow
        ("0 0 3 L * ?", "has no meaning"),
        ("0 61 3 * * *", "never fires"),
        ("0 0 3 31 2 *", "never fires"),
    ],
)
def test_a_cron_expression_that_would_never_fire_is_an_error_before_anything_is_sent(
    config: Config, cron: str, message: str
) -> None:
    with KubeflowServer() as server:
        with pytest.raises(ConfigError, match=message):
            create(config, Target(server.url), cron=cron)
        assert server.calls == []


def test_five_fields_get_their_second_and_the_zone_is_checked() -> None:
    assert six_fields("30 3 * * 1-5") == "0 30 3 * * 1-5"
    with pytest.raises(ConfigError, match="no zone 'Mars/Olympus'"):
        next_times("0 0 3 * * *", "Mars/Olympus")


def test_the_commands_say_what_goes_on_and_what_changed(
    config: Config, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with KubeflowServer() as server:
        where = ["--host", server.url]
        made = create(config, Target(server.url), cron="0 3 * * *")
        run = at_work(server, made.id)
        for arguments in (
            ["pause", made.id], ["update", made.id, "train.epochs=9", "--kill"], ["versions", config.name], ["list"],
        ):  # fmt: skip
            with pytest.raises(SystemExit) as end:
                main(["schedule", *arguments, *where])
            assert not end.value.code
        said = capsys.readouterr().out
    assert f"{made.id}: paused\nits run {run} is at work and goes on\n" in said
    assert "-arms.drift.train.epochs: 8.0\n+arms.drift.train.epochs: 9.0\n" in said
